"""Jobs for the tests, found by workers through `jobs.modules`; they write down that they ran."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa

from ghost import current_job, db, job
from ghost.jobs import Permanent, RetryLater
from ghost.jobs.models import Job, Lease
from ghost.logging import logger
from ghost.models import utcnow


def note(path: str, text: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{text}\n")


@job
def write(path: str, text: str = "ran") -> None:
    note(path, text)


@job
def identify(path: str) -> None:
    note(path, f"{current_job.id} {current_job.name} {current_job.attempt}")


@job
def receive(path: str, key: UUID, at: datetime, day: date, price: Decimal | None) -> None:
    note(path, repr((key, at, day, price)))


@job(max_attempts=3, backoff=0)
def fail(path: str) -> None:
    note(path, f"attempt {current_job.attempt}")
    raise ValueError("password=hunter2 \0 was wrong")


@job(max_attempts=3, backoff=60)
def fail_slowly() -> None:
    raise ValueError("not yet")


@job
def give_up() -> None:
    raise Permanent("there is no such account")


@job
def postpone(seconds: float) -> None:
    raise RetryLater(seconds)


@job(max_attempts=2, backoff=0)
def write_row_and_fail() -> None:
    """What it enqueues and the row that it changes are undone with it."""
    write.enqueue("/dev/null")
    own = sa.update(Job).where(Job.id == current_job.id)
    db.session.execute(own.values(queue="high"))
    raise ValueError("after the write")


@job
def enqueue_another(path: str) -> UUID:
    return write.enqueue(path, "from a job")


@job
def say() -> None:
    logger.info("A line of the job.")


@job(timeout=1, max_attempts=1)
def never_end(path: str) -> None:
    """Swallow every exception, with a child process that ignores SIGTERM."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal,time; signal.signal(15, 1); time.sleep(600)"]
    )
    note(path, str(child.pid))
    while True:
        with suppress(BaseException):
            time.sleep(600)


@job(timeout=1, max_attempts=1)
def overrun() -> None:
    time.sleep(60)


@job(max_attempts=2, backoff=0)
def die(path: str) -> None:
    note(path, f"attempt {current_job.attempt}")
    if current_job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@job(max_attempts=2, backoff=0)
def leave(path: str, code: int) -> None:
    note(path, f"attempt {current_job.attempt}")
    if current_job.attempt == 1:
        os._exit(code)


@job(max_attempts=2, backoff=0)
def leave_politely() -> None:
    sys.exit(3)


@job
def last(path: str, seconds: float) -> None:
    """Take a while, and note its beginning and its end."""
    note(path, f"begin {os.getpid()}")
    time.sleep(seconds)
    note(path, f"end {os.getpid()}")


@job
def heed(path: str) -> None:
    """Work until the worker stops."""
    note(path, "begin")
    ends_at = time.monotonic() + 60
    while not current_job.is_to_stop and time.monotonic() < ends_at:
        time.sleep(0.02)
    note(path, "told" if current_job.is_to_stop else "never told")


@job
def name_connection(path: str) -> None:
    note(path, str(db.session.scalar(sa.text("SELECT pg_backend_pid()"))))


@job
def list_open_files(path: str) -> None:
    """Before its own first look into the database."""
    for number in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            note(path, str(number.readlink()))


@job(queue="low")
def rest(path: str) -> None:
    note(path, "low")


@job(queue="high")
def hurry(path: str) -> None:
    note(path, "high")


@job
def give_back(value: str) -> dict[str, object]:
    return {"value": value, "id": current_job.id, "api_key": "s3cret", "at": date(2026, 1, 2)}


@job
def give_back_too_much() -> str:
    return "x" * 70_000


@job
def report(path: str, *, first_writes: bool = False) -> None:
    if first_writes:
        db.session.add(Lease(name="written", holder="a job", until=utcnow()))
        db.session.flush()
    current_job.progress(40, "half way")
    current_job.progress(41, "too soon after the one before")
    note(path, "reported")


@job(unique="args")
def one_of_each(key: str) -> None:
    """One at a time for each key."""


@job(unique=lambda key, **_rest: None if key == "any" else key.lower())
def one_of_a_kind(key: str, number: int = 0) -> None:
    """One at a time for each key, whatever its case and the number."""


@job(public=True)
def open_to_all(number: int, key: UUID | None = None) -> int:
    return number


@job(public=True, permission="users:read")
def open_to_some() -> None:
    """Started by whoever may read accounts."""


@job
def wander(path: str) -> None:
    """Leave behind another folder, other signal handlers, and an alarm."""
    os.chdir("/")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.alarm(1)
    note(path, str(os.getpid()))


@job
def look_around(path: str, seconds: float) -> None:
    time.sleep(seconds)
    handler = getattr(signal.getsignal(signal.SIGTERM), "__name__", "none")
    note(path, f"{os.getpid()} {Path.cwd()} {handler}")


@job(max_attempts=1)
def start_program(path: str, fails: bool) -> None:
    """Start a program and don't wait for it."""
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note(path, f"{os.getpid()} {program.pid}")
    if fails:
        raise ValueError("and the program runs on")


@job(max_attempts=1)
def start_thread(path: str) -> None:
    """Start a thread that goes on when the job has failed."""
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    note(path, str(os.getpid()))
    raise ValueError("and the thread runs on")


@job(public=True)
def open_at(at: datetime) -> None:
    """Started with a time."""


@job(public=True, permission="users:read", unique="args")
def open_once() -> None:
    """Started by whoever may read accounts, one at a time."""


@job
def report_a_secret() -> None:
    current_job.progress(10, "password=hunter2 \0 \ud800")

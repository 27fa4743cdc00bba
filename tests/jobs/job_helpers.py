"""What the tests of the jobs do again and again: workers, processes, forged entries, waiting."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask
from redis import Redis
from rq.serializers import JSONSerializer

from ghost.database import db_manager
from ghost.jobs.ledger import jobs
from ghost.jobs.pool import PoolWorker
from ghost.jobs.worker import GhostWorker
from ghost.testing.servers import Redis as RedisServer

ROOT = Path(__file__).parent.parent.parent


def wait_until(
    is_so: Callable[[], bool], seconds: float = 20.0, describe: Callable[[], object] = str
) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {describe()}")
        time.sleep(0.02)


def has_begun(out: Path) -> bool:
    """Tell whether a job has written its first line, and not only opened the file."""
    return out.exists() and out.stat().st_size > 0


class Ledger:
    """The rows of the jobs, read and changed from outside."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def rows(self) -> list[Any]:
        with self._app.app_context(), db_manager.connection() as connection:
            return list(connection.execute(sa.select(jobs).order_by(jobs.c.id)))

    def get(self, job_id: UUID) -> Any:
        return next(row for row in self.rows() if row.id == job_id)

    def statuses(self) -> list[str]:
        return [row.status for row in self.rows()]

    def update(self, **values: Any) -> None:
        with self._app.app_context(), db_manager.transaction() as connection:
            connection.execute(sa.update(jobs).values(values))

    def wait_for(self, status: str, *, seconds: float = 20.0) -> None:
        """Wait until every job has a status."""
        wait_until(lambda: set(self.statuses()) == {status}, seconds, self.statuses)


KINDS: dict[str, Callable[..., GhostWorker]] = {
    "fork": GhostWorker,
    "pool": partial(PoolWorker, processes=1),
}
"""The workers of which the same is promised, each running one job at a time."""

WORDS = {"fork": ("flask", "worker", "--fork"), "pool": ("flask", "worker", "--processes", "1")}
"""How each of them is started as a process."""


def run_burst(app: Flask, redis_server: RedisServer, kind: str = "fork") -> None:
    """Run a worker in this process until there is nothing left to do."""
    client = Redis.from_url(redis_server.url)
    queues = ["high", "default", "low"]
    KINDS[kind](queues, connection=client, application=app).work(burst=True)


class Process:
    """A worker, or another program, in a process of its own; what it says goes to a file."""

    def __init__(self, words: list[str], environ: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("a") as file:
            self._process = subprocess.Popen(
                words, env=dict(environ), stdout=file, stderr=subprocess.STDOUT,
                cwd=ROOT, start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    def says(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 20.0) -> None:
        wait_until(lambda: text in self.says() or self.has_ended(), seconds, self.says)
        assert text in self.says()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        return self._process.wait(seconds)

    def children(self) -> list[int]:
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.pid)], capture_output=True, text=True
        )
        return [int(word) for word in found.stdout.split()]

    def close(self) -> None:
        for pid in self.children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()


def is_running(pid):
    try:
        with Path(f"/proc/{pid}/stat").open() as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def forge(redis, rq_id, path, serializer="json", **fields):
    """Put an entry on a queue as RQ would read it."""
    call = ["os.system", None, [f"touch {path}"], {}]
    data = pickle.dumps(Bomb(path)) if serializer == "pickle" else JSONSerializer.dumps(call)
    entry = {
        "data": data,
        "origin": "default",
        "status": "queued",
        "timeout": "5",
        **fields,
    }
    redis.hset(f"rq:job:{rq_id}", mapping=entry)
    redis.rpush("rq:queue:default", rq_id)

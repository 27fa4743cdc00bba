"""Kill the worker of a batch at random moments, and see that everybody gets the mail once.

    .venv/bin/python scripts/faults/mail.py --messages 1000 --kills 5 --seed 1

Servers, database and processes are its own, and gone afterwards. A real SMTP server counts what
arrives. Exit status 1 when somebody gets no mail, when there are more repeats than kills, or when
a repeat has another Message-ID. After a kill of the whole worker the batch waits until the lease of
its job has ended, half a minute; after one of the process that sends it goes on at once.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import flask_migrate
import psutil
from flask import Flask

from ghost import create_app, db
from ghost.mail.batches import look_at, send_bulk
from ghost.testing.applications import DEFAULTS, environ_for, merged
from ghost.testing.servers import PostgreSQL, Redis, scratch_folder
from ghost.testing.smtp import SMTPServer

ROOT = Path(__file__).parent.parent.parent
FINISH_SECONDS = 300.0


class Worker:
    """A worker process, and another one after it is killed."""

    def __init__(self, environ: dict[str, str], log: Path) -> None:
        self.environ, self.log = environ, log
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as stream:
            return subprocess.Popen(
                [Path(sys.executable).with_name("flask"), "worker", "--processes", "2"], cwd=ROOT,
                env=self.environ, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip

    def kill(self, *, whole: bool) -> None:
        """End the processes that send, or the worker with them, as a crash does."""
        children = psutil.Process(self.process.pid).children()
        if whole:
            os.killpg(self.process.pid, signal.SIGKILL)
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        if whole:
            self.process.wait(60)
            self.process = self._start()

    def close(self) -> None:
        """End it as a service manager does."""
        self.process.terminate()
        self.process.wait(60)


@contextmanager
def application(database: str) -> Iterator[tuple[Flask, Worker, SMTPServer, Path]]:
    """An application, a worker and a mail server, for as long as the block runs."""
    postgres = PostgreSQL() if database == "postgresql" else None
    redis, sink = Redis(), SMTPServer()
    try:
        with scratch_folder() as folder:
            (folder / "news.subject.txt").write_text("News for {{ number }}\n")
            (folder / "news.txt").write_text("Hello {{ number }},\n\nthere are news.\n")
            url = postgres.create_database() if postgres else f"sqlite:///{folder / 'mail.db'}"
            settings = merged(
                DEFAULTS,
                {
                    "database": {"url": url},
                    "redis": {"url": redis.url},
                    "mail": {"url": sink.url, "templates": str(folder)},
                    "logging": {"level": "WARNING"},
                },
            )
            app = create_app(settings)
            with app.app_context():
                flask_migrate.upgrade()
            worker = Worker(environ_for(settings, ROOT), folder / "log")
            try:
                yield app, worker, sink, folder / "log"
            finally:
                worker.close()
    finally:
        sink.close()
        redis.close()
        if postgres:
            postgres.close()


def run(count: int, kills: int, seed: int, database: str, what: str) -> int:
    """Do it once.

    :param what: what is killed: "worker", "child" or "any".
    :returns: the exit status.
    """
    chance = random.Random(seed)
    moments = sorted(chance.sample(range(1, count), kills))
    with application(database) as (app, worker, sink, log):
        started = time.monotonic()
        with app.app_context():
            recipients = [(address(number), {"number": number}) for number in range(count)]
            batch_id = send_bulk("news", recipients).id
            db.session.commit()
        killed = []
        for moment in moments:
            wait_until_arrived(sink, moment)
            time.sleep(chance.uniform(0, 0.01))
            whole = what == "worker" or (what == "any" and chance.random() < 0.5)
            worker.kill(whole=whole)
            killed.append("worker" if whole else "child")
        state = wait_for_the_end(app, batch_id)
        seconds = time.monotonic() - started
        code = report(sink, count, kills, state)
        print(f"seed {seed}, {database}, {seconds:.0f} s, killed: {', '.join(killed)}")
        if code:
            print(log.read_text(errors="replace")[-4000:])
        return code


def address(number: int) -> str:
    return f"reader{number}@example.org"


def wait_until_arrived(sink: SMTPServer, count: int) -> None:
    """Wait for so many mails, however long the kill before them holds them up."""
    sink.wait(count, seconds=FINISH_SECONDS)


def wait_for_the_end(app: Flask, batch_id: Any) -> Any:
    """Wait until the batch is over, or has been given long enough."""
    deadline = time.monotonic() + FINISH_SECONDS
    while True:
        with app.app_context():
            state = look_at(batch_id)
        if state.finished_at is not None or time.monotonic() > deadline:
            return state
        time.sleep(0.2)


def report(sink: SMTPServer, count: int, kills: int, state: Any) -> int:
    """Hold what arrived against what was to be sent."""
    arrived: dict[str, list[str]] = defaultdict(list)
    for mail in sink.messages:
        (to,) = mail.recipients
        arrived[to].append(str(mail.message["Message-ID"]))
    lost = [to for to in map(address, range(count)) if to not in arrived]
    again = {to: ids for to, ids in arrived.items() if len(ids) > 1}
    repeats = sum(len(ids) - 1 for ids in again.values())
    others = [to for to, ids in again.items() if len(set(ids)) > 1]
    print(
        f"{count} mails, {kills} kills: {len(lost)} lost, {repeats} repeats, {len(others)} of them"
        f" under another Message-ID; the batch is {state.status}: {state.sent} sent,"
        f" {state.failed} failed"
    )
    for to, ids in sorted(again.items()):
        print(f"  {to}: {len(ids)} times")
    if lost:
        print(f"lost: {', '.join(lost[:20])}")
    is_right = state.status == "finished" and state.sent == count
    return 0 if is_right and not lost and not others and repeats <= kills else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--what", choices=("worker", "child", "any"), default="any")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    sys.exit(run(options.messages, options.kills, seed, options.database, options.what))


if __name__ == "__main__":
    main()

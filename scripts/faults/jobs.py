"""Kill workers, schedulers, and Redis at random while jobs run, and see that none is lost.

    .venv/bin/python scripts/faults/jobs.py --jobs 10000 --kills 50 --seed 1

Servers, database and processes are its own, and gone afterwards. Jobs are enqueued in transactions
of which some roll back, whole or to a savepoint; each job notes its number in a file. Exit status 1
when the number of a committed job is missing, one of a job that was rolled back is there, or a job
ran twice at the same time.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import flask_migrate
import psutil
import sqlalchemy as sa
from flask import Flask
from numbered_jobs import write_down, write_down_first

from ghost import create_app, db, db_manager
from ghost.jobs.models import Job
from ghost.testing.applications import DEFAULTS, environ_for, merged
from ghost.testing.servers import PostgreSQL, Redis, scratch_folder

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent

FINISH_SECONDS = 180.0


class Workers:
    """Worker and scheduler processes, which come and go."""

    COMMANDS = (
        ("flask", "worker"),
        ("flask", "worker", "--fork"),
        ("rq", "worker", "-q", "-c", "ghost.worker"),
        ("flask", "scheduler"),  # it sweeps too
    )

    def __init__(self, environ: dict[str, str], log: Path) -> None:
        self.environ, self.log = environ, log
        self.processes = [self._start(words) for words in self.COMMANDS]

    def _start(self, words: tuple[str, ...]) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name(words[0])
        with self.log.open("ab") as stream:
            return subprocess.Popen(
                [program, *words[1:]], cwd=ROOT, env=self.environ, stdin=subprocess.DEVNULL,
                stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip

    def end(self, place: int, how: signal.Signals) -> None:
        """End one worker by a signal, and start another in its place."""
        process = self.processes[place]
        process.send_signal(how)
        process.wait(60)
        self.processes[place] = self._start(self.COMMANDS[place])

    def children(self, place: int) -> list[psutil.Process]:
        """The processes in which a worker runs its jobs."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.processes[place].pid).children()
        return []

    def close(self) -> None:
        """End all of them, as a service manager does."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(60)


class Enqueuer(threading.Thread):
    """Enqueues numbered jobs in transactions, some of which roll back."""

    def __init__(self, app: Flask, seed: int, count: int) -> None:
        super().__init__(daemon=True)
        self.app, self.chance, self.count = app, random.Random(seed), count
        self.committed: set[int] = set()
        self.undone: set[int] = set()
        self.next_number = 0

    def run(self) -> None:
        while len(self.committed) < self.count:
            with self.app.app_context():
                self._one_transaction()

    def _one_transaction(self) -> None:
        kept, undone = [], []
        for _ in range(self.chance.randint(1, 5)):
            job = self.chance.choice((write_down, write_down_first))
            self.next_number += 1
            if self.chance.random() < 0.1:
                savepoint = db.session.begin_nested()
                job.enqueue(self.next_number)
                savepoint.rollback()
                undone.append(self.next_number)
            else:
                job.enqueue(self.next_number)
                kept.append(self.next_number)
        if self.chance.random() < 0.2:
            db.session.rollback()
            self.undone.update(kept, undone)
        else:
            db.session.commit()
            self.committed.update(kept)
            self.undone.update(undone)


class Faults:
    """What goes wrong, chosen by a seed."""

    def __init__(self, seed: int, workers: Workers, redis: Redis) -> None:
        self.chance = random.Random(seed)
        self.workers, self.redis = workers, redis
        self.counts: Counter[str] = Counter()
        self.choices = (
            self.kill_worker, self.kill_worker, self.kill_child, self.kill_child,
            self.stop_worker, self.kill_redis, self.empty_redis,
        )  # fmt: skip

    def run(self, kills: int) -> None:
        """Let so many things go wrong."""
        for _ in range(kills):
            time.sleep(self.chance.uniform(0.2, 1.5))
            fault = self.chance.choice(self.choices)
            self.counts[fault.__name__] += 1
            fault()

    def kill_worker(self) -> None:
        self.workers.end(self._any(), signal.SIGKILL)

    def stop_worker(self) -> None:
        self.workers.end(self._any(), signal.SIGTERM)

    def kill_child(self) -> None:
        children = self.workers.children(self._any())
        if children:
            with suppress(psutil.NoSuchProcess):
                self.chance.choice(children).kill()

    def kill_redis(self) -> None:
        self.redis.kill()
        time.sleep(self.chance.uniform(0, 2))
        self.redis.start()

    def empty_redis(self) -> None:
        self.redis.flush()

    def _any(self) -> int:
        return self.chance.randrange(len(self.workers.processes))


@contextmanager
def servers(database: str) -> Iterator[tuple[str, Redis, Path]]:
    """A database's URL, a Redis, and a folder, for as long as the block runs."""
    postgres = PostgreSQL() if database == "postgresql" else None
    redis = Redis()
    try:
        with scratch_folder() as folder:
            url = postgres.create_database() if postgres else f"sqlite:///{folder / 'jobs.db'}"
            yield url, redis, folder
    finally:
        redis.close()
        if postgres:
            postgres.close()


def run(jobs: int, kills: int, seed: int, database: str) -> int:
    """Do it once.

    :returns: the exit status.
    """
    with servers(database) as (url, redis, folder):
        os.environ["FAULTS_DONE"] = str(folder / "done")
        settings = merged(
            DEFAULTS,
            {
                "database": {"url": url},
                "redis": {"url": redis.url},
                "jobs": {"modules": ["numbered_jobs"]},
                "logging": {"level": "WARNING"},
            },
        )
        app = create_app(settings)
        with app.app_context():
            flask_migrate.upgrade()
        environ = environ_for(settings, ROOT)
        environ |= {"PYTHONPATH": str(FOLDER), "FAULTS_DONE": os.environ["FAULTS_DONE"]}
        workers = Workers(environ, folder / "log")
        faults = Faults(seed, workers, redis)
        enqueuer = Enqueuer(app, seed, jobs)
        started = time.monotonic()
        try:
            enqueuer.start()
            faults.run(kills)
            enqueuer.join()
            left = wait_for_the_end(app)
        finally:
            workers.close()
        return report(enqueuer, faults, folder, left, seed, time.monotonic() - started)


def wait_for_the_end(app: Flask) -> Counter[str]:
    """Wait until no job is left, and count those that ended otherwise than finished."""
    statement = sa.select(Job.status, sa.func.count()).group_by(Job.status)
    deadline = time.monotonic() + FINISH_SECONDS
    while True:
        with app.app_context(), db_manager.connection() as connection:
            counts = Counter({status: count for status, count in connection.execute(statement)})  # noqa: C416
        counts.pop("finished", None)
        if not counts or time.monotonic() > deadline:
            return counts
        time.sleep(0.5)


def report(
    enqueuer: Enqueuer, faults: Faults, folder: Path, left: Counter[str], seed: int, seconds: float
) -> int:
    """Hold what the jobs wrote against what was enqueued."""
    numbers = Counter(int(line) for line in (folder / "done").read_text().split())
    beside = {number for number in numbers if number < 0}
    lost = enqueuer.committed - numbers.keys()
    risen = enqueuer.undone & numbers.keys()
    repeats = sum(count - 1 for number, count in numbers.items() if number > 0)
    happened = ", ".join(f"{count} {name}" for name, count in sorted(faults.counts.items()))
    print(f"seed {seed}, {seconds:.0f} s: {happened}")
    print(
        f"{len(enqueuer.committed)} committed, {len(enqueuer.undone)} rolled back:"
        f" {len(lost)} lost, {len(risen)} of the rolled back ran, {repeats} repeats,"
        f" {len(beside)} at the same time ({dict(left) or 'every row'} finished)"
    )
    if len(enqueuer.committed) < enqueuer.count:
        print(f"only {len(enqueuer.committed)} of {enqueuer.count} jobs were enqueued")
        return 1
    if lost or risen or beside or left:
        print(f"lost: {sorted(lost)[:20]}; ran all the same: {sorted(risen)[:20]}")
        print(f"ran twice at the same time: {sorted(-number for number in beside)[:20]}")
        print((folder / "log").read_text(errors="replace")[-4000:])
        return 1
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    sys.exit(run(options.jobs, options.kills, seed, options.database))


if __name__ == "__main__":
    main()

"""Kill, stop and restart three schedulers at random, and see that each due time was fired once.

    .venv/bin/python scripts/faults/schedules.py --minutes 5 --database postgresql --seed 1

Servers, database and processes are its own, and gone afterwards. Redis is emptied, hung and killed
meanwhile too; one worker runs the jobs. Exit status 1 when a due time was left out or fired twice,
when a job was not enqueued with it, or did not finish.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ghost.app import create_app
from ghost.database import db, db_manager
from ghost.jobs.models import Job, Schedule, ScheduleRun
from ghost.testing.applications import DEFAULTS, environ_for, merged
from ghost.testing.servers import PostgreSQL, Redis, scratch_folder
from ghost.timing import due_times

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
SCHEDULERS = 3
FINISH_SECONDS = 60.0


class Group:
    """The processes of one command, which come and go."""

    def __init__(self, command: str, count: int, environ: dict[str, str], log: Path) -> None:
        self.command = command
        self.environ = environ
        self.log = log
        self.processes = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "flask", self.command],
                cwd=ROOT, env=self.environ, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip

    def restart(self, number: int, how: signal.Signals, pause_seconds: float) -> None:
        """End one process by a signal, and start another in its place."""
        process = self.processes[number]
        process.send_signal(how)
        process.wait(30)
        time.sleep(pause_seconds)
        self.processes[number] = self._start()

    def close(self) -> None:
        """End all of them, as a service manager does."""
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes:
            process.wait(30)


class Faults:
    """What goes wrong, chosen by a seed."""

    def __init__(self, seed: int, schedulers: Group, redis: Redis) -> None:
        self.chance = random.Random(seed)
        self.schedulers = schedulers
        self.redis = redis
        self.counts: Counter[str] = Counter()
        # Kills most often: that is what this is about.
        self.choices = [
            self.kill_one, self.kill_one, self.kill_one, self.stop_one, self.stop_one,
            self.kill_all, self.freeze_one, self.empty_redis, self.kill_redis, self.hang_redis,
        ]  # fmt: skip

    def run(self, seconds: float) -> None:
        """Let things go wrong for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(self.chance.uniform(0, 2.5))
            fault = self.chance.choice(self.choices)
            self.counts[fault.__name__] += 1
            fault()

    def kill_one(self) -> None:
        self.schedulers.restart(self._any(), signal.SIGKILL, self.chance.uniform(0, 1))

    def stop_one(self) -> None:
        self.schedulers.restart(self._any(), signal.SIGTERM, self.chance.uniform(0, 1))

    def kill_all(self) -> None:
        for process in self.schedulers.processes:
            process.kill()
        for number in range(SCHEDULERS):
            self.schedulers.restart(number, signal.SIGKILL, 0)

    def freeze_one(self) -> None:
        process = self.schedulers.processes[self._any()]
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0, 3))
        process.send_signal(signal.SIGCONT)

    def empty_redis(self) -> None:
        self.redis.flush()

    def kill_redis(self) -> None:
        self.redis.kill()
        time.sleep(self.chance.uniform(0, 3))
        self.redis.start()

    def hang_redis(self) -> None:
        self.redis.pause()
        time.sleep(self.chance.uniform(0, 3))
        self.redis.resume()

    def _any(self) -> int:
        return self.chance.randrange(SCHEDULERS)


@contextmanager
def database_url(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a new database."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'faults.db'}"
        return
    server = PostgreSQL()
    try:
        yield server.create_database()
    finally:
        server.close()


def find_mistakes(until: datetime) -> Iterator[str]:
    """Compare what was fired up to a time with what was due, and with the ledger."""
    runs = rows(sa.select(ScheduleRun.__table__))
    jobs = {row.id: row for row in rows(sa.select(Job.__table__))}
    for schedule in rows(sa.select(Schedule.__table__).order_by(Schedule.name)):
        due = set(due_times(schedule.timing, schedule.timezone, schedule.created_at, until))
        own = [run for run in runs if run.schedule == schedule.name]
        fired = Counter(run.due_at for run in own if run.due_at <= until)
        print(f"  {schedule.name}: {len(due)} due times, {len(fired)} fired")
        for moment in sorted(due ^ fired.keys()):
            yield f"{schedule.name}: {moment} {'was left out' if moment in due else 'was not due'}"
        for run in own:
            job = jobs.pop(run.job_id, None)
            if job is None or job.name != schedule.job:
                yield f"{schedule.name}: {run.due_at} has no job of its own"
            elif job.status != "finished":
                yield f"{schedule.name}: the job of {run.due_at} is {job.status}"
    for job in jobs.values():
        yield f"{job.name}: the job {job.id} belongs to no due time"


def rows(statement: sa.Select[Any]) -> list[Any]:
    with db_manager.connection() as connection:
        return list(connection.execute(statement))


def wait_for_runs(until: datetime) -> None:
    """Wait until every time due by then was handled, or for a minute."""
    deadline = time.monotonic() + FINISH_SECONDS
    schedules = sa.select(Schedule.__table__)
    while time.monotonic() < deadline and any(
        any(due_times(row.timing, row.timezone, row.handled_until, until))
        for row in rows(schedules)
    ):
        time.sleep(0.5)


def wait_for_jobs() -> None:
    """Wait until nothing is left to run, or for a minute."""
    deadline = time.monotonic() + FINISH_SECONDS
    is_open = sa.select(Job.id).where(Job.finished_at.is_(None)).limit(1)
    while rows(is_open) and time.monotonic() < deadline:
        time.sleep(0.5)


def settings_for(database: str, redis: Redis) -> dict[str, Any]:
    schedules = {"configured": {"job": "schedule_jobs.second", "every": 3}}
    own = {
        "database": {"url": database},
        "redis": {"url": redis.url},
        "jobs": {"modules": ["schedule_jobs"], "schedules": schedules},
    }
    return merged(DEFAULTS, own)


def run(seconds: float, kind: str, seed: int) -> int:
    """Run the whole trial.

    :returns: the exit status.
    """
    with scratch_folder() as folder, database_url(kind, folder) as url:
        redis = Redis()
        settings = settings_for(url, redis)
        environ = environ_for(settings, ROOT)
        environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER), environ.get("PYTHONPATH", "")])
        sys.path.insert(0, str(FOLDER))
        app = create_app(settings)
        with app.app_context():
            db.create_all()
            print(json.dumps({"seconds": seconds, "database": kind, "seed": seed}))
            worker = Group("worker", 1, environ, folder / "worker.log")
            schedulers = Group("scheduler", SCHEDULERS, environ, folder / "scheduler.log")
            try:
                faults = Faults(seed, schedulers, redis)
                faults.run(seconds)
                until = datetime.now(UTC)
                wait_for_runs(until)
                schedulers.close()
                wait_for_jobs()
            finally:
                schedulers.close()
                worker.close()
                redis.close()
            print(f"  faults: {dict(sorted(faults.counts.items()))}")
            mistakes = list(find_mistakes(until))
            if mistakes:
                print((folder / "scheduler.log").read_text(errors="replace")[-20_000:])
            db.engine.dispose()
    for line in mistakes:
        print(f"  MISTAKE {line}")
    print("Each due time was fired once." if not mistakes else f"{len(mistakes)} mistakes.")
    return 1 if mistakes else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return run(options.minutes * 60, options.database, options.seed)


if __name__ == "__main__":
    sys.exit(main())

"""What the tests of the jobs share: an application that knows the samples, workers, the ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from redis import Redis

from ghost.database import db_manager
from ghost.jobs.ledger import jobs
from ghost.jobs.worker import GhostWorker
from ghost.testing.servers import Redis as RedisServer

FOLDER = Path(__file__).parent


@pytest.fixture
def app_config(redis_server: RedisServer) -> Mapping[str, Any]:
    return {
        "redis": {"url": redis_server.url},
        "jobs": {"modules": ["job_samples"], "sweep_interval": 0.1},
    }


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """A client of the Redis server that the application uses."""
    client = Redis.from_url(redis_server.url, decode_responses=True)
    yield client
    client.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The file into which the samples write."""
    return tmp_path / "out"


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


@pytest.fixture
def ledger(app: Flask) -> Ledger:
    return Ledger(app)


def wait_until(
    is_so: Callable[[], bool], seconds: float = 20.0, describe: Callable[[], object] = str
) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {describe()}")
        time.sleep(0.02)


@pytest.fixture
def work(app: Flask, redis_server: RedisServer) -> Iterator[Callable[..., GhostWorker]]:
    """Run a worker in this process until there is nothing left to do."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(**options: Any) -> GhostWorker:
        worker = GhostWorker(
            ["high", "default", "low"],
            connection=Redis.from_url(redis_server.url),
            application=app,
        )
        worker.work(burst=True, **options)
        return worker

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


class Process:
    """A worker, or another program, in a process of its own; what it says goes to a file."""

    def __init__(self, words: list[str], environ: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("a") as file:
            self._process = subprocess.Popen(
                words, env=dict(environ), stdout=file, stderr=subprocess.STDOUT,
                cwd=FOLDER.parent.parent, start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    def says(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 20.0) -> None:
        wait_until(lambda: text in self.says(), seconds, self.says)

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
            os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()


@pytest.fixture
def start(
    app: Flask, app_environ: Mapping[str, str], tmp_path: Path
) -> Iterator[Callable[..., Process]]:
    """Start `flask ...`, `rq ...` or `python ...` with the settings of the application."""
    started: list[Process] = []

    def run(*words: str, **variables: str) -> Process:
        program = {"python": sys.executable}.get(words[0]) or str(
            Path(sys.executable).with_name(words[0])
        )
        environ = {**app_environ, "PYTHONPATH": str(FOLDER), **variables}
        process = Process([program, *words[1:]], environ, tmp_path / f"log-{len(started)}")
        started.append(process)
        return process

    yield run
    for process in started:
        process.close()

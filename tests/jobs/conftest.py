"""What the tests of the jobs share: an application that knows the samples, workers, the ledger."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from job_helpers import KINDS, WORDS, Ledger, Process, run_burst
from redis import Redis

from ghost import db
from ghost.jobs import JobFunction, runner
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


@pytest.fixture
def ledger(app: Flask) -> Ledger:
    return Ledger(app)


@pytest.fixture
def keep_signals() -> Iterator[None]:
    """Put back the signal handlers that a worker in this process installs."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """One after the other, the kinds of workers of which the same is promised."""
    return str(request.param)


@pytest.fixture
def work(
    app: Flask, redis_server: RedisServer, keep_signals: None, kind: str
) -> Callable[[], None]:
    """Run a worker in this process until there is nothing left to do."""
    return lambda: run_burst(app, redis_server, kind)


@pytest.fixture
def start_worker(start: Callable[..., Process], kind: str) -> Callable[..., Process]:
    """Start a worker as a process, with variables of its environment."""
    return lambda **variables: start(*WORDS[kind], **variables)


@pytest.fixture
def enqueue(app: Flask) -> Callable[..., UUID]:
    """Enqueue a job and commit."""

    def add(function: JobFunction[..., object], *args: object, **kwargs: object) -> UUID:
        with app.app_context():
            job_id = function.enqueue(*args, **kwargs)
            db.session.commit()
        return job_id

    return add


@pytest.fixture
def run(app: Flask) -> Callable[..., str | None]:
    """Claim and run one attempt in this process."""

    def run_one(job_id: UUID, attempt: int = 1) -> str | None:
        with app.app_context():
            return runner.run(job_id, attempt)

    return run_one


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
        paths = [str(FOLDER), *app_environ.get("PYTHONPATH", "").split(os.pathsep)]
        environ = {**app_environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables}
        process = Process([program, *words[1:]], environ, tmp_path / f"log-{len(started)}")
        started.append(process)
        return process

    yield run
    for process in started:
        process.close()

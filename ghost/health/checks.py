"""What is looked at, and how it is kept from hanging whoever asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, NamedTuple

import redis
import sqlalchemy as sa
from flask import Flask
from loguru import logger
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from ghost.config import Config
from ghost.database import db, guard, reading
from ghost.files.storage import current_storage
from ghost.jobs.ledger import is_waiting
from ghost.jobs.models import SCHEDULER_LEASES, Job, Lease, PausedQueue, Schedule
from ghost.jobs.schedules import is_any_declared
from ghost.jobs.transport import WORKERS_KEY
from ghost.models import utcnow
from ghost.revisions import schema_state

Status = Literal["ok", "degraded", "down"]

# A probe is answered after this time at the latest, whatever hangs.
LIMIT_SECONDS = 1.5
# What a check itself waits for an answer, so that its thread ends.
ANSWER_SECONDS = 1.0
# A check that runs for longer is given up; but no more than so many are left behind.
GIVE_UP_SECONDS = 4.0
THREADS_AT_MOST = 3
JOB_COUNTS_SECONDS = 15.0
# A file is written to the storage for it, and a bucket is paid for each.
STORAGE_SECONDS = 15.0


class Finding(NamedTuple):
    """What a check found."""

    status: Status
    message: str | None = None
    details: Mapping[str, Any] = {}


@dataclass
class Outcome:
    """A finding with the time that it took, None when it did not come in time."""

    finding: Finding
    latency_ms: float | None = None


@dataclass
class _Run:
    """One check that is being made, for everybody who asks meanwhile."""

    started: float
    done: threading.Event = field(default_factory=threading.Event)
    outcome: Outcome | None = None


class Checks:
    """The checks of one application, each made once at a time however many ask."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._config: Config = app.extensions["ghost"].config
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}
        self._threads: dict[str, int] = {}
        self._told: dict[str, Status] = {}
        self._engine: Engine | None = None
        self._redis: redis.Redis | None = None
        self._job_counts: tuple[float, list[tuple[str, str, int]]] | None = None
        self._storage: tuple[float, Finding] | None = None
        self._all: dict[str, Callable[[], Finding]] = {
            "database": self._check_database,
            "schema": self._check_schema,
            "redis": self._check_redis,
            "workers": self._check_workers,
            "schedulers": self._check_schedulers,
            "storage": self._check_storage,
            "mail": self._check_mail,
        }

    def make(self, names: Iterable[str] | None = None) -> dict[str, Outcome]:
        """Make checks at the same time and return their outcomes by name, within 1.5 seconds.

        :param names: which; None makes all.
        """
        deadline = time.monotonic() + LIMIT_SECONDS
        runs = {name: self._start(name) for name in (names or self._all)}
        return {name: self._outcome(name, run, deadline) for name, run in runs.items()}

    def count_jobs(self) -> list[tuple[str, str, int]] | None:
        """Return name, status and number of the ledger's jobs; None when the database is away.

        At most 15 seconds old: counting reads the whole ledger.
        """
        if self._job_counts is None or time.monotonic() > self._job_counts[0]:
            run = self._start("jobs", self._count_jobs)
            outcome = self._outcome("jobs", run, time.monotonic() + LIMIT_SECONDS)
            if outcome.finding.status != "ok":
                return None
        return self._job_counts[1] if self._job_counts else None

    def _start(self, name: str, check: Callable[[], Finding] | None = None) -> _Run:
        now = time.monotonic()
        with self._lock:
            run = self._runs.get(name)
            if run is not None and not run.done.is_set():
                is_given_up = now - run.started > GIVE_UP_SECONDS
                if not is_given_up or self._threads.get(name, 0) >= THREADS_AT_MOST:
                    return run
            run = self._runs[name] = _Run(now)
            self._threads[name] = self._threads.get(name, 0) + 1
        thread = threading.Thread(
            target=self._work,
            args=(name, check or self._all[name], run),
            name=f"ghost-health-{name}",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:  # no thread to be had
            with self._lock:
                self._threads[name] -= 1
            run.outcome = Outcome(Finding("down", "could not be checked"))
            run.done.set()
        return run

    def _work(self, name: str, check: Callable[[], Finding], run: _Run) -> None:
        try:
            with self._app.app_context():
                finding = check()
        except Exception as error:  # whatever it is, that part does not work
            self._tell(name, "down", error)
            finding = Finding("down", "does not answer")
        else:
            self._tell(name, finding.status)
        finally:
            with self._lock:
                self._threads[name] -= 1
        run.outcome = Outcome(finding, round((time.monotonic() - run.started) * 1000, 1))
        run.done.set()

    def _outcome(self, name: str, run: _Run, deadline: float) -> Outcome:
        # Who joins a check that is late already does not wait for it a second time.
        until = min(deadline, run.started + LIMIT_SECONDS)
        run.done.wait(max(0.0, until - time.monotonic()))
        if run.outcome is None:
            self._tell(name, "down")
            return Outcome(Finding("down", "does not answer"))
        return run.outcome

    def _tell(self, name: str, status: Status, error: Exception | None = None) -> None:
        """Log a change, not every probe."""
        if self._told.get(name, "ok") == status:
            return
        self._told[name] = status
        log = logger.bind(check=name, status=status, reason=str(error) if error else None)
        log.log("INFO" if status == "ok" else "WARNING", "health check changed")

    def _check_database(self) -> Finding:
        with reading(self._probe_engine()).connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        return Finding("ok")

    def _check_schema(self) -> Finding:
        state = schema_state(self._probe_engine())
        if state == "ok":
            return Finding("ok")
        if state == "ahead":
            return Finding("degraded", "The database is ahead of this release.")
        if state == "behind":
            return Finding("down", "The database is behind this release: flask db upgrade")
        return Finding("down", "does not answer")

    def _check_redis(self) -> Finding:
        connection = self._redis_client()
        if connection is None:
            return Finding("degraded", "not configured")
        connection.ping()
        return Finding("ok")

    def _check_workers(self) -> Finding:
        """Look for the workers whose heartbeats keep their keys in Redis alive."""
        connection = self._redis_client()
        if connection is None:
            return Finding("degraded", "not configured")
        names: Any = connection.smembers(WORKERS_KEY)
        pipeline = connection.pipeline(transaction=False)
        for name in names:
            pipeline.hmget(name, "last_heartbeat", "queues")
        alive = [queues for heartbeat, queues in pipeline.execute() if heartbeat]
        served = {queue.decode() for queues in alive if queues for queue in queues.split(b",")}
        details = {"count": len(alive)}
        if not alive:
            return Finding("down", "no worker is running", details)
        left = [queue for queue in self._config.jobs.queues if queue not in served]
        if left:
            message = f"no worker serves {', '.join(left)}"
            return Finding("degraded", message, details)
        if waits := self._long_waits():
            told = ", ".join(f"{queue} ({seconds:.0f} s)" for queue, seconds in waits.items())
            return Finding("degraded", f"jobs wait too long in {told}", details)
        return Finding("ok", None, details)

    def _long_waits(self) -> dict[str, float]:
        """Return the queues whose oldest waiting job is too old, each with its age in seconds.

        Queues that somebody has paused are meant to wait.
        """
        now = utcnow()
        before = now - timedelta(seconds=self._config.jobs.max_wait)
        statement = (
            sa.select(Job.queue, sa.func.min(Job.run_at))
            .where(
                Job.finished_at.is_(None), Job.lease_until.is_(None), is_waiting,
                Job.run_at < before, Job.queue.not_in(sa.select(PausedQueue.name)),
            )
            .group_by(Job.queue)
            .order_by(Job.queue)
        )  # fmt: skip
        with reading(self._probe_engine()).connect() as connection:
            rows = connection.execute(statement).all()
        return {queue: (now - oldest).total_seconds() for queue, oldest in rows}

    def _check_schedulers(self) -> Finding:
        """Look for the schedulers whose leases have not ended, where there is any schedule."""
        alive = sa.select(sa.func.count()).where(
            Lease.name.startswith(SCHEDULER_LEASES, autoescape=True), Lease.until > utcnow()
        )
        with reading(self._probe_engine()).connect() as connection:
            count = connection.scalar(alive)
            is_needed = is_any_declared(self._config.jobs.schedules) or connection.scalar(
                sa.select(sa.exists().where(Schedule.enabled))
            )
        details = {"count": count}
        if is_needed and not count:
            return Finding("degraded", "no scheduler is running", details)
        return Finding("ok", None, details)

    def _check_storage(self) -> Finding:
        """Write a file and delete it; once found to work, that is believed for 15 seconds."""
        if self._storage is not None and time.monotonic() < self._storage[0]:
            return self._storage[1]
        self._storage = None
        worry = current_storage().check()
        finding = Finding("degraded", worry) if worry else Finding("ok")
        self._storage = (time.monotonic() + STORAGE_SECONDS, finding)
        return finding

    def _check_mail(self) -> Finding:
        """Only whether it is configured: no mail server is asked at each probe."""
        return Finding("ok") if self._config.mail.url else Finding("degraded", "not configured")

    def _count_jobs(self) -> Finding:
        statement = sa.select(Job.name, Job.status, sa.func.count()).group_by(Job.name, Job.status)
        with reading(self._probe_engine()).connect() as connection:
            rows = [tuple(row) for row in connection.execute(statement)]
        self._job_counts = (time.monotonic() + JOB_COUNTS_SECONDS, rows)  # type: ignore[assignment]
        return Finding("ok")

    def _redis_client(self) -> redis.Redis | None:
        url = self._config.redis.url
        if self._redis is None and url:
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=ANSWER_SECONDS,
                socket_connect_timeout=ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        return self._redis

    def _probe_engine(self) -> Engine:
        """Return an engine beside the pool, with shorter limits, for PostgreSQL.

        A full pool is no lost database, and a connection that a probe opened must not go on to
        serve requests with a probe's limits.
        """
        # In a test that rolls back, the engine is a connection; its own engine is meant.
        usual = db.engine.engine
        if usual.dialect.name != "postgresql":
            return usual
        if self._engine is None:
            engine = sa.create_engine(usual.url, poolclass=NullPool, hide_parameters=True)
            guard(engine, self._config)
            event.listen(engine, "connect", _limit_server)
            event.listen(engine, "checkout", _limit_waiting)
            self._engine = engine
        return self._engine


def _limit_server(connection: Any, _record: Any) -> None:
    """Let the server end what nobody waits for any more."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {int(ANSWER_SECONDS * 1000)}")
    connection.commit()


def _limit_waiting(connection: Any, _record: Any, _proxy: Any) -> None:
    """Wait a second for an answer; after the usual limit of a checkout has been set."""
    connection.wait_seconds = ANSWER_SECONDS

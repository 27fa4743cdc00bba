"""The scheduler's process: rq-scheduler's loop, signals and registration, with Ghost's clock in it.

rq-scheduler keeps its entries in Redis, pickles what they run, and lets a lock in Redis decide who
does. None of that is left: schedules come from the database, which also decides who fires them, so
that Redis may be away, and any number of schedulers run, and are killed, beside each other.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from types import FrameType
from typing import Any
from uuid import uuid4

import click
import sqlalchemy as sa
from flask.cli import with_appcontext
from redis.exceptions import RedisError
from rq_scheduler import Scheduler
from sqlalchemy.exc import SQLAlchemyError

import ghost.logging
from ghost.config import current_config
from ghost.database import dialect_insert
from ghost.jobs import clock, schedules
from ghost.jobs.ledger import ledger
from ghost.jobs.models import SCHEDULER_LEASES, Lease
from ghost.jobs.outbox import transport
from ghost.jobs.schedules import Declaration, ScheduleMistake
from ghost.jobs.sweep import make_sweeper
from ghost.logging import logger
from ghost.models import utcnow

INTERVAL_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 20.0
# How long a firing may go on after SIGTERM (cut off, it has not happened), and the goodbye then.
STOP_GRACE_SECONDS = 1.5
GOODBYE_SECONDS = 0.5

_leases: Any = Lease.__table__


class GhostScheduler(Scheduler):
    """A scheduler of the current application, to be run in its context.

    :param declared: the schedules by name, as this release declares them.
    """

    def __init__(self, declared: Mapping[str, Declaration]) -> None:
        super().__init__(connection=transport().client, interval=INTERVAL_SECONDS)
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._lease_name = f"{SCHEDULER_LEASES}{uuid4().hex}"
        self._declared = declared
        self._is_reconciled = False
        self._sweeper = make_sweeper(f"{self._holder}:{self.name}")
        self._told: dict[str, str] = {}
        self._failing: set[str] = set()
        self._heartbeat_at = 0.0
        self._is_busy = True  # until the first look at the clock is over
        self._is_told_to_stop = False

    def run(self, burst: bool = False) -> None:
        """Look at the clock until told to stop; with `burst` once."""
        # rq-scheduler would register first, and be killed by a signal that comes meanwhile.
        self._install_signal_handlers()
        super().run(burst)

    # --- What rq-scheduler's loop calls -----------------------------------------------------------

    def enqueue_jobs(self) -> None:
        """Fire what is due, and sweep."""
        self._is_busy = True
        try:
            self._try("use the database", self._fire)
            self._sweeper.tick()
        finally:
            self._is_busy = False
        if self._is_told_to_stop:
            raise SystemExit(0)

    def acquire_lock(self) -> bool:
        """Take no lock: one in Redis would outlive its process, and be lost with Redis."""
        return True

    def remove_lock(self) -> None:
        """There is none."""

    def register_birth(self) -> None:
        """Give the first sign of life."""
        logger.bind(pid=os.getpid(), schedules=len(self._declared)).info("Scheduler started.")
        self.heartbeat()

    def heartbeat(self) -> None:
        """Give a sign of life, in the database for Ghost's health and in Redis for RQ's tools."""
        if time.monotonic() < self._heartbeat_at:
            return
        self._heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
        self._try("use the database", self._renew_lease)
        self._try("use Redis", self._register)

    def register_death(self) -> None:
        """Say goodbye, to who is there to hear it."""
        try:
            self._try("use the database", self._give_lease_back)
            self._sweeper.release()
            self._try("use Redis", lambda: self.connection.delete(self.key))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            logger.bind(pid=os.getpid()).info("Scheduler stopped.")

    def _install_signal_handlers(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, self._leave)

    # --- Signals ----------------------------------------------------------------------------------

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        """Stop between two looks at the clock, or soon, if one takes long."""
        if self._is_told_to_stop:
            return
        self._is_told_to_stop = True
        signal.setitimer(signal.ITIMER_REAL, STOP_GRACE_SECONDS, GOODBYE_SECONDS)
        if not self._is_busy:
            raise SystemExit(0)

    def _leave(self, _signum: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    # --- Its own steps ----------------------------------------------------------------------------

    def _fire(self) -> None:
        now = utcnow()
        if not self._is_reconciled:
            changes = clock.reconcile(self._declared, now)
            self._is_reconciled = True
            if changes:
                logger.bind(**asdict(changes)).info("Schedules were taken up.")
        tick = clock.fire_due(now)
        for name in tick.failures.keys() | self._failing:
            self._note(f"fire the schedule {name}", tick.failures.get(name))
        self._failing = set(tick.failures)

    def _renew_lease(self) -> None:
        until = utcnow() + timedelta(seconds=LEASE_SECONDS)
        statement = dialect_insert(_leases).values(
            name=self._lease_name, holder=self._holder, until=until
        )
        with ledger() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=["name"], set_={"until": until})
            )

    def _give_lease_back(self) -> None:
        with ledger() as connection:
            connection.execute(sa.delete(_leases).where(_leases.c.name == self._lease_name))

    def _register(self) -> None:
        with self.connection.pipeline(transaction=False) as pipe:
            pipe.hset(self.key, mapping={"birth": time.time(), "holder": self._holder})
            pipe.expire(self.key, int(LEASE_SECONDS))
            pipe.execute()

    # --- What goes wrong is told once, and when it is over ----------------------------------------

    def _try(self, what: str, step: Callable[[], object]) -> None:
        try:
            step()
        except (SQLAlchemyError, RedisError, OSError) as error:
            self._note(what, error)
        else:
            self._note(what, None)

    def _note(self, what: str, error: Exception | None) -> None:
        problem = type(error).__name__ if error is not None else None
        if self._told.get(what) == problem:
            return
        if problem is None:
            del self._told[what]
            logger.info("The scheduler can {} again.", what)
        else:
            self._told[what] = problem
            logger.bind(error=str(error)).warning("The scheduler can't {}; it goes on.", what)


@click.command("scheduler")
@with_appcontext
def scheduler_command() -> None:
    """Enqueue the jobs that are on the clock, until stopped: SIGTERM or Ctrl-C."""
    config = current_config()
    ghost.logging.configure(config, component="scheduler")
    if config.redis.url is None:
        raise click.ClickException(
            "Jobs are carried by Redis: set REDIS_URL (redis://host:6379/0), or redis.url in"
            " config.yaml. `make run` starts a Redis, a worker and a scheduler by itself."
        )
    try:
        declared = schedules.declared(config.jobs.schedules)
    except ScheduleMistake as mistake:
        raise click.ClickException(str(mistake)) from mistake
    GhostScheduler(declared).run()

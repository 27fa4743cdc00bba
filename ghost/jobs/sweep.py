"""What every worker does beside its jobs: send what was not sent, take back what was lost.

One process at a time does it, on whatever machine: who holds the lease in the database. That only
saves work; two at once would do no harm, because each step is a statement that names its condition.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from flask import current_app
from redis.exceptions import RedisError
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from ghost.config import current_config
from ghost.jobs.ledger import is_waiting, jobs, ledger, mark_sent
from ghost.jobs.models import (
    CANCELED,
    FAILED,
    FINISHED,
    QUEUED,
    RETRYING,
    STARTED,
    Lease,
)
from ghost.jobs.outbox import BATCH, hand_over
from ghost.jobs.runner import CLAIMED, LOST, RELEASED, Claim, release, settle
from ghost.jobs.transport import Entry, Transport
from ghost.logging import job_id_var, logger, request_id_var
from ghost.models import utcnow
from ghost.retention import Repair, deletions, repairs

# Who enqueued a job hands it over at once; the sweep looks after those who didn't come to it.
GRACE_SECONDS = 1.0
# An entry that was sent this long ago, and whose job has not started, may be gone from Redis.
LOST_AFTER_SECONDS = 15.0
LOST_EVERY_SECONDS = 10.0
RETENTION_EVERY_SECONDS = 60.0
# Who sweeps also watches over running jobs, and may not be away from them for longer.
BUDGET_SECONDS = 2.0
LEASE_NAME = "jobs.sweep"

_leases: Any = Lease.__table__
_has_no_end = (jobs.c.finished_at.is_(None), jobs.c.lease_until.is_(None))


class Sweeper:
    """The sweep of one process.

    :param holder: who this process is, in the lease.
    :param transport: the connection to Redis.
    """

    def __init__(self, holder: str, transport: Transport) -> None:
        self._holder = holder
        self._transport = transport
        self._next_at = 0.0
        self._ends_at = math.inf
        self._lost_at = time.monotonic() + LOST_EVERY_SECONDS
        self._retention_at = 0.0
        self._is_failing = False

    def tick(self) -> None:
        """Sweep when it is time to; what goes wrong is logged and tried again."""
        if time.monotonic() < self._next_at:
            return
        interval = current_config().jobs.sweep_interval
        self._next_at = time.monotonic() + interval
        try:
            if self._hold_lease(interval):
                self.sweep()
            if self._is_failing:
                self._is_failing = False
                logger.info("The sweep of the jobs works again.")
        except (SQLAlchemyError, RedisError, OSError) as error:
            if not self._is_failing:  # once, not every two seconds
                logger.bind(error=str(error)).warning("The sweep of the jobs failed.")
            self._is_failing = True

    def sweep(self, grace_seconds: float = GRACE_SECONDS) -> int:
        """Do all that is due, without asking for the lease.

        What there is too much of is left to the next time.

        :returns: how many jobs were handed to RQ.
        """
        now = utcnow()
        self._ends_at = time.monotonic() + BUDGET_SECONDS
        self.take_back(now)
        sent = self.send_due(now, grace_seconds)
        if time.monotonic() >= self._retention_at:
            self._retention_at = time.monotonic() + RETENTION_EVERY_SECONDS
            self.delete_old(now)
            self.delete_declared(now)
            self.repair(now)
        # Last, and with its next time set first: it needs Redis, and what fails here for long must
        # not keep the rest from being done.
        began = time.monotonic()
        if began >= self._lost_at:
            self._lost_at = began + LOST_EVERY_SECONDS
            sent += self.send_lost(now)
            # A long queue takes long to look through: not more than a twentieth of the time.
            took = time.monotonic() - began
            self._lost_at = max(self._lost_at, began + took + 20 * took)
        return sent

    def take_back(self, now: datetime) -> int:
        """Settle the attempts whose lease ended: their worker is gone, or cut off."""
        with ledger() as connection:
            rows = connection.execute(
                sa.select(*CLAIMED)
                .where(jobs.c.lease_until < now, jobs.c.status == STARTED)
                .order_by(jobs.c.lease_until)
                .limit(BATCH)
            ).all()
        for done, row in enumerate(rows, start=1):
            settle_killed(
                Claim(*row), "the worker gave no more sign of life", lease_ended_before=now
            )
            if self._is_over():
                return done
        return len(rows)

    def send_due(self, now: datetime, grace_seconds: float = GRACE_SECONDS) -> int:
        """Hand over the jobs that are due and that RQ has not got."""
        sent = 0
        while True:
            with ledger() as connection:
                rows = connection.execute(
                    sa.select(jobs.c.id, jobs.c.queue, jobs.c.attempts)
                    .where(
                        *_has_no_end,
                        jobs.c.sent_at.is_(None),
                        jobs.c.run_at <= now,
                        is_waiting,
                        sa.or_(
                            jobs.c.status != QUEUED,
                            jobs.c.updated_at <= now - timedelta(seconds=grace_seconds),
                        ),
                    )
                    .order_by(jobs.c.run_at)
                    .limit(BATCH)
                ).all()
            entries = [Entry(row.id, row.queue, row.attempts + 1) for row in rows]
            if not entries or not self._transport.push(entries):
                return sent
            mark_sent(entries, now)
            sent += len(entries)
            if len(rows) < BATCH or self._is_over():
                return sent

    def send_lost(self, now: datetime) -> int:
        """Send again what was sent and is neither running nor in Redis.

        That is after FLUSHALL, after a Redis that forgot its last second, and after a worker was
        killed between taking an entry off the queue and claiming its job.
        """
        before = now - timedelta(seconds=LOST_AFTER_SECONDS)
        # Redis first: what is taken off meanwhile is no longer waiting in the ledger.
        waiting: dict[str, set[str]] = {
            queue: self._transport.waiting(queue) for queue in self._queues(before)
        }
        sent = 0
        after: tuple[Any, ...] = ()
        while True:
            with ledger() as connection:
                rows = connection.execute(_overdue_jobs(before, after)).all()
            lost: dict[str, list[Entry]] = defaultdict(list)
            for row in rows:
                entry = Entry(row.id, row.queue, row.attempts + 1)
                if entry.rq_id not in waiting.get(row.queue, ()):
                    lost[row.queue].append(entry)
            for queue, entries in lost.items():
                logger.bind(queue=queue, count=len(entries)).warning(
                    "Jobs were lost in Redis; they are sent again."
                )
                if not self._transport.push(entries):
                    return sent
                mark_sent(entries, now)
                sent += len(entries)
            if len(rows) < BATCH or self._is_over():
                return sent
            after = (rows[-1].sent_at, rows[-1].id)

    def delete_old(self, now: datetime) -> int:
        """Delete the rows of jobs that have been over for longer than they are kept."""
        settings = current_config().jobs
        deleted = 0
        for statuses, seconds in (
            ((FINISHED,), settings.retention_finished),
            ((FAILED, CANCELED), settings.retention_failed),
        ):
            end = now - timedelta(seconds=seconds)
            # A row that somebody has locked is being tried again.
            old = (
                sa.select(jobs.c.id)
                .where(jobs.c.status.in_(statuses), jobs.c.finished_at < end)
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            )
            deleted += self._delete(sa.delete(jobs).where(jobs.c.id.in_(old)))
        return deleted

    def delete_declared(self, now: datetime) -> int:
        """Delete the rows of all rooms that are worth nothing any more."""
        return sum(map(self._delete, deletions(now, BATCH)))

    def _delete(self, statement: sa.Delete) -> int:
        return self._repeat(lambda connection: connection.execute(statement).rowcount)

    def repair(self, now: datetime) -> int:
        """Mend what processes of the rooms left that were killed."""
        return sum(self._repeat(partial(_mend, mend, now)) for mend in repairs)

    def _repeat(self, change: Callable[[sa.Connection], int]) -> int:
        """Change batch after batch, until there is no more or this sweep has taken its time."""
        changed = 0
        while True:
            with ledger() as connection:
                count = change(connection)
            changed += count
            if count < BATCH or self._is_over():
                return changed

    def _is_over(self) -> bool:
        return time.monotonic() >= self._ends_at

    def _queues(self, before: datetime) -> list[str]:
        with ledger() as connection:
            found = connection.scalars(
                sa.select(jobs.c.queue).where(*_is_overdue(before)).distinct()
            )
            return list(found)

    def _hold_lease(self, interval: float) -> bool:
        now = utcnow()
        values = {"holder": self._holder, "until": now + timedelta(seconds=3 * interval + 5)}
        with ledger() as connection:
            taken = connection.execute(
                sa.update(_leases)
                .where(
                    _leases.c.name == LEASE_NAME,
                    sa.or_(_leases.c.holder == self._holder, _leases.c.until < now),
                )
                .values(values)
            )
            if taken.rowcount:
                return True
            if connection.scalar(sa.select(_leases.c.name).where(_leases.c.name == LEASE_NAME)):
                return False
            try:
                connection.execute(sa.insert(_leases).values(name=LEASE_NAME, **values))
            except IntegrityError:  # another process was faster
                return False
            return True

    def release(self) -> None:
        """Let another process take over at once."""
        try:
            with ledger() as connection:
                connection.execute(
                    sa.delete(_leases).where(
                        _leases.c.name == LEASE_NAME, _leases.c.holder == self._holder
                    )
                )
        except SQLAlchemyError:  # it ends by itself
            pass


def _mend(mend: Repair, now: datetime, connection: sa.Connection) -> int:
    return mend(connection, now, BATCH)


def _overdue_jobs(before: datetime, after: tuple[Any, ...]) -> sa.Select[Any]:
    """Select a page of the jobs that were sent and have not started.

    :param after: time and id of the last one of the page before.
    """
    keys = (jobs.c.sent_at, jobs.c.id)
    statement = sa.select(jobs.c.id, jobs.c.queue, jobs.c.attempts, jobs.c.sent_at)
    if after:
        statement = statement.where(sa.tuple_(*keys) > after)
    return statement.where(*_is_overdue(before)).order_by(*keys).limit(BATCH)


def _is_overdue(before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return (*_has_no_end, jobs.c.sent_at < before, jobs.c.status.in_((QUEUED, RETRYING)))


def settle_killed(
    attempt: Claim, reason: str, *, lease_ended_before: datetime | None = None
) -> str:
    """Settle an attempt whose process is gone; the log lines carry the job's ids."""
    tokens = (request_id_var.set(attempt.request_id), job_id_var.set(str(attempt.job_id)))
    try:
        return settle(attempt, None, reason, lease_ended_before=lease_ended_before)
    finally:
        request_id_var.reset(tokens[0])
        job_id_var.reset(tokens[1])


def give_back(attempt: Claim) -> str:
    """Have another worker run a job whose process this one has ended, to stop itself.

    :returns: the outcome, "released" or "lost".
    """
    tokens = (request_id_var.set(attempt.request_id), job_id_var.set(str(attempt.job_id)))
    try:
        if not release(attempt):
            return LOST
        logger.bind(job=attempt.name, attempt=attempt.attempt).warning(
            "The worker stops; the job is given back and starts again."
        )
        hand_over([Entry(attempt.job_id, attempt.queue, attempt.attempt + 1)])
        return RELEASED
    finally:
        request_id_var.reset(tokens[0])
        job_id_var.reset(tokens[1])


def make_sweeper(holder: str) -> Sweeper:
    """Make the sweep of the current application."""
    found: Any = current_app.extensions["ghost_jobs"]
    return Sweeper(holder, found)

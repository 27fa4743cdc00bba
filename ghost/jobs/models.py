"""The ledger: jobs, schedules and their firings, and what only one process may do at a time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ghost.database import Base, UTCDateTime
from ghost.models import Model, TimestampMixin
from ghost.retention import delete_when

SCHEDULED, QUEUED, STARTED, RETRYING = "scheduled", "queued", "started", "retrying"
FINISHED, FAILED, CANCELED = "finished", "failed", "canceled"
STATUSES = (SCHEDULED, QUEUED, STARTED, RETRYING, FINISHED, FAILED, CANCELED)
WAITING = (SCHEDULED, QUEUED, RETRYING)
AGAIN = (FAILED, CANCELED)  # what may be tried again

_is_waiting = sa.text("finished_at IS NULL AND lease_until IS NULL")
_is_leased = sa.text("lease_until IS NOT NULL")
_is_over = sa.text("finished_at IS NOT NULL")
_is_unique = sa.text("unique_key IS NOT NULL AND finished_at IS NULL")
_is_owned = sa.text("created_by IS NOT NULL")


class Job(TimestampMixin, Model):
    """One run of a registered function, and the outbox entry that hands it to RQ.

    `sent_at` is empty until RQ has it, and again after an attempt that is to be repeated;
    `lease_until` is set while a worker has it; `finished_at` once it is over. `history` has an
    entry `{attempt, started_at, finished_at, outcome, error}` for each attempt that is over, and
    `kills` counts those that ended with their process.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        sa.CheckConstraint(f"status IN ({', '.join(map(repr, STATUSES))})", name="status"),
        # Three partial indexes: each holds only the rows that its query of the sweep looks at.
        sa.Index(
            "ix_jobs_waiting",
            "sent_at",
            "run_at",
            postgresql_where=_is_waiting,
            sqlite_where=_is_waiting,
        ),
        sa.Index(
            "ix_jobs_lease_until",
            "lease_until",
            postgresql_where=_is_leased,
            sqlite_where=_is_leased,
        ),
        sa.Index(
            "ix_jobs_over",
            "status",
            "finished_at",
            postgresql_where=_is_over,
            sqlite_where=_is_over,
        ),
        # Of jobs with the same key one at a time waits or runs.
        sa.Index(
            "ix_jobs_unique_key",
            "unique_key",
            unique=True,
            postgresql_where=_is_unique,
            sqlite_where=_is_unique,
        ),
        sa.Index(
            "ix_jobs_created_by",
            "created_by",
            "id",
            postgresql_where=_is_owned,
            sqlite_where=_is_owned,
        ),
    )

    name: Mapped[str] = mapped_column(sa.String(200))
    queue: Mapped[str] = mapped_column(sa.String(50))
    args: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    status: Mapped[str] = mapped_column(sa.String(20), default=QUEUED)
    attempts: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int]
    timeout_seconds: Mapped[int]
    run_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(sa.Text)
    # No foreign key: this floor knows no accounts, and the trace outlives them.
    created_by: Mapped[UUID | None]
    request_id: Mapped[str | None] = mapped_column(sa.String(128))
    unique_key: Mapped[str | None] = mapped_column(sa.String(64))
    kills: Mapped[int] = mapped_column(default=0, server_default="0")
    progress: Mapped[int | None]
    progress_message: Mapped[str | None] = mapped_column(sa.String(200))
    result: Mapped[Any | None] = mapped_column(sa.JSON(none_as_null=True))
    history: Mapped[list[dict[str, Any]]] = mapped_column(
        sa.JSON, default=list, server_default="[]"
    )


class Lease(Base):
    """What one process at a time may do, across machines: until when, and who."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(sa.String(100), primary_key=True)
    holder: Mapped[str] = mapped_column(sa.String(200))
    until: Mapped[datetime] = mapped_column(UTCDateTime)


class PausedQueue(Base):
    """A queue of which no worker takes jobs for the time being."""

    __tablename__ = "job_queues"

    name: Mapped[str] = mapped_column(sa.String(50), primary_key=True)
    paused_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Schedule(TimestampMixin, Base):
    """A job on the clock, as code or configuration declare it; only `enabled` is the operator's.

    `timing` is `cron 0 3 * * *` or `every 300` (seconds). Every due time up to `handled_until` has
    been dealt with.
    """

    __tablename__ = "schedules"

    name: Mapped[str] = mapped_column(sa.String(200), primary_key=True)
    job: Mapped[str] = mapped_column(sa.String(200))
    args: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    timing: Mapped[str] = mapped_column(sa.String(200))
    timezone: Mapped[str] = mapped_column(sa.String(64))
    missed: Mapped[str] = mapped_column(sa.String(10))
    source: Mapped[str] = mapped_column(sa.String(10))
    enabled: Mapped[bool] = mapped_column(default=True)
    handled_until: Mapped[datetime] = mapped_column(UTCDateTime)


class ScheduleRun(Base):
    """One firing: whoever inserts the row, enqueues the job, in the same transaction."""

    __tablename__ = "schedule_runs"

    schedule: Mapped[str] = mapped_column(sa.String(200), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(UTCDateTime, primary_key=True, index=True)
    job_id: Mapped[UUID]


RUNS_KEPT = timedelta(days=30)
LEASES_KEPT = timedelta(hours=1)
# How the names of the leases begin by which schedulers give signs of life.
SCHEDULER_LEASES = "scheduler."

delete_when(ScheduleRun, lambda now: ScheduleRun.__table__.c.due_at < now - RUNS_KEPT)
# Of a process that was killed: nobody else gives its lease back.
delete_when(Lease, lambda now: Lease.__table__.c.until < now - LEASES_KEPT)

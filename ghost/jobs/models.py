"""The ledger: one row for each job, and the leases of what only one process may do at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ghost.database import Base, UTCDateTime
from ghost.models import Model, TimestampMixin

SCHEDULED, QUEUED, STARTED, RETRYING = "scheduled", "queued", "started", "retrying"
FINISHED, FAILED, CANCELED = "finished", "failed", "canceled"
STATUSES = (SCHEDULED, QUEUED, STARTED, RETRYING, FINISHED, FAILED, CANCELED)
WAITING = (SCHEDULED, QUEUED, RETRYING)

_is_waiting = sa.text("finished_at IS NULL AND lease_until IS NULL")
_is_leased = sa.text("lease_until IS NOT NULL")
_is_over = sa.text("finished_at IS NOT NULL")


class Job(TimestampMixin, Model):
    """One run of a registered function, and the outbox entry that hands it to RQ.

    `sent_at` is empty until RQ has it, and again after an attempt that is to be repeated;
    `lease_until` is set while a worker has it; `finished_at` once it is over.
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


class Lease(Base):
    """What one process at a time may do, across machines: until when, and who."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(sa.String(100), primary_key=True)
    holder: Mapped[str] = mapped_column(sa.String(200))
    until: Mapped[datetime] = mapped_column(UTCDateTime)

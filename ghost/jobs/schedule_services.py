"""What an operator does with schedules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfoNotFoundError

import sqlalchemy as sa

from ghost.database import db
from ghost.errors import NotFound
from ghost.jobs.models import Schedule, ScheduleRun
from ghost.jobs.registry import find
from ghost.models import utcnow
from ghost.timing import next_due

_schedules: Any = Schedule.__table__
_runs: Any = ScheduleRun.__table__


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """A schedule as it stands; `next_due_at` is None while it is disabled."""

    name: str
    job: str
    args: dict[str, Any]
    timing: str
    timezone: str
    missed: str
    source: str
    enabled: bool
    last_due_at: datetime | None
    next_due_at: datetime | None


def list_schedules() -> list[ScheduleState]:
    """List the schedules that a scheduler has taken up, by name."""
    last_due_at = (
        sa.select(sa.func.max(_runs.c.due_at))
        .where(_runs.c.schedule == _schedules.c.name)
        .scalar_subquery()
    )
    rows = db.session.execute(
        sa.select(_schedules, last_due_at.label("last_due_at")).order_by(_schedules.c.name)
    )
    now = utcnow()
    return [
        ScheduleState(
            name=row.name,
            job=row.job,
            args=row.args,
            timing=row.timing,
            timezone=row.timezone,
            missed=row.missed,
            source=row.source,
            enabled=row.enabled,
            last_due_at=row.last_due_at,
            next_due_at=_next_due(row, now) if row.enabled else None,
        )
        for row in rows
    ]


def _next_due(row: Any, now: datetime) -> datetime | None:
    """When a schedule is due next; None where this machine doesn't know its zone."""
    try:
        return next_due(row.timing, row.timezone, now)
    except (ZoneInfoNotFoundError, ValueError):
        return None


def run_now(name: str) -> UUID:
    """Enqueue a schedule's job once, beside the clock, whether it is enabled or not.

    :returns: the job's id.
    :raises NotFound: there is no such schedule.
    :raises UnknownJob: its function is not registered in this process.
    """
    schedule = _get(name)
    function = find(schedule.job)
    return function.enqueue(**function.arguments.load(schedule.args))


def set_enabled(name: str, enabled: bool) -> None:
    """Let a schedule run, or keep it from running; what was due while it was disabled is not run.

    :raises NotFound: there is no such schedule.
    """
    schedule = _get(name)
    if enabled and not schedule.enabled:
        schedule.handled_until = utcnow()
    schedule.enabled = enabled
    db.session.flush()


def _get(name: str) -> Schedule:
    found = db.session.get(Schedule, name)
    if found is None:
        raise NotFound(f"There is no schedule {name}.")
    return found

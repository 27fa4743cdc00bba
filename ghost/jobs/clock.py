"""The schedules in the database: made equal to what is declared, and fired when they are due.

Any number of processes do this at the same time. Who moves a schedule's `handled_until` forward
fires it, and the row of a firing, unique on schedule and due time, has the last word; the job's row
is written in that transaction. So what a killed process had begun has not happened, and another one
does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ghost.database import db_manager, dialect_insert, lock_row
from ghost.jobs.ledger import WAIT_SECONDS, ledger
from ghost.jobs.models import Schedule, ScheduleRun
from ghost.jobs.registry import JobFunction, find
from ghost.jobs.schedules import Declaration
from ghost.models import uuid7
from ghost.timing import due_times, latest_due, next_due

# A due time that is older was missed: no scheduler was there to see it.
GRACE = timedelta(seconds=60)

_schedules: Any = Schedule.__table__
_runs: Any = ScheduleRun.__table__


@dataclass(frozen=True, slots=True)
class Changes:
    """What reconciling did to the table: the names of schedules, in order."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True, slots=True)
class Due:
    """Which due times of a schedule are to be fired, and up to when it is dealt with then."""

    times: list[datetime]
    handled_until: datetime


@dataclass(slots=True)
class Tick:
    """What came of one look at the clock: how many jobs, and which schedules failed, by name."""

    fired: int = 0
    failures: dict[str, Exception] = field(default_factory=dict)


def reconcile(declared: Mapping[str, Declaration], now: datetime) -> Changes:
    """Make the table equal to the declarations, in one transaction.

    A new schedule, and one whose timing or zone has changed, is due from now on; `enabled` is left
    as it is.
    """
    changes = Changes()
    with db_manager.transaction() as connection:
        rows = connection.execute(lock_row(sa.select(_schedules).order_by(_schedules.c.name)))
        known = {row.name: row for row in rows}
        for name in sorted(declared):
            if name not in known:
                if _insert(connection, declared[name], now):
                    changes.added.append(name)
            elif new := _differences(known[name], declared[name], now):
                connection.execute(
                    sa.update(_schedules).where(_schedules.c.name == name).values(**new)
                )
                changes.changed.append(name)
        changes.removed.extend(sorted(known.keys() - declared.keys()))
        connection.execute(sa.delete(_schedules).where(_schedules.c.name.in_(changes.removed)))
    return changes


def _insert(connection: Connection, wanted: Declaration, now: datetime) -> bool:
    """Add a schedule; False when another process was faster."""
    # Created when it begins to be due: a second may end between two looks at the clock.
    values = asdict(wanted) | {"enabled": True, "handled_until": now, "created_at": now}
    statement = dialect_insert(_schedules).values(**values).on_conflict_do_nothing()
    return bool(connection.execute(statement).rowcount)


def _differences(row: Row[Any], wanted: Declaration, now: datetime) -> dict[str, Any]:
    new = {key: value for key, value in asdict(wanted).items() if getattr(row, key) != value}
    if "timing" in new or "timezone" in new:
        new["handled_until"] = now
    return new


def fire_due(now: datetime) -> Tick:
    """Enqueue the jobs of all schedules that are due, each schedule in a transaction of its own.

    :raises sqlalchemy.exc.SQLAlchemyError: the database is away.
    """
    with ledger() as connection:
        rows = connection.execute(sa.select(_schedules).where(_schedules.c.enabled)).all()
    tick = Tick()
    for row in rows:
        try:
            due = find_due(row.timing, row.timezone, row.missed, row.handled_until, now)
            if due is not None:
                tick.fired += _fire(row, due)
        except Exception as error:  # whatever is wrong with one, the others are due
            tick.failures[row.name] = error
    return tick


def find_due(timing: str, timezone: str, missed: str, after: datetime, now: datetime) -> Due | None:
    """Decide which due times later than `after` are fired now; None when there was none.

    Those of the last minute are, each of them: a restart loses nothing. Of those that are older
    the latest is fired if nothing younger is and `missed` is `once`.
    """
    first = next_due(timing, timezone, after)
    if first is None or first > now:
        return None
    missed_until = max(after, now - GRACE)
    times = list(due_times(timing, timezone, missed_until, now))
    if not times and missed == "once":
        latest = latest_due(timing, timezone, after, missed_until)
        times = [latest] if latest is not None else []
    return Due(times, max([missed_until, *times]))


def _fire(row: Row[Any], due: Due) -> int:
    """Enqueue a schedule's job for its due times, unless another process has done it.

    :returns: how many jobs were enqueued.
    """
    function = find(row.job)
    args = function.arguments.load(row.args)
    with db_manager.session() as session:
        _limit_waiting(session.connection())
        moved: Any = session.execute(
            sa.update(_schedules)
            .where(_schedules.c.name == _free_row(row))
            .values(handled_until=due.handled_until)
        )
        if not moved.rowcount:
            return 0
        return sum(_run_once(session, row.name, due_at, function, args) for due_at in due.times)


def _free_row(row: Row[Any]) -> sa.ScalarSelect[str]:
    """Select a schedule's name if it is as it was read, and no other process is at it."""
    # An alias: a table of the statement around it would be taken for that one.
    current = _schedules.alias()
    return (
        sa.select(current.c.name)
        .where(
            current.c.name == row.name,
            current.c.enabled,
            current.c.timing == row.timing,
            current.c.handled_until == row.handled_until,
        )
        # Who has it locked fires it, or dies and leaves it to the next look.
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )


def _limit_waiting(connection: Connection) -> None:
    """Wait for no answer as long as a job may: a lost connection would cost due times."""
    raw: Any = connection.connection.dbapi_connection
    if getattr(raw, "wait_seconds", None) is not None:  # set anew when it leaves the pool
        raw.wait_seconds = min(raw.wait_seconds, WAIT_SECONDS)


def _run_once(
    session: Any,
    name: str,
    due_at: datetime,
    function: JobFunction[..., Any],
    args: dict[str, Any],
) -> bool:
    """Enqueue the job for a due time; False when that time has been fired before."""
    inserted = session.execute(
        dialect_insert(_runs)
        .values(schedule=name, due_at=due_at, job_id=uuid7())
        .on_conflict_do_nothing()
    )
    if not inserted.rowcount:
        return False
    job_id = function.enqueue(**args)
    session.execute(
        sa.update(_runs)
        .where(_runs.c.schedule == name, _runs.c.due_at == due_at)
        .values(job_id=job_id)
    )
    return True

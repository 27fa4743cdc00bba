"""Statements on the ledger beside the session: autocommit, one at a time, with a short wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ghost.database import db_manager
from ghost.jobs.models import QUEUED, SCHEDULED, WAITING, Job
from ghost.jobs.transport import Entry
from ghost.prepared import PreparedWrite

WAIT_SECONDS = 5.0

jobs: Any = Job.__table__
# As text: an IN with parameters is expanded anew at each execution.
is_waiting = sa.text(f"jobs.status IN ({', '.join(map(repr, WAITING))})")


@contextmanager
def ledger() -> Iterator[Connection]:
    """A connection of its own, where each statement is a transaction.

    Jobs may keep the database busy for minutes; what keeps the books for them may not wait so
    long, or a hung server would hold up the worker itself.
    """
    with db_manager.connection() as connection:
        raw: Any = connection.connection.dbapi_connection
        usual = getattr(raw, "wait_seconds", None)
        if usual is None:
            yield connection
            return
        raw.wait_seconds = min(usual, WAIT_SECONDS)
        try:
            yield connection
        finally:
            raw.wait_seconds = usual


def _mark(condition: sa.ColumnElement[bool]) -> sa.Update:
    return (
        sa.update(jobs)
        .where(condition, jobs.c.attempts == sa.bindparam("before"), is_waiting)
        .values(
            sent_at=sa.bindparam("now"),
            updated_at=sa.bindparam("now"),
            status=sa.case((jobs.c.status == SCHEDULED, QUEUED), else_=jobs.c.status),
        )
    )


_one = _mark(jobs.c.id == sa.bindparam("key"))
_mark_one = PreparedWrite(_one)
_mark_many = _mark(jobs.c.id.in_(sa.bindparam("keys", expanding=True)))
# For the statement that has it as a condition the commit doesn't wait for the disk (PostgreSQL):
# where a crash that loses it only makes something be done again, as a mark that is sent again.
without_waiting = sa.func.set_config("synchronous_commit", "off", True).is_not(None)
_postgresql_mark_one = PreparedWrite(_one.where(without_waiting))
_postgresql_mark_many = _mark_many.where(without_waiting)


def mark_sent(entries: Sequence[Entry], now: datetime) -> None:
    """Note that RQ has these entries.

    Only for the attempt that was sent: a worker may have run it already, and a mark on the row of
    a job that is to be repeated would keep that repetition from being sent.
    """
    by_attempt: dict[int, list[UUID]] = {}
    for entry in entries:
        by_attempt.setdefault(entry.attempt, []).append(entry.job_id)
    with ledger() as connection:
        if connection.dialect.name == "postgresql":
            one, many = _postgresql_mark_one, _postgresql_mark_many
        else:
            one, many = _mark_one, _mark_many
        for attempt, ids in by_attempt.items():
            values = {"before": attempt - 1, "now": now}
            if len(ids) == 1:  # nearly always, and then without building the statement anew
                one.count(connection, {**values, "key": ids[0]})
            else:
                connection.execute(many, {**values, "keys": ids})

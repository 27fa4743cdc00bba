"""Statements on the ledger beside the session: autocommit, one at a time, with a short wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ghost.database import db_manager
from ghost.jobs.models import QUEUED, WAITING, Job
from ghost.jobs.transport import Entry

WAIT_SECONDS = 5.0

jobs: Any = Job.__table__


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


def mark_sent(entries: Sequence[Entry], now: datetime) -> None:
    """Note that RQ has these entries.

    Only for the attempt that was sent: a worker may have run it already, and a mark on the row of
    a job that is to be repeated would keep that repetition from being sent.
    """
    by_attempt: dict[int, list[Any]] = {}
    for entry in entries:
        by_attempt.setdefault(entry.attempt, []).append(entry.job_id)
    with ledger() as connection:
        for attempt, ids in by_attempt.items():
            connection.execute(
                sa.update(jobs)
                .where(
                    jobs.c.id.in_(ids),
                    jobs.c.attempts == attempt - 1,
                    jobs.c.status.in_(WAITING),
                    *_without_waiting_for_the_disk(connection),
                )
                .values(
                    sent_at=now,
                    status=sa.case((jobs.c.status == "scheduled", QUEUED), else_=jobs.c.status),
                )
            )


def _without_waiting_for_the_disk(connection: Connection) -> list[sa.ColumnElement[bool]]:
    """Let this one statement's commit not wait: a mark that a crash loses is only sent again."""
    if connection.dialect.name != "postgresql":
        return []
    return [sa.func.set_config("synchronous_commit", "off", True).is_not(None)]

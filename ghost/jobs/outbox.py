"""From the caller's transaction to RQ: what was enqueued is handed over after the commit.

A row that is committed and not handed over (Redis away, process killed in between) is sent by the
sweep; handing over twice does no harm, because a worker claims the row before it runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import sqlalchemy as sa
from flask import current_app
from sqlalchemy import event
from sqlalchemy.orm import SessionTransaction

from ghost.database import Session, db, dialect_insert
from ghost.jobs.ledger import jobs, mark_sent
from ghost.jobs.models import QUEUED, SCHEDULED
from ghost.jobs.transport import Entry, Transport
from ghost.logging import logger
from ghost.models import utcnow, uuid7

BATCH = 1000
UNIQUE_TRIES = 5

_insert = sa.insert(jobs)
_KEY = "ghost_outbox"


@dataclass(slots=True)
class _Outgoing:
    entry: Entry
    transaction: SessionTransaction | None


def transport() -> Transport:
    """Return the application's connection to Redis."""
    found: Transport = current_app.extensions["ghost_jobs"]
    return found


def add(run_at: datetime | None, *, unique_key: str | None = None, **values: Any) -> UUID:
    """Write a job's row in the transaction of `db.session`; it leaves when that commits.

    Pending objects are flushed first.

    :param run_at: None for at once.
    :param unique_key: of jobs with the same one, one at a time waits or runs.
    :returns: the id of the new job, or of the one that waits or runs already.
    """
    session = db.session()
    session.flush()
    now = utcnow()
    is_due = run_at is None or run_at <= now
    row = {
        "id": uuid7(),
        "status": QUEUED if is_due else SCHEDULED,
        "run_at": now if is_due else run_at,
        "unique_key": unique_key,
        **values,
    }
    if unique_key is None:
        session.execute(_insert, row)
    elif (known := _insert_unless_there(session, row)) is not None:
        return known
    if is_due:
        send_after_commit(Entry(row["id"], values["queue"], attempt=1))
    return cast(UUID, row["id"])


def _insert_unless_there(session: Any, row: dict[str, Any]) -> UUID | None:
    """Insert a job, or return the id of the one with its unique key.

    :raises RuntimeError: others with the key come and go faster than this can look.
    """
    insert = dialect_insert(jobs).values(row)
    insert = insert.on_conflict_do_nothing(
        index_elements=["unique_key"],
        index_where=sa.text("unique_key IS NOT NULL AND finished_at IS NULL"),
    )
    same = sa.select(jobs.c.id).where(
        jobs.c.unique_key == row["unique_key"], jobs.c.finished_at.is_(None)
    )
    for _ in range(UNIQUE_TRIES):
        if session.execute(insert.returning(jobs.c.id)).first() is not None:
            return None
        known: UUID | None = session.scalar(same)
        if known is not None:
            return known
    raise RuntimeError(f"the unique job {row['name']} was neither there nor to be added")


def send_after_commit(entry: Entry) -> None:
    """Have a job of the transaction of `db.session` handed to RQ when that commits."""
    session = db.session()
    inner = session.get_nested_transaction() or session.get_transaction()
    session.info.setdefault(_KEY, []).append(_Outgoing(entry, inner))


@event.listens_for(Session, "after_commit")
def _note_commit(session: Session) -> None:
    if _KEY in session.info:
        # SQLAlchemy calls this for a released savepoint too.
        inner = session.get_nested_transaction() or session.get_transaction()
        session.info["ghost_committed"] = inner


@event.listens_for(Session, "after_transaction_end")
def _pass_on(session: Session, transaction: SessionTransaction) -> None:
    """Give what a transaction enqueued to the one around it, or to RQ; drop it on a rollback.

    Not done in `after_commit`: there the session still holds its connection, and the mark needs
    another, which a pool that is used up would not have.
    """
    outgoing: list[_Outgoing] | None = session.info.get(_KEY)
    if outgoing is None:
        return
    is_committed = session.info.pop("ghost_committed", None) is transaction
    if transaction.parent is not None:
        if is_committed:
            for item in outgoing:
                if item.transaction is transaction:
                    item.transaction = transaction.parent
        else:
            outgoing[:] = [item for item in outgoing if item.transaction is not transaction]
        return
    del session.info[_KEY]
    if is_committed and outgoing:
        hand_over([item.entry for item in outgoing])


def hand_over(entries: list[Entry]) -> None:
    """Give committed jobs to RQ and note it; what fails here is left to the sweep."""
    try:
        for start in range(0, len(entries), BATCH):
            batch = entries[start : start + BATCH]
            waiting = transport().deliver(batch)
            if waiting is None:
                return
            # A worker that has one already marks it by its claim, in this moment.
            if waiting:
                mark_sent(waiting, utcnow())
    except Exception as error:
        # The caller's work is committed; nothing that goes wrong from here on may look to it as
        # if it were not. The rows are still unsent, and the sweep finds them.
        logger.bind(error=str(error), count=len(entries)).warning(
            "Jobs could not be handed over; the sweep will do it."
        )

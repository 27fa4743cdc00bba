"""From the caller's transaction to RQ: what was enqueued is handed over after the commit.

A row that is committed and not handed over (Redis away, process killed in between) is sent by the
sweep; handing over twice does no harm, because a worker claims the row before it runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import current_app
from sqlalchemy import event
from sqlalchemy.orm import SessionTransaction

from ghost.database import Session, db
from ghost.jobs.ledger import jobs, mark_sent
from ghost.jobs.models import QUEUED, SCHEDULED
from ghost.jobs.transport import Entry, Transport
from ghost.logging import logger
from ghost.models import utcnow, uuid7

BATCH = 1000

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


def add(run_at: datetime | None, **values: Any) -> UUID:
    """Write a job's row in the transaction of `db.session`; it leaves when that commits.

    Pending objects are flushed first.

    :param run_at: None for at once.
    """
    session = db.session()
    session.flush()
    now = utcnow()
    is_due = run_at is None or run_at <= now
    job_id = uuid7()
    session.execute(
        _insert,
        {
            "id": job_id,
            "status": QUEUED if is_due else SCHEDULED,
            "run_at": run_at or now,
            **values,
        },
    )
    if is_due:
        inner = session.get_nested_transaction() or session.get_transaction()
        entry = Entry(job_id, values["queue"], attempt=1)
        session.info.setdefault(_KEY, []).append(_Outgoing(entry, inner))
    return job_id


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

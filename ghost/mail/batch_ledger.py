"""What the job of a batch reads and writes: few statements, each a transaction of its own.

Of the messages of a batch those without a `job_id` are the batch's; one that was retried by itself
belongs to its own job. Who runs a batch proves with each message that it still may: the batch names
its job, the job's row the attempt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ghost.jobs.ledger import jobs, without_waiting
from ghost.jobs.models import STARTED
from ghost.mail.models import FAILED, OPEN, QUEUED, SENDING, MailBatch, MailMessage
from ghost.models import utcnow
from ghost.prepared import PreparedWrite

CANCELED = "The batch was canceled."
CANCELED_WHILE_SENDING = (
    "The batch was canceled while this mail was being sent; whether it arrived is not known."
)
PAGE = 100
# What a crash of the database server may cost at full speed: outcomes of this long.
DURABLE_SECONDS = 0.05

messages: Any = MailMessage.__table__
batches: Any = MailBatch.__table__

_columns = (
    "id", "attempts", "template", "locale", "composer", "context", "sender", "to", "cc",
    "bcc", "reply_to", "headers", "subject", "text", "html", "accepted", "refused", "created_at",
)  # fmt: skip
_of_batch = (messages.c.batch_id == sa.bindparam("batch"), messages.c.job_id.is_(None))
_waiting = sa.select(*(messages.c[name] for name in _columns)).where(
    *_of_batch, messages.c.status == QUEUED
)
_fresh = (
    _waiting.where(messages.c.attempts == 0, messages.c.id > sa.bindparam("after"))
    .order_by(messages.c.id)
    .limit(PAGE)
)
_again = (
    _waiting.where(
        messages.c.attempts > 0,
        sa.or_(messages.c.send_at.is_(None), messages.c.send_at <= sa.bindparam("now")),
    )
    .order_by(messages.c.send_at, messages.c.id)
    .limit(PAGE)
)
_next_at = sa.select(sa.func.min(messages.c.send_at), sa.func.count()).where(
    *_of_batch, messages.c.status == QUEUED
)
_is_open = messages.c.status.in_(OPEN)
_count_open = sa.select(sa.func.count()).where(*_of_batch, _is_open)
_batch = sa.select(batches).where(batches.c.id == sa.bindparam("batch"))
_is_mine = sa.exists().where(
    batches.c.id == sa.bindparam("batch"),
    batches.c.job_id == sa.bindparam("job"),
    batches.c.canceled_at.is_(None),
    jobs.c.id == batches.c.job_id,
    jobs.c.attempts == sa.bindparam("run"),
    jobs.c.status == STARTED,
)
_may_go_on = sa.select(_is_mine)
_claim = (
    sa.update(messages)
    .where(
        messages.c.id == sa.bindparam("wanted"),
        messages.c.attempts == sa.bindparam("tried"),
        messages.c.status == QUEUED,
        _is_mine,
    )
    .values(status=SENDING, attempts=messages.c.attempts + 1, updated_at=sa.bindparam("now"))
    .returning(messages.c.id)
)
_is_claimed = sa.select(messages.c.id).where(
    *_of_batch,
    messages.c.id == sa.bindparam("wanted"),
    messages.c.attempts == sa.bindparam("number"),
    messages.c.status == SENDING,
    _is_mine,
)
_record = (
    sa.update(messages)
    .where(
        messages.c.id == sa.bindparam("taken"),
        messages.c.attempts == sa.bindparam("number"),
        messages.c.status == SENDING,
    )
    .values(
        status=sa.bindparam("became"),
        subject=sa.bindparam("rendered"),
        accepted=sa.bindparam("who_took", type_=messages.c.accepted.type),
        refused=sa.bindparam("who_not", type_=messages.c.refused.type),
        error=sa.bindparam("words"),
        provider=sa.bindparam("way"),
        send_at=sa.bindparam("again_at"),
        sent_at=sa.bindparam("left_at"),
        updated_at=sa.bindparam("now"),
    )
    .returning(messages.c.id)
)


def _together(record: sa.Update, claim: sa.Update) -> sa.Select[Any]:
    """Record one message and claim the next, in one statement (PostgreSQL)."""
    recorded, claimed = record.cte("recorded"), claim.cte("claimed")
    return sa.select(
        sa.select(sa.func.count()).select_from(recorded).scalar_subquery().label("recorded"),
        sa.select(sa.func.count()).select_from(claimed).scalar_subquery().label("claimed"),
    )


_claim_alone = PreparedWrite(_claim)
_record_alone = PreparedWrite(_record)
_both = PreparedWrite(_together(_record, _claim))
# A claim that a crash of the server loses is made again.
_claim_alone_quickly = PreparedWrite(_claim.where(without_waiting))
_both_quickly = PreparedWrite(_together(_record, _claim.where(without_waiting)))

# Suppressed, or not to be rendered: these end without having been sent.
_drop = (
    sa.update(messages)
    .where(messages.c.id == sa.bindparam("wanted"), messages.c.status == QUEUED, _is_mine)
    .values(
        status=FAILED,
        refused=sa.bindparam("who_not", type_=messages.c.refused.type),
        error=sa.bindparam("words"),
        updated_at=sa.bindparam("now"),
    )
)
_interrupted = (*_of_batch, messages.c.status == SENDING)
_fail_interrupted = (
    sa.update(messages)
    .where(*_interrupted, messages.c.attempts >= sa.bindparam("most"))
    .values(status=FAILED, error=sa.bindparam("words"), updated_at=sa.bindparam("now"))
)
_queue_interrupted = (
    sa.update(messages)
    .where(*_interrupted)
    .values(status=QUEUED, send_at=None, updated_at=sa.bindparam("now"))
)
_close = (
    sa.update(messages)
    .where(*_of_batch, _is_open)
    .values(
        status=FAILED,
        error=sa.case(
            (messages.c.status == SENDING, sa.bindparam("words_if_sending")),
            else_=sa.bindparam("words"),
        ),
        updated_at=sa.bindparam("now"),
    )
)
_finish = (
    sa.update(batches)
    .where(
        batches.c.id == sa.bindparam("batch"),
        batches.c.finished_at.is_(None),
        ~sa.exists().where(*_of_batch, _is_open),
    )
    .values(finished_at=sa.bindparam("now"), updated_at=sa.bindparam("now"))
)


@dataclass(frozen=True, slots=True)
class Ended:
    """What is written of a message whose attempt is over.

    :param number: the attempt's, which tells it from a later one.
    :param again_at: when it is to be tried again, of one that is queued anew.
    """

    message_id: UUID
    number: int
    status: str
    subject: str | None
    accepted: Sequence[str] = ()
    refused: Mapping[str, str] | None = None
    error: str | None = None
    provider: str | None = None
    again_at: datetime | None = None
    sent_at: datetime | None = None

    def values(self) -> dict[str, Any]:
        return {
            "taken": self.message_id,
            "number": self.number,
            "became": self.status,
            "rendered": self.subject,
            "who_took": list(self.accepted),
            "who_not": dict(self.refused or {}),
            "words": self.error,
            "way": self.provider,
            "again_at": self.again_at,
            "left_at": self.sent_at,
        }


class BatchLedger:
    """The messages of one batch, for one attempt of its job.

    :param connection: in autocommit, from `db_manager.connection()`.
    :param run: the number of the job's attempt.
    """

    def __init__(self, connection: Connection, batch_id: UUID, job_id: UUID, run: int) -> None:
        self._connection = connection
        self._mine = {"batch": batch_id, "job": job_id, "run": run}
        self._is_postgresql = connection.dialect.name == "postgresql"
        self._durable_at = 0.0

    def batch(self) -> Any:
        """The batch's row, or None."""
        return self._connection.execute(_batch, self._mine).first()

    def may_go_on(self) -> bool:
        """Tell whether the batch is still this attempt's, and not canceled."""
        return bool(self._connection.scalar(_may_go_on, self._mine))

    def fresh(self, after: UUID) -> Sequence[Any]:
        """A page of the messages that were never tried, by their ids."""
        return self._connection.execute(_fresh, {**self._mine, "after": after}).all()

    def again(self) -> Sequence[Any]:
        """A page of those that are due again, the longest waiting first."""
        return self._connection.execute(_again, {**self._mine, "now": utcnow()}).all()

    def next_at(self) -> tuple[datetime | None, int]:
        """When the next message is due, and how many wait."""
        row = self._connection.execute(_next_at, self._mine).one()
        return row[0], row[1]

    def count_open(self) -> int:
        """How many messages are not over."""
        return int(self._connection.scalar(_count_open, self._mine) or 0)

    def claim(self, message_id: UUID, tried: int, ended: Ended | None) -> tuple[bool, bool]:
        """Begin the next message, and record the one before it, in one transaction if possible.

        :param tried: how often it was tried before.
        :param ended: the one before, if there is one.
        :returns: whether that is recorded, and whether this is claimed.
        """
        values = {**self._mine, "wanted": message_id, "tried": tried, "now": utcnow()}
        if ended is None:
            claim = _claim_alone_quickly if self._is_postgresql else _claim_alone
            return False, claim.first(self._connection, values) is not None
        if not self._is_postgresql:
            recorded = self.record(ended)
            return recorded, _claim_alone.first(self._connection, values) is not None
        # A commit makes durable what was committed before it, too.
        is_durable = time.monotonic() >= self._durable_at
        both = _both if is_durable else _both_quickly
        row = both.first(self._connection, {**values, **ended.values()})
        if is_durable:
            self._durable_at = time.monotonic() + DURABLE_SECONDS
        return bool(row.recorded), bool(row.claimed)

    def is_claimed(self, message_id: UUID, number: int) -> bool:
        """Tell whether a message is being sent, in an attempt of this number, by this job."""
        values = {**self._mine, "wanted": message_id, "number": number}
        return self._connection.execute(_is_claimed, values).first() is not None

    def record(self, ended: Ended) -> bool:
        """Record a message; False when a later attempt has it by now."""
        values = {**ended.values(), "now": utcnow()}
        return _record_alone.first(self._connection, values) is not None

    def recover(self) -> None:
        """Get ready for another statement after one that failed."""
        self._connection.rollback()

    def drop(self, message_id: UUID, error: str, refused: Mapping[str, str]) -> bool:
        """End a message that is not sent; False when it is not there to be ended."""
        values = {"wanted": message_id, "words": error, "who_not": dict(refused), "now": utcnow()}
        return bool(self._connection.execute(_drop, {**self._mine, **values}).rowcount)


def take_back(connection: Connection, batch_id: UUID, most: int, words: str) -> int:
    """Queue what was being sent when the process of an attempt ended.

    :param most: how often a message is tried; one that was has failed.
    :returns: how many there were.
    """
    values = {"batch": batch_id, "most": most, "words": words, "now": utcnow()}
    failed = connection.execute(_fail_interrupted, values).rowcount
    return int(failed + connection.execute(_queue_interrupted, values).rowcount)


def close(
    connection: Connection, batch_id: UUID, words: str, words_if_sending: str | None = None
) -> int:
    """End what is left of a batch, and then the batch itself.

    :param words_if_sending: of a message that is being sent, if that is ended too.
    :returns: how many messages there were.
    """
    values = {
        "batch": batch_id, "words": words, "words_if_sending": words_if_sending, "now": utcnow(),
    }  # fmt: skip
    statement = _close if words_if_sending else _close.where(messages.c.status == QUEUED)
    count = connection.execute(statement, values).rowcount
    finish(connection, batch_id)
    return int(count)


def finish(connection: Connection, batch_id: UUID) -> bool:
    """Note that a batch is over, if none of its messages is open."""
    values = {"batch": batch_id, "now": utcnow()}
    return bool(connection.execute(_finish, values).rowcount)


def is_sending(connection: Connection, batch_id: UUID) -> bool:
    """Tell whether a message of a batch is being sent, or was when its process ended."""
    found = sa.select(messages.c.id).where(*_interrupted).limit(1)
    return connection.execute(found, {"batch": batch_id}).first() is not None

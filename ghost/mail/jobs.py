"""What a worker does with mails."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.config import current_config
from ghost.database import db
from ghost.jobs import Permanent, current_job, job, job_failed
from ghost.jobs.ledger import jobs
from ghost.jobs.signals import job_canceled
from ghost.logging import logger
from ghost.mail import delivery, signals
from ghost.mail.models import FAILED, OPEN, SENT, MailMessage
from ghost.mail.providers import Delivery, open_provider
from ghost.retention import repair_with
from ghost.signals import tell

NAME = "mail.deliver"
# The limits of the provider count; this one is above the longest that can be set, for the
# configured one and for the one behind it: 4 times `mail.timeout` each.
TIMEOUT_SECONDS = 2500
# Before a second attempt; then doubling. Five attempts go over five minutes at least, which is
# what servers that put unknown senders off commonly want.
BACKOFF_SECONDS = 40
CANCELED = "The job was canceled."
CANCELED_WHILE_SENDING = (
    "The job was canceled while this mail was being sent; whether it arrived is not known."
)
LOST = "Its job was over before the mail was sent."

_messages: Any = MailMessage.__table__


def mail_attempts() -> int:
    """How often one mail is tried."""
    return current_config().mail.max_attempts


@job(name=NAME, timeout=TIMEOUT_SECONDS, max_attempts=mail_attempts, backoff=BACKOFF_SECONDS)
def deliver(message_id: UUID) -> None:
    """Send one message; tried again for those recipients that were put off.

    Commits before and after it waits for the provider: no transaction is open meanwhile, and a
    process that is killed leaves a message that its repetition finds `sending`.
    """
    try:
        taken = delivery.take(message_id, current_job.id)
    except Permanent as error:
        db.session.rollback()
        closed = delivery.close_of_job(current_job.id, str(error))
        db.session.commit()
        _tell_closed(closed)
        raise
    db.session.commit()
    if taken is None:
        return
    if isinstance(taken, delivery.Outcome):
        _tell_closed([delivery.Closed(message_id, taken.status, taken.error)])
        return
    is_last = current_job.attempt >= current_job.max_attempts
    with open_provider(current_config()) as provider:
        outcome = delivery.hand_over(taken, provider, is_last=is_last)
        # Before the farewell, which may take a moment: a process that is killed now repeats it.
        is_recorded = delivery.record(taken, outcome)
        db.session.commit()
    if is_recorded:
        _tell(taken, outcome)
    if outcome.again is not None:
        raise outcome.again
    if outcome.status == FAILED:
        raise Permanent(outcome.error or "")


def _tell(attempt: delivery.Attempt, outcome: delivery.Outcome) -> None:
    log = logger.bind(row_id=str(attempt.row_id), message_id=attempt.message.message_id)
    if outcome.refused:
        log.bind(refused=dict(outcome.refused)).warning("some recipients do not get a mail")
    if outcome.status == SENT:
        log.bind(recipients=len(outcome.accepted), provider=outcome.provider).info("mail sent")
        tell(
            signals.mail_sent,
            message=attempt.message,
            row_id=attempt.row_id,
            delivery=outcome.delivery,
        )
    elif outcome.status == FAILED:
        tell(signals.mail_failed, row_id=attempt.row_id, error=outcome.error)


# --- Jobs that end otherwise ----------------------------------------------------------------------


@job_failed.connect
def _fail_with_job(_app: Any, *, job_id: UUID, name: str, error: str) -> None:
    """Fail the message whose job could not even say why: killed too often, or by a mistake."""
    if name != NAME:
        return
    closed = delivery.close_of_job(job_id, error)
    db.session.commit()
    _tell_closed(closed)


@job_canceled.connect
def _cancel_with_job(_app: Any, *, job_id: UUID, name: str) -> None:
    """Fail the message whose job is canceled, in the transaction that does so."""
    if name == NAME:
        delivery.close_of_job(job_id, CANCELED, CANCELED_WHILE_SENDING)


@repair_with
def _close_orphans(connection: sa.Connection, _now: datetime, limit: int) -> int:
    """Fail the messages whose job is over, or gone, and told nobody: a process was killed."""
    mine = jobs.c.id == _messages.c.job_id
    orphans = (
        sa.select(_messages.c.id)
        .where(
            _messages.c.status.in_(OPEN),
            _messages.c.job_id.is_not(None),
            sa.not_(sa.exists().where(mine, jobs.c.finished_at.is_(None))),
        )
        .limit(limit)
    )
    error = sa.select(jobs.c.error).where(mine).scalar_subquery()
    closed = delivery.close(connection, _messages.c.id.in_(orphans), sa.func.coalesce(error, LOST))
    _tell_closed(closed)
    return len(closed)


def _tell_closed(closed: list[delivery.Closed]) -> None:
    for row_id, status, error in closed:
        if status == FAILED:
            tell(signals.mail_failed, row_id=row_id, error=error)
        elif signals.mail_sent.receivers:
            _tell_sent_before(row_id)


def _tell_sent_before(row_id: UUID) -> None:
    """Tell of a mail that somebody took in an earlier attempt, and nobody else will."""
    row = db.session.get_one(MailMessage, row_id, populate_existing=True)
    try:
        message = delivery.message_again(row)
    except Permanent as error:
        logger.bind(row_id=str(row_id), error=str(error)).warning("a sent mail can't be shown")
    else:
        tell(
            signals.mail_sent,
            message=message,
            row_id=row_id,
            delivery=Delivery(tuple(row.accepted), row.refused, provider=row.provider or ""),
        )
    db.session.rollback()

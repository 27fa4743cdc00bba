"""What a worker does with mails."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ghost.config import current_config
from ghost.database import db
from ghost.jobs import Permanent, current_job, job
from ghost.jobs.signals import job_canceled, job_failed
from ghost.logging import logger
from ghost.mail import delivery, signals
from ghost.mail.models import FAILED, SENT
from ghost.mail.providers import open_provider

CANCELED = "The job that sends this mail was canceled."


def mail_attempts() -> int:
    """How often one mail is tried: for `@job(max_attempts=mail_attempts)`."""
    return current_config().mail.max_attempts


# The limits of the provider count; this one is above the longest that can be set, for the
# configured one and for the one behind it: 4 times `mail.timeout` each.
@job(timeout=2500, max_attempts=mail_attempts)
def deliver(message_id: UUID) -> None:
    """Send one message; tried again for those recipients that were put off.

    Commits before and after it waits for the provider: no transaction is open meanwhile, and a
    process that is killed leaves a message that its repetition finds `sending`.
    """
    try:
        taken = delivery.take(message_id, current_job.id)
    except Permanent as error:
        db.session.rollback()
        _give_up(message_id, str(error))
        raise
    db.session.commit()
    if taken is None:
        return
    if isinstance(taken, delivery.Outcome):
        if taken.status == FAILED:
            signals.tell(signals.mail_failed, row_id=message_id, error=taken.error)
        return
    with open_provider(current_config()) as provider:
        is_last = current_job.attempt >= current_job.max_attempts
        outcome = delivery.hand_over(taken, provider, is_last=is_last)
        is_recorded = delivery.record(taken, outcome)
        db.session.commit()
    if is_recorded:
        _tell(taken, outcome)
    if outcome.again is not None:
        raise outcome.again
    if outcome.status == FAILED:
        raise Permanent(outcome.error or "")


@job_canceled.connect
def _cancel_with_job(_app: Any, *, job_id: UUID, name: str) -> None:
    """End the message whose job is canceled; one that is being sent may still arrive."""
    if name == deliver.name:
        delivery.fail_of_job(job_id, CANCELED)


@job_failed.connect
def _fail_with_job(_app: Any, *, job_id: UUID, name: str, error: str) -> None:
    """End the message whose job is put aside: killed too often, or never run at all."""
    if name == deliver.name:
        row_id = delivery.fail_of_job(job_id, error)
        db.session.commit()
        if row_id is not None:
            signals.tell(signals.mail_failed, row_id=row_id, error=error)


def _give_up(message_id: UUID, error: str) -> None:
    delivery.fail(message_id, current_job.id, error)
    db.session.commit()
    signals.tell(signals.mail_failed, row_id=message_id, error=error)


def _tell(attempt: delivery.Attempt, outcome: delivery.Outcome) -> None:
    log = logger.bind(row_id=str(attempt.row_id), message_id=attempt.message.message_id)
    if outcome.refused:
        log.bind(refused=dict(outcome.refused)).warning("some recipients do not get a mail")
    if outcome.status == SENT:
        log.bind(recipients=len(outcome.accepted), provider=outcome.provider).info("mail sent")
        signals.tell(
            signals.mail_sent,
            message=attempt.message,
            row_id=attempt.row_id,
            delivery=outcome.delivery,
        )
    elif outcome.status == FAILED:
        signals.tell(signals.mail_failed, row_id=attempt.row_id, error=outcome.error)

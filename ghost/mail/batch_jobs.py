"""The job that sends a batch: one connection to the provider for all of its mails.

It works for a minute and leaves the rest to the next job, so that no time limit ends a long batch
and each job of it has all its attempts. Before a mail leaves, the row says that it is being sent;
what came of it is written together with the beginning of the next. So a process that is killed
leaves one mail of which nobody knows whether it left: that one is sent again, with the same
Message-ID, and counts one more attempt. A mail that kills its worker each time ends in that way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from ghost.config import current_config
from ghost.database import db, db_manager
from ghost.jobs import Permanent, current_job, job
from ghost.jobs.retries import backoff_seconds
from ghost.logging import logger
from ghost.mail import delivery, signals
from ghost.mail.batch_ledger import (
    CANCELED,
    CANCELED_WHILE_SENDING,
    BatchLedger,
    Ended,
    batches,
    close,
    finish,
    take_back,
)
from ghost.mail.delivery import Attempt, Outcome
from ghost.mail.messages import Address
from ghost.mail.models import BOUNCED, QUEUED, SENT
from ghost.mail.pace import Pace
from ghost.mail.providers import Provider, Unreachable, open_provider
from ghost.mail.rendering import render
from ghost.mail.suppression import canonical, suppress, suppressed
from ghost.models import utcnow
from ghost.signals import tell

T = TypeVar("T")

NAME = "mail.deliver_batch"
SLICE_SECONDS = 60.0
# Above a slice and the longest that one mail can take: 4 times `mail.timeout` for each of two
# providers.
TIMEOUT_SECONDS = 3600
# What goes wrong here is the database or ourselves, since each mail counts its own attempts: with
# waits of up to `jobs.backoff_max` these last for most of a day.
MAX_ATTEMPTS = 100
# Before a mail that its server put off is tried again; then doubling. Greylisting wants minutes.
PUT_OFF_SECONDS = 30.0
LOOK_SECONDS = 1.0
RECORD_SECONDS = 30.0
RECORD_PAUSE_SECONDS = 0.5
NOT_MADE = "This mail could not be made."
INTERRUPTED = "Its worker ended while it was being sent, each time that it was tried."

FIRST = UUID(int=0)


@job(name=NAME, timeout=TIMEOUT_SECONDS, max_attempts=MAX_ATTEMPTS)
def deliver_batch(batch_id: UUID, failures: int = 0) -> None:
    """Send what is due of a batch, for a minute; what is left is the next job's.

    :param failures: how often in a row the provider could not be reached.
    """
    with db_manager.connection() as connection:
        ledger = BatchLedger(connection, batch_id, current_job.id, current_job.attempt)
        batch = ledger.batch()
        if batch is None or batch.finished_at is not None or batch.job_id != current_job.id:
            return
        if batch.canceled_at is not None:
            close(connection, batch_id, CANCELED, CANCELED_WHILE_SENDING)
            return
        if take_back(connection, batch_id, current_config().mail.max_attempts, INTERRUPTED):
            # The process before this one was killed. Each mail counts that for itself: the next
            # job begins without kills, or some of them would end a batch of many.
            _go_on(batch_id, failures, 0)
            return
        slice_ = Slice(ledger, batch.total, failures)
        with open_provider(current_config()) as provider:
            wait_seconds = slice_.run(provider)
        if wait_seconds is not None:
            _go_on(batch_id, slice_.failures, wait_seconds)
        elif ledger.batch().canceled_at is not None:
            close(connection, batch_id, CANCELED)
        elif not finish(connection, batch_id):
            _go_on(batch_id, slice_.failures, 0)


def _go_on(batch_id: UUID, failures: int, wait_seconds: float) -> None:
    """Leave a batch to another job, in the transaction that ends this one."""
    next_id = deliver_batch.enqueue_in(wait_seconds, batch_id, failures)
    passed_on = db.session.execute(
        sa.update(batches)
        .where(batches.c.id == batch_id, batches.c.job_id == current_job.id)
        .values(job_id=next_id)
    )
    if not passed_on.rowcount:  # type: ignore[attr-defined]
        db.session.rollback()  # somebody else has given it to another one


class Slice:
    """One job's part of a batch.

    :param total: how many messages the batch has.
    :param failures: how often in a row the provider could not be reached.
    """

    def __init__(self, ledger: BatchLedger, total: int, failures: int) -> None:
        config = current_config()
        self.failures = failures
        self._ledger = ledger
        self._total = total
        self._open = ledger.count_open()
        self._max_attempts = config.mail.max_attempts
        self._longest_wait = config.jobs.backoff_max
        self._first_wait = config.jobs.backoff
        self._pace = Pace(config.mail.rate)
        self._ends_at = time.monotonic() + SLICE_SECONDS
        self._look_at = 0.0
        self._last: tuple[Attempt, Outcome, Ended] | None = None

    def run(self, provider: Provider) -> float | None:
        """Send until all is sent, the time is over, or something is in the way.

        :returns: after how many seconds to go on; None when there is nothing left to do.
        """
        try:
            wait_seconds = self._send(provider)
        finally:
            self._record_last()
        if wait_seconds is not None or not self._ledger.may_go_on():
            return wait_seconds
        again_at, count = self._ledger.next_at()
        if not count:
            return None
        return max(0.0, (again_at - utcnow()).total_seconds()) if again_at else 0.0

    def _send(self, provider: Provider) -> float | None:
        """Send message after message.

        :returns: as `run`, but None also when some wait for their time.
        """
        for row, reason in self._rows():
            if self._is_over():
                return 0.0
            attempt = self._make(row, reason)
            if attempt is None:
                continue
            if not self._pace.wait(self._open, self._may_wait):
                return 0.0
            if not self._begin(attempt):
                if not self._ledger.may_go_on():
                    return None
                continue
            outcome = delivery.hand_over(
                attempt, provider, is_last=attempt.number >= self._max_attempts
            )
            is_unreachable = isinstance(outcome.again, Unreachable)
            self.failures = self.failures + 1 if is_unreachable else 0
            self._last = attempt, outcome, _ended(attempt, outcome, self._put_off(attempt))
            if is_unreachable:
                return self._wait(self.failures, self._first_wait)
        return None

    def _rows(self) -> Iterator[tuple[Any, str | None]]:
        """Go through the messages that are due, with why they are suppressed.

        First those that were never tried: one that its server leaves hanging must not be in
        everybody's way.
        """
        after = FIRST
        while rows := self._ledger.fresh(after):
            yield from _with_suppressions(rows)
            after = rows[-1].id
        self._record_last()
        while rows := self._ledger.again():
            yield from _with_suppressions(rows)
            self._record_last()

    def _make(self, row: Any, reason: str | None) -> Attempt | None:
        """Make what leaves; one that must not or can't leave is ended here."""
        if reason is not None:
            email = Address.parse(row.to[0]).email
            self._drop(row, delivery.ALL_SUPPRESSED, {email: f"suppressed: {reason}"})
            return None
        try:
            rendered = render(row.template, row.context, locale=row.locale)
            message = delivery.message_of(row, rendered)
        except Permanent as error:
            self._drop(row, delivery.clean_words(str(error)), {})
            return None
        except Exception:
            # A mistake of one recipient's data must not be everybody's.
            logger.bind(row_id=str(row.id)).exception("A mail of a batch could not be made.")
            self._drop(row, NOT_MADE, {})
            return None
        return Attempt(row.id, row.attempts + 1, message)

    def _drop(self, row: Any, error: str, refused: Mapping[str, str]) -> None:
        if self._ledger.drop(row.id, error, refused):
            self._open -= 1
            self._tell_failed(row.id, error)

    def _begin(self, attempt: Attempt) -> bool:
        """Say of a message that it is being sent, and of the one before what came of it."""
        last = self._last
        ended = last[2] if last else None
        recorded, claimed = self._persist(
            lambda: self._ledger.claim(attempt.row_id, attempt.number - 1, ended)
        )
        self._last = None
        if last and recorded:
            self._tell(*last)
        # Asked twice, since the first answer was lost, a claim finds its message claimed.
        return claimed or self._ledger.is_claimed(attempt.row_id, attempt.number)

    def _record_last(self) -> None:
        last = self._last
        if last is None:
            return
        recorded = self._persist(lambda: self._ledger.record(last[2]))
        self._last = None
        if recorded:
            self._tell(*last)

    def _persist(self, write: Callable[[], T]) -> T:
        """Write, and again for a while when the database is away.

        What came of a mail is known here alone: not written down, it would be sent once more.

        :raises sqlalchemy.exc.DBAPIError: the database is away for longer.
        """
        deadline = time.monotonic() + RECORD_SECONDS
        while True:
            try:
                return write()
            except DBAPIError as error:
                if not _may_pass(error) or time.monotonic() >= deadline:
                    raise
                logger.bind(error=str(error.orig)).warning("A mail's outcome waits to be written.")
                self._ledger.recover()
                time.sleep(RECORD_PAUSE_SECONDS)

    def _tell(self, attempt: Attempt, outcome: Outcome, ended: Ended) -> None:
        """Tell of a message whose outcome is committed."""
        for email, words in outcome.refused.items():
            if delivery.has_no_mailbox(words):
                suppress(email, BOUNCED, words)
                db.session.commit()
        if ended.status == QUEUED:
            return
        self._open -= 1
        done = self._total - self._open
        current_job.progress(100 * done / self._total, f"{done} of {self._total}")
        if ended.status == SENT:
            if signals.mail_sent.receivers:
                tell(
                    signals.mail_sent,
                    message=attempt.message,
                    row_id=attempt.row_id,
                    delivery=outcome.delivery,
                )
                # A receiver may have read something, and no transaction is open while a server is
                # waited for.
                db.session.rollback()
        else:
            self._tell_failed(attempt.row_id, ended.error or "")

    def _tell_failed(self, row_id: UUID, error: str) -> None:
        if signals.mail_failed.receivers:
            tell(signals.mail_failed, row_id=row_id, error=error)
            db.session.rollback()

    def _put_off(self, attempt: Attempt) -> float:
        """After how many seconds a message is tried again itself."""
        return self._wait(attempt.number, PUT_OFF_SECONDS)

    def _wait(self, times: int, first: float) -> float:
        return backoff_seconds(times, first, self._longest_wait, random.random())

    def _is_over(self) -> bool:
        return current_job.is_to_stop or time.monotonic() >= self._ends_at

    def _may_wait(self) -> bool:
        """Tell whether the next mail's time may still be waited for."""
        if current_job.is_to_stop:
            return False
        if time.monotonic() < self._look_at:
            return True
        self._look_at = time.monotonic() + LOOK_SECONDS
        return self._ledger.may_go_on()


def _may_pass(error: DBAPIError) -> bool:
    """Tell whether a statement may succeed later: no connection, a lock, a server that stops."""
    return error.connection_invalidated or isinstance(error, OperationalError)


def _with_suppressions(rows: Sequence[Any]) -> Iterator[tuple[Any, str | None]]:
    emails = [canonical(Address.parse(row.to[0]).email) for row in rows]
    reasons = suppressed(emails)
    db.session.rollback()
    for row, email in zip(rows, emails, strict=True):
        yield row, reasons.get(email)


def _ended(attempt: Attempt, outcome: Outcome, wait_seconds: float) -> Ended:
    """What is written of an attempt."""
    is_again = outcome.again is not None
    return Ended(
        attempt.row_id,
        attempt.number,
        QUEUED if is_again else outcome.status,
        attempt.message.subject,
        outcome.accepted,
        outcome.refused,
        outcome.error,
        outcome.provider,
        again_at=utcnow() + timedelta(seconds=wait_seconds) if is_again else None,
        sent_at=utcnow() if outcome.status == SENT else None,
    )

"""From a row to a message that leaves: one attempt, and what is recorded of it.

An attempt has three parts: `take` claims the message and makes what leaves, in a transaction;
`hand_over` waits for the provider, in none; `record` writes down what came of it. Between them
stands a commit of the caller's, so that a worker which is killed leaves a row that says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import undefer

from ghost.config import Config, current_config
from ghost.database import db, lock_row
from ghost.jobs import Permanent
from ghost.logging import redact_text
from ghost.mail.composers import find_composer
from ghost.mail.messages import Address, Attachment, Message
from ghost.mail.models import (
    BOUNCED,
    FAILED,
    OPEN,
    QUEUED,
    SENDING,
    SENT,
    MailAttachment,
    MailMessage,
)
from ghost.mail.providers import Delivery, NotSent, Provider, Refused
from ghost.mail.rendering import Rendered, render
from ghost.mail.suppression import canonical, suppress, suppressed
from ghost.models import utcnow
from ghost.redaction import storable

NOT_NEEDED = "It was no longer needed."
ALL_SUPPRESSED = "Every recipient is suppressed."
MAX_WORDS = 1000

_BARE_IP = re.compile(r"@(?:[\d.]+|\[[0-9A-Fa-f:.]+\])(?=>?\Z)")
# Answers that speak of the mailbox and not of the mail: there is none, or its name can't be one.
# Codes of policy (5.7.x), of full mailboxes and of their own trouble say nothing of the kind, and
# a bare 550 is used for all of them. See RFC 3463, section 3.2, and RFC 7505.
_NO_SUCH_MAILBOX = re.compile(r"(?:5\d\d[ -]5\.1\.(?:1|3|6|10)\b|551(?! [245]\.))")

_table: Any = MailMessage.__table__


@dataclass(frozen=True)
class Attempt:
    """One attempt at a message, with all that the provider needs and nothing of the session.

    :param number: counted by the row: it tells this attempt from a later one.
    :param message: to those addresses only that are left to try.
    :param accepted: who got it in earlier attempts.
    :param refused: who does not get it, and why.
    """

    row_id: UUID
    number: int
    message: Message
    accepted: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What becomes of a message after an attempt.

    :param again: why it has to be tried again; None when it is over.
    """

    status: str
    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    error: str | None = None
    provider: str | None = None
    again: NotSent | None = None

    @property
    def is_over(self) -> bool:
        return self.again is None

    @property
    def delivery(self) -> Delivery:
        """All attempts together."""
        return Delivery(self.accepted, self.refused, provider=self.provider or "")


# --- Before ---------------------------------------------------------------------------------------


def take(message_id: UUID, job_id: UUID) -> Attempt | Outcome | None:
    """Claim a message for an attempt of its job, and make what leaves; the caller commits.

    A message that failed is claimed too: its job runs again because somebody wanted that.

    :returns: None when it is not there to be sent, and an outcome, already recorded, when there
        is nothing to send.
    :raises Permanent: it can't be made, now or later.
    """
    mine = sa.and_(
        MailMessage.id == message_id,
        MailMessage.job_id == job_id,
        MailMessage.status.in_((*OPEN, FAILED)),
    )
    row = db.session.scalar(
        lock_row(sa.select(MailMessage).where(mine))
        .options(*map(undefer, (MailMessage.context, MailMessage.text, MailMessage.html)))
        .execution_options(populate_existing=True)
    )
    if row is None:
        return None
    if row.status == FAILED:  # who was refused is asked once more
        row.refused = {}
    row.status, row.attempts = SENDING, row.attempts + 1
    db.session.flush()
    return prepare(row, _attachments_of(row))


def prepare(row: MailMessage, attachments: Iterable[Attachment] = ()) -> Attempt | Outcome:
    """Make what leaves of a claimed row: rendered, without those who got it or must not get it.

    :raises Permanent: it can't be made, now or later.
    """
    refused = dict(row.refused)
    left = [email for email in _emails_of(row) if email not in row.accepted]
    if row.composer is None:
        reasons = suppressed(left)
        for email in left:
            if reason := reasons.get(canonical(email)):
                refused[email] = f"suppressed: {reason}"
    left = [email for email in left if email not in refused]
    rendered = content_of(row) if left else None
    if rendered is None:
        if row.accepted:
            outcome = Outcome(SENT, tuple(row.accepted), refused, provider=row.provider)
        else:
            outcome = Outcome(FAILED, (), refused, NOT_NEEDED if left else ALL_SUPPRESSED)
        _write(row.id, row.attempts, outcome)
        return outcome
    message = replace(message_of(row, rendered, attachments), envelope=left)
    return Attempt(row.id, row.attempts, message, tuple(row.accepted), refused)


def content_of(row: MailMessage) -> Rendered | None:
    """What a row's mail says: as it was stored, or rendered now.

    :returns: None when its composer has no need of it any more.
    :raises Permanent: it can't be rendered.
    """
    if row.composer is not None:
        composed = find_composer(row.composer)(row)
        if composed is None:
            return None
        template, context = composed
        return render(template, context, locale=row.locale)
    if row.text is None and row.template is not None:
        return render(row.template, row.context or {}, locale=row.locale)
    return Rendered(row.subject or "", row.text or "", row.html)


def message_of(
    row: MailMessage, rendered: Rendered, attachments: Iterable[Attachment] = ()
) -> Message:
    """The message to all recipients of a row, with its sender and its Message-ID.

    :param attachments: those that the row holds, besides the images that were rendered with it.
    """
    sender = Address.parse(row.sender, "sender") if row.sender else sender_of(current_config())
    return Message(
        to=row.to,
        subject=rendered.subject,
        text=rendered.text,
        html=rendered.html,
        headers=row.headers,
        message_id=f"<{row.id}@{sender.domain}>",
        sender=sender,
        date=row.created_at,
        cc=row.cc,
        bcc=row.bcc,
        reply_to=row.reply_to,
        attachments=[*attachments, *rendered.images],
    )


def sender_of(config: Config) -> Address:
    """Who mails come from: `mail.sender`, shown with the application's name if it has none."""
    # Without a domain the default is no-reply@127.0.0.1 or so, which is no mail address.
    plain = _BARE_IP.sub("@localhost", config.mail.sender)
    address = Address.parse(plain, "sender")
    return address if address.name else Address(address.email, config.app.name)


def _emails_of(row: MailMessage) -> list[str]:
    """The plain addresses of all recipients, each once."""
    named = (*row.to, *row.cc, *row.bcc)
    return list(dict.fromkeys(Address.parse(address).email for address in named))


def _attachments_of(row: MailMessage) -> list[Attachment]:
    found = db.session.execute(
        sa.select(
            MailAttachment.filename,
            MailAttachment.content,
            MailAttachment.content_type,
            MailAttachment.content_id,
        )
        .where(MailAttachment.message_id == row.id)
        .order_by(MailAttachment.position)
    )
    return [Attachment(*file) for file in found]


# --- The attempt ----------------------------------------------------------------------------------


def hand_over(attempt: Attempt, provider: Provider, *, is_last: bool) -> Outcome:
    """Give a message to the provider and wait for its answer; with no transaction open.

    :param is_last: there is no further attempt: who is left then does not get it.
    """
    try:
        delivery = provider.send(attempt.message)
    except (NotSent, Permanent) as error:
        return after_failure(attempt, error, is_last=is_last)
    return after_delivery(attempt, delivery, is_last=is_last)


def after_delivery(attempt: Attempt, delivery: Delivery, *, is_last: bool) -> Outcome:
    """Decide what becomes of a message that somebody took."""
    accepted = (*attempt.accepted, *delivery.accepted)
    refused = {**attempt.refused, **_words(delivery.refused)}
    deferred = _words(delivery.deferred)
    if deferred and not is_last:
        words = "; ".join(sorted(set(deferred.values())))
        again = NotSent(f"some recipients were put off: {words}")
        return Outcome(SENDING, accepted, refused, str(again), delivery.provider, again)
    return Outcome(SENT, accepted, {**refused, **deferred}, provider=delivery.provider)


def after_failure(attempt: Attempt, error: NotSent | Permanent, *, is_last: bool) -> Outcome:
    """Decide what becomes of a message that nobody took this time."""
    words = clean_words(str(error))
    said = _words(error.refused) if isinstance(error, NotSent | Refused) else {}
    refused = {**attempt.refused, **said}
    if isinstance(error, NotSent) and not is_last:
        return Outcome(SENDING, attempt.accepted, refused, words, again=error)
    refused = {**dict.fromkeys(attempt.message.destinations, words), **refused}
    if attempt.accepted:  # by others, in an earlier attempt
        return Outcome(SENT, attempt.accepted, refused)
    return Outcome(FAILED, (), refused, words)


def clean_words(text: str) -> str:
    """What a server or a library said, as it may be kept and shown."""
    return storable(redact_text(text))[:MAX_WORDS]


def _words(said: Mapping[str, str]) -> dict[str, str]:
    return {email: clean_words(words) for email, words in said.items()}


# --- After ----------------------------------------------------------------------------------------


def record(attempt: Attempt, outcome: Outcome) -> bool:
    """Write down what came of an attempt; the caller commits.

    Addresses whose server says that there is no such mailbox get nothing more.

    :returns: False when a later attempt has the message by now; nothing is written then.
    """
    if not _write(attempt.row_id, attempt.number, outcome):
        return False
    # In order: two workers that lock the same addresses wait for each other, and that is all.
    for email, words in sorted(outcome.refused.items()):
        if email not in attempt.refused and has_no_mailbox(words):
            suppress(email, BOUNCED, words)
    return True


def has_no_mailbox(words: str) -> bool:
    """Tell whether a server's answer means that an address does not exist."""
    return _NO_SUCH_MAILBOX.match(words) is not None


def _write(row_id: UUID, number: int, outcome: Outcome) -> bool:
    values: dict[str, Any] = {
        "status": outcome.status,
        "accepted": list(outcome.accepted),
        "refused": dict(outcome.refused),
        "error": outcome.error,
        "updated_at": utcnow(),
    }
    if outcome.provider:
        values["provider"] = outcome.provider
    if outcome.status == SENT:
        values["sent_at"] = utcnow()
    mine = sa.and_(_table.c.id == row_id, _table.c.attempts == number)
    if _update(mine, (SENDING,), values):
        return True
    # Its job was canceled meanwhile, so that it failed, and perhaps it was queued again since. Who
    # got it has got it.
    if outcome.status == SENT:
        return _update(mine, (FAILED, QUEUED), values)
    if outcome.is_over:
        return _update(mine, (FAILED,), values)
    known = {name: values[name] for name in ("accepted", "refused", "updated_at")}
    return _update(mine, (FAILED, QUEUED), known)


def _update(
    mine: sa.ColumnElement[bool], statuses: tuple[str, ...], values: Mapping[str, Any]
) -> bool:
    statement = sa.update(_table).where(mine, _table.c.status.in_(statuses)).values(values)
    return bool(db.session.execute(statement).rowcount)  # type: ignore[attr-defined]


class Closed(NamedTuple):
    """A message that was ended without its job."""

    row_id: UUID
    status: str
    error: str | None


def close(
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    words: Any,
    words_if_sending: str | None = None,
) -> list[Closed]:
    """End the open messages of a condition, since their job will not.

    What somebody took in an earlier attempt is `sent`, all else `failed`.

    :param words: the error, as text or as an expression.
    :param words_if_sending: the error of a message whose attempt may still succeed.
    :returns: what became of each.
    """
    if words_if_sending is not None:
        words = sa.case((_table.c.status == SENDING, words_if_sending), else_=words)
    nobody_took_it = sa.cast(_table.c.accepted, sa.Text) == "[]"
    now = utcnow()
    ended = connection.execute(
        sa.update(_table)
        .where(condition, _table.c.status.in_(OPEN))
        .values(
            status=sa.case((nobody_took_it, FAILED), else_=SENT),
            sent_at=sa.case((nobody_took_it, None), else_=now),
            error=words,
            updated_at=now,
        )
        .returning(_table.c.id, _table.c.status, _table.c.error)
    )
    return [Closed(*row) for row in ended]


def close_of_job(job_id: UUID, words: str, words_if_sending: str | None = None) -> list[Closed]:
    """End the message of one job, as `close`; the caller commits."""
    mine = _table.c.job_id == job_id
    return close(db.session.connection(), mine, clean_words(words), words_if_sending)


def message_again(row: MailMessage) -> Message:
    """The message of a row that was sent, to all of its recipients.

    :raises Permanent: it can't be made any more.
    """
    rendered = content_of(row) or Rendered(row.subject or "", "", None)
    return message_of(row, rendered, _attachments_of(row))

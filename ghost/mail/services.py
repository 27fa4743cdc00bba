"""Sending mail: a row and a job in the caller's transaction, and nothing else yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.config import Config, current_config
from ghost.database import db
from ghost.errors import Conflict, NotFound
from ghost.jobs.context import origin
from ghost.jobs.runner import LEASE_SECONDS
from ghost.mail import batch_ledger, jobs
from ghost.mail.composers import find_composer
from ghost.mail.delivery import sender_of
from ghost.mail.jobs import deliver
from ghost.mail.messages import (
    Address,
    AddressLike,
    Attachment,
    InvalidMessage,
    Message,
    Recipients,
)
from ghost.mail.models import FAILED, QUEUED, MailAttachment, MailMessage
from ghost.mail.plaintext import to_text
from ghost.mail.rendering import (
    SECURITY_TEMPLATES,
    Rendered,
    UnknownTemplate,
    is_locale,
    render,
)
from ghost.models import uuid7

AttachmentLike = Attachment | Path | tuple[str, bytes]
FileReader = Callable[[UUID, UUID | None], Attachment | None]

_read_file: FileReader | None = None


def set_file_reader(reader: FileReader) -> None:
    """Say how the files are read that callers of the API attach by their ids.

    :param reader: called with a file's id and the caller's; returns None when there is no such
        file, or not for this caller.
    """
    global _read_file
    _read_file = reader


def send_mail(
    to: Recipients,
    template: str,
    context: Mapping[str, Any],
    *,
    cc: Recipients = (),
    bcc: Recipients = (),
    reply_to: Recipients = (),
    attachments: Iterable[AttachmentLike] = (),
    locale: str | None = None,
    headers: Mapping[str, str] | None = None,
    send_at: datetime | None = None,
    sender: AddressLike | None = None,
) -> MailMessage:
    """Send a mail by a template, once the transaction of `db.session` commits, or never.

    It is rendered now, and stored with what it says: what holds a usable link or code goes
    through `send_secure_mail`.

    :param to: one address or a list of them: `ada@example.org`, `Ada <ada@example.org>` or
        `("Ada", "ada@example.org")`.
    :param attachments: an `Attachment` each, a path (read now), or file name and bytes.
    :param locale: whose templates are taken where there are any: `de-AT`, then `de`.
    :param send_at: not before this time; None or one that has passed for at once.
    :param sender: instead of `mail.sender`.
    :returns: the row, `queued`, with its `id` and `job_id`.
    :raises InvalidMessage: something must not stand in a mail, or a limit is passed.
    :raises UnknownTemplate: there is no such template.
    :raises TemplateFailed: the context lacks a variable, or the template fails with it.
    """
    return _add(
        render(template, context, locale=locale),
        attachments,
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        headers=headers,
        send_at=send_at,
        sender=sender,
        template=template,
        locale=locale,
    )


def send_text(
    to: Recipients,
    subject: str,
    text: str | None = None,
    html: str | None = None,
    *,
    cc: Recipients = (),
    bcc: Recipients = (),
    reply_to: Recipients = (),
    attachments: Iterable[AttachmentLike] = (),
    headers: Mapping[str, str] | None = None,
    send_at: datetime | None = None,
    sender: AddressLike | None = None,
) -> MailMessage:
    """Send a mail that says what is given, without a template; else as `send_mail`.

    :raises InvalidMessage: something must not stand in a mail, or a limit is passed.
    """
    if text is None and html is not None:
        text = to_text(html)
    return _add(
        Rendered(subject, text or "", html),
        attachments,
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        headers=headers,
        send_at=send_at,
        sender=sender,
    )


def send(
    *,
    template: str | None = None,
    context: Mapping[str, Any] | None = None,
    locale: str | None = None,
    subject: str = "",
    text: str | None = None,
    html: str | None = None,
    attachments: Iterable[UUID] = (),
    **options: Any,
) -> MailMessage:
    """Send what somebody outside asks for: a template with data, or a text.

    :param attachments: ids of files.
    :param options: `to`, `cc`, `bcc`, `reply_to`, `headers` and `send_at`, as of `send_mail`.
    :raises UnknownTemplate: there is none, or it is one of Ghost's security mails, which would
        be believed whatever they say.
    :raises InvalidMessage: something must not stand in a mail, or a limit is passed.
    """
    options["attachments"] = _files_of(attachments)
    if template is None:
        return send_text(subject=subject, text=text, html=html, **options)
    if template in SECURITY_TEMPLATES:
        raise UnknownTemplate(f"{template!r} is a security mail: only Ghost itself sends it.")
    if locale is not None and not is_locale(locale):
        raise InvalidMessage("locale", "It must look like de or de-AT.")
    return send_mail(template=template, context=context or {}, locale=locale, **options)


def _files_of(ids: Iterable[UUID]) -> list[Attachment]:
    """Read the caller's files; no more of them than a mail may have.

    :raises InvalidMessage: there is no such file, or they are too many or too large.
    """
    wanted = list(ids)
    most = current_config().mail.max_attachments
    if len(wanted) > most:
        raise InvalidMessage("attachments", f"There are more than {most} files.")
    caller_id, _ = origin()
    found: list[Attachment] = []
    left = current_config().mail.max_size
    for file_id in wanted:
        file = _read_file(file_id, caller_id) if _read_file is not None else None
        if file is None:
            raise InvalidMessage("attachments", "There is no such file.")
        found.append(file)
        # Asked here too: all of them together may be far more than a mail is.
        left -= len(file.content)
        if left < 0:
            raise _too_large()
    return found


def list_messages(
    status: str | None = None, batch_id: UUID | None = None
) -> sa.Select[tuple[MailMessage]]:
    """Select messages, the newest first."""
    statement = sa.select(MailMessage).order_by(MailMessage.id.desc())
    if status is not None:
        statement = statement.where(MailMessage.status == status)
    if batch_id is not None:
        statement = statement.where(MailMessage.batch_id == batch_id)
    return statement


def get_message(message_id: UUID) -> MailMessage:
    """Return a message.

    :raises NotFound: there is none.
    """
    row = db.session.get(MailMessage, message_id)
    if row is None:
        raise NotFound
    return row


# Why a mail failed that somebody may still be sending.
PERHAPS_SENT = (jobs.CANCELED_WHILE_SENDING, batch_ledger.CANCELED_WHILE_SENDING)


def send_secure_mail(composer: str, to: AddressLike, ids: Mapping[str, Any]) -> MailMessage:
    """Send a mail that holds a usable link or code, or has to arrive even so.

    It is rendered in the worker, by a registered composer, and its body is never stored. A
    suppressed address gets it too.

    :param composer: the name of a function registered by `@composer`.
    :param ids: what the composer finds its rows by: JSON, and nothing secret.
    :raises InvalidMessage: it is no address.
    """
    find_composer(composer)
    address = Address.parse(to)
    return _insert(MailMessage(to=[str(address)], composer=composer, context=dict(ids)))


def retry(message_id: UUID) -> MailMessage:
    """Try a message that failed again, as often as a new one.

    One that was canceled while it was being sent waits until whoever sends it has surely ended.

    :raises NotFound: there is none.
    :raises Conflict: it did not fail.
    """
    row = db.session.get(MailMessage, message_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound
    if row.status != FAILED:
        raise Conflict(f"This mail is {row.status}; only failed ones are tried again.")
    if row.error in PERHAPS_SENT:
        row.job_id = deliver.enqueue_in(LEASE_SECONDS, row.id)
    else:
        row.job_id = deliver.enqueue(row.id)
    row.status, row.error, row.refused = QUEUED, None, {}
    db.session.flush()
    return row


def _add(
    rendered: Rendered,
    attachments: Iterable[AttachmentLike],
    *,
    to: Recipients,
    cc: Recipients,
    bcc: Recipients,
    reply_to: Recipients,
    headers: Mapping[str, str] | None,
    send_at: datetime | None,
    sender: AddressLike | None,
    template: str | None = None,
    locale: str | None = None,
) -> MailMessage:
    if send_at is not None and send_at.tzinfo is None:
        raise InvalidMessage("send_at", "The time has no zone.")
    config = current_config()
    message = Message(
        to=to,
        subject=rendered.subject,
        text=rendered.text,
        html=rendered.html,
        headers=headers or {},
        sender=sender or sender_of(config),
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        attachments=[*map(_read, attachments), *rendered.images],
    )
    _check_limits(message, config)
    row = MailMessage(
        to=[str(address) for address in message.addresses],
        cc=[str(address) for address in message.cc_addresses],
        bcc=[str(address) for address in message.bcc_addresses],
        reply_to=[str(address) for address in message.reply_addresses],
        headers=dict(message.headers),
        sender=str(message.sender_address) if sender else None,
        subject=message.subject,
        text=message.text,
        html=message.html,
        template=template,
        locale=locale,
        send_at=send_at,
        attachments=[_row_of(file, position) for position, file in enumerate(message.attachments)],
    )
    return _insert(row)


def _check_limits(message: Message, config: Config) -> None:
    limits = config.mail
    if len(message.recipients) > limits.max_recipients:
        raise InvalidMessage("to", f"There are more than {limits.max_recipients} recipients.")
    if len(message.attachments) > limits.max_attachments:
        raise InvalidMessage("attachments", f"There are more than {limits.max_attachments} files.")
    bodies = len(message.text.encode()) + len((message.html or "").encode())
    size = bodies + sum(len(file.content) for file in message.attachments)
    if size > limits.max_size:
        raise _too_large()


def _too_large() -> InvalidMessage:
    limit = current_config().mail.max_size
    return InvalidMessage("attachments", f"The mail is larger than {limit} bytes.")


def _insert(row: MailMessage) -> MailMessage:
    """Add a message and its job; the job comes first, so that the row is written once."""
    row.id = uuid7()
    row.created_by, row.request_id = origin()
    if row.send_at is None:
        row.job_id = deliver.enqueue(row.id)
    else:
        row.job_id = deliver.enqueue_at(row.send_at, row.id)
    db.session.add(row)
    db.session.flush()
    return row


def _read(attachment: AttachmentLike) -> Attachment:
    if isinstance(attachment, Attachment):
        return attachment
    if isinstance(attachment, Path):
        return Attachment(attachment.name, attachment.read_bytes())
    return Attachment(*attachment)


def _row_of(file: Attachment, position: int) -> MailAttachment:
    return MailAttachment(
        position=position,
        filename=file.filename,
        content_type=file.kind,
        content_id=file.content_id,
        size=len(file.content),
        content=file.content,
    )

"""Events of Amazon SES, as SNS brings them: one in each message, about some recipients.

See "Contents of event data that Amazon SES publishes to Amazon SNS" (`eventType`) and "Contents of
Amazon SNS notifications for Amazon SES" (`notificationType`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from loguru import logger

from ghost.errors import BadRequest
from ghost.http import read_json
from ghost.mail.events import DELIVERED, MailEvent, address_in, as_row_id, text_in
from ghost.mail.models import BOUNCED, COMPLAINED
from ghost.mail.suppression import tidy


def read_events(message: str) -> list[MailEvent]:
    """Read what the `Message` of a notification tells; nothing of what does not concern us.

    SES also greets a topic in plain words, and tells of openings and delays.
    """
    try:
        told = read_json(message.encode())
    except BadRequest:
        logger.info("SES sent a message that is no event")
        return []
    kind = text_in(told, "eventType") or text_in(told, "notificationType")
    if kind == "Delivery":
        return _delivered(told)
    if kind == "Bounce":
        return _bounced(told)
    if kind == "Complaint":
        return _complained(told)
    return []


def _delivered(told: dict[str, Any]) -> list[MailEvent]:
    row_id, at = _row_id(told), _moment(text_in(told, "delivery", "timestamp"))
    emails = (address_in({"email": one}, "email") for one in _list(told, "delivery", "recipients"))
    return [MailEvent(DELIVERED, email, row_id, at) for email in emails if email]


def _bounced(told: dict[str, Any]) -> list[MailEvent]:
    row_id, at = _row_id(told), _moment(text_in(told, "bounce", "timestamp"))
    # A `Transient` or `Undetermined` one is about this mail: the next may arrive.
    is_hard = text_in(told, "bounce", "bounceType") == "Permanent"
    reason = BOUNCED if is_hard else None
    subtype = text_in(told, "bounce", "bounceSubType")
    return [
        MailEvent(BOUNCED, email, row_id, at, tidy(words or subtype), reason)
        for email, words in (
            (address_in(one, "emailAddress"), text_in(one, "diagnosticCode"))
            for one in _list(told, "bounce", "bouncedRecipients")
        )
        if email
    ]


def _complained(told: dict[str, Any]) -> list[MailEvent]:
    feedback = text_in(told, "complaint", "complaintFeedbackType")
    if feedback == "not-spam":  # somebody took the mail out of the spam folder
        return []
    row_id, at = _row_id(told), _moment(text_in(told, "complaint", "timestamp"))
    emails = (
        address_in(one, "emailAddress") for one in _list(told, "complaint", "complainedRecipients")
    )
    return [
        MailEvent(COMPLAINED, email, row_id, at, tidy(feedback), COMPLAINED)
        for email in emails
        if email
    ]


def _row_id(told: dict[str, Any]) -> UUID | None:
    """The id of the message's row: in the tag that it was sent with, else in its Message-ID."""
    tags = _list(told, "mail", "tags", "ghost_message_id")
    if tags and (row_id := as_row_id(tags[0])):
        return row_id
    found = text_in(told, "mail", "commonHeaders", "messageId")
    headers = (one for one in _list(told, "mail", "headers") if isinstance(one, dict))
    own = (
        text_in(header, "value")
        for header in headers
        if (text_in(header, "name") or "").lower() == "message-id"
    )
    message_id = found or next(own, None) or ""
    return as_row_id(message_id.strip().removeprefix("<").partition("@")[0])


def _list(source: Any, *path: str) -> list[Any]:
    for name in path:
        source = source.get(name) if isinstance(source, dict) else None
    return source if isinstance(source, list) else []


def _moment(text: str | None) -> datetime | None:
    """Read `2026-01-02T03:04:05.678Z`; None for another form."""
    try:
        return datetime.strptime(text or "", "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None

"""What mail services tell of mails that they took: events, and what is kept of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ghost.database import db, lock_row
from ghost.errors import Forbidden
from ghost.mail import suppression
from ghost.mail.models import BOUNCED, COMPLAINED, MailMessage
from ghost.mail.signals import mail_event
from ghost.models import utcnow
from ghost.signals import tell

DELIVERED = "delivered"

_messages = MailMessage.__table__
_NOTED = {DELIVERED: "delivered_at", BOUNCED: "bounced_at", COMPLAINED: "complained_at"}
# With it one UPDATE stays below SQLite's 32,766 parameters.
_CHUNK = 1000


class Forged(Forbidden):
    """What came was not signed by the service that we know, not for us, or not lately."""

    message = "The signature is missing or not valid."


@dataclass(frozen=True)
class MailEvent:
    """One thing that became of one mail to one address.

    :param kind: `delivered`, `bounced` (it did not arrive) or `complained`.
    :param email: canonical.
    :param row_id: the message's row, if the service named it.
    :param at: when it happened, by the service's clock.
    :param details: the service's words, tidied.
    :param reason: why the address gets no more mail; None where it may get the next one.
    """

    kind: str
    email: str
    row_id: UUID | None = None
    at: datetime | None = None
    details: str | None = None
    reason: str | None = None


def record(events: Sequence[MailEvent]) -> list[MailEvent]:
    """Note events in the rows of their messages, and suppress the addresses that they rule out.

    Safe to repeat: what is noted already stays as it is. Three statements for 1,000 events.

    :returns: the events, without the ids of messages that are not known.
    """
    known: set[UUID] = set()
    asked = sorted({event.row_id for event in events if event.row_id is not None})
    for start in range(0, len(asked), _CHUNK):
        known |= _note(asked[start : start + _CHUNK], events)
    suppression.suppress_many(_causes(events))
    return [event if event.row_id in known else replace(event, row_id=None) for event in events]


def _causes(events: Iterable[MailEvent]) -> dict[str, suppression.Cause]:
    causes: dict[str, suppression.Cause] = {}
    # A complaint last: of two reasons for one address in one request the stronger one counts.
    for event in sorted(events, key=lambda event: event.reason == COMPLAINED):
        if event.reason is not None:
            causes[event.email] = suppression.Cause(event.reason, event.details)
    return causes


def _note(row_ids: Sequence[UUID], events: Iterable[MailEvent]) -> set[UUID]:
    """Note the events of some messages.

    :returns: which of the messages there are.
    """
    table = _messages.c
    # Locked in one order, so that two requests can't wait for each other's rows.
    rows = db.session.execute(
        lock_row(
            sa.select(
                table.id, table.accepted, table.refused, *(table[name] for name in _NOTED.values())
            )
            .where(table.id.in_(row_ids))
            .order_by(table.id)
        )
    )
    found = {row.id: row for row in rows}
    changes = _changes(found, events, utcnow())
    if changed := {row_id for values in changes.values() for row_id in values}:
        db.session.execute(
            sa.update(_messages)
            .where(table.id.in_(changed))
            .values(
                {
                    name: sa.case(*_whens(name, values), else_=table[name])
                    for name, values in changes.items()
                    if values
                }
            )
        )
    return set(found)


def _changes(
    rows: Mapping[UUID, Row[Any]], events: Iterable[MailEvent], now: datetime
) -> dict[str, dict[UUID, Any]]:
    """Column -> row id -> new value, for what is not noted yet."""
    changes: dict[str, dict[UUID, Any]] = {name: {} for name in (*_NOTED.values(), "refused")}
    for event in events:
        row = rows.get(event.row_id) if event.row_id else None
        if row is None:
            continue
        name = _NOTED[event.kind]
        if getattr(row, name) is None:
            changes[name].setdefault(row.id, min(event.at or now, now))
        if event.kind == BOUNCED:
            refused = changes["refused"].get(row.id, row.refused)
            email = next((one for one in row.accepted if one.lower() == event.email), event.email)
            if email not in refused:
                words = f"bounced: {event.details}" if event.details else "bounced"
                changes["refused"][row.id] = {**refused, email: words}
    return changes


def _whens(name: str, values: Mapping[UUID, Any]) -> list[tuple[Any, Any]]:
    kind = _messages.c[name].type
    return [
        (
            _messages.c.id == row_id,
            # PostgreSQL takes the text of a parameter inside of CASE for text, not for JSON.
            sa.func.json(json.dumps(value)) if isinstance(value, dict) else sa.literal(value, kind),
        )
        for row_id, value in values.items()
    ]


def announce(events: Iterable[MailEvent]) -> None:
    """Tell the receivers of `mail_event`, after the commit."""
    if not mail_event.receivers:
        return
    for event in events:
        tell(
            mail_event,
            kind=event.kind,
            email=event.email,
            row_id=event.row_id,
            details=event.details,
        )


# --- Reading what comes from outside --------------------------------------------------------------


_UUID_LENGTH = len(str(UUID(int=0)))


def text_in(source: Any, *path: str) -> str | None:
    """The text at a path of keys in JSON; None where there is none."""
    for name in path:
        source = source.get(name) if isinstance(source, dict) else None
    return source if isinstance(source, str) else None


def address_in(source: Any, *path: str) -> str | None:
    """The address at a path of keys in JSON, canonical; None where there is none."""
    text = text_in(source, *path)
    try:
        return suppression.canonical(text.strip()) if text else None
    except ValueError:
        return None


def as_row_id(text: object) -> UUID | None:
    """A row's id, if the text is one."""
    try:
        return UUID(text) if isinstance(text, str) and len(text) == _UUID_LENGTH else None
    except ValueError:
        return None

"""Addresses that get no mail any more, but for security mails: who they are, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import sqlalchemy as sa
from loguru import logger

from ghost.database import db, dialect_insert
from ghost.errors import Conflict, NotFound
from ghost.fields import MAX_EMAIL_LENGTH, canonical_email
from ghost.mail.models import BOUNCED, COMPLAINED, MANUAL, MailSuppression
from ghost.models import utcnow, uuid7

MAX_DETAILS = 1000

Item = TypeVar("Item")

_table = MailSuppression.__table__
# Databases limit the parameters of one statement: SQLite to 32,766, PostgreSQL to 65,535.
_CHUNK = 1000
# A complaint outlives everything: who reports spam once must not be asked twice. A bounce says
# more than a person's wish does, since it comes from the mailbox itself.
_STRENGTH = {MANUAL: 1, BOUNCED: 2, COMPLAINED: 3}


class AlreadySuppressed(Conflict):
    message = "This address is suppressed already."


class Cause(NamedTuple):
    """Why an address is suppressed, and in whose words."""

    reason: str
    details: str | None = None


def canonical(email: str) -> str:
    """The form in which addresses are stored and looked for here, `fields.canonical_email`'s.

    An address in ASCII only has to be put in lower case: the whole check takes 70 µs, which
    are 0.7 s for a batch of 10,000 that were checked before.

    :raises ValueError: it can't be an address.
    """
    plain = email.lower() if email.isascii() else canonical_email(email)
    local, at, domain = plain.rpartition("@")
    if not (local and at and domain and plain.isprintable()) or len(plain) > MAX_EMAIL_LENGTH:
        raise ValueError("Not a valid email address.")
    return plain


def suppress(email: str, reason: str, details: str | None = None) -> None:
    """Send an address nothing but security mails from now on.

    A reason never becomes a weaker one: `complained` beats `bounced`, which beats `manual`; of
    two alike the first stays, with its details.

    :param reason: `bounced`, `complained` or `manual`.
    :param details: what the server said, or who asked for it; cut after 1,000 characters.
    :raises ValueError: it is no address, or no reason.
    """
    suppress_many({canonical(email): Cause(reason, details)})


def suppress_many(causes: Mapping[str, Cause]) -> None:
    """Suppress many addresses, a thousand with each statement.

    :param causes: by address in its canonical form.
    :raises ValueError: something is no reason.
    """
    now = utcnow()
    rows = [
        {
            "id": uuid7(),
            "email": email,
            "reason": cause.reason,
            "details": tidy(cause.details),
            "created_at": now,
            "updated_at": now,
        }
        # In one order, so that two transactions can't wait for each other's rows.
        for email, cause in sorted(causes.items())
    ]
    if unknown := {row["reason"] for row in rows} - _STRENGTH.keys():
        raise ValueError(f"{', '.join(map(repr, unknown))} is no reason to suppress an address")
    for chunk in _chunks(rows):
        insert = dialect_insert(_table).values(chunk)
        new = insert.excluded
        db.session.execute(
            insert.on_conflict_do_update(
                index_elements=["email"],
                set_={name: new[name] for name in ("reason", "details", "updated_at")},
                where=_strength(new.reason) > _strength(_table.c.reason),
            )
        )
    if rows:
        logger.bind(event="mail_suppressed", count=len(rows)).info("addresses suppressed")


def _strength(reason: Any) -> sa.Case[int]:
    return sa.case(_STRENGTH, value=reason, else_=0)


def create(email: str, details: str | None, created_by: UUID | None) -> MailSuppression:
    """Suppress an address because somebody said so, with the reason `manual`.

    :raises ValueError: it is no address.
    :raises AlreadySuppressed: it is suppressed, for whatever reason.
    """
    row = MailSuppression(
        email=canonical(email), reason=MANUAL, details=tidy(details), created_by=created_by
    )
    try:
        with db.session.begin_nested():
            db.session.add(row)
    except sa.exc.IntegrityError as error:
        raise AlreadySuppressed(field="email") from error
    logger.bind(event="mail_suppressed", count=1).info("an address was suppressed by hand")
    return row


def lift(email: str) -> bool:
    """Let an address get mail again.

    :returns: whether it was suppressed.
    :raises ValueError: it is no address.
    """
    return _delete(_table.c.email == canonical(email))


def delete(suppression_id: UUID) -> None:
    """Let the address of one suppression get mail again.

    :raises NotFound: there is no such suppression.
    """
    if not _delete(_table.c.id == suppression_id):
        raise NotFound


def _delete(condition: sa.ColumnElement[bool]) -> bool:
    found = db.session.execute(sa.delete(_table).where(condition).returning(_table.c.id)).first()
    if found is not None:
        logger.bind(event="mail_suppression_lifted").info("an address gets mail again")
    return found is not None


def suppressed(emails: Iterable[str]) -> dict[str, str]:
    """Tell which of these addresses are suppressed, with one query for each 1,000 of them.

    :returns: the reason by the address in its canonical form: look in it for `canonical(email)`.
    """
    asked = set()
    for email in emails:
        try:
            asked.add(canonical(email))
        except ValueError:  # what is no address is on no list
            continue
    found: dict[str, str] = {}
    for chunk in _chunks(list(asked)):
        rows = db.session.execute(
            sa.select(_table.c.email, _table.c.reason).where(_table.c.email.in_(chunk))
        )
        found.update((row.email, row.reason) for row in rows)
    return found


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def list_suppressions() -> sa.Select[Any]:
    """Select all suppressions, for a page of them."""
    return sa.select(MailSuppression)


def tidy(text: str | None) -> str | None:
    """Words from outside, fit for a column and a page: no control characters, not too long."""
    if text is None:
        return None
    cut = text[: 4 * MAX_DETAILS]
    plain = "".join(character if character.isprintable() else " " for character in cut)
    return " ".join(plain.split())[:MAX_DETAILS] or None

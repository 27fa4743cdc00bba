"""Addresses that get no mail any more, but for security mails."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from ghost.database import db, dialect_insert
from ghost.mail.models import MailSuppression
from ghost.models import uuid7

_table = MailSuppression.__table__


def canonical(email: str) -> str:
    """The form in which addresses are stored and looked for here."""
    return email.lower()


def suppress(email: str, reason: str, details: str | None = None) -> None:
    """Send an address nothing but security mails from now on."""
    insert = dialect_insert(_table).values(
        id=uuid7(), email=canonical(email), reason=reason, details=details
    )
    db.session.execute(insert.on_conflict_do_nothing(index_elements=["email"]))


def suppressed(emails: Iterable[str]) -> dict[str, str]:
    """Tell which of these addresses are suppressed: the reason by canonical address."""
    asked = {canonical(email) for email in emails}
    rows = db.session.execute(
        sa.select(_table.c.email, _table.c.reason).where(_table.c.email.in_(asked))
    )
    return {row.email: row.reason for row in rows}

"""What is in the database after a piece of work."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from flask import Flask

from ghost.database import db
from ghost.mail.models import MailMessage, MailSuppression

MakeMessage = Callable[..., UUID]


def message_of(app: Flask, row_id: UUID) -> MailMessage:
    """The row of a mail as it is now."""
    with app.app_context():
        return db.session.get_one(MailMessage, row_id)


def suppressions(app: Flask) -> dict[str, tuple[str, str | None]]:
    """Reason and details of every suppressed address."""
    with app.app_context():
        rows = db.session.query(MailSuppression).all()
        return {row.email: (row.reason, row.details) for row in rows}

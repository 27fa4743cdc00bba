"""What is in the database after a piece of work, and how many statements that took."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.engine import Engine

from ghost.database import db
from ghost.mail.models import MailMessage, MailSuppression

MakeMessage = Callable[..., UUID]


@contextmanager
def counted_statements(engine: Engine) -> Iterator[list[str]]:
    """Collect what the database is asked inside of the block, savepoints and PRAGMAs left out."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
            statements.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def message_of(app: Flask, row_id: UUID) -> MailMessage:
    """The row of a mail as it is now."""
    with app.app_context():
        return db.session.get_one(MailMessage, row_id)


def suppressions(app: Flask) -> dict[str, tuple[str, str | None]]:
    """Reason and details of every suppressed address."""
    with app.app_context():
        rows = db.session.query(MailSuppression).all()
        return {row.email: (row.reason, row.details) for row in rows}

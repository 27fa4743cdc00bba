"""How many statements a piece of work takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.engine import Engine

from ghost.database import db


@contextmanager
def counted(app: Flask) -> Iterator[list[str]]:
    """Collect what an application asks its database inside of the block."""
    with app.app_context():
        engine = db.engine
    with counted_statements(engine) as statements:
        yield statements


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

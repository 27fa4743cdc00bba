"""The database is asked the same, whether an account exists or not: equal time, but exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from auth_steps import OTHER_PASSWORD, Account, Api
from flask import Flask

from ghost.database import db

Body = Mapping[str, Any]


@pytest.fixture
def statements(app: Flask) -> Iterator[list[str]]:
    """The statements that the application sends."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    with app.app_context():
        engine = db.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    ("path", "known", "unknown"),
    [
        (
            "/login",
            {"email": "ada@example.org", "password": OTHER_PASSWORD},
            {"email": "nobody@example.org", "password": OTHER_PASSWORD},
        ),
        (
            "/login",
            {"email": "ada", "password": OTHER_PASSWORD},
            {"email": "nobody", "password": OTHER_PASSWORD},
        ),
        (
            "/login",
            {"email": "ada@example.org", "password": OTHER_PASSWORD},
            {"email": "gone@example.org", "password": OTHER_PASSWORD},
        ),
        ("/forgot-password", {"email": "ada@example.org"}, {"email": "nobody@example.org"}),
        ("/forgot-password", {"email": "ada@example.org"}, {"email": "gone@example.org"}),
        ("/resend-verification", {"email": "ada@example.org"}, {"email": "nobody@example.org"}),
        (
            "/verify-email",
            {"email": "ada@example.org", "code": "123456"},
            {"email": "nobody@example.org", "code": "123456"},
        ),
    ],
    ids=[
        "log-in by address", "log-in by username", "log-in to a deleted account", "forgot",
        "forgot, deleted", "resend", "code",
    ],
)  # fmt: skip
def test_the_database_is_asked_the_same_for_an_unknown_account(
    api: Api,
    ada: Account,
    register: Callable[..., Account],
    run_sql: Callable[..., list[Any]],
    new_mails: Callable[[], list[Any]],
    statements: list[str],
    path: str,
    known: Body,
    unknown: Body,
) -> None:
    register(email="gone@example.org")
    run_sql("UPDATE users SET deleted_at = created_at WHERE email = 'gone@example.org'")
    new_mails()
    statements.clear()

    first = api.post(path, known).status_code
    for_known = statements.copy()
    statements.clear()
    second = api.post(path, unknown).status_code

    assert first == second
    assert for_known == statements
    assert len(for_known) > 0

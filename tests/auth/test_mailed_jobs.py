"""The jobs behind the mails, which may run twice and must not hold the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from auth_steps import Account, Api, token_in
from flask import Flask

from ghost.auth.models import Throttle
from ghost.database import db, db_manager
from ghost.jobs import runner
from ghost.mail import Delivery, Message, NotSent, outbox
from ghost.mail.providers.local import MemoryProvider
from ghost.tokens import MailedToken

RunSql = Callable[..., list[Any]]


@pytest.fixture
def failing_once(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """Let the mail server take the first mail and then break down before it says so."""
    taken: list[Message] = []

    def fail(_provider: MemoryProvider, message: Message) -> Delivery:
        taken.append(message)
        if len(taken) == 1:
            raise NotSent("the connection broke")
        return Delivery(message.recipients)

    monkeypatch.setattr(MemoryProvider, "send", fail)
    return taken


def again(app: Flask, run_sql: RunSql) -> str:
    """Run the one job that waits for its next attempt."""
    ((job_id, attempts),) = run_sql("SELECT id, attempts FROM jobs WHERE status = 'retrying'")
    run_sql("UPDATE jobs SET run_at = created_at WHERE status = 'retrying'")
    with app.app_context():
        claim = runner.claim(UUID(str(job_id)), attempts + 1)
    assert claim is not None
    return runner.execute(app, claim)


@pytest.mark.parametrize("path", ["/forgot-password", "/resend-verification"])
def test_a_job_that_runs_twice_mails_the_same_token(
    app: Flask,
    api: Api,
    ada: Account,
    work: Callable[[], list[str]],
    run_sql: RunSql,
    path: str,
    request: pytest.FixtureRequest,
) -> None:
    work()
    sent = request.getfixturevalue("failing_once")
    api.post(path, {"email": ada.email})

    assert work() == ["finished", "retrying"]
    assert again(app, run_sql) == "finished"

    first, second = sent
    assert token_in(first) == token_in(second)
    assert first.message_id == second.message_id
    counts = run_sql(sa.select(Throttle.count))
    assert counts == [(1,)]


def test_a_repeated_job_does_not_mail_a_token_that_was_replaced(
    app: Flask,
    api: Api,
    ada: Account,
    work: Callable[[], list[str]],
    run_sql: RunSql,
    request: pytest.FixtureRequest,
) -> None:
    work()
    sent = request.getfixturevalue("failing_once")
    api.post("/forgot-password", {"email": ada.email})
    assert work() == ["finished", "retrying"]
    run_sql(sa.update(MailedToken).values(used_at=MailedToken.created_at))

    assert again(app, run_sql) == "finished"

    assert len(sent) == 1


def test_the_token_is_committed_and_nothing_held_while_the_mail_is_sent(
    app: Flask,
    api: Api,
    ada: Account,
    work: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def watch(_provider: MemoryProvider, message: Message) -> Delivery:
        with db_manager.connection() as connection:
            rows = connection.execute(sa.select(MailedToken.id)).all()
        seen.append((len(rows) > 0, db.session().in_transaction()))
        return Delivery(message.recipients)

    monkeypatch.setattr(MemoryProvider, "send", watch)
    api.post("/forgot-password", {"email": ada.email})
    api.post(
        "/change-password",
        {"current_password": ada.password, "new_password": "another fine staple"},
        token=ada.access_token,
    )

    assert set(work()) == {"finished"}
    assert seen == [(True, False)] * len(seen)
    assert len(seen) >= 2


def test_mails_are_jobs_that_carry_no_more_than_an_address_or_an_id(
    api: Api, ada: Account, run_sql: RunSql
) -> None:
    api.post("/forgot-password", {"email": ada.email})
    api.post("/resend-verification", {"email": ada.email})

    rows = run_sql("SELECT name, args FROM jobs ORDER BY id")

    assert [name for name, _ in rows] == [
        "mail.deliver", "auth.send_reset", "auth.resend_verification",
    ]  # fmt: skip
    for _, args in rows:
        text = args if isinstance(args, str) else str(args)
        assert ada.email in text or "message_id" in text
        assert len(text) < 80


def test_jobs_of_an_account_that_is_gone_do_nothing(
    app: Flask, api: Api, ada: Account, run_sql: RunSql, work: Callable[[], list[str]]
) -> None:
    api.post("/forgot-password", {"email": ada.email})
    api.post(
        "/change-password",
        {"current_password": ada.password, "new_password": "another fine staple"},
        token=ada.access_token,
    )
    run_sql("UPDATE users SET deleted_at = created_at")

    assert set(work()) == {"finished"}

    with app.app_context():
        assert outbox() == []

"""The mails of an account: invitation, confirmation, and the notice to a former address."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask

from ghost import tokens
from ghost.auth import mails as auth_mails
from ghost.database import db
from ghost.jobs import runner
from ghost.jobs.ledger import jobs as ledger
from ghost.mail import MailMessage, Message
from ghost.testing.background import Jobs, Mailbox
from ghost.users import mails as users_mails
from ghost.users.models import User

from .conftest import MakePerson, Person

NEW_PASSWORD = "a passphrase of four words"


def token_in(message: Message) -> str:
    found = re.search(r"#token=([\w-]+={0,2})", message.text)
    assert found, message.text
    return found[1]


def invite(admin: Person, email: str = "ada@example.org", **body: Any) -> str:
    response = admin.post("/users", {"email": email, **body})
    assert response.status_code == 201
    return str(response.json["data"]["id"])


def test_an_invitation_leads_to_a_password_and_a_confirmed_address(
    admin: Person, jobs: Jobs, mailbox: Mailbox, client: Any
) -> None:
    user_id = invite(admin, full_name="Ada Lovelace")
    jobs.run_all()
    mail = mailbox.to("ada@example.org")
    accept = {"token": token_in(mail), "new_password": NEW_PASSWORD}

    accepted = client.post("/api/v1/auth/reset-password", json=accept)
    again = client.post("/api/v1/auth/reset-password", json=accept)
    login = client.post(
        "/api/v1/auth/login", json={"email": "ada@example.org", "password": NEW_PASSWORD}
    )

    assert "Ada Lovelace" in mail.text
    assert "7 days" in mail.text
    assert "/account/reset-password#token=" in mail.text
    assert (accepted.status_code, again.status_code, login.status_code) == (200, 410, 200)
    assert admin.get(f"/users/{user_id}").json["data"]["is_verified"] is True


def test_until_a_password_is_chosen_nobody_logs_in(admin: Person, jobs: Jobs, client: Any) -> None:
    invite(admin)
    jobs.run_all()

    for password in ("", "None", NEW_PASSWORD):
        response = client.post(
            "/api/v1/auth/login", json={"email": "ada@example.org", "password": password}
        )
        assert response.status_code == 401


def test_a_mail_is_tried_as_often_as_the_configuration_says(
    admin: Person, make_app: Callable[..., Flask]
) -> None:
    app = make_app({"mail": {"max_attempts": 7}, "jobs": {"max_attempts": 2}})

    with app.app_context():
        user = db.session.get_one(User, admin.id)
        users_mails.send_invitation(user)
        users_mails.send_verification(user)
        users_mails.send_email_changed(user, "old@example.org")
        auth_mails.send_reset(user)
        auth_mails.send_password_changed(user)
        db.session.commit()

        attempts = db.session.scalars(sa.select(ledger.c.max_attempts)).all()

    assert attempts == [7] * 5


def test_no_job_and_no_row_holds_a_token_that_works(
    app: Flask, admin: Person, jobs: Jobs, mailbox: Mailbox
) -> None:
    invite(admin)
    jobs.run_all()
    token = token_in(mailbox.to("ada@example.org"))

    with app.app_context():
        stored = [
            str(value)
            for table in (ledger, tokens.MailedToken.__table__, MailMessage.__table__)
            for row in db.session.execute(sa.select(table))
            for value in row
        ]

    assert not any(token in value or token[24:] in value for value in stored)


def test_an_invitation_that_is_sent_again_is_the_same_mail(
    app: Flask, admin: Person, jobs: Jobs, mailbox: Mailbox
) -> None:
    invite(admin)
    jobs.run_all()
    first = mailbox.messages[-1]
    with app.app_context():  # killed after the mail left, before the ledger knew
        db.session.execute(sa.update(ledger).values(status="queued", attempts=0, finished_at=None))
        db.session.execute(sa.update(MailMessage).values(status="sending", accepted=[]))
        db.session.commit()

    jobs.run_all()

    second = mailbox.messages[-1]
    assert len(mailbox) == 2
    assert (first.message_id, token_in(first)) == (second.message_id, token_in(second))
    assert first.message_id is not None


def test_the_link_works_before_the_mail_leaves_and_no_transaction_waits_for_the_server(
    admin: Person, make_app: Callable[..., Flask]
) -> None:
    """A mail server that looks into the database when it is called, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = make_app({"mail": {"url": f"smtp://127.0.0.1:{listener.getsockname()[1]}"}})
    seen: list[int | None] = []

    def look() -> None:
        connection, _ = listener.accept()
        with connection, app.app_context(), db.engine.begin() as beside:
            # Begins at once on SQLite only if nobody else writes; on PostgreSQL a row that somebody
            # has locked is skipped.
            users = sa.select(User.__table__.c.id).with_for_update(skip_locked=True)
            free = len(beside.execute(users).all())
            count = sa.select(sa.func.count()).select_from(tokens.MailedToken)
            seen.extend([beside.scalar(count), free])

    invite(admin)
    server = threading.Thread(target=look)
    server.start()

    outcomes = Jobs(app, {}).run_all(may_fail=True)

    server.join(10)
    listener.close()
    assert outcomes[0] == ("mail.deliver", "retrying")
    assert seen == [1, 2]


def test_nobody_is_invited_who_was_deleted_disabled_or_has_a_password_meanwhile(
    app: Flask, admin: Person, jobs: Jobs, mailbox: Mailbox
) -> None:
    deleted, disabled, ready = (invite(admin, f"{name}@example.org") for name in "abc")
    admin.delete(f"/users/{deleted}")
    admin.patch(f"/users/{disabled}", {"is_active": False})
    with app.app_context():
        db.session.get_one(User, UUID(ready)).password_hash = "x"
        db.session.commit()

    jobs.run_all()

    assert len(mailbox) == 0


def test_a_changed_address_is_announced_to_the_former_one_and_confirmed_by_the_new_one(
    admin: Person, person: MakePerson, jobs: Jobs, mailbox: Mailbox, client: Any
) -> None:
    ada = person(email="ada@example.org", password_hash="x", full_name="Ada")

    admin.patch(ada.path, {"email": "countess@example.org"})
    jobs.run_all()

    notice, confirmation = mailbox.messages
    assert notice.recipients == ("ada@example.org",)
    assert "administrator changed the e-mail address" in notice.text
    assert "token" not in notice.text
    assert "countess" not in notice.text
    assert confirmation.recipients == ("countess@example.org",)
    answer = client.post("/api/v1/auth/verify-email", json={"token": token_in(confirmation)})
    assert answer.status_code == 200
    assert admin.get(ada.path).json["data"]["is_verified"] is True


def test_an_invitation_dies_with_the_address_it_was_sent_to(
    admin: Person, jobs: Jobs, mailbox: Mailbox, client: Any
) -> None:
    user_id = invite(admin)
    jobs.run_all()
    old = token_in(mailbox.to("ada@example.org"))

    admin.patch(f"/users/{user_id}", {"email": "countess@example.org"})
    jobs.run_all()
    new = token_in(mailbox.to("countess@example.org"))

    answers = [
        client.post(
            "/api/v1/auth/reset-password", json={"token": token, "new_password": NEW_PASSWORD}
        ).status_code
        for token in (old, new)
    ]
    assert answers == [410, 200]


def test_a_refused_request_sends_nothing(
    admin: Person, person: MakePerson, jobs: Jobs, enqueued: Callable[[], list[Any]]
) -> None:
    person(email="taken@example.org")
    ada = person(email="ada@example.org")

    admin.post("/users", {"email": "taken@example.org"})
    admin.patch(ada.path, {"email": "taken@example.org"})
    admin.patch(ada.path, {"email": "new@example.org"}, headers={"If-Match": '"0"'})

    assert enqueued() == []


def test_jobs_of_an_account_that_is_gone_for_good_end_quietly(
    app: Flask, admin: Person, jobs: Jobs, mailbox: Mailbox
) -> None:
    user_id = UUID(invite(admin))
    admin.patch(f"/users/{user_id}", {"email": "countess@example.org"})
    with app.app_context():
        db.session.delete(db.session.get_one(User, user_id))
        db.session.commit()

        done = runner.run_waiting()

    assert {outcome for _, outcome in done} == {"finished"}
    assert len(mailbox) == 0

"""Single mails, over HTTP: accepted at once, sent by a worker, told of afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from flask import Flask

from ghost.database import db_manager
from ghost.mail.models import MailMessage
from ghost.testing.background import Jobs, Mailbox

HELLO = {"to": ["Ada <ada@example.org>"], "subject": "Hello", "text": "It works."}


@pytest.fixture
def app_config(app_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "shipped.subject.txt").write_text("Order {{ number }} is on its way\n")
    (folder / "shipped.html").write_text("<p>It left, {{ name }}.</p>")
    mail = {"templates": str(folder), "max_recipients": 3, "max_size": 4096}
    return {**app_config, "mail": {**app_config.get("mail", {}), **mail}}


@pytest.fixture
def admin(client: Any, make_user: Any) -> Any:
    return client.as_user(make_user(roles=["ADMIN"]))


@pytest.fixture
def count(app: Flask) -> Callable[[], int]:
    def read() -> int:
        with app.app_context(), db_manager.connection() as connection:
            found: int = connection.scalar(sa.select(sa.func.count()).select_from(MailMessage))
            return found

    return read


def send(admin: Any, **fields: Any) -> Any:
    return admin.post("/api/v1/mail/send", json=fields)


def read(admin: Any, message_id: str) -> Any:
    return admin.get(f"/api/v1/mail/messages/{message_id}").json["data"]


def test_a_mail_is_accepted_then_sent_with_its_copies(
    admin: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    response = send(
        admin, **HELLO, cc=["bob@example.org"], bcc=["eve@example.org"], reply_to=["re@example.org"]
    )
    accepted = response.json["data"]
    jobs.run_all()

    mail = mailbox.to("ada@example.org")
    after = read(admin, accepted["id"])
    assert response.status_code == 202
    assert accepted.keys() == {"id", "status", "job_id"}
    assert accepted["status"] == "queued"
    assert response.headers["Location"].endswith(f"/api/v1/mail/messages/{accepted['id']}")
    assert mail.recipients == ("ada@example.org", "bob@example.org", "eve@example.org")
    assert b"eve@example.org" not in mail.as_bytes()
    assert b"Reply-To: re@example.org" in mail.as_bytes()
    assert (after["status"], after["attempts"]) == ("sent", 1)
    assert after["accepted"] == list(mail.recipients)
    assert "text" not in after


def test_a_template_is_rendered_when_it_is_accepted(
    admin: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    context = {"number": 7, "name": "{{ 7*7 }} <b>"}

    response = send(admin, to=["ada@example.org"], template="shipped", context=context)
    jobs.run_all()

    mail = mailbox.to("ada@example.org")
    assert response.status_code == 202
    assert mail.subject == "Order 7 is on its way"
    assert "{{ 7*7 }} &lt;b&gt;" in (mail.html or "")
    assert "It left, {{ 7*7 }} <b>." in mail.text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": []}, "to"),
        ({"to": ["nobody"]}, "to"),
        ({"to": [f"user{n}@example.org" for n in range(4)]}, "to"),
        ({"to": [f"{'x' * 60}@{'y' * 60}.{'z' * 60}.{'w' * 60}.{'v' * 60}.example"]}, "to"),
        ({"cc": ["Ada <a@example.org>, b@example.org"]}, "cc"),
        ({"subject": "Hello\r\nBcc: eve@example.org"}, "subject"),
        ({"headers": {"Bcc": "eve@example.org"}}, "headers"),
        ({"headers": {"X-A": "one\u2028two"}}, "headers"),
        ({"text": "x" * 5000}, "attachments"),
        ({"template": "shipped"}, "subject"),
        ({"context": {}}, "context"),
        ({"attachments": [str(uuid4())]}, "attachments"),
        ({"role": "ADMIN"}, "role"),
        ({"send_at": "tomorrow"}, "send_at"),
    ],
)
def test_what_can_not_be_sent_is_refused_and_leaves_nothing(
    admin: Any, count: Any, change: dict[str, Any], field: str
) -> None:
    response = send(admin, **(HELLO | change))

    assert response.status_code == 422
    assert list(response.json["error"]["details"]["json"]) == [field]
    assert count() == 0


@pytest.mark.parametrize(
    ("template", "context", "field"),
    [
        ("nothing", {}, "template"),
        ("../secret", {}, "template"),
        ("reset-password", {"link": "https://evil.example", "expires": "1 hour"}, "template"),
        ("shipped", {"number": 7}, "context"),
    ],
    ids=["unknown", "a path", "a security mail", "a variable is missing"],
)
def test_a_template_that_can_not_be_sent_is_refused(
    admin: Any, count: Any, template: str, context: dict[str, Any], field: str
) -> None:
    response = send(admin, to=["ada@example.org"], template=template, context=context)

    assert response.status_code == 422
    assert list(response.json["error"]["details"]["json"]) == [field]
    assert count() == 0


def test_a_mail_for_later_waits(admin: Any, jobs: Jobs, mailbox: Mailbox) -> None:
    response = send(admin, **HELLO, send_at="2999-01-01T00:00:00Z")

    jobs.run_all()

    assert len(mailbox) == 0
    assert read(admin, response.json["data"]["id"])["status"] == "queued"


def test_mails_are_listed_by_status(admin: Any, jobs: Jobs) -> None:
    sent = send(admin, **HELLO).json["data"]["id"]
    jobs.run_all()
    queued = send(admin, **HELLO).json["data"]["id"]

    everything = admin.get("/api/v1/mail/messages").json["data"]
    only_sent = admin.get("/api/v1/mail/messages?status=sent").json["data"]

    assert [one["id"] for one in everything] == [queued, sent]
    assert [one["id"] for one in only_sent] == [sent]


def test_only_a_failed_mail_is_tried_again(admin: Any, jobs: Jobs) -> None:
    mail = send(admin, **HELLO).json["data"]["id"]
    jobs.run_all()

    response = admin.post(f"/api/v1/mail/messages/{mail}/retry")
    unknown = admin.post(f"/api/v1/mail/messages/{uuid4()}/retry")

    assert response.status_code == 409
    assert unknown.status_code == 404


def test_sending_needs_its_permission(client: Any, make_user: Any, count: Any) -> None:
    response = client.as_user(make_user()).post("/api/v1/mail/send", json=HELLO)

    assert response.status_code == 403
    assert count() == 0

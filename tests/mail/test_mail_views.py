"""Single mails, over HTTP: accepted at once, sent by a worker, told of afterwards."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from flask import Flask
from sinks import stay_silent
from statements import counted_statements

from ghost.database import db, db_manager
from ghost.mail import services
from ghost.mail.messages import Attachment
from ghost.mail.models import MailMessage
from ghost.testing.background import Jobs, Mailbox
from ghost.testing.clients import Client

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


class TestWithLimits:
    @pytest.fixture
    def app_config(self) -> dict[str, Any]:
        return {"mail": {"send_limit": "2/minute"}, "ratelimit": {"enabled": True}}

    def test_trying_again_has_the_limit_of_sending(self, admin: Any) -> None:
        url = f"/api/v1/mail/messages/{uuid4()}/retry"

        answers = [admin.post(url) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [404, 404, 429]


def test_sending_needs_its_permission(client: Any, make_user: Any, count: Any) -> None:
    response = client.as_user(make_user()).post("/api/v1/mail/send", json=HELLO)

    assert response.status_code == 403
    assert count() == 0


def test_files_come_by_the_reader_that_another_room_gives(
    client: Any, make_user: Any, jobs: Jobs, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = make_user(roles=["ADMIN"])
    admin = client.as_user(user)
    known, asked = uuid4(), []

    def read_file(file_id: UUID, caller_id: UUID | None) -> Attachment | None:
        asked.append((file_id, caller_id))
        return Attachment("bill.pdf", b"%PDF-1.7") if file_id == known else None

    monkeypatch.setattr(services, "_read_file", None)
    services.set_file_reader(read_file)

    unknown = send(admin, **HELLO, attachments=[str(uuid4())])
    accepted = send(admin, **HELLO, attachments=[str(known)])
    jobs.run_all()

    assert unknown.status_code == 422
    assert unknown.json["error"]["details"]["json"] == {"attachments": ["There is no such file."]}
    assert accepted.status_code == 202
    assert [file.filename for file in mailbox.to("ada@example.org").attachments] == ["bill.pdf"]
    assert asked[-1] == (known, user.id)


def test_a_repeated_request_sends_one_mail(admin: Any, count: Any) -> None:
    key = {"Idempotency-Key": "once"}

    first, second = (
        admin.post("/api/v1/mail/send", json=HELLO, headers=key).json["data"] for _ in range(2)
    )

    assert first == second
    assert count() == 1


def test_a_failed_mail_is_queued_again(
    admin: Any, app: Flask, jobs: Jobs, mailbox: Mailbox
) -> None:
    mail = send(admin, **HELLO).json["data"]["id"]
    with app.app_context(), db_manager.transaction() as connection:
        connection.execute(sa.update(MailMessage).values(status="failed", error="away"))

    response = admin.post(f"/api/v1/mail/messages/{mail}/retry")
    jobs.run_all()

    assert response.status_code == 200
    assert (response.json["data"]["status"], response.json["data"]["error"]) == ("queued", None)
    assert read(admin, mail)["status"] == "sent"
    assert len(mailbox) == 1


def test_nothing_that_a_mail_says_is_shown(
    admin: Any, client: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    body = {"email": "eve@example.org", "password": "correct horse battery"}
    client.post("/api/v1/auth/register", json=body)
    send(admin, to=["ada@example.org"], template="shipped", context={"number": 7, "name": "Ada"})
    jobs.run_all()

    shipped, verification = admin.get("/api/v1/mail/messages").json["data"]

    assert shipped["subject"] == "Order 7 is on its way"
    assert verification["to"] == ["eve@example.org"]
    assert verification["subject"] is None
    for shown in (shipped, verification):
        assert shown.keys().isdisjoint({"text", "html", "context", "composer"})
    code = re.search(r"\b\d{6}\b", mailbox.to("eve@example.org").text)
    assert code is not None
    assert code[0] not in str(verification)


def test_a_mail_costs_few_statements(admin: Any, app: Flask) -> None:
    send(admin, **HELLO)
    with app.app_context():
        engine = db.engine

    with counted_statements(engine) as statements:
        assert send(admin, **HELLO).status_code == 202

    written = [one for one in statements if one.startswith("INSERT")]
    assert [one.split()[2] for one in written] == ["jobs", "mail_messages"]
    assert len(statements) <= 6, statements


@pytest.mark.slow
def test_no_request_waits_for_a_mail_server_that_swallows_everything(
    app: Flask, make_app: Any, make_user: Any, make_scripted: Any
) -> None:
    server = make_scripted(stay_silent)
    silent = make_app({"mail": {"url": f"smtp://127.0.0.1:{server.port}", "timeout": 30}})
    admin = Client(silent, silent.response_class).as_user(make_user(roles=["ADMIN"]))
    seconds = []

    for _ in range(200):
        began = time.perf_counter()
        assert send(admin, **HELLO).status_code == 202
        seconds.append(time.perf_counter() - began)

    assert sorted(seconds)[int(len(seconds) * 0.99)] < 0.2

"""Header injection by the API: each attempt is a 422 that names its field, and leaves no row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from ghost.database import db_manager
from ghost.jobs.models import Job
from ghost.mail.models import MailMessage

HELLO = {"to": ["ada@example.org"], "subject": "Hello", "text": "It works."}

BREAKERS = {
    "CRLF": "\r\nBcc: eve@example.org",
    "LF": "\nBcc: eve@example.org",
    "LF at the end": "\n",
    "LF and a blank at the end": "\n ",
    "CR": "\rBcc: eve@example.org",
    "CRLF, folded by a space": "\r\n Bcc: eve@example.org",
    "CRLF, folded by a tab": "\r\n\tBcc: eve@example.org",
    "CRLF at the end": "\r\n",
    "NUL": "\0",
    "VT": "\x0b",
    "FF": "\x0c",
    "FS": "\x1c",
    "RS": "\x1e",
    "ESC": "\x1b",
    "DEL": "\x7f",
    "NEL": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
}

PLACES: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "address": ("to", lambda bad: {"to": [f"ada@example.org{bad}"]}),
    "name": ("to", lambda bad: {"to": [f"Ada{bad} <ada@example.org>"]}),
    "one of many": ("to", lambda bad: {"to": ["bob@example.org", f"a{bad}da@example.org"]}),
    "cc": ("cc", lambda bad: {"cc": [f"bob@example.org{bad}"]}),
    "bcc": ("bcc", lambda bad: {"bcc": [f"Bob{bad} <bob@example.org>"]}),
    "reply_to": ("reply_to", lambda bad: {"reply_to": [f"bob@example.org{bad}"]}),
    "subject": ("subject", lambda bad: {"subject": f"Hello{bad}"}),
    "header name": ("headers", lambda bad: {"headers": {f"X-Shop{bad}": "1"}}),
    "header value": ("headers", lambda bad: {"headers": {"X-Shop": f"1{bad}"}}),
}


@pytest.fixture
def app_config(app_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "shipped.subject.txt").write_text("Order {{ number }} is on its way\n")
    (folder / "shipped.txt").write_text("It left.\n")
    (folder / "at-the-end.subject.txt").write_text("News {{ number }}")
    (folder / "at-the-end.txt").write_text("It left.\n")
    mail = {**app_config.get("mail", {}), "templates": str(folder), "send_limit": "1000/minute"}
    return {**app_config, "mail": mail}


@pytest.fixture
def admin(client: Any, make_user: Any) -> Any:
    return client.as_user(make_user(roles=["ADMIN"]))


@pytest.fixture
def stored(app: Flask) -> Callable[[], list[int]]:
    """How many mails and jobs there are."""

    def read() -> list[int]:
        with app.app_context(), db_manager.connection() as connection:
            return [
                connection.scalar(sa.select(sa.func.count()).select_from(model)) or 0
                for model in (MailMessage, Job)
            ]

    return read


@pytest.mark.parametrize("place", PLACES)
def test_each_attempt_is_refused_and_leaves_nothing(
    admin: Any, stored: Callable[[], list[int]], place: str
) -> None:
    field, change = PLACES[place]
    before = stored()

    answers = {
        name: admin.post("/api/v1/mail/send", json=HELLO | change(bad))
        for name, bad in BREAKERS.items()
    }

    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(
        BREAKERS, 422
    )
    for answer in answers.values():
        assert answer.json["success"] is False
        assert list(answer.json["error"]["details"]["json"]) == [field]
    assert stored() == before


@pytest.mark.parametrize("template", ["shipped", "at-the-end"])
def test_a_variable_can_not_end_the_subject(
    admin: Any, stored: Callable[[], list[int]], template: str
) -> None:
    before = stored()

    statuses = {
        name: admin.post(
            "/api/v1/mail/send",
            json={
                "to": ["ada@example.org"],
                "template": template,
                "context": {"number": f"7{bad}"},
            },
        ).status_code
        for name, bad in BREAKERS.items()
    }

    assert statuses == dict.fromkeys(BREAKERS, 422)
    assert stored() == before


@pytest.mark.parametrize("surrogate", ["\\ud800", "\\udfff", "\\udc0a"])
def test_a_lone_surrogate_is_no_text(
    admin: Any, stored: Callable[[], list[int]], surrogate: str
) -> None:
    before = stored()
    body = f'{{"to": ["ada@example.org"], "subject": "Hello{surrogate}", "text": "x"}}'

    answer = admin.post("/api/v1/mail/send", data=body, content_type="application/json")

    assert answer.status_code in (400, 422)
    assert stored() == before


def test_what_looks_alike_and_is_harmless_is_accepted(admin: Any) -> None:
    harmless = {
        "to": ["Ada <ada@example.org>", "bob@example.org"],
        "subject": "Bcc: eve@example.org %0d%0a \\r\\n &#10; =?utf-8?q?=0A?=",
        "headers": {"X-Shop": "=?utf-8?q?=0ABcc=3A_eve?=", "List-Unsubscribe": "<https://x.org>"},
    }

    answer = admin.post("/api/v1/mail/send", json=HELLO | harmless)

    assert answer.status_code == 202

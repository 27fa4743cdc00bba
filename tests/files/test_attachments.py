"""Files as attachments: `POST /mail/send` with their ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from flask import Flask
from stored_files import FileFactory

from ghost import uuid7
from ghost.testing.background import Jobs, Mailbox
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory
from ghost.users.models import User

pytestmark = pytest.mark.integration

LIMIT = 2000


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {"mail": {"max_size": LIMIT}}


@pytest.fixture
def ada(make_user: UserFactory) -> User:
    return make_user(permissions=["mail:send"])


def send(client: Client, *ids: Any) -> Any:
    body = {
        "to": ["bob@example.org"], "subject": "Hello", "text": "It works.",
        "attachments": [str(file_id) for file_id in ids],
    }  # fmt: skip
    return client.post("/api/v1/mail/send", json=body)


def test_ones_own_files_and_public_ones_are_attached(
    client: Client, ada: User, make_file: FileFactory, jobs: Jobs, mailbox: Mailbox
) -> None:
    own = make_file(b"\x89PNG", owner_id=ada.id, filename="é.png", content_type="image/png")
    public = make_file(b"Hello", visibility="public", filename="b.txt")

    response = send(client.as_user(ada), own.id, public.id)

    assert response.status_code == 202, response.text
    jobs.run_all()
    files = mailbox.to("bob@example.org").attachments
    assert [(file.filename, file.kind, file.content) for file in files] == [
        ("é.png", "image/png", b"\x89PNG"),
        ("b.txt", "text/plain", b"Hello"),
    ]


def test_others_files_are_not_there(client: Client, ada: User, make_file: FileFactory) -> None:
    for file_id in (make_file().id, uuid7()):
        response = send(client.as_user(ada), file_id)

        assert response.status_code == 422
        assert response.json["error"]["details"]["json"] == {
            "attachments": ["There is no such file."]
        }


def test_an_admin_attaches_any_file(
    client: Client, make_user: UserFactory, make_file: FileFactory
) -> None:
    assert send(client.as_user(make_user(roles=["ADMIN"])), make_file().id).status_code == 202


def test_the_limits_of_a_mail_hold(
    app: Flask, client: Client, ada: User, make_file: FileFactory
) -> None:
    large = make_file(b"a" * (LIMIT + 1), owner_id=ada.id)
    half = make_file(b"a" * (LIMIT // 2 + 1), owner_id=ada.id)

    for ids in ([large.id], [half.id, half.id]):
        response = send(client.as_user(ada), *ids)

        assert response.status_code == 422
        assert "larger than" in response.text

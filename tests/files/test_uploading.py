"""Uploading a file by a form."""

from __future__ import annotations

import hashlib
import io

import pytest
from flask import Flask

from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration


def test_an_upload_is_stored_and_described(
    app: Flask, client: Client, make_user: UserFactory
) -> None:
    ada = make_user()

    response = client.as_user(ada).post(
        "/api/v1/files", data={"file": (io.BytesIO(b"Hello\n"), "greeting.txt")}
    )

    assert response.status_code == 201, response.text
    data = response.json["data"]
    assert data["filename"] == "greeting.txt"
    assert data["content_type"] == "text/plain"
    assert data["size"] == 6
    assert data["sha256"] == hashlib.sha256(b"Hello\n").hexdigest()

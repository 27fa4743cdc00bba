"""Resumable uploads by the tus protocol, from the first request to the file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from ghost.database import db
from ghost.files.models import FileUsage
from ghost.files.storage import current_storage
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

UPLOADS = "/api/v1/files/uploads"
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = "application/offset+octet-stream"
TEXT = b"Hello, resumable world!\n"


@pytest.fixture(params=["disk", "s3"])
def app_config(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    if request.param == "disk":
        return {}
    return {"storage": {"url": request.getfixturevalue("moto").storage_url()}}


@pytest.fixture
def ada(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user())


def described(**values: str) -> str:
    return ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items()
    )


def create(client: Client, length: int = len(TEXT), **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Upload-Metadata", described(filename="hello.txt", filetype="text/plain"))
    return client.post(UPLOADS, headers={**TUS, "Upload-Length": str(length), **named})


def begin(client: Client, length: int = len(TEXT), **headers: str) -> str:
    response = create(client, length, **headers)
    assert response.status_code == 201, response.text
    return response.headers["Location"]


def send(client: Client, url: str, offset: int, data: bytes, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.patch(
        url, data=data, content_type=BYTES, headers={**TUS, "Upload-Offset": str(offset), **named}
    )


def used(app: Flask) -> int:
    with app.app_context():
        return db.session.scalar(sa.select(sa.func.sum(FileUsage.bytes))) or 0


def left_in_storage(app: Flask) -> list[str]:
    with app.app_context():
        return [found.key for found in current_storage().list("uploads/")]


def test_an_upload_in_two_requests_becomes_a_file(app: Flask, ada: Client) -> None:
    url = begin(ada)

    first = send(ada, url, 0, TEXT[:10])
    assert (first.status_code, first.headers["Upload-Offset"]) == (204, "10")
    assert "Upload-Expires" in first.headers
    between = ada.head(url, headers=TUS)
    assert between.status_code == 200
    assert between.headers["Upload-Offset"] == "10"
    assert between.headers["Upload-Length"] == str(len(TEXT))
    assert between.headers["Cache-Control"] == "no-store"
    last = send(ada, url, 10, TEXT[10:])

    assert (last.status_code, last.headers["Upload-Offset"]) == (204, str(len(TEXT)))
    file = ada.get(f"/api/v1/files/{last.headers['Upload-File-Id']}").json["data"]
    assert file["sha256"] == hashlib.sha256(TEXT).hexdigest()
    assert file["filename"] == "hello.txt"
    assert file["content_type"] == "text/plain"
    assert ada.get(file["url"]).data == TEXT
    assert left_in_storage(app) == []
    assert used(app) == len(TEXT)
    after = ada.head(url, headers=TUS)
    assert after.headers["Upload-File-Id"] == file["id"]
    assert after.headers["Upload-Offset"] == str(len(TEXT))

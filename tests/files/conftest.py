"""What tests of files share: object stores, files that are there already, and uploads."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from object_stores import Moto
from stored_files import FileFactory, Upload
from werkzeug.test import TestResponse

from ghost.database import db
from ghost.files.models import PRIVATE, StoredFile
from ghost.files.storage import current_storage
from ghost.models import uuid7
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    server = Moto()
    yield server
    server.close()


@pytest.fixture
def make_file(app: Flask) -> FileFactory:
    def make(content: bytes = b"0123456789", **values: Any) -> StoredFile:
        with app.app_context():
            file_id: UUID = uuid7()
            described: dict[str, Any] = {
                "owner_id": uuid7(),
                "filename": "digits.txt",
                "content_type": "text/plain",
                "category": "text",
                "visibility": PRIVATE,
                "sha256": hashlib.sha256(content).hexdigest(),
            } | values
            file = StoredFile(
                id=file_id,
                key=f"2026/11/{file_id}",
                size=len(content),
                **described,
            )
            with current_storage().create(file.key, "application/octet-stream") as writer:
                writer.write(content)
                writer.commit()
            db.session.add(file)
            db.session.commit()
            return file

    return make


@pytest.fixture
def upload() -> Upload:
    """Send a file: `upload(client, b"...", "a.txt", content_type=None, visibility="public")`."""

    def send(
        client: Client,
        content: bytes = b"Hello\n",
        filename: str = "a.txt",
        content_type: str | None = "application/octet-stream",
        **fields: Any,
    ) -> TestResponse:
        data = {"file": (io.BytesIO(content), filename, content_type), **fields}
        return client.post("/api/v1/files", data=data)

    return send


@pytest.fixture
def token(client: Client, make_user: UserFactory) -> str:
    """The access token of somebody, for requests to a server of its own."""
    found: str = client.as_user(make_user()).tokens["access_token"]
    return found


@pytest.fixture
def stored_keys(app: Flask) -> Callable[[], list[str]]:
    """What lies in the storage, by key."""

    def keys() -> list[str]:
        with app.app_context():
            return [found.key for found in current_storage().list()]

    return keys

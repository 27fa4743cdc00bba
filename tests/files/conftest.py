"""Uploading in one call, and what lies in the storage."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from ghost.files.storage import current_storage
from ghost.testing.clients import Client

Upload = Callable[..., TestResponse]


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
def stored_keys(app: Flask) -> Callable[[], list[str]]:
    """What lies in the storage, by key."""

    def keys() -> list[str]:
        with app.app_context():
            return [found.key for found in current_storage().list()]

    return keys

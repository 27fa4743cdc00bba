"""Resumable uploads to a real gunicorn: refusals that reach who is still sending."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from resumable import BYTES, TUS, UPLOADS
from web_server import Gunicorn

from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZE = 8_000_000
NOWHERE = f"{UPLOADS}/01900000-0000-7000-8000-000000000000"


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {
        "auth": {"jwt_secret_key": "u8Rz3kQv0Lx7Yt2Wn5Bc9Md4Fg6Hj1Ps"},
        "storage": {"max_uploads": 1},
    }


@pytest.fixture
def server(app: Flask, app_settings: Mapping[str, Any], tmp_path: Path) -> Iterator[Gunicorn]:
    server = Gunicorn(tmp_path / "project", app_settings)
    yield server
    server.stop()


def ask(
    server: Gunicorn, token: str, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request(
            method, path, body or None, {"Authorization": f"Bearer {token}", **TUS, **named}
        )
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def test_a_refusal_reaches_who_is_still_sending(server: Gunicorn, token: str) -> None:
    status, headers, _ = ask(server, token, "POST", UPLOADS, Upload_Length=str(SIZE))
    assert status == 201
    url = headers["Location"]
    data = bytes(SIZE)

    def send(url: str, offset: int = 0, token: str = token, **headers: str) -> int:
        headers = {"Content_Type": BYTES, "Upload_Offset": str(offset), **headers}
        return ask(server, token, "PATCH", url, data, **headers)[0]

    assert send(url, Tus_Resumable="0.2.2") == 412
    assert send(url, token="none") == 401
    assert send(NOWHERE) == 404
    assert send(url, offset=1) == 409
    assert send(url, Content_Type="text/plain") == 415
    assert ask(server, token, "HEAD", url)[1]["Upload-Offset"] == "0"


def test_nobody_waits_for_a_sender_that_is_refused(
    server: Gunicorn, token: str, client: Client, make_user: UserFactory
) -> None:
    other = client.as_user(make_user()).tokens["access_token"]
    name = json.dumps({"full_name": "Eve"}).encode()
    assert ask(server, token, "POST", UPLOADS, Upload_Length="1000")[0] == 201
    lines = (
        f"POST {UPLOADS} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}",
        "Tus-Resumable: 1.0.0", "Upload-Length: 1000", f"Content-Type: {BYTES}",
        "Content-Length: 1000", "", "x",
    )  # fmt: skip
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as sender:
        sender.sendall("\r\n".join(lines).encode())
        time.sleep(0.3)  # it has been refused, and some more bytes are waited for

        started = time.monotonic()
        status, _, _ = ask(
            server, other, "PATCH", "/api/v1/auth/me", name, Content_Type="application/json"
        )

        assert status == 200
        assert time.monotonic() - started < 1
        assert sender.recv(12) == b"HTTP/1.1 429"

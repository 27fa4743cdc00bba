"""Uploads to a real gunicorn: cut, in chunks, refused early, huge, or never coming to an end."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from web_server import Gunicorn, wait_until

from ghost import db
from ghost.files.models import FileUsage

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MIB = 2**20
LIMIT = 8 * MIB
PATH = "/api/v1/files"
HEAD = (
    b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
)
TAIL = b"\r\n--xyz--\r\n"
Keys = Callable[[], list[str]]


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {
        "auth": {"jwt_secret_key": "u8Rz3kQv0Lx7Yt2Wn5Bc9Md4Fg6Hj1Ps"},
        "storage": {
            "allowed_types": ["application/octet-stream"],
            "max_file_size": LIMIT,
            "quota_per_user": None,
        },
    }


@pytest.fixture
def server(app: Flask, app_settings: Mapping[str, Any], tmp_path: Path) -> Iterator[Gunicorn]:
    # A second of silence is enough for a test.
    code = "from ghost.files import receiving\nreceiving.SILENCE_SECONDS = 1.0\n"
    server = Gunicorn(tmp_path / "project", app_settings, code)
    yield server
    server.stop()


class Sender:
    """A connection over which a form is sent by hand."""

    def __init__(self, port: int, token: str, *headers: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        lines = (
            f"POST {PATH} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}",
            "Content-Type: multipart/form-data; boundary=xyz", *headers, "", "",
        )  # fmt: skip
        self.socket.sendall("\r\n".join(lines).encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_chunk(self, data: bytes) -> None:
        self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and JSON."""
        response = http.client.HTTPResponse(self.socket, method="POST")
        response.begin()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        self.socket.close()


def nothing_is_left(app: Flask, stored_keys: Keys) -> bool:
    with app.app_context():
        used = db.session.scalar(sa.select(sa.func.sum(FileUsage.bytes))) or 0
    return stored_keys() == [] and used == 0


def temporary_files(app: Flask) -> list[Path]:
    root = Path(app.extensions["ghost"].config.storage.url.removeprefix("file://"))
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_body_in_chunks_is_stored(server: Gunicorn, token: str) -> None:
    content = os.urandom(2 * MIB + 5)
    with closing(Sender(server.port, token, "Transfer-Encoding: chunked")) as sender:
        whole = HEAD + content + TAIL
        for start in range(0, len(whole), 100_001):
            sender.send_chunk(whole[start : start + 100_001])
        sender.send(b"0\r\n\r\n")

        status, body = sender.answer()

    assert status == 201
    assert body["data"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_body_in_chunks_that_grows_too_long_is_refused(
    app: Flask, server: Gunicorn, token: str, stored_keys: Keys
) -> None:
    with closing(Sender(server.port, token, "Transfer-Encoding: chunked")) as sender:
        sender.send_chunk(HEAD)
        for _ in range(12):
            sender.send_chunk(bytes(range(256)) * (MIB // 256))
        sender.send(b"0\r\n\r\n")

        status, body = sender.answer()

    assert (status, body["error"]["code"]) == (413, "payload_too_large")
    assert nothing_is_left(app, stored_keys)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["declared", "in chunks"])
def test_a_body_that_is_cut_stores_nothing(
    app: Flask, server: Gunicorn, token: str, stored_keys: Keys, is_chunked: bool
) -> None:
    length = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {4 * MIB}"
    with closing(Sender(server.port, token, length)) as sender:
        send = sender.send_chunk if is_chunked else sender.send
        send(HEAD)
        send(os.urandom(MIB))
        sender.socket.shutdown(socket.SHUT_WR)

        status, body = sender.answer()

    assert (status, body["error"]["code"]) == (400, "bad_request")
    wait_until(lambda: not temporary_files(app))
    assert nothing_is_left(app, stored_keys)


def test_a_sender_that_hangs_up_leaves_nothing(
    app: Flask, server: Gunicorn, token: str, stored_keys: Keys
) -> None:
    with closing(Sender(server.port, token, f"Content-Length: {4 * MIB}")) as sender:
        sender.send(HEAD + os.urandom(MIB))
        wait_until(lambda: temporary_files(app))

    wait_until(lambda: not temporary_files(app))
    assert nothing_is_left(app, stored_keys)


def test_a_sender_that_falls_silent_is_given_up(
    app: Flask, server: Gunicorn, token: str, stored_keys: Keys
) -> None:
    started = time.monotonic()
    with closing(Sender(server.port, token, f"Content-Length: {4 * MIB}")) as sender:
        sender.send(HEAD + os.urandom(MIB))

        status, _ = sender.answer()

    assert status == 400
    assert time.monotonic() - started < 10
    assert nothing_is_left(app, stored_keys)


@pytest.mark.parametrize("length", [100 * MIB, 7 * MIB], ids=["declared", "by its name"])
def test_a_refusal_reaches_who_is_still_sending(
    app: Flask, server: Gunicorn, token: str, stored_keys: Keys, length: int
) -> None:
    head = HEAD.replace(b"a.bin", b"a.html") if length < LIMIT else HEAD
    total = len(head) + length + len(TAIL)
    with closing(Sender(server.port, token, f"Content-Length: {total}")) as sender:
        sender.send(head)
        left = length
        try:
            while left > 0:
                sender.send(os.urandom(min(MIB, left)))
                left -= MIB
            sender.send(TAIL)
        except OSError:
            pass  # nobody takes any more; the answer is there
        status, body = sender.answer()

    assert status == (413 if length > LIMIT else 415)
    assert body["success"] is False
    assert nothing_is_left(app, stored_keys)


def test_a_connection_is_good_for_another_upload(server: Gunicorn, token: str) -> None:
    contents = [os.urandom(size) for size in (5, 300_000, MIB)]
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        for content in contents:
            for filename in (b"a.exe", b"a.bin"):
                body = HEAD.replace(b"a.bin", filename) + content + TAIL
                headers = {
                    "Authorization": f"Bearer {token}",
                    "Content-Type": "multipart/form-data; boundary=xyz",
                }
                connection.request("POST", PATH, body, headers)
                response = connection.getresponse()
                answer = json.loads(response.read())
                if filename == b"a.exe":
                    assert response.status == 415
                else:
                    sha256 = hashlib.sha256(content).hexdigest()
                    assert answer["data"]["sha256"] == sha256


def send_small(port: int, token: str) -> None:
    body = HEAD + b"\x01\x02\x03" + TAIL
    with closing(Sender(port, token, f"Content-Length: {len(body)}")) as sender:
        sender.send(body)
        assert sender.answer()[0] == 201


class TestHuge:
    @pytest.fixture
    def app_config(self) -> Mapping[str, Any]:
        return {
            "auth": {"jwt_secret_key": "u8Rz3kQv0Lx7Yt2Wn5Bc9Md4Fg6Hj1Ps"},
            "storage": {
                "allowed_types": ["application/octet-stream"],
                "max_file_size": 2 * 2**30,
                "quota_per_user": None,
            },
        }

    @pytest.mark.parametrize("is_chunked", [False, True], ids=["declared", "in chunks"])
    def test_a_gibibyte_does_not_grow_a_worker_by_more_than_32_mib(
        self, server: Gunicorn, token: str, is_chunked: bool
    ) -> None:
        piece, count = os.urandom(MIB), 1024
        total = len(HEAD) + count * MIB + len(TAIL)
        length = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {total}"
        send_small(server.port, token)  # the first upload loads what all of them need
        before = most = server.memory()
        with closing(Sender(server.port, token, length)) as sender:
            send = sender.send_chunk if is_chunked else sender.send
            send(HEAD)
            for number in range(count):
                send(piece)
                if number % 64 == 0:
                    most = max(most, server.memory())
            send(TAIL)
            if is_chunked:
                sender.send(b"0\r\n\r\n")
            status, body = sender.answer()

        assert status == 201
        assert body["data"]["size"] == count * MIB
        assert (most - before) / MIB < 32

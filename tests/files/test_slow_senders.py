"""Senders that are slow, and bodies that nobody reads, on a real gunicorn: no thread waits long."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from web_server import Gunicorn

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MIB = 2**20
FILES = "/api/v1/files"
FORM = (
    b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
)
# A second of patience is enough for a test.
CODE = "from ghost import unreader\nunreader.PATIENCE_SECONDS = 1.0\n"
Open = Callable[..., socket.socket]


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {"auth": {"jwt_secret_key": "u8Rz3kQv0Lx7Yt2Wn5Bc9Md4Fg6Hj1Ps"}}


@pytest.fixture
def server(app: Flask, app_settings: Mapping[str, Any], tmp_path: Path) -> Iterator[Gunicorn]:
    server = Gunicorn(tmp_path / "project", app_settings, CODE)
    yield server
    server.stop()


@pytest.fixture
def send_head(server: Gunicorn) -> Iterator[Open]:
    """Begin a request by hand."""
    opened: list[socket.socket] = []

    def begin(path: str, *headers: str, method: str = "POST") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        opened.append(connection)
        lines = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", "")
        connection.sendall("\r\n".join(lines).encode())
        return connection

    yield begin
    for connection in opened:
        connection.close()


def trickle(connection: socket.socket) -> threading.Thread:
    """Send a byte now and then, until nobody takes any more."""

    def send() -> None:
        with suppress(OSError):
            while True:
                connection.sendall(b"x")
                time.sleep(0.2)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def answer(connection: socket.socket) -> tuple[int, str | None, Any]:
    """Status, the header Connection, and JSON."""
    response = http.client.HTTPResponse(connection, method="POST")
    response.begin()
    return response.status, response.headers["Connection"], json.loads(response.read())


def test_a_sender_that_trickles_is_given_up(send_head: Open, token: str) -> None:
    started = time.monotonic()
    connection = send_head(
        FILES,
        f"Authorization: Bearer {token}",
        "Content-Type: multipart/form-data; boundary=xyz",
        f"Content-Length: {4 * MIB}",
    )
    connection.sendall(FORM)
    thread = trickle(connection)

    status, closing_header, body = answer(connection)

    assert (status, closing_header) == (400, "close")
    assert body["error"]["code"] == "bad_request"
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - started < 10


def test_json_that_trickles_is_refused(send_head: Open) -> None:
    connection = send_head(
        "/api/v1/auth/login", "Content-Type: application/json", "Content-Length: 1000"
    )
    trickle(connection)

    assert answer(connection)[:2] == (400, "close")


def test_headers_that_trickle_close_the_connection(server: Gunicorn) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nX-Slow: ")
        thread = trickle(connection)

        thread.join(10)

        assert not thread.is_alive()


def test_who_is_steady_may_take_longer_than_patience_lasts(send_head: Open, token: str) -> None:
    content = b"slow and steady\n" * 512
    whole = FORM + content + b"\r\n--xyz--\r\n"
    connection = send_head(
        FILES,
        f"Authorization: Bearer {token}",
        "Content-Type: multipart/form-data; boundary=xyz",
        f"Content-Length: {len(whole)}",
    )
    for start in range(0, len(whole), 512):
        connection.sendall(whole[start : start + 512])
        time.sleep(0.2)  # 2.5 KiB in a second, and more than 3 seconds

    assert answer(connection)[0] == 201


@pytest.mark.parametrize("length", [f"Content-Length: {2**40}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    ("path", "expected"), [(FILES, 401), ("/nowhere", 404), (f"{FILES}/uploads", 401)]
)
def test_a_body_that_nobody_reads_keeps_no_thread(
    send_head: Open, server: Gunicorn, path: str, length: str, expected: int
) -> None:
    """As many as there are threads, and then one who wants something."""
    connections = [send_head(path, length) for _ in range(8)]
    for connection in connections:
        with suppress(OSError):
            connection.sendall(b"ffffffff\r\n" if "chunked" in length else b"x")
    threads = [trickle(connection) for connection in connections]

    for connection in connections:
        assert answer(connection)[:2] == (expected, "close")
    assert server.get("/health/live").status == 200
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_an_answer_reaches_who_is_still_sending(send_head: Open) -> None:
    connection = send_head(FILES, f"Content-Length: {12 * MIB}")
    for _ in range(12):
        connection.sendall(bytes(MIB))

    assert answer(connection)[0] == 401


def test_a_small_body_that_nobody_reads_keeps_the_connection(server: Gunicorn) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        for body in (b'{"a": 1}', iter([b"some ", b"chunks"])):
            connection.request("POST", FILES, body)
            response = connection.getresponse()
            response.read()
            assert (response.status, response.headers["Connection"]) == (401, "keep-alive")

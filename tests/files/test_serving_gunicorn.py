"""Files from a real gunicorn: sent by the kernel, in little memory, and not for ever."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from object_stores import Moto
from stored_files import FileFactory, path_of
from web_server import COUNTS_SENDFILE, Gunicorn, wait_until

from ghost.database import db
from ghost.files.models import PUBLIC, StoredFile

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CONTENT = os.urandom(3 * 2**20 + 17)
MIB = 2**20
Start = Callable[..., Gunicorn]


@pytest.fixture
def start(app: Flask, app_settings: Mapping[str, Any], tmp_path: Path) -> Iterator[Start]:
    servers: list[Gunicorn] = []

    def start_server(code: str = "") -> Gunicorn:
        servers.append(Gunicorn(tmp_path / "project", app_settings, code))
        return servers[-1]

    yield start_server
    for server in servers:
        server.stop()


def url_of(file: StoredFile) -> str:
    return f"/api/v1/files/{file.id}/content"


def make_sparse(app: Flask, make_file: FileFactory, size: int) -> StoredFile:
    """A large file that takes no time to write."""
    file = make_file(b"", visibility=PUBLIC, content_type="application/zip")
    with app.app_context():
        path = path_of(file.key)
        os.truncate(path, size)
        db.session.get_one(StoredFile, file.id).size = size
        db.session.commit()
    return file


def test_the_kernel_sends_whole_files_and_parts(start: Start, make_file: FileFactory) -> None:
    file = make_file(CONTENT, visibility=PUBLIC)
    server = start(COUNTS_SENDFILE)

    whole = server.get(url_of(file))
    assert whole.status == 200
    assert whole.body == CONTENT
    # The client has the last byte before the server's call is over.
    wait_until(lambda: server.sent_by_the_kernel() == len(CONTENT))

    part = server.get(url_of(file), Range="bytes=1000000-1999999")
    assert part.status == 206
    assert part.body == CONTENT[1_000_000:2_000_000]
    wait_until(lambda: server.sent_by_the_kernel() == len(CONTENT) + 1_000_000)


def test_a_connection_is_good_for_more_after_each_kind_of_answer(
    start: Start, make_file: FileFactory
) -> None:
    file = make_file(CONTENT, visibility=PUBLIC)
    server = start()
    questions: list[tuple[str, dict[str, str], int]] = [
        ("GET", {}, 200),
        ("GET", {"Range": "bytes=5-9"}, 206),
        ("GET", {"Range": "bytes=5-9,100-199"}, 206),
        ("HEAD", {}, 200),
        ("GET", {"Range": "bytes=99999999-"}, 416),
        ("GET", {"If-None-Match": f'"{file.sha256}"'}, 304),
        ("GET", {"If-Match": '"x"'}, 412),
        ("GET", {}, 200),
    ]

    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.connect()
        used = connection.sock
        for method, headers, status in questions:
            connection.request(method, url_of(file), headers=headers)
            response = connection.getresponse()
            assert response.status == status
            response.read()
            assert connection.sock is used


def test_a_download_of_1_gib_takes_no_memory(
    app: Flask, start: Start, make_file: FileFactory
) -> None:
    file = make_sparse(app, make_file, 2**30)
    server = start()
    server.get(url_of(make_file(visibility=PUBLIC)))
    before = server.memory()

    largest, count = 0, 0
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", url_of(file))
        response = connection.getresponse()
        while piece := response.read(4 * MIB):
            count += len(piece)
            largest = max(largest, server.memory() if count % (64 * MIB) == 0 else 0)

    assert count == 2**30
    assert largest - before < 4 * MIB


def test_who_takes_nothing_is_given_up(app: Flask, start: Start, make_file: FileFactory) -> None:
    file = make_sparse(app, make_file, 64 * MIB)
    server = start("import ghost.files.serving as serving\nserving.SEND_SECONDS = 1.0\n")

    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(f"GET {url_of(file)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        time.sleep(3)
        count = 0
        while piece := connection.recv(MIB):
            count += len(piece)

    assert count < 64 * MIB
    assert server.get("/health/live").status == 200


class TestFromABucket:
    @pytest.fixture
    def own_moto(self) -> Iterator[Moto]:
        server = Moto()
        yield server
        server.close()

    @pytest.fixture
    def app_config(self, own_moto: Moto) -> Mapping[str, Any]:
        return {"storage": {"url": own_moto.storage_url(), "timeout": 2.0}}

    def test_a_download_takes_little_memory(self, start: Start, make_file: FileFactory) -> None:
        content = os.urandom(MIB) * 96
        file = make_file(content, visibility=PUBLIC)
        server = start()
        server.get(url_of(make_file(visibility=PUBLIC)))
        before = server.memory()

        digest, largest = hashlib.sha256(), 0
        with closing(
            http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        ) as connection:
            connection.request("GET", url_of(file))
            response = connection.getresponse()
            while piece := response.read(MIB):
                digest.update(piece)
                largest = max(largest, server.memory())

        assert digest.hexdigest() == file.sha256
        assert largest - before < 12 * MIB

    def test_a_bucket_that_fails_in_the_middle_ends_the_connection_and_is_logged(
        self, start: Start, make_file: FileFactory, own_moto: Moto
    ) -> None:
        file = make_file(os.urandom(MIB) * 64, visibility=PUBLIC)
        server = start()

        with closing(
            http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        ) as connection:
            connection.request("GET", url_of(file))
            response = connection.getresponse()
            assert response.status == 200
            response.read(MIB)
            own_moto.kill()
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                response.read()

        wait_until(lambda: "the store of files failed" in server.log.read_text())
        assert server.get(url_of(file)).status == 503
        assert server.get("/health/live").status == 200

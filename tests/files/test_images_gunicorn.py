"""Pictures on a real gunicorn: made once by all its workers, and refused in little memory."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from flask import Flask
from hostile import encode, picture, refused
from stored_files import FileFactory
from web_server import Gunicorn
from werkzeug.test import EnvironBuilder

from ghost.database import db
from ghost.files.models import PUBLIC, FileVariant, StoredFile
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MIB = 2**20
PARALLEL = 50
MADE = "variant of an image made"
WIDE, HIGH = 4000, 3000  # 12 megapixels


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {
        "auth": {"jwt_secret_key": "u8Rz3kQv0Lx7Yt2Wn5Bc9Md4Fg6Hj1Ps"},
        "storage": {"upload_limit": "10000/minute", "allowed_types": ["image/*"]},
        "ratelimit": {"enabled": False},
    }


@pytest.fixture
def server(app: Flask, app_settings: Mapping[str, Any], tmp_path: Path) -> Iterator[Gunicorn]:
    server = Gunicorn(tmp_path / "project", app_settings, workers=2)
    yield server
    server.stop()


def test_many_who_ask_for_a_new_variant_at_once_have_it_made_once(
    app: Flask, server: Gunicorn, make_file: FileFactory
) -> None:
    file = make_file(
        encode(picture(WIDE, HIGH), "JPEG"), filename="harbour.jpg", content_type="image/jpeg",
        category="image", visibility=PUBLIC, width=WIDE, height=HIGH,
    )  # fmt: skip
    url = f"/api/v1/files/{file.id}/images/medium"
    answers: list[tuple[int, bytes, str]] = []
    start = threading.Barrier(PARALLEL)

    def ask() -> None:
        start.wait()
        answer = server.get(url)
        answers.append((answer.status, answer.body, answer.headers["ETag"]))

    threads = [threading.Thread(target=ask) for _ in range(PARALLEL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {status for status, *_ in answers} == {200}
    assert len(answers) == PARALLEL
    assert len({(body, etag) for _, body, etag in answers}) == 1
    assert server.log.read_text().count(MADE) == 1
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count(FileVariant.id))) == 1


def peak_of(worker: psutil.Process, *, anew: bool = False) -> int:
    """The most memory that a process has had, in bytes; since now, with `anew`."""
    if anew:
        Path(f"/proc/{worker.pid}/clear_refs").write_text("5")
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024  # type: ignore[union-attr]


def upload(port: int, token: str, content: bytes, filename: str) -> int:
    builder = EnvironBuilder(method="POST", data={"file": (io.BytesIO(content), filename)})
    environ = builder.get_environ()
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(
            "POST",
            "/api/v1/files",
            body=environ["wsgi.input"].read(),
            headers={"Content-Type": environ["CONTENT_TYPE"], "Authorization": f"Bearer {token}"},
        )
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def test_hostile_pictures_are_refused_in_time_and_memory(
    app: Flask, client: Client, make_user: UserFactory, server: Gunicorn
) -> None:
    token = client.as_user(make_user()).tokens["access_token"]
    for name in ("JPEG", "PNG", "WEBP", "AVIF", "HEIC"):  # loads what is loaded once
        for _ in range(4):
            assert upload(server.port, token, encode(picture(), name), "a") == 201
    workers = psutil.Process(server.process.pid).children()
    dear = []

    for name, content in refused():
        before = {worker: worker.memory_info().rss for worker in workers}
        for worker in workers:
            peak_of(worker, anew=True)
        began = time.monotonic()
        status = upload(server.port, token, content, "a")
        seconds = time.monotonic() - began
        growth = max(peak_of(worker) - before[worker] for worker in workers)
        if not (400 <= status < 500 and seconds < 1 and growth < 200 * MIB):
            dear.append((name, status, round(seconds, 2), growth // MIB))

    assert dear == []
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count(StoredFile.id))) == 20

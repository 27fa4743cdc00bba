"""Files that a real nginx sends from the disk, as docs/files.md shows it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from stored_files import FileFactory
from web_server import COUNTS_SENDFILE, Gunicorn, Nginx, find_nginx

from ghost.database import db
from ghost.files.models import PUBLIC, StoredFile
from ghost.testing.servers import make_scratch_folder

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(find_nginx() is None, reason="needs nginx"),
]

PAGE = (Path(__file__).parents[2] / "docs/files.md").read_text(encoding="utf-8")
CONTENT = os.urandom(2**20)
IS_ROOT = os.geteuid() == 0
# All that the page leaves to the reader's own nginx.conf.
AROUND = """
daemon off;
worker_processes 1;
pid nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen 127.0.0.1:{port};
"""


def server_block(gunicorn_port: int, uploads: Path) -> str:
    """What the page shows, for this gunicorn and this folder."""
    found = re.search(r"```nginx\n# With X-Accel-Redirect\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    shown = found.group(1).replace("/srv/app/uploads/", f"{uploads}/")
    return shown.replace("127.0.0.1:8080", f"127.0.0.1:{gunicorn_port}")


@pytest.fixture
def uploads() -> Iterator[Path]:
    """A folder that nginx, which runs as another user, gets through to."""
    folder = make_scratch_folder()
    folder.chmod(0o711)
    place = folder / "uploads"
    place.mkdir()
    if IS_ROOT:
        shutil.chown(place, "root", "www-data")
    place.chmod(0o2750)
    yield place
    shutil.rmtree(folder)


@pytest.fixture
def app_config(uploads: Path) -> Mapping[str, Any]:
    return {"storage": {"url": f"file://{uploads}", "accel_redirect": "/_files/"}}


@pytest.fixture
def servers(
    app: Flask, app_settings: Mapping[str, Any], uploads: Path, tmp_path: Path
) -> Iterator[tuple[Gunicorn, Nginx]]:
    with ExitStack() as stack:
        gunicorn = Gunicorn(tmp_path / "project", app_settings, COUNTS_SENDFILE)
        stack.callback(gunicorn.stop)
        user = "user www-data;\n" if IS_ROOT else ""
        block = server_block(gunicorn.port, uploads)
        nginx = Nginx(tmp_path / "nginx", f"{user}{AROUND}{block}\n}}\n}}\n")
        stack.callback(nginx.stop)
        yield gunicorn, nginx


@pytest.fixture
def file(make_file: FileFactory) -> StoredFile:
    return make_file(CONTENT, visibility=PUBLIC, filename="größe.txt")


def url_of(file: StoredFile) -> str:
    return f"/api/v1/files/{file.id}/content"


def test_nginx_sends_the_bytes_and_we_say_what_they_are(
    servers: tuple[Gunicorn, Nginx], file: StoredFile
) -> None:
    gunicorn, nginx = servers
    ours = gunicorn.get(url_of(file))

    answer = nginx.get(url_of(file))

    assert ours.headers["X-Accel-Redirect"] == f"/_files/{file.key}"
    assert ours.body == b""
    assert answer.status == 200
    assert answer.body == CONTENT
    assert "X-Accel-Redirect" not in answer.headers
    for name in (
        "Content-Type", "Content-Disposition", "Cache-Control", "ETag", "Last-Modified",
        "Content-Security-Policy", "Cross-Origin-Resource-Policy", "X-Content-Type-Options",
        "X-Frame-Options", "Referrer-Policy",
    ):  # fmt: skip
        assert answer.headers.get_all(name) == ours.headers.get_all(name), name
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["X-Request-ID"]
    assert gunicorn.sent_by_the_kernel() == 0


def test_nginx_sends_parts(servers: tuple[Gunicorn, Nginx], file: StoredFile) -> None:
    gunicorn, nginx = servers

    part = nginx.get(url_of(file), Range="bytes=1000-1999")
    several = nginx.get(url_of(file), Range="bytes=0-9,20-29")

    assert part.status == 206
    assert part.body == CONTENT[1000:2000]
    assert part.headers["Content-Range"] == f"bytes 1000-1999/{len(CONTENT)}"
    assert several.headers["Content-Type"].startswith("multipart/byteranges")
    assert nginx.get(url_of(file), Range="bytes=99999999-").status == 416
    assert gunicorn.sent_by_the_kernel() == 0


def test_head_sends_nothing(servers: tuple[Gunicorn, Nginx], file: StoredFile) -> None:
    answer = servers[1].get(url_of(file), "HEAD")

    assert answer.status == 200
    assert answer.body == b""
    assert answer.headers["Content-Length"] == str(len(CONTENT))


def test_conditions_are_judged_as_without_nginx(
    servers: tuple[Gunicorn, Nginx], file: StoredFile
) -> None:
    _, nginx = servers
    first = nginx.get(url_of(file))
    etag, modified = first.headers["ETag"], first.headers["Last-Modified"]
    cases: list[tuple[dict[str, str], int]] = [
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Match": etag}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Unmodified-Since": modified}, 200),
        ({"Range": "bytes=0-9", "If-Range": etag}, 206),
        ({"Range": "bytes=0-9", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=0-9", "If-Range": modified}, 206),
    ]

    for headers, status in cases:
        answer = nginx.get(url_of(file), **headers)

        assert answer.status == status, headers
        if status in (200, 206):
            assert answer.body == (CONTENT if status == 200 else CONTENT[:10])


def test_nobody_reaches_a_file_but_through_us(
    app: Flask, servers: tuple[Gunicorn, Nginx], file: StoredFile
) -> None:
    _, nginx = servers
    with app.app_context():
        db.session.get_one(StoredFile, file.id).visibility = "private"
        db.session.commit()

    assert nginx.get(url_of(file)).status == 404
    assert nginx.get(f"/_files/{file.key}").status == 404


def test_a_large_upload_gets_through(servers: tuple[Gunicorn, Nginx], file: StoredFile) -> None:
    """nginx's own limit is 1 MiB; what is refused here is the login."""
    answer = servers[1].get("/api/v1/files", "POST", Content_Length="0")

    assert answer.status == 401

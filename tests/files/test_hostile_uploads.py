"""Hostile files through the API: each ends in a clear 4xx, in time, and leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hostile import FORMATS, mutations, refused
from stored_files import Upload

from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

SECONDS = 1.0
Keys = Callable[[], list[str]]


@pytest.fixture
def ada(client: Client, make_user: UserFactory, upload: Upload) -> Client:
    """Somebody whose first upload has loaded what the first one loads."""
    ada = client.as_user(make_user())
    upload(ada, b"\x89PNG\r\n\x1a\n", "a.png")
    return ada


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    response = act()
    return response, time.process_time() - started


@pytest.mark.slow
def test_hostile_pictures_are_refused_in_time(
    ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    stored = 0
    for name, content in refused():
        response, seconds = timed(lambda content=content: upload(ada, content, "picture"))

        assert seconds < SECONDS, name
        if response.status_code == 201:  # of another type, which is allowed: a PDF, an MP4
            assert response.json["data"]["category"] != "image", name
            stored += 1
            continue
        assert response.status_code in (413, 415, 422), (name, response.text)
        assert response.json["message"], name
    assert len(stored_keys()) == stored < 10


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_mutated_pictures_are_stored_or_refused_and_never_a_500(
    ada: Client, upload: Upload, name: str
) -> None:
    for content in mutations(name, 15):
        response, seconds = timed(lambda content=content: upload(ada, content, "picture"))

        assert response.status_code in (201, 413, 415), response.text
        assert seconds < SECONDS


@pytest.mark.parametrize(
    ("filename", "label"),
    [
        ("../../../etc/cron.d/evil.txt", "evil.txt"),
        ("..\\..\\evil.txt", "evil.txt"),
        ("evil\0.txt", "evil.txt"),
        ("evil\u202etxt.txt", "eviltxt.txt"),
        ("x" * 300 + ".txt", "x" * 251 + ".txt"),
        ("...", "file"),
        ("café.txt", "café.txt"),
    ],
    ids=ascii,
)
def test_a_hostile_name_becomes_a_label_and_no_path(
    ada: Client, upload: Upload, stored_keys: Keys, filename: str, label: str
) -> None:
    response = upload(ada, b"Hello\n", filename)

    assert response.status_code == 201, response.text
    assert response.json["data"]["filename"] == label
    (key,) = stored_keys()
    assert key.endswith(response.json["data"]["id"])


def test_a_long_name_is_cut(ada: Client, upload: Upload) -> None:
    response = upload(ada, b"Hello\n", "x" * 3000 + ".txt")

    assert response.status_code == 201
    assert response.json["data"]["filename"] == "x" * 251 + ".txt"


@pytest.mark.parametrize("length", [10_000, 100_000])
def test_an_endless_name_is_refused(
    ada: Client, upload: Upload, stored_keys: Keys, length: int
) -> None:
    response = upload(ada, b"Hello\n", "x" * length + ".txt")

    assert response.status_code == 400
    assert response.json["error"]["code"] == "bad_request"
    assert stored_keys() == []


@pytest.mark.parametrize(
    ("content", "filename", "content_type"),
    [
        (b"<svg onload=alert(1)>", "a.svg", "image/svg+xml"),
        (b"<svg onload=alert(1)>", "a.png", "image/png"),
        (b"<script>alert(1)</script>", "a.txt", "text/plain"),
        ("<script>".encode("utf-16"), "a.txt", "text/plain"),
        (b"\xef\xbb\xbf \n<!-- x --><html>", "a.txt", "text/plain"),
        (b"GIF89a/*<script>*/=alert(1)", "a.gif", "image/gif"),
        (b"%PDF-1.4 <html><script>", "a.pdf", "application/pdf"),
        (b"MZ\x90\0\x03" + b"\0" * 100, "a.exe", "application/octet-stream"),
        (b"MZ\x90\0\x03" + b"\0" * 100, "a.txt", "text/plain"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 100, "a", None),
        (b"#!/bin/sh\nrm -rf /", "a.txt", None),
        (b"<?php system('id');", "a.php.jpg", "image/jpeg"),
        (b"alert(1)", "a.js", "text/javascript"),
        (b"PK\x03\x04" + b"\0" * 30, "a.docx", None),
    ],
)
def test_what_pretends_to_be_something_else_is_refused(
    ada: Client, upload: Upload, stored_keys: Keys, content: bytes, filename: str,
    content_type: str | None,
) -> None:  # fmt: skip
    response, seconds = timed(lambda: upload(ada, content, filename, content_type))

    assert response.status_code == 415, response.text
    assert seconds < SECONDS
    assert stored_keys() == []

"""Downloads that a bucket sends itself."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest
from object_stores import Moto
from stored_files import FileFactory

from ghost.files.models import PUBLIC
from ghost.testing.clients import Client

pytestmark = pytest.mark.integration


@pytest.fixture
def app_config(moto: Moto) -> Mapping[str, Any]:
    return {"storage": {"url": moto.storage_url(), "signed_redirect": True}}


def test_a_download_is_redirected_to_the_bucket_which_says_what_we_would(
    client: Client, make_file: FileFactory
) -> None:
    file = make_file(visibility=PUBLIC, filename="Größe 100%.txt")

    response = client.get(f"/api/v1/files/{file.id}/content?download=1")

    assert response.status_code == 302
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    with urllib.request.urlopen(response.headers["Location"]) as answer:
        assert answer.read() == b"0123456789"
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["Cache-Control"] == "public, max-age=300"
        assert answer.headers["Content-Disposition"] == (
            "attachment; filename=\"Gro_e 100_.txt\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%20100%25.txt"
        )


def test_head_and_what_is_known_already_are_not_redirected(
    client: Client, make_file: FileFactory
) -> None:
    file = make_file(visibility=PUBLIC)
    url = f"/api/v1/files/{file.id}/content"

    assert client.head(url).headers["Content-Length"] == "10"
    assert client.get(url, headers={"If-None-Match": f'"{file.sha256}"'}).status_code == 304


def test_rights_come_before_a_redirect(client: Client, make_file: FileFactory) -> None:
    assert client.get(f"/api/v1/files/{make_file().id}/content").status_code == 404

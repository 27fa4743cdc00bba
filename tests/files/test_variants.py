"""Smaller copies of pictures over HTTP, from a disk and from a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import pytest
from photographs import photo
from PIL import Image
from stored_files import FileFactory
from werkzeug.test import TestResponse

from ghost.files.models import PUBLIC, StoredFile
from ghost.testing.clients import Client

pytestmark = pytest.mark.integration

WEBP = {"Accept": "image/avif,image/webp,*/*;q=0.8"}


@pytest.fixture(params=["disk", "s3"])
def app_config(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    if request.param == "disk":
        return {}
    return {"storage": {"url": request.getfixturevalue("moto").storage_url()}}


@pytest.fixture
def stored_photo(make_file: FileFactory) -> StoredFile:
    return make_photo(make_file)


def make_photo(make_file: FileFactory, **values: Any) -> StoredFile:
    described = {
        "filename": "harbour.jpg", "content_type": "image/jpeg", "category": "image",
        "visibility": PUBLIC, "width": 240, "height": 160,
    }  # fmt: skip
    return make_file(photo("JPEG"), **(described | values))


def get(
    client: Client, file: StoredFile, variant: str = "thumb", query: str = "", **headers: str
) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"/api/v1/files/{file.id}/images/{variant}{query}", headers=named)


def test_a_variant_is_made_and_served(client: Client, stored_photo: StoredFile) -> None:
    response = get(client, stored_photo, **WEBP)

    assert response.status_code == 200
    assert response.mimetype == "image/webp"
    assert Image.open(BytesIO(response.data)).size == (128, 128)
    assert response.headers["Vary"] == "Accept"

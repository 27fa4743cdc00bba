"""What is taken off pictures before anybody sees them."""

from __future__ import annotations

import hashlib
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from hostile import SMUGGLED, animation
from photographs import assert_bare, is_upright, open_picture, photo
from werkzeug.test import TestResponse

from ghost.config import current_config
from ghost.database import db_manager
from ghost.files import arrivals, image_pixels, pictures, quota, scanning, workshop
from ghost.files.storage import current_storage
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "AVIF": "avif", "HEIC": "heic"}
VARIANTS = ("thumb", "small", "medium", "large")


@pytest.fixture(params=["disk", "s3"])
def app_config(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    storage: dict[str, Any] = {"variant_types": ["image/avif", "image/webp", "image/jpeg"]}
    if request.param == "s3":
        storage["url"] = request.getfixturevalue("moto").storage_url()
    return {"storage": storage}


@pytest.fixture
def ada(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user())


def upload(client: Client, content: bytes, filename: str) -> TestResponse:
    return client.post("/api/v1/files", data={"file": (BytesIO(content), filename)})


@pytest.mark.parametrize("name", EXTENSIONS)
def test_a_photo_is_stored_upright_and_bare_and_so_are_its_variants(
    app: Flask, ada: Client, name: str
) -> None:
    content = photo(name, orientation=6)

    stored = upload(ada, content, f"harbour.{EXTENSIONS[name]}")

    assert stored.status_code == 201, stored.text
    data = stored.json["data"]
    kept = ada.get(data["url"]).data
    assert (data["width"], data["height"]) == (240, 160)
    assert data["size"] == len(kept)
    assert data["sha256"] == hashlib.sha256(kept).hexdigest()
    assert open_picture(kept).size == (240, 160)
    for variant in VARIANTS:
        for accept in ("image/avif", "image/webp", "image/jpeg"):
            made = ada.get(
                f"/api/v1/files/{data['id']}/images/{variant}", headers={"Accept": accept}
            )
            assert made.mimetype == accept
            assert is_upright(open_picture(made.data))
            assert_bare(made.data)
    assert is_upright(open_picture(kept))
    assert_bare(kept)
    with app.app_context():
        keys = [found.key for found in current_storage().list()]
        assert content not in [b"".join(current_storage().read(key)) for key in keys]


def test_of_an_upload_that_is_stripped_the_quota_counts_what_is_stored(
    app: Flask, client: Client, make_user: UserFactory
) -> None:
    ada = make_user()

    data = upload(client.as_user(ada), photo("JPEG"), "harbour.jpg").json["data"]

    with app.app_context(), db_manager.connection() as connection:
        assert quota.used_by(connection, ada.id) == data["size"] < len(photo("JPEG"))


def test_a_picture_that_came_by_a_resumable_upload_is_stripped_too(
    app: Flask, client: Client, make_user: UserFactory
) -> None:
    user, content = make_user(), photo("JPEG", orientation=6)
    ada = client.as_user(user)
    tus = {"Tus-Resumable": "1.0.0"}
    name = b64encode(b"harbour.jpg").decode()
    begun = ada.post(
        "/api/v1/files/uploads",
        headers={**tus, "Upload-Length": str(len(content)), "Upload-Metadata": f"filename {name}"},
    )
    for start, end in ((0, 1000), (1000, len(content))):
        sent = ada.patch(
            begun.headers["Location"],
            data=content[start:end],
            content_type="application/offset+octet-stream",
            headers={**tus, "Upload-Offset": str(start)},
        )
        assert sent.status_code == 204, sent.text

    (data,) = ada.get("/api/v1/files").json["data"]
    kept = ada.get(data["url"]).data
    assert is_upright(open_picture(kept))
    assert_bare(kept)
    assert data["size"] == len(kept)
    with app.app_context(), db_manager.connection() as connection:
        assert quota.used_by(connection, user.id) == len(kept)


def test_an_animation_keeps_its_frames(ada: Client) -> None:
    content = animation("GIF", 5, comment=SMUGGLED)

    data = upload(ada, content, "wave.gif").json["data"]

    kept = ada.get(data["url"]).data
    assert open_picture(kept).n_frames == 5
    assert SMUGGLED in content
    assert SMUGGLED not in kept


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])  # others refuse what is no box
def test_what_is_appended_to_a_picture_is_not_stored(ada: Client, name: str) -> None:
    content = photo(name) + b"PK\x03\x04" + SMUGGLED

    data = upload(ada, content, f"harbour.{EXTENSIONS[name]}").json["data"]

    assert SMUGGLED not in ada.get(data["url"]).data


def test_a_picture_that_is_refused_leaves_nothing(app: Flask, ada: Client) -> None:
    with app.app_context():
        before = {found.key for found in current_storage().list()}

    assert upload(ada, photo("JPEG")[:-300], "harbour.jpg").status_code == 415

    with app.app_context():
        assert {found.key for found in current_storage().list()} == before


def test_a_picture_that_keeps_its_metadata_is_looked_at_all_the_same(
    app: Flask, ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.app_context():
        settings = current_config().storage
    monkeypatch.setattr(
        arrivals,
        "current_config",
        lambda: SimpleNamespace(storage=replace(settings, strip_metadata=False)),
    )
    content = photo("JPEG")

    assert upload(ada, content[:-300], "harbour.jpg").status_code == 415
    kept = upload(ada, content, "harbour.jpg")
    assert kept.status_code == 201
    assert ada.get(kept.json["data"]["url"]).data == content


def test_no_more_pictures_are_stripped_at_once_than_there_are_places(
    ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "BENCH_SECONDS", 0.1)

    with workshop.bench(time.monotonic()), workshop.bench(time.monotonic()):
        response = upload(ada, photo("JPEG"), "harbour.jpg")

    assert response.status_code == 503
    assert upload(ada, photo("JPEG"), "harbour.jpg").status_code == 201


def test_a_want_of_memory_refuses_no_picture(ada: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_values: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(image_pixels, "_encode", fail)
        assert upload(ada, photo("JPEG"), "harbour.jpg").status_code == 503

    assert upload(ada, photo("JPEG"), "harbour.jpg").status_code == 201


def test_a_scanner_sees_a_picture_as_it_came(ada: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    content, seen = photo("JPEG"), []
    monkeypatch.setattr(scanning, "_scanners", [lambda file, _type: seen.append(file.read())])

    assert upload(ada, content, "harbour.jpg").status_code == 201

    assert seen == [content]

"""Smaller copies of pictures over HTTP, from a disk and from a bucket."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from photographs import assert_bare, open_picture, photo
from statements import counted
from stored_files import FileFactory
from werkzeug.test import TestResponse

from ghost.config import current_config
from ghost.config_storage import VariantSetting
from ghost.database import db
from ghost.files import images, making, variant_jobs, variant_rows, variants, workshop
from ghost.files.models import PRIVATE, PUBLIC, FileVariant, StoredFile
from ghost.files.storage import current_storage
from ghost.files.storage.base import StorageUnavailable
from ghost.files.variant_rows import State
from ghost.models import utcnow
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

THUMB = "thumb:128x128-cover"
WEBP = {"Accept": "image/avif,image/webp,*/*;q=0.8"}


@pytest.fixture(params=["disk", "s3"])
def app_config(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    if request.param == "disk":
        return {}
    return {"storage": {"url": request.getfixturevalue("moto").storage_url()}}


@pytest.fixture
def stored_photo(make_file: FileFactory) -> StoredFile:
    return make_photo(make_file)


def make_photo(make_file: FileFactory, content: bytes = photo("JPEG"), **values: Any) -> StoredFile:
    described = {
        "filename": "harbour.jpg", "content_type": "image/jpeg", "category": "image",
        "visibility": PUBLIC, "width": 240, "height": 160,
    }  # fmt: skip
    return make_file(content, **(described | values))


def get(
    client: Client, file: StoredFile, variant: str = "thumb", query: str = "", **headers: str
) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"/api/v1/files/{file.id}/images/{variant}{query}", headers=named)


def rows(app: Flask) -> list[FileVariant]:
    with app.app_context():
        return list(db.session.scalars(sa.select(FileVariant).order_by(FileVariant.id)))


# --- What is given --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "size"), [("thumb", (128, 128)), ("small", (240, 160)), ("large", (240, 160))]
)
def test_a_variant_is_made_and_served(
    client: Client, stored_photo: StoredFile, variant: str, size: tuple[int, int]
) -> None:
    response = get(client, stored_photo, variant, **WEBP)

    assert response.status_code == 200
    image = open_picture(response.data)
    assert image.size == size
    assert_bare(response.data)


def test_a_variant_is_made_once_and_then_kept(
    app: Flask, client: Client, stored_photo: StoredFile
) -> None:
    first, second = get(client, stored_photo), get(client, stored_photo)

    assert first.data == second.data
    assert first.headers["ETag"] == second.headers["ETag"]
    (row,) = rows(app)
    assert (row.name, row.content_type, row.size) == (THUMB, "image/jpeg", len(first.data))
    assert (row.width, row.height) == (128, 128)


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("image/avif,image/webp,*/*;q=0.8", "image/webp"),
        ("image/webp", "image/webp"),
        ("*/*", "image/jpeg"),
        (None, "image/jpeg"),
        ("image/webp;q=0", "image/jpeg"),
        ("image/png", "image/jpeg"),
    ],
)
def test_the_format_goes_by_accept_among_those_that_are_offered(
    client: Client, stored_photo: StoredFile, accept: str | None, given: str
) -> None:
    response = get(client, stored_photo, **({"Accept": accept} if accept else {}))

    assert response.mimetype == given
    assert open_picture(response.data).format == given.removeprefix("image/").upper()
    assert "Accept" in response.vary


def test_a_variant_is_served_with_all_that_keeps_it_harmless(
    client: Client, stored_photo: StoredFile
) -> None:
    headers = get(client, stored_photo).headers

    assert headers["Content-Disposition"] == 'inline; filename="harbour-thumb.jpg"'
    assert headers["Cache-Control"] == "public, max-age=300"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none';")
    assert headers["Accept-Ranges"] == "bytes"


def test_head_tells_all_and_sends_nothing(client: Client, stored_photo: StoredFile) -> None:
    response = client.head(f"/api/v1/files/{stored_photo.id}/images/thumb")

    assert response.status_code == 200
    assert response.data == b""
    assert int(response.headers["Content-Length"]) == len(get(client, stored_photo).data)


def test_ranges_and_conditions_work_as_for_contents(
    client: Client, stored_photo: StoredFile
) -> None:
    whole = get(client, stored_photo)

    part = get(client, stored_photo, Range="bytes=10-19")
    known = get(client, stored_photo, If_None_Match=whole.headers["ETag"])
    other = get(client, stored_photo, If_Match='"other"')

    assert (part.status_code, part.data) == (206, whole.data[10:20])
    assert known.status_code == 304
    assert "Accept" in known.vary
    assert other.status_code == 412


def test_each_format_has_its_own_etag(client: Client, stored_photo: StoredFile) -> None:
    jpeg, webp = get(client, stored_photo), get(client, stored_photo, **WEBP)

    assert jpeg.headers["ETag"] != webp.headers["ETag"]


def test_another_size_in_the_configuration_is_another_variant(
    app: Flask, client: Client, stored_photo: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = get(client, stored_photo)
    with app.app_context():
        variants = current_config().storage.variants
    monkeypatch.setitem(variants, "thumb", VariantSetting(64, 64, "cover", 50))

    second = get(client, stored_photo)

    assert open_picture(second.data).size == (64, 64)
    assert first.headers["ETag"] != second.headers["ETag"]
    assert [row.name for row in rows(app)] == [THUMB, "thumb:64x64-cover-q50"]


# --- Who may, and what is no picture --------------------------------------------------------------


def test_an_unknown_variant_is_not_there_and_makes_nothing(
    app: Flask, client: Client, stored_photo: StoredFile
) -> None:
    for name in ("huge", "thumb:1x1-cover", "THUMB", "%00", "a" * 300):
        assert get(client, stored_photo, name).status_code == 404
    assert rows(app) == []


def test_a_variant_of_what_is_no_picture_is_refused(
    app: Flask, client: Client, make_file: FileFactory
) -> None:
    response = get(client, make_file(visibility=PUBLIC))

    assert response.status_code == 415
    assert rows(app) == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_variant_of_a_private_picture_is_there_only_for_those_who_may_read_it(
    app: Flask, client: Client, make_file: FileFactory, make_user: UserFactory, method: str
) -> None:
    ada = make_user()
    file = make_photo(make_file, visibility=PRIVATE, owner_id=ada.id)
    url = f"/api/v1/files/{file.id}/images/thumb"

    for caller in (client, client.as_user(make_user())):
        assert caller.open(url, method=method).status_code == 404
    assert rows(app) == []
    for caller in (client.as_user(ada), client.as_user(make_user(roles=["ADMIN"]))):
        answer = caller.open(url, method=method)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "private, no-cache"


def test_a_variant_that_is_made_is_not_there_for_others_either(
    client: Client, make_file: FileFactory, make_user: UserFactory
) -> None:
    ada = make_user()
    file = make_photo(make_file, visibility=PRIVATE, owner_id=ada.id)
    etag = get(client.as_user(ada), file).headers["ETag"]

    assert get(client, file).status_code == 404
    assert get(client, file, If_None_Match=etag).status_code == 404


def test_a_signed_url_gives_its_variant_and_no_other(
    client: Client, make_file: FileFactory, make_user: UserFactory
) -> None:
    ada = make_user()
    file = make_photo(make_file, visibility=PRIVATE, owner_id=ada.id)
    signed = client.as_user(ada).post(
        f"/api/v1/files/{file.id}/signed-url", json={"expires_in": 60, "variant": "thumb"}
    )
    _, _, path = signed.json["data"]["url"].partition("/api/v1/")
    query = "?" + path.partition("?")[2]

    assert client.get(f"/api/v1/{path}").status_code == 200
    assert get(client, file, "small", query).status_code == 403
    assert client.get(f"/api/v1/files/{file.id}/content{query}").status_code == 403


def test_a_signed_url_of_the_file_is_none_of_its_variants(
    client: Client, make_file: FileFactory, make_user: UserFactory
) -> None:
    ada = make_user()
    file = make_photo(make_file, visibility=PRIVATE, owner_id=ada.id)
    signed = client.as_user(ada).post(
        f"/api/v1/files/{file.id}/signed-url", json={"expires_in": 60}
    )
    query = "?" + signed.json["data"]["url"].partition("?")[2]

    assert get(client, file, "thumb", query).status_code == 403


def test_a_variant_of_a_deleted_file_is_not_there(
    app: Flask, client: Client, stored_photo: StoredFile
) -> None:
    get(client, stored_photo)
    with app.app_context():
        db.session.get_one(StoredFile, stored_photo.id).deleted_at = utcnow()
        db.session.commit()

    assert get(client, stored_photo).status_code == 404


# --- What can go wrong ----------------------------------------------------------------------------


def test_a_damaged_picture_is_refused_and_not_tried_for_ever(
    app: Flask, client: Client, make_file: FileFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make_photo(make_file, photo("JPEG")[:-300])
    tries: list[int] = []
    monkeypatch.setattr(
        making, "make_variant", lambda *values: tries.append(1) or images.make_variant(*values)
    )

    for _ in range(3):
        assert get(client, file).status_code == 415

    assert len(tries) == 1
    with app.app_context():
        row = variant_rows.find(variant_rows.Wanted(file.id, THUMB, "image/jpeg"))
        assert variant_rows.state_of(row, utcnow()) is State.HOPELESS
        assert variant_rows.state_of(row, utcnow() + timedelta(days=2)) is State.FREE


def test_a_picture_whose_bytes_are_missing_is_not_found_and_can_be_made_later(
    app: Flask, client: Client, stored_photo: StoredFile
) -> None:
    with app.app_context():
        current_storage().delete([stored_photo.key])

    assert get(client, stored_photo).status_code == 404
    assert rows(app) == []


def test_a_storage_that_is_away_is_told_and_the_claim_is_given_back(
    app: Flask, client: Client, stored_photo: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_values: Any) -> None:
        raise StorageUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(making, "_store", fail)
        assert get(client, stored_photo).status_code == 503

    assert rows(app) == []
    assert get(client, stored_photo).status_code == 200


def test_who_waits_for_another_one_too_long_is_told_to_come_back(
    app: Flask, client: Client, stored_photo: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "WAIT_SECONDS", 0.2)
    with app.app_context():
        variant_rows.claim(variant_rows.Wanted(stored_photo.id, THUMB, "image/jpeg"), 60)

    response = get(client, stored_photo)

    assert response.status_code == 503
    assert "Retry-After" in response.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_variant_that_has_lost_its_bytes_is_made_anew(
    app: Flask, client: Client, stored_photo: StoredFile, method: str
) -> None:
    first = get(client, stored_photo)
    (lost,) = rows(app)
    with app.app_context():
        current_storage().delete([lost.key])

    again = client.open(f"/api/v1/files/{stored_photo.id}/images/thumb", method=method)

    assert again.status_code == 200
    assert get(client, stored_photo).data == first.data
    (row,) = rows(app)
    assert row.key != lost.key


def test_a_variant_and_its_file_that_have_lost_their_bytes_are_not_there(
    app: Flask, client: Client, stored_photo: StoredFile
) -> None:
    get(client, stored_photo)
    with app.app_context():
        current_storage().delete([stored_photo.key, *(row.key for row in rows(app))])

    assert get(client, stored_photo).status_code == 404
    assert rows(app) == []


def test_no_more_variants_are_made_at_once_than_there_are_places(
    app: Flask, client: Client, make_file: FileFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [make_photo(make_file) for _ in range(6)]
    lock, working, most = threading.Lock(), 0, 0

    def make(*values: Any) -> images.Picture:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.1)
        with lock:
            working -= 1
        return images.make_variant(*values)

    monkeypatch.setattr(making, "make_variant", make)
    with ThreadPoolExecutor(len(files)) as pool:
        answers = list(pool.map(lambda file: get(app.test_client(), file).status_code, files))

    assert answers == [200] * len(files)
    assert most == workshop.BENCHES


def claim_as(app: Flask, file: StoredFile, seconds: float) -> variant_rows.Claim | None:
    with app.app_context():
        return variant_rows.claim(variant_rows.Wanted(file.id, THUMB, "image/jpeg"), seconds)


@pytest.mark.parametrize(
    "seconds",
    [-1.0, 10.0, variant_jobs.CLAIM_SECONDS],
    ids=["abandoned", "claimed for long", "claimed by a worker"],
)
def test_few_wait_for_a_maker_that_may_be_dead_and_the_others_are_told_at_once(
    app: Flask,
    client: Client,
    stored_photo: StoredFile,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    monkeypatch.setattr(variants, "WAIT_SECONDS", 60)
    claim_as(app, stored_photo, seconds)

    with workshop.seat(), workshop.seat():
        began = time.monotonic()
        response = get(client, stored_photo)

    assert response.status_code == 503
    assert time.monotonic() - began < 5


def test_all_wait_for_a_maker_that_has_just_begun(
    app: Flask, client: Client, stored_photo: StoredFile
) -> None:
    claimed = claim_as(app, stored_photo, variants.CLAIM_SECONDS)
    assert claimed is not None

    with ThreadPoolExecutor(1) as pool, workshop.seat(), workshop.seat():
        waiting = pool.submit(get, app.test_client(), stored_photo)
        time.sleep(0.2)
        assert not waiting.done()
        with app.app_context():
            setting = current_config().storage.variants["thumb"]
            making.make(stored_photo.key, claimed, setting, "image/jpeg")
        assert waiting.result(10).status_code == 200


def test_a_damaged_picture_takes_no_seat(client: Client, make_file: FileFactory) -> None:
    file = make_photo(make_file, photo("JPEG")[:-300])
    get(client, file)

    with workshop.seat(), workshop.seat():
        assert get(client, file).status_code == 415


def test_no_transaction_is_open_while_pixels_are_decoded(
    app: Flask, client: Client, stored_photo: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked_out: list[int] = []

    def look(*values: Any) -> images.Picture:
        checked_out.append(db.engine.pool.checkedout())  # type: ignore[attr-defined]
        return images.make_variant(*values)

    monkeypatch.setattr(making, "make_variant", look)

    assert get(client, stored_photo).status_code == 200
    assert checked_out == [0]


def test_a_variant_that_is_there_costs_two_reads(
    app: Flask, client: Client, stored_photo: StoredFile
) -> None:
    get(client, stored_photo)

    with counted(app) as statements:
        get(client, stored_photo)

    assert len(statements) == 2
    assert all(statement.startswith("SELECT") for statement in statements)

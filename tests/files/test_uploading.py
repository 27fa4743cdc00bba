"""Uploading a file by a form: what is stored, what is refused, and what is left of it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from object_stores import Moto
from PIL import Image
from stored_files import Upload

from ghost import db
from ghost.files import file_stored, scanner
from ghost.files.models import FileUsage, StoredFile
from ghost.files.scanning import FileRejected, remove_scanner
from ghost.files.storage import current_storage
from ghost.files.storage.base import StorageUnavailable
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

FILES = "/api/v1/files"
LIMIT = 1024 * 1024
Keys = Callable[[], list[str]]


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {"storage": {"max_file_size": LIMIT, "quota_per_user": 3 * LIMIT}}


@pytest.fixture
def ada(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user())


def usage(app: Flask) -> int:
    with app.app_context():
        return db.session.scalar(sa.select(sa.func.sum(FileUsage.bytes))) or 0


def form(*parts: bytes, boundary: bytes = b"xyz", end: bytes = b"--xyz--\r\n") -> bytes:
    """A body of parts, each its headers and its content in one."""
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    named = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return f"Content-Disposition: {named}\r\n\r\n".encode() + value


def post(client: Client, body: bytes, **options: Any) -> Any:
    options.setdefault("content_type", "multipart/form-data; boundary=xyz")
    return client.post(FILES, data=body, **options)


def png(width: int = 4, height: int = 3) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(target, "PNG")
    return target.getvalue()


# --- What is stored -------------------------------------------------------------------------------


def test_an_upload_is_described(app: Flask, client: Client, make_user: UserFactory) -> None:
    user = make_user()

    response = client.as_user(user).post(
        FILES, data={"file": (io.BytesIO(b"Hello\n"), "greeting.txt")}
    )

    assert response.status_code == 201, response.text
    data = response.json["data"]
    created_at = data.pop("created_at")
    assert created_at.endswith("Z")
    assert data == {
        "id": data["id"],
        "filename": "greeting.txt",
        "content_type": "text/plain",
        "size": 6,
        "sha256": hashlib.sha256(b"Hello\n").hexdigest(),
        "category": "text",
        "visibility": "private",
        "metadata": {},
        "width": None,
        "height": None,
        "owner_id": str(user.id),
        "url": f"{FILES}/{data['id']}/content",
    }
    assert response.headers["Location"] == f"{FILES}/{data['id']}"
    assert response.headers["ETag"] == '"1"'


def test_its_bytes_lie_in_the_storage_under_year_month_and_id(
    app: Flask, ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    content = bytes(range(9, 11)) * 200_000

    data = upload(ada, content).json["data"]

    (key,) = stored_keys()
    assert key == f"{data['created_at'][:4]}/{data['created_at'][5:7]}/{data['id']}"
    with app.app_context():
        assert b"".join(current_storage().read(key)) == content


def test_a_picture_tells_its_size(ada: Client, upload: Upload) -> None:
    data = upload(ada, png(7, 5), "a.png", "image/png").json["data"]

    assert (data["width"], data["height"], data["category"]) == (7, 5, "image")


@pytest.mark.parametrize("is_first", [True, False], ids=["before the file", "behind the file"])
def test_fields_may_stand_before_the_file_or_behind_it(ada: Client, is_first: bool) -> None:
    fields = [part("visibility", b"public"), part("metadata", b'{"a": [1]}')]
    file = [part("file", b"Hello", "a.txt")]

    data = post(ada, form(*(fields + file if is_first else file + fields))).json["data"]

    assert (data["visibility"], data["metadata"]) == ("public", {"a": [1]})


def test_whoever_listens_is_told_after_the_commit(app: Flask, ada: Client, upload: Upload) -> None:
    told: list[dict[str, Any]] = []

    def listen(sender: Flask, **values: Any) -> None:
        with db.engine.connect() as connection:
            there = connection.scalar(sa.select(StoredFile.size).filter_by(id=values["file_id"]))
        told.append({"is_there": there == 6, **values})

    with file_stored.connected_to(listen):
        data = upload(ada).json["data"]
        upload(ada, b"")

    (told_of,) = told
    assert told_of["is_there"]
    assert str(told_of["file_id"]) == data["id"]
    assert told_of["size"] == 6


# --- What is refused, and leaves nothing ----------------------------------------------------------

FILE = part("file", b"Hello", "a.txt")
WRONG_FORMS: dict[str, tuple[bytes, int, str]] = {
    "no file": (form(part("visibility", b"public")), 422, "files"),
    "an empty form": (b"--xyz--\r\n", 422, "files"),
    "two files": (form(FILE, FILE), 422, "files"),
    "a file that is a field": (form(part("file", b"Hello")), 422, "files"),
    "an empty file": (form(part("file", b"", "a.txt")), 422, "files"),
    "an empty file without its line end": (
        part("file", b"", "a.txt").join((b"--xyz\r\n", b"--xyz--\r\n")), 422, "files",
    ),
    "an unknown field": (form(FILE, part("owner_id", b"x")), 422, "form"),
    "an unknown file": (form(part("picture", b"x", "a.txt")), 422, "form"),
    "a field twice": (
        form(FILE, part("visibility", b"public"), part("visibility", b"public")), 422, "form",
    ),
    "an unknown visibility": (form(part("visibility", b"secret"), FILE), 422, "form"),
    "a visibility that is no text": (form(part("visibility", b"\xff"), FILE), 422, "form"),
    "metadata that is no JSON": (form(FILE, part("metadata", b"{")), 422, "form"),
    "metadata that is no object": (form(FILE, part("metadata", b"[]")), 422, "form"),
    "metadata with NaN": (form(FILE, part("metadata", b'{"a": NaN}')), 422, "form"),
    "metadata that is too long": (
        form(FILE, part("metadata", json.dumps({"a": "b" * 5000}).encode())), 422, "form",
    ),
    "many parts": (form(*[part("visibility", b"public")] * 20), 422, "form"),
    "many headers": (form(b"A: b\r\n" * 50 + FILE), 400, ""),
    "a long header": (form(b"A: " + b"b" * 9000 + b"\r\n" + FILE), 400, ""),
    "a header without an end": (b"--xyz\r\nA: " + b"b" * 500_000, 400, ""),
    "a header that is no text": (form(FILE.replace(b"a.txt", b"\xff\xfe.txt")), 400, ""),
    "a part of another kind": (form(b"Content-Disposition: inline\r\n\r\nHello"), 400, ""),
    "a part without headers": (form(b"\r\nHello"), 400, ""),
    "no end": (form(FILE, end=b""), 400, ""),
    "an end that is cut": (form(FILE, end=b"--xy"), 400, ""),
    "bytes before the form": (b"Hello--xyz\r\n" + form(FILE), 400, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_FORMS)
def test_a_form_that_is_wrong_is_refused_and_leaves_nothing(
    app: Flask, ada: Client, stored_keys: Keys, case: str
) -> None:
    body, status, location = WRONG_FORMS[case]

    response = post(ada, body)

    assert response.status_code == status, response.text
    assert list(response.json["error"]["details"] or {}) == [location] * bool(location)
    assert stored_keys() == []
    assert usage(app) == 0


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"content_type": "application/json"}, 415),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": ""}, 415),
        ({"content_type": "multipart/mixed; boundary=xyz"}, 415),
        ({"content_type": "multipart/form-data"}, 400),
        ({"content_type": "multipart/form-data; boundary="}, 400),
        ({"headers": {"Content-Encoding": "gzip"}}, 415),
        ({"query_string": {"a": "b"}}, 422),
    ],
)  # fmt: skip
def test_what_is_no_form_is_refused(ada: Client, options: dict[str, Any], status: int) -> None:
    assert post(ada, form(FILE), **options).status_code == status


def test_a_stranger_is_refused_before_anything_is_read(client: Client, stored_keys: Keys) -> None:
    assert post(client, form(FILE)).status_code == 401
    assert stored_keys() == []


def test_a_file_may_be_as_large_as_the_limit_and_no_byte_larger(
    app: Flask, ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    assert upload(ada, b"a" * LIMIT).status_code == 201

    response = upload(ada, b"a" * (LIMIT + 1))

    assert response.status_code == 413
    assert response.json["message"] == f"A file may have {LIMIT} bytes at most."
    assert len(stored_keys()) == 1
    assert usage(app) == LIMIT


def test_a_body_that_declares_too_much_is_refused_unread(ada: Client) -> None:
    body = io.BytesIO(form(FILE))

    response = ada.post(
        FILES, input_stream=body, content_type="multipart/form-data; boundary=xyz",
        environ_overrides={"CONTENT_LENGTH": str(10 * LIMIT)},
    )  # fmt: skip

    assert response.status_code == 413


def test_a_body_that_is_shorter_than_declared_is_refused(
    app: Flask, ada: Client, stored_keys: Keys
) -> None:
    whole = form(FILE)

    response = ada.post(
        FILES, input_stream=io.BytesIO(whole), content_type="multipart/form-data; boundary=xyz",
        environ_overrides={"CONTENT_LENGTH": str(len(whole) + 10)},
    )  # fmt: skip

    assert response.status_code == 400
    assert stored_keys() == []


def test_a_type_that_is_not_allowed_is_refused(
    ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    response = upload(ada, bytes(range(256)), "a.bin")

    assert response.status_code == 415
    assert "application/octet-stream" in response.json["message"]
    assert stored_keys() == []


def test_a_storage_that_fails_is_a_503_and_leaves_nothing(
    app: Flask, ada: Client, upload: Upload, stored_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", fail)

    response = upload(ada)

    assert response.status_code == 503
    assert "Retry-After" in response.headers
    monkeypatch.undo()
    assert stored_keys() == []


def test_a_row_that_fails_takes_the_bytes_with_it(
    app: Flask, ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    @sa.event.listens_for(StoredFile, "before_insert")
    def fail(*_: Any) -> None:
        raise StorageUnavailable

    try:
        response = upload(ada)
    finally:
        sa.event.remove(StoredFile, "before_insert", fail)

    assert response.status_code == 503
    assert stored_keys() == []
    assert usage(app) == 0


def test_a_commit_that_fails_takes_the_bytes_with_it(
    app: Flask, ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    def fail(_session: Any) -> None:
        raise StorageUnavailable

    sa.event.listen(db.session.session_factory.class_, "before_commit", fail)
    try:
        response = upload(ada)
    finally:
        sa.event.remove(db.session.session_factory.class_, "before_commit", fail)

    assert response.status_code == 503
    assert stored_keys() == []
    assert usage(app) == 0


# --- Scanners -------------------------------------------------------------------------------------


def test_a_scanner_sees_every_byte_and_refuses_by_its_own_words(
    app: Flask, ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    @scanner
    def look(file: Any, content_type: str) -> None:
        assert content_type == "text/plain"
        if b"EICAR" in file.read():
            raise FileRejected("There is a virus in this file.")

    try:
        infected, clean = upload(ada, b"a" * 20_000 + b"EICAR"), upload(ada, b"a")
    finally:
        remove_scanner(look)

    assert infected.status_code == 422
    assert infected.json["message"] == "There is a virus in this file."
    assert clean.status_code == 201
    assert len(stored_keys()) == 1


def test_a_scanner_that_breaks_refuses(ada: Client, upload: Upload, stored_keys: Keys) -> None:
    @scanner
    def look(file: Any, content_type: str) -> None:
        raise StorageUnavailable("The scanner is away.")

    try:
        response = upload(ada)
    finally:
        remove_scanner(look)

    assert response.status_code == 503
    assert stored_keys() == []


# --- Quota ----------------------------------------------------------------------------------------


def test_what_has_no_room_left_is_refused_and_not_counted(
    app: Flask, ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    for _ in range(3):
        assert upload(ada, b"a" * (LIMIT - 1)).status_code == 201

    response = upload(ada, b"a" * 4)

    assert response.status_code == 413
    assert "room" in response.json["message"]
    assert upload(ada, b"a" * 3).status_code == 201
    assert usage(app) == 3 * LIMIT
    assert len(stored_keys()) == 4


def test_deleted_files_make_room_when_it_is_needed(
    app: Flask, ada: Client, upload: Upload, stored_keys: Keys
) -> None:
    first = upload(ada, b"a" * LIMIT).json["data"]
    for _ in range(2):
        upload(ada, b"a" * LIMIT)
    ada.delete(f"{FILES}/{first['id']}")
    assert usage(app) == 3 * LIMIT

    response = upload(ada, b"b" * LIMIT)

    assert response.status_code == 201
    assert usage(app) == 3 * LIMIT
    assert len(stored_keys()) == 3


def test_everybody_has_room_of_their_own(
    client: Client, make_user: UserFactory, upload: Upload
) -> None:
    ada, bob = client.as_user(make_user()), client.as_user(make_user())
    for _ in range(3):
        upload(ada, b"a" * LIMIT)

    assert upload(bob, b"a" * LIMIT).status_code == 201


# --- Object stores --------------------------------------------------------------------------------


class TestOnAnObjectStore:
    """Where bytes leave as they come, and are looked at in a copy."""

    @pytest.fixture
    def app_config(self, moto: Moto) -> Mapping[str, Any]:
        # Pictures as they came: what becomes of their metadata is told elsewhere.
        return {"storage": {"url": moto.storage_url(), "strip_metadata": False}}

    @pytest.mark.parametrize(
        ("content", "filename", "content_type"),
        [
            (b"Hello world\n", "a.txt", "text/plain"),
            (b"Hello world\n" * 600_000, "a.txt", "text/plain"),
            (png(), "a.png", "image/png"),
            (png(2000, 2000), "a.png", "image/png"),
        ],
        ids=["small", "in parts", "a picture", "a larger picture"],
    )
    def test_a_file_is_stored_whole(
        self, app: Flask, ada: Client, upload: Upload, content: bytes, filename: str,
        content_type: str,
    ) -> None:  # fmt: skip
        data = upload(ada, content, filename).json["data"]

        assert data["content_type"] == content_type
        with app.app_context():
            file = db.session.get_one(StoredFile, UUID(data["id"]))
            assert b"".join(current_storage().read(file.key)) == content

    @pytest.mark.parametrize(
        ("content", "filename"),
        [(b"", "a.txt"), (b"<html>", "a.txt"), (png()[:-30], "a.png"), (b"a" * 9_000_000, "a.pdf")],
        ids=["empty", "active", "a picture that is cut", "of another type"],
    )
    def test_what_is_refused_leaves_nothing(
        self, app: Flask, ada: Client, upload: Upload, stored_keys: Keys, content: bytes,
        filename: str, moto: Moto,
    ) -> None:  # fmt: skip
        before = stored_keys()

        assert upload(ada, content, filename).status_code in (415, 422)
        assert stored_keys() == before
        assert moto.unfinished("files/") == []

    def test_a_scanner_sees_every_byte(self, ada: Client, upload: Upload) -> None:
        seen: list[int] = []

        @scanner
        def look(file: Any, content_type: str) -> None:
            seen.append(len(file.read()))

        try:
            upload(ada, b"a" * 3_000_000)
        finally:
            remove_scanner(look)

        assert seen == [3_000_000]

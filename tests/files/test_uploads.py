"""Resumable uploads by the tus protocol, from the first request to the file."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from flask import Flask
from resumable import BYTES, TEXT, TUS, begin, send
from werkzeug.test import TestResponse

from ghost.database import db
from ghost.errors import ServiceUnavailable
from ghost.files import sweep, uploads
from ghost.files.models import FileUsage, StoredFile, Upload, UploadPiece
from ghost.files.scanning import FileRejected, remove_scanner, scanner
from ghost.files.storage import current_storage
from ghost.files.types import OPAQUE
from ghost.models import utcnow
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration


@pytest.fixture(params=["disk", "s3"])
def app_config(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    if request.param == "disk":
        return {}
    url: str = request.getfixturevalue("moto").storage_url()
    # A folder for each test, which may then look at all of it.
    return {"storage": {"url": url.replace("/files?", f"/{uuid4().hex}?")}}


@pytest.fixture
def ada(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user())


def used(app: Flask) -> int:
    """The bytes that all files and uploads take by the books."""
    with app.app_context():
        return db.session.scalar(sa.select(sa.func.sum(FileUsage.bytes))) or 0


def left_in_storage(app: Flask) -> list[str]:
    """The keys of all pieces that lie in the storage."""
    with app.app_context():
        return [found.key for found in current_storage().list("uploads/")]


def count(app: Flask, model: Any) -> int:
    with app.app_context():
        return db.session.scalar(sa.select(sa.func.count()).select_from(model)) or 0


def offset_of(client: Client, url: str) -> int:
    return int(client.head(url, headers=TUS).headers["Upload-Offset"])


def change(app: Flask, **values: Any) -> None:
    """Change the rows of all uploads."""
    with app.app_context():
        db.session.execute(sa.update(Upload).values(**values))
        db.session.commit()


def read_back(client: Client, file_id: str) -> bytes:
    return client.get(f"/api/v1/files/{file_id}/content").data


def test_an_upload_in_two_requests_becomes_a_file(app: Flask, ada: Client) -> None:
    url = begin(ada)

    first = send(ada, url, 0, TEXT[:10])
    assert (first.status_code, first.headers["Upload-Offset"]) == (204, "10")
    assert "Upload-Expires" in first.headers
    between = ada.head(url, headers=TUS)
    assert between.status_code == 200
    assert between.headers["Upload-Offset"] == "10"
    assert between.headers["Upload-Length"] == str(len(TEXT))
    assert between.headers["Cache-Control"] == "no-store"
    last = send(ada, url, 10, TEXT[10:])

    assert (last.status_code, last.headers["Upload-Offset"]) == (204, str(len(TEXT)))
    file = ada.get(f"/api/v1/files/{last.headers['Upload-File-Id']}").json["data"]
    assert file["sha256"] == hashlib.sha256(TEXT).hexdigest()
    assert file["filename"] == "hello.txt"
    assert file["content_type"] == "text/plain"
    assert ada.get(file["url"]).data == TEXT
    assert left_in_storage(app) == []
    assert used(app) == len(TEXT)
    after = ada.head(url, headers=TUS)
    assert after.headers["Upload-File-Id"] == file["id"]
    assert after.headers["Upload-Offset"] == str(len(TEXT))


# --- The last bytes -------------------------------------------------------------------------------


def test_a_refused_file_ends_its_upload_and_gives_the_room_back(app: Flask, ada: Client) -> None:
    page = b"<!DOCTYPE html><html><script>alert(1)</script></html>"
    url = begin(ada, len(page))

    response = send(ada, url, 0, page)

    assert response.status_code == 415
    assert response.json["error"]["code"] == "unsupported_media_type"
    assert response.headers["Tus-Resumable"] == "1.0.0"
    assert ada.head(url, headers=TUS).status_code == 404
    assert (used(app), left_in_storage(app), count(app, StoredFile)) == (0, [], 0)


def test_a_file_that_a_scanner_rejects_ends_its_upload(app: Flask, ada: Client) -> None:
    @scanner
    def reject(_file: Any, _type: str) -> None:
        raise FileRejected("It looks bad.")

    try:
        url = begin(ada)
        response = send(ada, url, 0, TEXT)
    finally:
        remove_scanner(reject)

    assert response.status_code == 422
    assert (used(app), left_in_storage(app), count(app, Upload)) == (0, [], 0)


def test_finishing_that_fails_for_a_moment_is_done_again_by_the_last_piece(
    app: Flask, ada: Client
) -> None:
    @scanner
    def fail(_file: Any, _type: str) -> None:
        raise ServiceUnavailable

    url = begin(ada)
    send(ada, url, 0, TEXT[:10])
    try:
        assert send(ada, url, 10, TEXT[10:]).status_code == 503
    finally:
        remove_scanner(fail)
    assert offset_of(ada, url) == 10
    assert used(app) == len(TEXT)

    response = send(ada, url, 10, TEXT[10:])

    assert response.status_code == 204
    assert read_back(ada, response.headers["Upload-File-Id"]) == TEXT
    assert (used(app), left_in_storage(app), count(app, StoredFile)) == (len(TEXT), [], 1)


def test_a_commit_that_fails_leaves_no_file_and_an_upload_to_go_on_with(
    app: Flask, ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = begin(ada)
    with monkeypatch.context() as patched:
        patched.setattr(db.session, "commit", fail_with(ServiceUnavailable))
        assert send(ada, url, 0, TEXT).status_code == 503
    assert offset_of(ada, url) == 0
    with app.app_context():
        assert [found.key for found in current_storage().list()] == left_in_storage(app)

    response = send(ada, url, 0, TEXT)

    assert response.status_code == 204
    assert (used(app), left_in_storage(app), count(app, StoredFile)) == (len(TEXT), [], 1)


def fail_with(error: type[Exception]) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_the_last_request_may_be_repeated_without_bytes_when_its_answer_was_lost(
    app: Flask, ada: Client
) -> None:
    url = begin(ada)
    first = send(ada, url, 0, TEXT)

    again = send(ada, url, len(TEXT), b"")

    assert again.status_code == 204
    assert again.headers["Upload-File-Id"] == first.headers["Upload-File-Id"]
    assert count(app, StoredFile) == 1
    for offset in (0, 10, len(TEXT)):
        assert send(ada, url, offset, TEXT).status_code == 409


def test_pieces_that_the_storage_has_lost_end_the_upload(app: Flask, ada: Client) -> None:
    url = begin(ada)
    send(ada, url, 0, TEXT[:10])
    with app.app_context():
        current_storage().delete(left_in_storage(app))

    assert send(ada, url, 10, TEXT[10:]).status_code == 410
    assert ada.head(url, headers=TUS).status_code == 404
    assert (used(app), count(app, StoredFile)) == (0, 0)


# --- A body that ends early -----------------------------------------------------------------------


class Cut(io.BytesIO):
    """A connection that breaks after some bytes.

    :param then: called once before it breaks.
    """

    def __init__(self, data: bytes, then: Callable[[], object] = lambda: None) -> None:
        super().__init__(data)
        self._then = then

    def read(self, size: int | None = -1) -> bytes:
        some = super().read(size)
        if not some:
            then, self._then = self._then, lambda: None
            then()
            raise ConnectionResetError
        return some


def send_cut(
    client: Client, url: str, offset: int, data: bytes, *, then: Any = lambda: None, **headers: str
) -> TestResponse:
    """Send some of the bytes that lack."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.patch(
        url,
        input_stream=Cut(data, then),
        content_type=BYTES,
        headers={**TUS, "Upload-Offset": str(offset), **named},
        content_length=len(TEXT) - offset,
        environ_overrides={"wsgi.input_terminated": True},
    )


def test_what_arrived_before_the_connection_broke_is_kept_to_the_byte(
    app: Flask, ada: Client
) -> None:
    url = begin(ada)

    assert send_cut(ada, url, 0, TEXT[:7]).status_code == 400
    assert offset_of(ada, url) == 7
    assert send_cut(ada, url, 7, TEXT[7:9]).status_code == 400
    assert offset_of(ada, url) == 9
    response = send(ada, url, 9, TEXT[9:])

    assert read_back(ada, response.headers["Upload-File-Id"]) == TEXT
    assert left_in_storage(app) == []


def test_of_bytes_with_a_checksum_nothing_is_kept_when_some_are_missing(
    app: Flask, ada: Client
) -> None:
    url = begin(ada)

    send_cut(ada, url, 0, TEXT[:7], Upload_Checksum=checksum("sha1", TEXT))

    assert offset_of(ada, url) == 0
    assert left_in_storage(app) == []


# --- Checksums ------------------------------------------------------------------------------------


def checksum(algorithm: str, data: bytes) -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_bytes_with_the_right_checksum_count(ada: Client, algorithm: str) -> None:
    url = begin(ada)

    first = send(ada, url, 0, TEXT[:10], Upload_Checksum=checksum(algorithm, TEXT[:10]))
    last = send(ada, url, 10, TEXT[10:], Upload_Checksum=checksum(algorithm, TEXT[10:]))

    assert (first.status_code, last.status_code) == (204, 204)
    assert read_back(ada, last.headers["Upload-File-Id"]) == TEXT


@pytest.mark.parametrize("end", [10, len(TEXT)])
def test_of_bytes_with_a_wrong_checksum_nothing_is_kept(app: Flask, ada: Client, end: int) -> None:
    url = begin(ada)

    response = send(ada, url, 0, TEXT[:end], Upload_Checksum=checksum("sha1", b"other"))

    assert response.status_code == 460
    assert response.json["error"]["code"] == "checksum_mismatch"
    assert offset_of(ada, url) == 0
    assert left_in_storage(app) == []
    assert count(app, StoredFile) == 0


@pytest.mark.parametrize("value", ["md4 AAAA", "sha1", "sha1 %%%", "", "AAAA", "sha1 AAAA,sha1 A"])
def test_a_checksum_that_is_none_is_400_or_460(ada: Client, value: str) -> None:
    url = begin(ada)

    assert send(ada, url, 0, TEXT, Upload_Checksum=value).status_code in (400, 460)
    assert offset_of(ada, url) == 0


# --- Two who write --------------------------------------------------------------------------------


def test_while_one_writes_others_wait(app: Flask, ada: Client) -> None:
    url = begin(ada)
    change(app, writer=uuid4(), writing_until=utcnow() + timedelta(seconds=30))

    response = send(ada, url, 0, TEXT)

    assert response.status_code == 423
    assert response.json["error"]["code"] == "locked"
    assert ada.head(url, headers=TUS).status_code == 200


def test_a_writer_that_died_is_replaced_when_its_lease_is_over(app: Flask, ada: Client) -> None:
    url = begin(ada)
    change(app, writer=uuid4(), writing_until=utcnow() - timedelta(seconds=1))

    assert send(ada, url, 0, TEXT).status_code == 204


def test_a_request_that_is_over_gives_its_turn_back(app: Flask, ada: Client) -> None:
    url = begin(ada)

    send(ada, url, 0, TEXT[:5])
    send_cut(ada, url, 5, TEXT[5:6])
    send(ada, url, 6, TEXT[6:8], Upload_Checksum=checksum("sha1", b"other"))

    assert send(ada, url, 6, TEXT[6:]).status_code == 204


def test_a_late_writer_changes_nothing(app: Flask, ada: Client) -> None:
    url = begin(ada)
    answers: list[TestResponse] = []

    def overtake() -> None:
        change(app, writing_until=utcnow() - timedelta(seconds=1))
        answers.append(send(ada, url, 0, TEXT[:12]))

    late = send_cut(ada, url, 0, b"other", then=overtake)

    assert [answer.status_code for answer in answers] == [204]
    assert late.status_code == 423
    assert offset_of(ada, url) == 12
    response = send(ada, url, 12, TEXT[12:])
    assert read_back(ada, response.headers["Upload-File-Id"]) == TEXT
    assert left_in_storage(app) == []


def test_of_two_who_finish_one_makes_the_file(app: Flask, ada: Client) -> None:
    url = begin(ada)
    others: Iterator[int] = iter([1])
    answers: list[TestResponse] = []

    @scanner
    def overtake(_file: Any, _type: str) -> None:
        for _other in others:
            change(app, writing_until=utcnow() - timedelta(seconds=1))
            answers.append(send(ada, url, 0, TEXT))

    try:
        response = send(ada, url, 0, TEXT)
    finally:
        remove_scanner(overtake)

    assert (answers[0].status_code, response.status_code) == (204, 423)
    assert count(app, StoredFile) == 1
    assert (used(app), left_in_storage(app)) == (len(TEXT), [])
    with app.app_context():
        assert len(list(current_storage().list())) == 1


def test_an_upload_may_be_given_up_while_it_is_written(app: Flask, ada: Client) -> None:
    url = begin(ada)

    late = send_cut(ada, url, 0, TEXT[:5], then=lambda: ada.delete(url, headers=TUS))

    assert late.status_code == 423
    assert ada.head(url, headers=TUS).status_code == 404
    assert (used(app), left_in_storage(app)) == (0, [])


# --- Giving up, and being too late ----------------------------------------------------------------


def test_an_upload_that_is_given_up_leaves_nothing(app: Flask, ada: Client) -> None:
    url = begin(ada)
    send(ada, url, 0, TEXT[:10])
    assert left_in_storage(app)

    response = ada.delete(url, headers=TUS)

    assert response.status_code == 204
    assert (used(app), left_in_storage(app)) == (0, [])
    assert (count(app, Upload), count(app, UploadPiece)) == (0, 0)
    assert ada.delete(url, headers=TUS).status_code == 404
    assert send(ada, url, 10, TEXT[10:]).status_code == 404


def test_the_file_of_a_finished_upload_outlives_it(app: Flask, ada: Client) -> None:
    url = begin(ada)
    file_id = send(ada, url, 0, TEXT).headers["Upload-File-Id"]

    assert ada.delete(url, headers=TUS).status_code == 204
    assert read_back(ada, file_id) == TEXT
    assert used(app) == len(TEXT)


def test_an_upload_that_is_not_finished_in_time_is_gone(app: Flask, ada: Client) -> None:
    url = begin(ada)
    send(ada, url, 0, TEXT[:10])
    change(app, expires_at=utcnow() - timedelta(seconds=1))

    for response in (
        ada.head(url, headers=TUS),
        ada.get(url, headers=TUS),
        send(ada, url, 10, TEXT[10:]),
        ada.delete(url, headers=TUS),
    ):
        assert response.status_code == 410


def end_expired(app: Flask) -> int:
    with app.app_context(), db.engine.connect() as connection:
        return uploads.end_expired(connection, utcnow(), 100)


def test_the_sweep_ends_what_is_too_late_and_gives_the_room_back_once(
    app: Flask, ada: Client
) -> None:
    url = begin(ada)
    send(ada, url, 0, TEXT[:10])
    assert end_expired(app) == 0
    change(app, expires_at=utcnow() - timedelta(seconds=1))

    assert (end_expired(app), end_expired(app)) == (1, 0)
    assert used(app) == 0
    assert ada.head(url, headers=TUS).status_code == 404


def test_the_sweep_leaves_an_upload_that_is_being_written(app: Flask, ada: Client) -> None:
    begin(ada)
    change(
        app,
        expires_at=utcnow() - timedelta(seconds=1),
        writer=uuid4(),
        writing_until=utcnow() + timedelta(seconds=30),
    )

    assert end_expired(app) == 0


def test_the_sweep_of_the_storage_leaves_pieces_of_unfinished_uploads_alone(
    app: Flask, ada: Client
) -> None:
    url = begin(ada)
    send(ada, url, 0, TEXT[:10])
    (kept,) = left_in_storage(app)
    with app.app_context():
        with current_storage().create(f"uploads/{uuid4()}/0-{uuid4().hex}", OPAQUE) as writer:
            writer.write(b"of an upload that is over")
            writer.commit()

        portion = sweep.sweep_portion(utcnow() + timedelta(hours=2))

    assert portion.orphans == 1
    assert left_in_storage(app) == [kept]


def test_the_sweep_of_the_storage_deletes_what_a_finished_upload_has_left(
    app: Flask, ada: Client
) -> None:
    url = begin(ada)
    send(ada, url, 0, TEXT)
    key = f"uploads/{url.rpartition('/')[2]}/0-{uuid4().hex}"
    with app.app_context():
        with current_storage().create(key, OPAQUE) as writer:
            writer.write(TEXT)
            writer.commit()

        assert sweep.sweep_portion(utcnow() + timedelta(hours=2)).orphans == 1

    assert left_in_storage(app) == []
    assert ada.head(url, headers=TUS).headers["Upload-Offset"] == str(len(TEXT))


def test_a_finished_upload_is_forgotten_in_time_and_its_file_counts_on(
    app: Flask, ada: Client
) -> None:
    url = begin(ada)
    send(ada, url, 0, TEXT)
    change(app, expires_at=utcnow() - timedelta(seconds=1))
    assert ada.head(url, headers=TUS).headers["Upload-Offset"] == str(len(TEXT))

    assert end_expired(app) == 1
    assert used(app) == len(TEXT)

"""What resumable uploads make of each request: headers, limits, and who may."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from hostile import encode, picture
from resumable import BYTES, TEXT, TUS, UPLOADS, begin, create, described, send
from werkzeug.datastructures import Headers

from ghost.database import db
from ghost.errors import BadRequest, ValidationFailed
from ghost.files.models import FileUsage, StoredFile, Upload
from ghost.files.receiving import Body
from ghost.files.storage import current_storage
from ghost.files.tus import Description, read_checksum, read_description
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

MAX_FILE_SIZE = 4096
QUOTA = 10_000
ORIGIN = "https://app.example.org"


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {
        "storage": {"max_file_size": MAX_FILE_SIZE, "quota_per_user": QUOTA, "max_uploads": 3},
        "cors": {"origins": [ORIGIN]},
    }


@pytest.fixture
def ada(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user())


@pytest.fixture
def eve(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user())


def used(app: Flask) -> int:
    with app.app_context():
        return db.session.scalar(sa.select(sa.func.sum(FileUsage.bytes))) or 0


def rows(app: Flask, model: Any) -> int:
    with app.app_context():
        return db.session.scalar(sa.select(sa.func.count()).select_from(model)) or 0


# --- The protocol ---------------------------------------------------------------------------------


def test_options_tell_what_is_spoken_to_anybody(client: Client) -> None:
    response = client.options(UPLOADS)

    assert response.status_code == 200
    assert response.headers["Tus-Resumable"] == response.headers["Tus-Version"] == "1.0.0"
    assert response.headers["Tus-Extension"] == (
        "creation,creation-with-upload,expiration,checksum,termination"
    )
    assert response.headers["Tus-Max-Size"] == str(MAX_FILE_SIZE)
    assert response.headers["Tus-Checksum-Algorithm"] == "sha1,sha256"


@pytest.mark.parametrize("version", [None, "", "0.2.2", "1.0", "1.0.0, 1.0.0", "2.0.0"])
@pytest.mark.parametrize("method", ["POST", "HEAD", "GET", "PATCH", "DELETE"])
def test_another_version_of_the_protocol_is_refused(
    ada: Client, method: str, version: str | None
) -> None:
    url = UPLOADS if method == "POST" else begin(ada)
    headers = {"Upload-Length": "5", "Upload-Offset": "0"}
    if version is not None:
        headers["Tus-Resumable"] = version

    response = ada.open(url, method=method, headers=headers)

    assert response.status_code == 412
    assert response.headers["Tus-Version"] == "1.0.0"
    assert response.headers["Tus-Resumable"] == "1.0.0"


def test_every_answer_names_the_protocol(client: Client, ada: Client) -> None:
    url = begin(ada)

    for response in (
        create(ada),
        create(client),
        create(ada, "x"),
        ada.head(url, headers=TUS),
        send(ada, url, 3, b"x"),
        send(ada, url, 0, TEXT),
        ada.get(f"{UPLOADS}/01900000-0000-7000-8000-000000000000", headers=TUS),
    ):
        assert response.headers["Tus-Resumable"] == "1.0.0"


def test_an_upload_tells_of_itself_by_get_too(ada: Client) -> None:
    url = begin(ada)
    send(ada, url, 0, TEXT[:10])

    response = ada.get(url, headers=TUS)

    assert response.headers["Upload-Offset"] == "10"
    data = response.json["data"]
    assert data.pop("expires_at") > "2026"
    assert data == {
        "id": url.rpartition("/")[2],
        "filename": "hello.txt",
        "length": len(TEXT),
        "offset": 10,
        "file_id": None,
    }


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_post_may_stand_for_another_method(ada: Client, method: str) -> None:
    url = begin(ada)
    headers = {**TUS, "X-HTTP-Method-Override": method, "Upload-Offset": "0"}
    body = {"data": TEXT, "content_type": BYTES} if method == "PATCH" else {}

    response = ada.post(url, headers=headers, **body)

    assert response.status_code == 204
    assert ada.head(url, headers=TUS).status_code == (200 if method == "PATCH" else 404)


@pytest.mark.parametrize("method", ["", "PUT", "patch", "PATCH, DELETE"])
def test_a_post_for_no_method_of_uploads_is_405(ada: Client, method: str) -> None:
    response = ada.post(begin(ada), headers={**TUS, "X-HTTP-Method-Override": method})

    assert response.status_code == 405


# --- Browsers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PATCH", "HEAD", "DELETE"])
def test_a_browser_may_send_the_headers_of_tus(ada: Client, method: str) -> None:
    url = UPLOADS if method == "POST" else begin(ada)
    wanted = {
        "tus-resumable", "upload-length", "upload-metadata", "upload-offset", "upload-checksum",
        "content-type", "authorization", "x-http-method-override",
    }  # fmt: skip

    response = ada.options(
        url,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": ", ".join(sorted(wanted)),
        },
    )

    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert method in response.headers["Access-Control-Allow-Methods"]
    allowed = response.headers["Access-Control-Allow-Headers"].lower()
    assert wanted <= {name.strip() for name in allowed.split(",")}


def test_a_browser_may_read_the_headers_of_tus(ada: Client) -> None:
    response = ada.head(begin(ada), headers={**TUS, "Origin": ORIGIN})

    exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
    assert {
        "Location", "Tus-Resumable", "Upload-Offset", "Upload-Length", "Upload-Expires",
        "Upload-File-Id",
    } <= set(exposed)  # fmt: skip


# --- Beginning ------------------------------------------------------------------------------------


def test_the_whole_length_counts_from_the_beginning(app: Flask, ada: Client) -> None:
    create(ada, 100)

    assert used(app) == 100


@pytest.mark.parametrize("length", ["", "-1", "1.5", "1e3", "0x10", "٣", "5, 6", "9" * 19, " 5 5"])
def test_a_length_that_is_none_is_422(app: Flask, ada: Client, length: str) -> None:
    response = ada.post(UPLOADS, headers=Headers([*TUS.items(), ("Upload-Length", latin(length))]))

    assert response.status_code == 422
    assert response.json["error"]["details"]["headers"]["Upload-Length"]
    assert (rows(app, Upload), used(app)) == (0, 0)


def latin(value: str) -> str:
    """Text as WSGI hands it on."""
    return value.encode().decode("latin1")


def test_a_length_that_comes_later_is_not_taken(ada: Client) -> None:
    response = ada.post(UPLOADS, headers={**TUS, "Upload-Defer-Length": "1"})

    assert response.status_code == 422


def test_an_empty_file_is_refused_at_once(ada: Client) -> None:
    assert create(ada, 0).status_code == 422


@pytest.mark.parametrize("length", [MAX_FILE_SIZE + 1, 10**17])
def test_a_file_that_is_too_large_is_refused_at_once(app: Flask, ada: Client, length: int) -> None:
    assert create(ada, length).status_code == 413
    assert used(app) == 0


def test_what_has_no_room_is_refused_at_once(app: Flask, ada: Client) -> None:
    assert create(ada, 4096).status_code == 201
    assert create(ada, 4096).status_code == 201

    assert create(ada, 4096).status_code == 413
    assert used(app) == 8192


def test_only_so_many_uploads_are_unfinished_at_a_time(
    app: Flask, ada: Client, eve: Client
) -> None:
    urls = [begin(ada) for _ in range(3)]

    refused = create(ada)
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "rate_limited")
    assert refused.headers["Retry-After"] == "60"
    assert used(app) == 3 * len(TEXT)
    assert create(eve).status_code == 201
    send(ada, urls[0], 0, TEXT)
    assert create(ada).status_code == 201
    ada.delete(urls[1], headers=TUS)
    assert create(ada).status_code == 201


def test_nobody_waits_for_a_refused_request_that_is_still_being_sent(
    ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    are_held: list[bool] = []
    monkeypatch.setattr(Body, "drain", lambda _body: are_held.append(db.session().in_transaction()))
    urls = [begin(ada) for _ in range(3)]

    assert create_with(ada, TEXT, len(TEXT)).status_code == 429
    assert send(ada, urls[0], 7, TEXT).status_code == 409

    assert are_held == [False, False]


def test_a_picture_that_has_no_room_as_it_is_stored_ends_its_upload(
    app: Flask, ada: Client
) -> None:
    data = encode(picture(400, 266), "WEBP", quality=1, method=6)  # which is stored in a better one
    url = begin(ada, len(data), Upload_Metadata=described(filename="a.webp"))
    for _ in range(2):
        begin(ada, 4096)

    response = send(ada, url, 0, data)

    assert response.status_code == 413
    assert response.json["error"]["message"].startswith("There is not enough room left")
    assert ada.head(url, headers=TUS).status_code == 404
    assert (used(app), rows(app, StoredFile)) == (8192, 0)
    with app.app_context():
        assert list(current_storage().list()) == []


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("../../etc/passwd.txt", "passwd.txt"),
        ("a\0b.txt", "ab.txt"),
        ("\u202egnp.txt", "gnp.txt"),
        ("x" * 300 + ".txt", "x" * 251 + ".txt"),
        ("", "file"),
        ("Übung 1.txt", "Übung 1.txt"),
    ],
)
def test_a_name_becomes_a_label(ada: Client, name: str, label: str) -> None:
    url = begin(ada, Upload_Metadata=described(filename=name))
    response = send(ada, url, 0, TEXT)

    file = ada.get(f"/api/v1/files/{response.headers['Upload-File-Id']}").json["data"]
    assert file["filename"] == label


def test_visibility_and_metadata_are_those_of_the_file(ada: Client) -> None:
    url = begin(
        ada,
        Upload_Metadata=described(
            filename="a.txt", visibility="public", metadata='{"album": 7}', relativePath="null"
        ),
    )
    response = send(ada, url, 0, TEXT)

    file = ada.get(f"/api/v1/files/{response.headers['Upload-File-Id']}").json["data"]
    assert (file["visibility"], file["metadata"]) == ("public", {"album": 7})


def test_an_upload_tells_the_metadata_that_it_began_with(ada: Client) -> None:
    text = described(filename="a.txt", relativePath="null") + ",is_confidential"
    url = begin(ada, Upload_Metadata=text)

    assert ada.head(url, headers=TUS).headers["Upload-Metadata"] == text


@pytest.mark.parametrize(
    "metadata",
    [
        "filename %%%",
        "filename not-base64!",
        "filename /w==",  # no UTF-8
        "filename QQ==,filename QQ==",
        " ,",
        "n\u00e4me QQ==",
        "filename\tQQ==",
        "filename QQ==,\x85name QQ==",
        described(visibility="secret"),
        described(metadata="[]"),
        described(metadata="{"),
        described(metadata='{"a": NaN}'),
        described(metadata='{"a": "' + "x" * 4096 + '"}'),
        described(metadata="[" * 100 + "]" * 100),
        described(metadata='{"a": "\\ud800"}'),
        described(metadata='{"a": "\\u0000"}'),
        described(metadata='{"\\u0000": 1}'),
        described(metadata='{"a": "' + "\u00e9" * 2048 + '"}'),
        "thumb not-base64!",
        described(filetype="text/\0plain"),
        described(filetype="x" * 128),
    ],
)
def test_metadata_that_is_none_is_422(app: Flask, ada: Client, metadata: str) -> None:
    response = create(ada, Upload_Metadata=metadata)

    assert response.status_code == 422
    assert response.json["error"]["details"]["headers"]["Upload-Metadata"]
    assert used(app) == 0


@pytest.mark.parametrize(
    ("metadata", "expected"), [('{"a": "\\u0000"}', 422), ('{"a": "\\\\u0000"}', 201)]
)
def test_text_with_a_nul_in_metadata_is_refused(ada: Client, metadata: str, expected: int) -> None:
    response = create(ada, Upload_Metadata=described(metadata=metadata))

    assert response.status_code == expected


# --- Beginning with bytes -------------------------------------------------------------------------


def create_with(client: Client, data: bytes, length: int, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(
        UPLOADS,
        data=data,
        content_type=BYTES,
        headers={
            **TUS,
            "Upload-Length": str(length),
            "Upload-Metadata": described(filename="hello.txt"),
            **named,
        },
    )


def test_the_first_bytes_may_come_with_the_beginning(ada: Client) -> None:
    response = create_with(ada, TEXT[:10], len(TEXT))

    assert response.status_code == 201
    assert response.headers["Upload-Offset"] == "10"
    assert send(ada, response.headers["Location"], 10, TEXT[10:]).status_code == 204


def test_a_whole_file_may_come_with_the_beginning(app: Flask, ada: Client) -> None:
    response = create_with(ada, TEXT, len(TEXT))

    assert response.status_code == 201
    assert response.headers["Upload-Offset"] == str(len(TEXT))
    assert response.json["data"]["file_id"] == response.headers["Upload-File-Id"]
    assert rows(app, StoredFile) == 1


@pytest.mark.parametrize(
    ("data", "length", "headers", "status"),
    [
        (TEXT, len(TEXT) - 1, {}, 413),
        (TEXT, 0, {}, 413),
        (TEXT, len(TEXT), {"Content-Type": "text/plain"}, 415),
        (TEXT, len(TEXT), {"Content-Encoding": "gzip"}, 415),
        (TEXT, len(TEXT), {"Upload-Checksum": "sha1 AAAA"}, 460),
        (b"<html><script>alert(1)</script></html>", 38, {}, 415),
    ],
)
def test_a_beginning_whose_bytes_are_refused_leaves_nothing(
    app: Flask, ada: Client, data: bytes, length: int, headers: dict[str, str], status: int
) -> None:
    response = ada.post(
        UPLOADS,
        data=data,
        headers={**TUS, "Content-Type": BYTES, "Upload-Length": str(length), **headers},
    )

    assert response.status_code == status
    assert (rows(app, Upload), rows(app, StoredFile), used(app)) == (0, 0, 0)


# --- Going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", TEXT], ids=["none", "too many"])
@pytest.mark.parametrize("offset", [0, 1, 11, 24, 25, 10**17])
def test_bytes_for_another_place_are_409(ada: Client, offset: int, data: bytes) -> None:
    url = begin(ada)
    send(ada, url, 0, TEXT[:10])

    response = send(ada, url, offset, data)

    assert response.status_code == 409
    assert ada.head(url, headers=TUS).headers["Upload-Offset"] == "10"


@pytest.mark.parametrize("offset", ["", "-1", "0, 0", "1.0", "9" * 30, "ten"])
def test_an_offset_that_is_none_is_422(ada: Client, offset: str) -> None:
    assert send(ada, begin(ada), offset, TEXT).status_code == 422


@pytest.mark.parametrize(
    "content_type", ["", "application/octet-stream", "text/plain", "application/json"]
)
def test_bytes_of_another_media_type_are_415(ada: Client, content_type: str) -> None:
    url = begin(ada)
    headers = {**TUS, "Upload-Offset": "0", "Content-Type": content_type}

    assert ada.patch(url, data=b"{}", headers=headers).status_code == 415
    assert ada.head(url, headers=TUS).headers["Upload-Offset"] == "0"


def test_more_bytes_than_lack_are_413(app: Flask, ada: Client) -> None:
    url = begin(ada)
    send(ada, url, 0, TEXT[:10])

    assert send(ada, url, 10, TEXT).status_code == 413
    assert ada.head(url, headers=TUS).headers["Upload-Offset"] == "10"
    assert send(ada, url, 10, TEXT[10:]).status_code == 204


def test_no_bytes_change_nothing(ada: Client) -> None:
    url = begin(ada)

    response = send(ada, url, 0, b"")

    assert (response.status_code, response.headers["Upload-Offset"]) == (204, "0")


def test_uploads_of_others_are_not_there(app: Flask, ada: Client, eve: Client) -> None:
    url = begin(ada)

    for response in (
        eve.head(url, headers=TUS),
        eve.get(url, headers=TUS),
        send(eve, url, 0, TEXT),
        eve.delete(url, headers=TUS),
        eve.post(url, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}),
    ):
        assert response.status_code == 404
    assert send(ada, url, 0, TEXT).status_code == 204


def test_who_is_not_logged_in_gets_401(client: Client, ada: Client) -> None:
    url = begin(ada)

    for response in (
        create(client),
        client.head(url, headers=TUS),
        send(client, url, 0, TEXT),
        client.delete(url, headers=TUS),
    ):
        assert response.status_code == 401


# --- Reading headers ------------------------------------------------------------------------------


@pytest.mark.unit
def test_a_description_may_be_missing() -> None:
    assert read_description(Headers()) == Description()


@pytest.mark.unit
def test_the_names_of_uppy_are_understood() -> None:
    text = described(name="a.txt", type="text/plain")

    found = read_description(Headers({"Upload-Metadata": text}))

    assert (found.filename, found.content_type) == ("a.txt", "text/plain")


@pytest.mark.unit
def test_keys_may_have_no_value() -> None:
    found = read_description(Headers({"Upload-Metadata": "is_confidential, filename QQ=="}))

    assert found.filename == "A"


@pytest.mark.unit
def test_values_of_other_keys_may_be_any_bytes() -> None:
    text = "filename QQ==,thumb " + base64.b64encode(b"\xff\xfe\0").decode()

    found = read_description(Headers({"Upload-Metadata": text}))

    assert (found.filename, found.text) == ("A", text)


@pytest.mark.unit
@pytest.mark.parametrize("value", ["a b c", "filename QQ== QQ==", "filename  QQ=="])
def test_what_is_no_pair_is_refused(value: str) -> None:
    with pytest.raises(ValidationFailed):
        read_description(Headers({"Upload-Metadata": value}))


@pytest.mark.unit
@pytest.mark.parametrize("value", ["md5 AAAA", "shake_128 AAAA", "sha1 not base64", "SHA1 AAAA"])
def test_a_checksum_of_another_kind_is_refused(value: str) -> None:
    with pytest.raises(BadRequest):
        read_checksum(Headers({"Upload-Checksum": value}))


@pytest.mark.unit
def test_a_checksum_is_compared_with_all_bytes() -> None:
    digest = base64.b64encode(bytes.fromhex("a9993e364706816aba3e25717850c26c9cd0d89d")).decode()
    checksum = read_checksum(Headers({"Upload-Checksum": f"sha1 {digest}"}))

    assert checksum is not None
    checksum.update(b"a")
    checksum.update(b"bc")
    checksum.verify()

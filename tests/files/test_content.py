"""Reading the bytes of files over HTTP, from a disk and from a bucket."""

from __future__ import annotations

import email.policy
import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta
from email.parser import BytesParser
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from statements import counted
from stored_files import FileFactory
from werkzeug.http import http_date
from werkzeug.test import TestResponse, create_environ, run_wsgi_app

from ghost.database import db
from ghost.files.models import PRIVATE, PUBLIC, StoredFile
from ghost.files.storage import current_storage
from ghost.models import uuid7
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

DIGITS = b"0123456789"


@pytest.fixture(params=["disk", "s3"])
def app_config(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    if request.param == "disk":
        return {}
    return {"storage": {"url": request.getfixturevalue("moto").storage_url()}}


def get(client: Client, file: StoredFile, query: str = "", **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"/api/v1/files/{file.id}/content{query}", headers=named)


@pytest.fixture
def public_file(make_file: FileFactory) -> StoredFile:
    return make_file(DIGITS, visibility=PUBLIC)


# --- Who may --------------------------------------------------------------------------------------


def test_a_public_file_needs_no_login(client: Client, public_file: StoredFile) -> None:
    response = get(client, public_file)

    assert response.status_code == 200
    assert response.data == DIGITS


def test_a_private_file_goes_to_its_owner(
    client: Client, make_file: FileFactory, make_user: UserFactory
) -> None:
    ada = make_user()
    file = make_file(owner_id=ada.id)

    assert get(client.as_user(ada), file).data == DIGITS


def test_a_private_file_goes_to_who_may_read_any(
    client: Client, make_file: FileFactory, make_user: UserFactory
) -> None:
    file = make_file()

    assert get(client.as_user(make_user(roles=["ADMIN"])), file).data == DIGITS


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Range": "bytes=0-1"}, {"If-None-Match": "*"}, {"If-Match": '"x"'}],
    ids=["plain", "range", "if-none-match", "if-match"],
)
def test_a_private_file_is_not_there_for_others(
    client: Client,
    make_file: FileFactory,
    make_user: UserFactory,
    method: str,
    headers: dict[str, str],
) -> None:
    url = f"/api/v1/files/{make_file().id}/content"

    for caller in (client, client.as_user(make_user())):
        assert caller.open(url, method=method, headers=headers).status_code == 404


def test_who_logs_in_badly_is_told_so_whether_there_is_a_file_or_not(
    client: Client, make_file: FileFactory
) -> None:
    for file_id in (make_file().id, uuid4()):
        response = client.get(
            f"/api/v1/files/{file_id}/content", headers={"Authorization": "Bearer x"}
        )
        assert response.status_code == 401


def test_a_bad_login_does_no_harm_to_a_public_file(client: Client, public_file: StoredFile) -> None:
    assert get(client, public_file, Authorization="Bearer x").status_code == 200


def test_a_deleted_file_is_not_there(app: Flask, client: Client, public_file: StoredFile) -> None:
    with app.app_context():
        found = db.session.get(StoredFile, public_file.id)
        assert found is not None
        found.deleted_at = found.created_at
        db.session.commit()

    assert get(client, public_file).status_code == 404


# --- What is said of it ---------------------------------------------------------------------------


def test_a_file_is_served_with_all_that_keeps_it_harmless(
    client: Client, public_file: StoredFile
) -> None:
    headers = get(client, public_file).headers

    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Content-Length"] == "10"
    assert headers["Content-Disposition"] == 'inline; filename="digits.txt"'
    assert headers["ETag"] == f'"{hashlib.sha256(DIGITS).hexdigest()}"'
    assert headers["Last-Modified"] == http_date(public_file.created_at)
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Cache-Control"] == "public, max-age=300"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none';")
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_a_private_file_is_kept_by_nobody_unasked(
    client: Client, make_file: FileFactory, make_user: UserFactory
) -> None:
    ada = make_user()
    headers = get(client.as_user(ada), make_file(owner_id=ada.id)).headers

    assert headers["Cache-Control"] == "private, no-cache"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "content_type", ["text/html", "image/svg+xml", "application/pdf", "application/zip"]
)
def test_what_could_run_something_is_saved_and_not_shown(
    client: Client, make_file: FileFactory, content_type: str
) -> None:
    file = make_file(content_type=content_type, visibility=PUBLIC)

    response = get(client, file)

    assert response.headers["Content-Disposition"].startswith("attachment;")
    assert response.mimetype == content_type


def test_what_could_be_shown_is_saved_where_that_is_wanted(
    client: Client, public_file: StoredFile
) -> None:
    assert (
        get(client, public_file, "?download=1").headers["Content-Disposition"]
        == 'attachment; filename="digits.txt"'
    )


def test_an_unknown_query_field_is_refused(client: Client, public_file: StoredFile) -> None:
    assert get(client, public_file, "?width=100").status_code == 422


def test_head_tells_all_and_sends_nothing(client: Client, public_file: StoredFile) -> None:
    whole = get(client, public_file)

    response = client.head(
        f"/api/v1/files/{public_file.id}/content", headers={"Range": "bytes=1-2"}
    )

    assert response.status_code == 200
    assert response.data == b""
    assert response.headers["Content-Length"] == "10"
    changing = ("X-Request-ID", "Date", "X-RateLimit-Remaining", "X-RateLimit-Reset")
    assert {k: v for k, v in response.headers.items() if k not in changing} == {
        k: v for k, v in whole.headers.items() if k not in changing
    }


# --- Parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=0-", DIGITS, "bytes 0-9/10"),
        ("bytes=5-5,100-", b"5", "bytes 5-5/10"),
    ],
)
def test_a_part_is_sent(
    client: Client, public_file: StoredFile, wanted: str, expected: bytes, content_range: str
) -> None:
    response = get(client, public_file, Range=wanted)

    assert response.status_code == 206
    assert response.data == expected
    assert response.headers["Content-Range"] == content_range
    assert response.headers["Content-Length"] == str(len(expected))


def test_several_parts_are_sent(client: Client, public_file: StoredFile) -> None:
    response = get(client, public_file, Range="bytes=0-1,-2,5-5")

    assert response.status_code == 206
    assert int(response.headers["Content-Length"]) == len(response.data)
    assert "Content-Range" not in response.headers
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    parsed = BytesParser(policy=email.policy.HTTP).parsebytes(head + response.data)
    assert parsed.get_content_type() == "multipart/byteranges"
    parts = [(part["Content-Range"], part.get_payload()) for part in parsed.iter_parts()]
    assert parts == [("bytes 0-1/10", "01"), ("bytes 8-9/10", "89"), ("bytes 5-5/10", "5")]


def test_a_part_behind_the_end_is_refused(client: Client, public_file: StoredFile) -> None:
    response = get(client, public_file, Range="bytes=10-")

    assert response.status_code == 416
    assert response.headers["Content-Range"] == "bytes */10"
    assert response.json["error"]["code"] == "range_not_satisfiable"


def test_a_range_that_makes_no_sense_is_ignored(client: Client, public_file: StoredFile) -> None:
    assert get(client, public_file, Range="bytes=0-,0-").data == DIGITS


# --- Conditions -----------------------------------------------------------------------------------


def times(file: StoredFile) -> dict[str, str]:
    return {
        "before": http_date(file.created_at - timedelta(seconds=60)),
        "same": http_date(file.created_at),
        "after": http_date(file.created_at + timedelta(seconds=60)),
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": "{etag}"}, 304),
        ({"If-None-Match": "W/{etag}"}, 304),
        ({"If-None-Match": '"other", {etag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": '"other"', "If-Modified-Since": "{after}"}, 200),
        ({"If-Modified-Since": "{same}"}, 304),
        ({"If-Modified-Since": "{after}"}, 304),
        ({"If-Modified-Since": "{before}"}, 200),
        ({"If-Modified-Since": "no date"}, 200),
        ({"If-Match": "{etag}"}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": "W/{etag}"}, 412),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": "{etag}", "If-Unmodified-Since": "{before}"}, 200),
        ({"If-Unmodified-Since": "{same}"}, 200),
        ({"If-Unmodified-Since": "{before}"}, 412),
        ({"If-Unmodified-Since": "no date"}, 200),
        ({"If-Match": '"other"', "If-None-Match": "{etag}"}, 412),
        ({"If-None-Match": "{etag}", "Range": "bytes=0-1"}, 304),
        ({"Range": "bytes=0-1", "If-Range": "{etag}"}, 206),
        ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=0-1", "If-Range": "W/{etag}"}, 200),
        ({"Range": "bytes=0-1", "If-Range": "{same}"}, 206),
        ({"Range": "bytes=0-1", "If-Range": "{before}"}, 200),
        ({"Range": "bytes=0-1", "If-Range": "{after}"}, 200),
        ({"Range": "bytes=99-", "If-Range": '"other"'}, 200),
    ],
)
def test_conditions_are_judged_by_rfc_9110(
    client: Client, public_file: StoredFile, headers: dict[str, str], status: int
) -> None:
    values = {"etag": f'"{public_file.sha256}"', **times(public_file)}
    filled = {name: value.format(**values) for name, value in headers.items()}

    response = client.get(f"/api/v1/files/{public_file.id}/content", headers=filled)

    assert response.status_code == status
    if status == 304:
        assert response.data == b""
        assert response.headers["ETag"] == values["etag"]
        assert response.headers["Cache-Control"] == "public, max-age=300"


# --- What can go wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-1"}, {"Range": "bytes=0-1,5-6"}])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_row_whose_bytes_are_missing_is_not_found(
    app: Flask, client: Client, public_file: StoredFile, method: str, headers: dict[str, str]
) -> None:
    with app.app_context():
        current_storage().delete([public_file.key])

    response = client.open(
        f"/api/v1/files/{public_file.id}/content", method=method, headers=headers
    )

    assert response.status_code == 404


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-8"}, {"Range": "bytes=0-1,8-8"}])
def test_a_file_of_another_size_than_it_should_have_is_not_served(
    app: Flask, client: Client, public_file: StoredFile, headers: dict[str, str]
) -> None:
    with app.app_context(), current_storage().create(public_file.key, "x/x") as writer:
        writer.write(DIGITS[:5])
        writer.commit()

    response = client.get(f"/api/v1/files/{public_file.id}/content", headers=headers)

    assert response.status_code == 503
    assert "Retry-After" in response.headers


def test_a_strange_name_is_no_way_into_the_headers(client: Client, make_file: FileFactory) -> None:
    file = make_file(filename='a"\r\nSet-Cookie: x=1; ü%41.txt', visibility=PUBLIC)

    headers = get(client, file).headers

    assert "Set-Cookie" not in headers
    assert not re.search(r"[\r\n]", headers["Content-Disposition"])


@pytest.mark.parametrize("whose", ["public", "one's own", "somebody else's", "nobody's"])
def test_one_query_is_made_for_the_file_and_its_caller(
    app: Flask, client: Client, make_file: FileFactory, make_user: UserFactory, whose: str
) -> None:
    """Also for what is not there: by the time, nobody tells it from what is not for them."""
    ada = make_user()
    as_ada = client.as_user(ada)
    file = make_file(
        owner_id=ada.id if whose == "one's own" else uuid7(),
        visibility=PUBLIC if whose == "public" else PRIVATE,
    )
    file_id = uuid7() if whose == "nobody's" else file.id

    with counted(app) as statements:
        answer = as_ada.get(f"/api/v1/files/{file_id}/content")

    assert answer.status_code == (200 if whose in ("public", "one's own") else 404)
    assert len(statements) == 1


def test_a_caller_whose_session_has_ended_gets_public_files_alone(
    client: Client, make_file: FileFactory, make_user: UserFactory
) -> None:
    ada = make_user()
    as_ada = client.as_user(ada)
    public, private = make_file(visibility=PUBLIC), make_file(owner_id=ada.id)
    assert as_ada.post("/api/v1/auth/logout").status_code == 200

    assert get(as_ada, public).status_code == 200
    refused = get(as_ada, private)
    assert refused.status_code == 401
    assert refused.json["error"]["code"] == "token_revoked"


def test_no_connection_to_the_database_is_held_while_the_bytes_are_sent(
    app: Flask, make_file: FileFactory
) -> None:
    file = make_file(bytes(2**20), visibility=PUBLIC)
    with app.app_context():
        pool = db.engine.pool
    before = pool.checkedout()  # type: ignore[attr-defined]
    environ = create_environ(f"/api/v1/files/{file.id}/content")

    body, status, _headers = run_wsgi_app(app, environ, buffered=False)

    assert status == "200 OK"
    assert len(next(iter(body))) > 0
    assert pool.checkedout() == before  # type: ignore[attr-defined]
    body.close()

"""Addresses that give a file without a login."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from flask import Flask
from loguru import logger
from stored_files import FileFactory

from ghost.database import db
from ghost.files.models import PUBLIC, StoredFile
from ghost.files.signatures import LinkInvalid, check_signature, sign_url
from ghost.models import utcnow
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory
from ghost.users.models import User

pytestmark = pytest.mark.integration


@pytest.fixture
def ada(make_user: UserFactory) -> User:
    return make_user()


@pytest.fixture
def file(make_file: FileFactory, ada: User) -> StoredFile:
    return make_file(owner_id=ada.id)


def sign(client: Client, file: StoredFile, **data: Any) -> dict[str, Any]:
    response = client.post(f"/api/v1/files/{file.id}/signed-url", json={"expires_in": 60} | data)
    assert response.status_code == 200, response.text
    assert response.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = response.json["data"]
    return found


def local(url: str) -> str:
    """An address without its host."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def changed(url: str, **values: str | None) -> str:
    """An address with other values in its query; None leaves one out."""
    parts = urlsplit(local(url))
    query = dict(parse_qsl(parts.query)) | values
    left = {name: value for name, value in query.items() if value is not None}
    return f"{parts.path}?{urlencode(left)}"


def test_a_signed_url_needs_no_login(client: Client, ada: User, file: StoredFile) -> None:
    link = sign(client.as_user(ada), file)

    response = client.get(local(link["url"]))

    assert response.status_code == 200
    assert response.data == b"0123456789"
    assert response.headers["Cache-Control"].startswith("private, max-age=")
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert response.headers["Content-Disposition"].startswith("inline")


def test_a_signed_url_is_whole_and_says_when_it_ends(
    app: Flask, client: Client, ada: User, file: StoredFile
) -> None:
    link = sign(client.as_user(ada), file, expires_in=3600)

    public_url = app.extensions["ghost"].config.app.public_url
    assert link["url"].startswith(f"{public_url}/api/v1/files/{file.id}/content?expires=")
    expires_at = datetime.fromisoformat(link["expires_at"])
    assert timedelta(seconds=3590) < expires_at - utcnow() <= timedelta(seconds=3600)
    assert parse_qs(urlsplit(link["url"]).query)["expires"] == [str(int(expires_at.timestamp()))]


def test_a_signed_url_is_good_for_head_and_parts(
    client: Client, ada: User, file: StoredFile
) -> None:
    url = local(sign(client.as_user(ada), file)["url"])

    assert client.head(url).status_code == 200
    assert client.get(url, headers={"Range": "bytes=2-3"}).data == b"23"


def test_what_else_the_caller_logs_in_with_is_not_looked_at(
    client: Client, ada: User, file: StoredFile, make_user: UserFactory
) -> None:
    url = local(sign(client.as_user(ada), file)["url"])

    assert client.get(url, headers={"Authorization": "Bearer x"}).status_code == 200
    assert client.as_user(make_user()).get(url).status_code == 200
    # Nor does being somebody help with a bad one.
    assert client.as_user(ada).get(changed(url, signature="x")).status_code == 403


def test_a_url_that_saves_is_another_than_one_that_shows(
    client: Client, ada: User, file: StoredFile
) -> None:
    shows = local(sign(client.as_user(ada), file)["url"])
    saves = local(sign(client.as_user(ada), file, download=True)["url"])

    assert client.get(saves).headers["Content-Disposition"].startswith("attachment")
    assert client.get(changed(saves, download=None)).status_code == 403
    assert client.get(changed(shows, download="1")).status_code == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": ""},
        {"signature": "AAAA"},
        {"signature": "ü"},
        {"expires": "99999999999"},
        {"expires": "0"},
        {"expires": ""},
        {"expires": None},
        {"expires": "-1"},
        {"expires": "abc"},
        {"expires": "1e10"},
        {"expires": "9" * 5000},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_an_altered_url_is_refused(
    client: Client, ada: User, file: StoredFile, changes: dict[str, str | None]
) -> None:
    url = sign(client.as_user(ada), file)["url"]

    response = client.get(changed(url, **changes))

    assert response.status_code == 403
    assert response.json["error"]["code"] == "link_invalid"


def test_one_bit_is_enough(client: Client, ada: User, file: StoredFile) -> None:
    url = local(sign(client.as_user(ada), file)["url"])
    signature = parse_qs(urlsplit(url).query)["signature"][0]

    for place in range(len(signature) - 1):
        other = "A" if signature[place] != "A" else "B"
        altered = signature[:place] + other + signature[place + 1 :]
        assert client.get(changed(url, signature=altered)).status_code == 403


def test_a_url_is_for_its_file_alone(
    client: Client, ada: User, file: StoredFile, make_file: FileFactory
) -> None:
    url = local(sign(client.as_user(ada), file)["url"])
    other = make_file(owner_id=ada.id)

    assert client.get(url.replace(str(file.id), str(other.id))).status_code == 403


def test_a_url_is_over_when_its_time_is(app: Flask, file: StoredFile) -> None:
    with app.app_context():
        query = dict(parse_qsl(urlsplit(sign_url(file.id, -1).url).query))
        fresh = dict(parse_qsl(urlsplit(sign_url(file.id, 60).url).query))

        with pytest.raises(LinkInvalid):
            check_signature(file.id, None, download=False, **query)  # type: ignore[arg-type]
        assert 58 <= check_signature(file.id, None, download=False, **fresh) <= 60  # type: ignore[arg-type]


def test_a_url_is_for_its_variant_alone(app: Flask, file: StoredFile) -> None:
    with app.app_context():
        link = sign_url(file.id, 60, variant="thumb")
        query: Any = dict(parse_qsl(urlsplit(link.url).query))

        assert urlsplit(link.url).path == f"/api/v1/files/{file.id}/images/thumb"
        assert check_signature(file.id, "thumb", download=False, **query)
        for other in (None, "small", "", "thumb\n"):
            with pytest.raises(LinkInvalid):
                check_signature(file.id, other, download=False, **query)


def test_a_url_of_an_image_may_be_for_a_variant(
    client: Client, ada: User, make_file: FileFactory
) -> None:
    image = make_file(owner_id=ada.id, category="image", content_type="image/png")

    link = sign(client.as_user(ada), image, variant="thumb")

    assert urlsplit(link["url"]).path == f"/api/v1/files/{image.id}/images/thumb"


def test_a_url_dies_with_its_file(app: Flask, client: Client, ada: User, file: StoredFile) -> None:
    url = local(sign(client.as_user(ada), file)["url"])
    with app.app_context():
        db.session.get_one(StoredFile, file.id).deleted_at = utcnow()
        db.session.commit()

    assert client.get(url).status_code == 404


def test_keys_of_other_secrets_sign_nothing_here(
    app: Flask, file: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.app_context():
        query: Any = dict(parse_qsl(urlsplit(sign_url(file.id, 60).url).query))
        monkeypatch.setattr("ghost.files.signatures._PURPOSE", "something-else")

        with pytest.raises(LinkInvalid):
            check_signature(file.id, None, download=False, **query)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"expires_in": 59},
        {"expires_in": 7 * 24 * 3600 + 1},
        {"expires_in": "3600"},
        {"expires_in": None},
        {"expires_in": 60, "variant": "thumb"},
        {"expires_in": 60, "variant": "no-such"},
        {"expires_in": 60, "method": "PUT"},
    ],
)
def test_a_url_that_makes_no_sense_is_not_made(
    client: Client, ada: User, file: StoredFile, data: dict[str, Any]
) -> None:
    response = client.as_user(ada).post(f"/api/v1/files/{file.id}/signed-url", json=data)

    assert response.status_code == 422


def test_only_its_owner_and_who_reads_all_files_make_a_url_for_a_file(
    client: Client, file: StoredFile, make_file: FileFactory, make_user: UserFactory
) -> None:
    path = f"/api/v1/files/{file.id}/signed-url"
    public = make_file(visibility=PUBLIC)
    bob = client.as_user(make_user())

    assert client.post(path, json={"expires_in": 60}).status_code == 401
    assert bob.post(path, json={"expires_in": 60}).status_code == 404
    assert (
        bob.post(f"/api/v1/files/{public.id}/signed-url", json={"expires_in": 60}).status_code
        == 403
    )
    assert sign(client.as_user(make_user(roles=["ADMIN"])), file)


def test_no_log_has_a_signature(client: Client, ada: User, file: StoredFile) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message} {extra}", level=0)
    url = local(sign(client.as_user(ada), file)["url"])
    signature = parse_qs(urlsplit(url).query)["signature"][0]

    client.get(url)
    client.get(changed(url, expires="1"))
    logger.remove(sink)

    written = "".join(lines)
    assert f"/api/v1/files/{file.id}/content" in written
    assert signature not in written

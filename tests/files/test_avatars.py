"""Pictures of accounts: one's own, and by administrators those of others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from flask import Flask
from hostile import encode, picture
from photographs import assert_bare, open_picture, photo
from werkzeug.test import TestResponse

from ghost.database import db
from ghost.files import avatar_views, sweep
from ghost.files.models import FileUsage, StoredFile
from ghost.files.storage import current_storage
from ghost.models import utcnow
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory
from ghost.users import services as users
from ghost.users.models import User

pytestmark = pytest.mark.integration

MINE = "/api/v1/auth/me/avatar"


@pytest.fixture(params=["disk", "s3"])
def app_config(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    storage: dict[str, Any] = {"max_avatar_size": 20_000}
    if request.param == "s3":
        storage["url"] = request.getfixturevalue("moto").storage_url()
    return {"storage": storage}


@pytest.fixture
def ada(make_user: UserFactory) -> User:
    return make_user()


def put(
    client: Client, url: str = MINE, content: bytes = photo("JPEG"), **headers: str
) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = {"file": (BytesIO(content), "me.jpg")}
    return client.put(url, data=data, headers=named, content_type="multipart/form-data")


def of(user: User) -> str:
    return f"/api/v1/users/{user.id}/avatar"


def stored(app: Flask, user: User) -> dict[UUID, bool]:
    """The files of an account by id, and whether each is deleted."""
    with app.app_context():
        found = db.session.scalars(sa.select(StoredFile).where(StoredFile.owner_id == user.id))
        return {file.id: file.is_deleted for file in found}


def keys(app: Flask) -> set[str]:
    """Of all that is stored; the bucket is shared by the tests."""
    with app.app_context():
        return {found.key for found in current_storage().list()}


def file_id_of(response: TestResponse) -> UUID:
    return UUID(response.json["data"]["avatar_url"].split("/")[4])


# --- What it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["me", "id"])
def test_an_avatar_is_a_picture_that_everybody_sees(
    app: Flask, client: Client, ada: User, path: str
) -> None:
    response = put(client.as_user(ada), MINE if path == "me" else of(ada))

    assert response.status_code == 200, response.text
    url = response.json["data"]["avatar_url"]
    assert url == f"/api/v1/files/{file_id_of(response)}/images/thumb"
    seen = client.get(url)
    assert seen.status_code == 200
    assert open_picture(seen.data).size == (128, 128)
    assert_bare(client.get(url.replace("images/thumb", "content")).data)
    assert client.as_user(ada).get("/api/v1/auth/me").json["data"]["avatar_url"] == url
    with app.app_context():
        file = db.session.get_one(StoredFile, file_id_of(response))
        assert (file.owner_id, file.visibility) == (ada.id, "public")
        assert file.details == {"purpose": "avatar"}
        assert db.session.get_one(FileUsage, ada.id).bytes == file.size


def test_a_new_avatar_replaces_the_one_before(app: Flask, client: Client, ada: User) -> None:
    me = client.as_user(ada)
    former, latter = file_id_of(put(me)), file_id_of(put(me))

    assert stored(app, ada) == {former: True, latter: False}
    assert client.get(f"/api/v1/files/{former}/images/thumb").status_code == 404


@pytest.mark.parametrize("path", ["me", "id"])
def test_an_avatar_is_deleted_with_its_file(
    app: Flask, client: Client, ada: User, path: str
) -> None:
    me = client.as_user(ada)
    file_id = file_id_of(put(me))

    for _ in range(2):  # the second time there is none
        assert me.delete(MINE if path == "me" else of(ada)).status_code == 204

    assert me.get("/api/v1/auth/me").json["data"]["avatar_url"] is None
    assert stored(app, ada) == {file_id: True}


def test_who_deletes_the_file_has_no_avatar_any_more(client: Client, ada: User) -> None:
    me = client.as_user(ada)
    file_id = file_id_of(put(me))

    assert me.delete(f"/api/v1/files/{file_id}").status_code == 204

    assert me.get("/api/v1/auth/me").json["data"]["avatar_url"] is None


def test_a_file_that_is_no_avatar_can_be_deleted_without_a_change_of_it(
    client: Client, ada: User
) -> None:
    me = client.as_user(ada)
    url = put(me).json["data"]["avatar_url"]
    other = me.post("/api/v1/files", data={"file": (BytesIO(photo("JPEG")), "other.jpg")})

    me.delete(f"/api/v1/files/{other.json['data']['id']}")

    assert me.get("/api/v1/auth/me").json["data"]["avatar_url"] == url


def test_an_account_whose_avatar_becomes_private_has_none(client: Client, ada: User) -> None:
    me = client.as_user(ada)
    first = put(me)
    url = f"/api/v1/files/{file_id_of(first)}"

    assert me.patch(url, json={"filename": "you.jpg"}).status_code == 200
    assert me.get("/api/v1/auth/me").json["data"]["avatar_url"] is not None
    assert me.patch(url, json={"visibility": "private"}).status_code == 200

    assert me.get("/api/v1/auth/me").json["data"]["avatar_url"] is None
    assert me.get(f"{url}/content").status_code == 200


@pytest.mark.parametrize("is_purged", [True, False])
def test_an_account_comes_back_with_its_avatar_or_without_a_dead_address(
    app: Flask, client: Client, ada: User, is_purged: bool
) -> None:
    url = put(client.as_user(ada)).json["data"]["avatar_url"]
    with app.app_context():
        users.delete_user(users.lock_user(ada.id))
        db.session.commit()
        if is_purged:
            sweep.purge_deleted(utcnow() + timedelta(days=3))
        users.restore_user(users.lock_user(ada.id, with_deleted=True))
        db.session.commit()

        assert db.session.get_one(User, ada.id).avatar_url == (None if is_purged else url)
    assert client.get(url).status_code == (404 if is_purged else 200)


# --- Who may --------------------------------------------------------------------------------------


def test_an_administrator_changes_avatars_of_accounts_below(
    app: Flask, client: Client, ada: User, make_user: UserFactory
) -> None:
    boss = client.as_user(make_user(roles=["ADMIN"]))

    response = put(boss, of(ada))

    assert response.status_code == 200
    assert list(stored(app, ada)) == [file_id_of(response)]
    assert boss.delete(of(ada)).status_code == 204


@pytest.mark.parametrize(
    ("actor", "target", "status"),
    [
        (["USER"], ["USER"], 403),
        (["ADMIN"], ["SUPER_ADMIN"], 403),
        (["ADMIN"], None, 404),
        (["USER"], None, 403),
        (None, ["USER"], 401),
    ],
)
def test_nobody_else_may(
    app: Flask,
    client: Client,
    make_user: UserFactory,
    actor: list[str] | None,
    target: list[str] | None,
    status: int,
) -> None:
    caller = client.as_user(make_user(roles=actor)) if actor else client
    user_id = make_user(roles=target).id if target else uuid4()
    url = f"/api/v1/users/{user_id}/avatar"

    before = keys(app)
    assert put(caller, url).status_code == status
    assert caller.delete(url).status_code == status
    assert keys(app) == before


def test_an_old_version_is_refused_and_nothing_is_stored(
    app: Flask, client: Client, ada: User
) -> None:
    me = client.as_user(ada)
    first = put(me)
    assert put(me, If_Match=first.headers["ETag"]).status_code == 200

    assert put(me, If_Match=first.headers["ETag"]).status_code == 412
    assert me.delete(MINE, headers={"If-Match": first.headers["ETag"]}).status_code == 412

    assert sorted(stored(app, ada).values()) == [False, True]


def test_nothing_is_locked_while_the_rest_of_a_refused_body_is_read(
    client: Client, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_open: list[bool] = []
    monkeypatch.setattr(
        avatar_views.Body, "drain", lambda _body: is_open.append(db.session().in_transaction())
    )

    assert put(client.as_user(ada), If_Match='"999"').status_code == 412

    assert is_open == [False]


# --- What is refused ------------------------------------------------------------------------------


def form(content: bytes, filename: str = "me.png", **fields: str) -> Callable[[], dict[str, Any]]:
    return lambda: {**fields, "file": (BytesIO(content), filename)}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (form(b"Hello\n", "me.txt"), 415),
        (form(b"%PDF-1.7\n%%EOF\n", "me.pdf"), 415),
        (form(encode(picture(), "PNG")[:-20]), 415),
        (form(encode(picture(), "PNG"), "me.jpg"), 415),
        (form(b"x" * 20_001), 413),
        (form(b"x" * 200_000), 413),
        (form(encode(picture(), "PNG"), visibility="private"), 422),
        (dict, 422),
    ],
    ids=["text", "pdf", "cut", "misnamed", "large", "larger", "field", "none"],
)
def test_what_is_no_small_picture_is_refused_and_nothing_is_left(
    app: Flask, client: Client, ada: User, data: Callable[[], dict[str, Any]], status: int
) -> None:
    me, before = client.as_user(ada), keys(app)

    response = me.put(
        MINE,
        data=data() or {"other": "x"},
        content_type="multipart/form-data",
    )

    assert response.status_code == status, response.text
    assert stored(app, ada) == {}
    assert keys(app) == before
    assert me.get("/api/v1/auth/me").json["data"]["avatar_url"] is None


def test_a_body_that_is_no_form_is_refused(client: Client, ada: User) -> None:
    response = client.as_user(ada).put(MINE, data=photo("JPEG"), content_type="image/jpeg")

    assert response.status_code == 415


def test_avatars_that_come_together_leave_one(app: Flask, client: Client, ada: User) -> None:
    clients = [client.as_user(ada) for _ in range(4)]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda one=one: statuses.append(put(one).status_code))
        for one in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [200] * 4
    kept = [file_id for file_id, is_deleted in stored(app, ada).items() if not is_deleted]
    url = clients[0].get("/api/v1/auth/me").json["data"]["avatar_url"]
    assert [str(file_id) for file_id in kept] == [url.split("/")[4]]

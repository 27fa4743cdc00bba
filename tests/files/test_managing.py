"""Files that are there: who sees them, who changes them, and how they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from stored_files import FileFactory, Upload

from ghost import db, uuid7
from ghost.files.models import StoredFile
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory
from ghost.users.models import User

pytestmark = pytest.mark.integration

FILES = "/api/v1/files"
USERS = "/api/v1/users"


@pytest.fixture
def ada(make_user: UserFactory) -> User:
    return make_user()


@pytest.fixture
def as_ada(client: Client, ada: User) -> Client:
    return client.as_user(ada)


@pytest.fixture
def as_bob(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user())


@pytest.fixture
def as_admin(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user(roles=["ADMIN"]))


def names(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [file["filename"] for file in response.json["data"]]


# --- Who sees what --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "patch", "delete"])
def test_a_private_file_of_somebody_else_is_as_if_it_were_not_there(
    as_bob: Client, ada: User, make_file: FileFactory, method: str
) -> None:
    file = make_file(owner_id=ada.id)
    body = {"json": {"filename": "b.txt"}} if method == "patch" else {}

    theirs = getattr(as_bob, method)(f"{FILES}/{file.id}", **body)
    nobodys = getattr(as_bob, method)(f"{FILES}/{uuid7()}", **body)

    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json["error"] == nobodys.json["error"]


def test_a_public_file_is_seen_by_all_who_are_logged_in_and_changed_by_its_owner(
    client: Client, as_ada: Client, as_bob: Client, ada: User, make_file: FileFactory
) -> None:
    path = f"{FILES}/{make_file(owner_id=ada.id, visibility='public').id}"

    assert as_bob.get(path).status_code == 200
    assert client.get(path).status_code == 401
    assert as_bob.patch(path, json={"visibility": "private"}).status_code == 403
    assert as_bob.delete(path).status_code == 403
    assert as_ada.patch(path, json={"visibility": "private"}).status_code == 200
    assert as_bob.get(path).status_code == 404


@pytest.mark.parametrize(
    ("permissions", "statuses"),
    [
        ([], (404, 404, 404)),
        (["files:read_any"], (200, 403, 403)),
        (["files:write_any"], (404, 200, 204)),
        (["files:read_any", "files:write_any"], (200, 200, 204)),
    ],
)
def test_each_call_on_others_files_needs_exactly_its_permission(
    client: Client,
    make_user: UserFactory,
    make_file: FileFactory,
    ada: User,
    permissions: list[str],
    statuses: tuple[int, ...],
) -> None:
    caller = client.as_user(make_user(permissions=permissions))
    path = f"{FILES}/{make_file(owner_id=ada.id).id}"

    answers = (
        caller.get(path), caller.patch(path, json={"metadata": {}}), caller.delete(path),
    )  # fmt: skip

    assert tuple(answer.status_code for answer in answers) == statuses


def test_only_ones_own_files_are_listed(
    as_ada: Client, as_bob: Client, as_admin: Client, ada: User, make_file: FileFactory
) -> None:
    make_file(owner_id=ada.id, filename="a.txt")
    make_file(filename="b.txt", visibility="public")

    assert names(as_ada.get(FILES)) == ["a.txt"]
    assert names(as_bob.get(FILES)) == []
    assert names(as_admin.get(FILES)) == []
    assert names(as_admin.get(f"{FILES}?all=true&sort=filename")) == ["a.txt", "b.txt"]
    assert names(as_admin.get(f"{FILES}?owner_id={ada.id}")) == ["a.txt"]
    assert names(as_ada.get(f"{FILES}?owner_id={ada.id}")) == ["a.txt"]
    assert as_bob.get(f"{FILES}?owner_id={ada.id}").status_code == 403
    assert as_bob.get(f"{FILES}?all=true").status_code == 403


# --- Listing --------------------------------------------------------------------------------------


@pytest.fixture
def three(ada: User, make_file: FileFactory) -> None:
    picture = {"category": "image", "content_type": "image/png"}
    make_file(b"1", owner_id=ada.id, filename="b.png", **picture)
    make_file(b"333", owner_id=ada.id, filename="100%.txt")
    make_file(b"22", owner_id=ada.id, filename="a.txt")


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["a.txt", "100%.txt", "b.png"]),
        ("?sort=created_at", ["b.png", "100%.txt", "a.txt"]),
        ("?sort=filename", ["100%.txt", "a.txt", "b.png"]),
        ("?sort=-filename", ["b.png", "a.txt", "100%.txt"]),
        ("?sort=size", ["b.png", "a.txt", "100%.txt"]),
        ("?sort=-size", ["100%.txt", "a.txt", "b.png"]),
        ("?sort=-content_type&per_page=2", ["a.txt", "100%.txt"]),
        ("?category=image", ["b.png"]),
        ("?content_type=text/plain", ["a.txt", "100%.txt"]),
        ("?search=PNG", ["b.png"]),
        ("?search=0%25", ["100%.txt"]),
        ("?search=_", []),
        ("?per_page=1&page=2", ["100%.txt"]),
    ],
)
def test_a_list_is_filtered_searched_and_sorted(
    as_ada: Client, query: str, expected: list[str]
) -> None:
    assert names(as_ada.get(FILES + query)) == expected


@pytest.mark.parametrize(
    "query",
    ["sort=key", "category=secret", "per_page=101", "page=0", "owner_id=x", "all=yes", "key=a"],
)
def test_what_a_list_does_not_know_is_refused(as_ada: Client, query: str) -> None:
    assert as_ada.get(f"{FILES}?{query}").status_code == 422


# --- Changing -------------------------------------------------------------------------------------


def test_a_change_is_answered_and_kept(as_ada: Client, upload: Upload) -> None:
    path = f"{FILES}/{upload(as_ada, filename='a.txt').json['data']['id']}"
    changes = {"filename": "b.txt", "visibility": "public", "metadata": {"a": [None, "é"]}}

    response = as_ada.patch(path, json=changes)

    assert response.status_code == 200
    assert response.json["data"].items() >= changes.items()
    assert response.headers["ETag"] == '"2"'
    assert as_ada.get(path).json["data"] == response.json["data"]


def test_what_is_left_out_stays(as_ada: Client, upload: Upload) -> None:
    before = upload(as_ada, visibility="public", metadata='{"a": 1}').json["data"]

    after = as_ada.patch(f"{FILES}/{before['id']}", json={"filename": "b.txt"}).json["data"]

    assert after == before | {"filename": "b.txt"}


def test_a_new_name_is_cleaned_as_an_uploads(as_ada: Client, upload: Upload) -> None:
    path = f"{FILES}/{upload(as_ada).json['data']['id']}"

    response = as_ada.patch(path, json={"filename": "../\u202ecafe\u0301.txt"})

    assert response.json["data"]["filename"] == "caf\u00e9.txt"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"filename": "a.png"}, "filename"),
        ({"filename": "a.html"}, "filename"),
        ({"filename": ""}, "filename"),
        ({"filename": " "}, "filename"),
        ({"filename": "a\0.txt"}, "filename"),
        ({"filename": "x" * 300}, "filename"),
        ({"filename": None}, "filename"),
        ({"filename": 5}, "filename"),
        ({"visibility": "secret"}, "visibility"),
        ({"metadata": []}, "metadata"),
        ({"metadata": None}, "metadata"),
        ({"metadata": {"a": "é" * 2100}}, "metadata"),
        ({"metadata": {"a": "b\0"}}, "metadata"),
        ({"size": 5}, "size"),
        ({"owner_id": str(uuid7())}, "owner_id"),
        ({"content_type": "text/html"}, "content_type"),
    ],
)
def test_a_change_that_is_wrong_is_refused(
    as_ada: Client, upload: Upload, body: Mapping[str, Any], field: str
) -> None:
    path = f"{FILES}/{upload(as_ada).json['data']['id']}"

    response = as_ada.patch(path, json=body)

    assert response.status_code == 422, response.text
    assert list(response.json["error"]["details"]["json"]) == [field]


def test_a_change_of_another_version_is_refused(as_ada: Client, upload: Upload) -> None:
    path = f"{FILES}/{upload(as_ada).json['data']['id']}"
    as_ada.patch(path, json={"filename": "b.txt"})

    stale = {"If-Match": '"1"'}

    assert as_ada.patch(path, json={"filename": "c.txt"}, headers=stale).status_code == 412
    assert as_ada.delete(path, headers=stale).status_code == 412
    assert as_ada.get(path, headers={"If-None-Match": '"2"'}).status_code == 304
    assert as_ada.delete(path, headers={"If-Match": '"2"'}).status_code == 204


def test_head_answers_as_get_without_a_body(as_ada: Client, upload: Upload) -> None:
    path = f"{FILES}/{upload(as_ada).json['data']['id']}"

    response = as_ada.head(path)

    assert (response.status_code, response.data) == (200, b"")
    assert response.headers["ETag"] == '"1"'
    assert as_ada.head(FILES).status_code == 200


# --- Deleting -------------------------------------------------------------------------------------


def test_a_deleted_file_is_gone_at_once(as_ada: Client, as_admin: Client, upload: Upload) -> None:
    path = f"{FILES}/{upload(as_ada).json['data']['id']}"

    assert as_ada.delete(path).status_code == 204
    assert as_ada.get(path).status_code == 404
    assert as_ada.delete(path).status_code == 404
    assert as_ada.patch(path, json={"filename": "b.txt"}).status_code == 404
    assert as_admin.get(path).status_code == 404
    assert names(as_admin.get(f"{FILES}?all=true")) == []


def test_the_files_of_an_account_go_with_it_and_come_back_with_it(
    app: Flask, client: Client, make_user: UserFactory, ada: User, make_file: FileFactory
) -> None:
    boss = client.as_user(make_user(roles=["SUPER_ADMIN"]))
    kept, gone_before = make_file(owner_id=ada.id), make_file(owner_id=ada.id)
    others = make_file()
    boss.delete(f"{FILES}/{gone_before.id}")

    def seen() -> set[UUID]:
        with app.app_context():
            present = sa.select(StoredFile.id).where(StoredFile.deleted_at.is_(None))
            return set(db.session.scalars(present))

    assert boss.delete(f"{USERS}/{ada.id}").status_code == 204
    assert seen() == {others.id}
    assert boss.post(f"{USERS}/{ada.id}/restore").status_code == 200
    assert seen() == {others.id, kept.id}

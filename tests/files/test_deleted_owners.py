"""An account is deleted while a file of it comes in: the file goes with it, or does not come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from resumable import TEXT, begin, create, send
from stored_files import Upload

from ghost import db
from ghost import store_file as store
from ghost.files import tus, uploads
from ghost.files.models import FileUsage, StoredFile
from ghost.files.models import Upload as Resumable
from ghost.files.owners import OwnerDeleted
from ghost.files.scanning import remove_scanner, scanner
from ghost.files.upload_turns import Locked
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory
from ghost.users import services as users
from ghost.users.models import User

pytestmark = pytest.mark.integration

Keys = Callable[[], list[str]]
# Long enough for the other side to be where it waits.
A_MOMENT = 0.5


@pytest.fixture
def ada(make_user: UserFactory) -> User:
    return make_user()


@pytest.fixture
def beside(app: Flask) -> Iterator[Callable[..., Future[Any]]]:
    """Do something in a thread of its own, in a context of its own."""
    with ThreadPoolExecutor(1) as pool:

        def run(act: Callable[..., Any], *values: Any) -> Future[Any]:
            def in_context() -> Any:
                with app.app_context():
                    return act(*values)

            return pool.submit(in_context)

        yield run


@pytest.fixture
def deletes_ada(app: Flask, ada: User) -> Iterator[None]:
    """Delete the account when all bytes of a file are there, and its row is not."""

    @scanner
    def delete(_file: BinaryIO, _content_type: str) -> None:
        with app.app_context():
            delete_account(ada.id)

    yield
    remove_scanner(delete)


def delete_account(user_id: UUID) -> None:
    users.delete_user(users.lock_user(user_id))
    db.session.commit()


def store_text(owner_id: UUID) -> UUID:
    file = store([b"Hello"], owner_id=owner_id, filename="a.txt")
    db.session.commit()
    return file.id


def used(app: Flask) -> int:
    with app.app_context():
        return db.session.scalar(sa.select(sa.func.sum(FileUsage.bytes))) or 0


def test_a_deletion_waits_for_a_file_that_is_stored_and_takes_it_along(
    app: Flask, ada: User, beside: Callable[..., Future[Any]]
) -> None:
    with app.app_context():
        file = store([b"Hello"], owner_id=ada.id, filename="a.txt")
        deletion = beside(delete_account, ada.id)
        with pytest.raises(TimeoutError):
            deletion.result(A_MOMENT)
        db.session.commit()
        deletion.result(10)

        db.session.expire_all()
        assert db.session.get_one(StoredFile, file.id).deleted_at is not None


def test_a_file_waits_for_a_deletion_and_is_refused(
    app: Flask, ada: User, beside: Callable[..., Future[Any]], stored_keys: Keys
) -> None:
    with app.app_context():
        users.delete_user(users.lock_user(ada.id))
        storing = beside(store_text, ada.id)
        with pytest.raises(TimeoutError):
            storing.result(A_MOMENT)
        db.session.commit()

        with pytest.raises(OwnerDeleted):
            storing.result(10)
    assert stored_keys() == []
    assert used(app) == 0


def test_a_file_waits_for_a_deletion_that_is_rolled_back(
    app: Flask, ada: User, beside: Callable[..., Future[Any]]
) -> None:
    with app.app_context():
        users.delete_user(users.lock_user(ada.id))
        storing = beside(store_text, ada.id)
        db.session.rollback()

        assert db.session.get(StoredFile, storing.result(10)) is not None


def test_many_who_store_a_file_and_change_its_owner_do_not_wait_in_a_circle(
    app: Flask, ada: User
) -> None:
    """As avatars do."""

    def store_and_lock(_: int) -> None:
        with app.app_context():
            store([b"Hello"], owner_id=ada.id, filename="a.txt")
            users.lock_user(ada.id).full_name = "Ada"
            db.session.commit()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store_and_lock, range(12)))

    assert used(app) == 12 * 5


@pytest.mark.usefixtures("deletes_ada")
def test_a_form_of_an_account_that_is_deleted_meanwhile_is_refused(
    app: Flask, client: Client, ada: User, upload: Upload, stored_keys: Keys
) -> None:
    response = upload(client.as_user(ada))

    assert response.status_code == 401
    assert response.json["error"]["code"] == "token_revoked"
    assert stored_keys() == []
    assert used(app) == 0


@pytest.mark.usefixtures("deletes_ada")
def test_the_last_bytes_of_an_upload_of_an_account_that_is_deleted_meanwhile_are_refused(
    app: Flask, client: Client, ada: User, stored_keys: Keys
) -> None:
    as_ada = client.as_user(ada)
    url = begin(as_ada)

    assert send(as_ada, url, 0, TEXT).status_code == 401

    with app.app_context():
        assert db.session.scalars(sa.select(StoredFile)).all() == []
    assert stored_keys() == []
    assert used(app) == 0


def test_unfinished_uploads_end_with_their_account(
    app: Flask, client: Client, ada: User, make_user: UserFactory, stored_keys: Keys
) -> None:
    as_ada, as_eve = client.as_user(ada), client.as_user(make_user())
    for _ in range(2):
        send(as_ada, begin(as_ada), 0, TEXT[:10])
    finished = begin(as_ada)
    send(as_ada, finished, 0, TEXT)
    others = begin(as_eve)
    send(as_eve, others, 0, TEXT[:10])

    with app.app_context():
        delete_account(ada.id)

        left = db.session.scalars(sa.select(Resumable.id)).all()
        assert {str(upload_id) for upload_id in left} == {
            url.rpartition("/")[2] for url in (finished, others)
        }
    assert len(stored_keys()) == 2  # the file, and the other account's piece
    assert used(app) == 2 * len(TEXT)
    assert send(as_eve, others, 10, TEXT[10:]).status_code == 204


def test_unfinished_uploads_stay_when_the_deletion_is_rolled_back(
    app: Flask, client: Client, ada: User
) -> None:
    as_ada = client.as_user(ada)
    url = begin(as_ada)
    send(as_ada, url, 0, TEXT[:10])

    with app.app_context():
        users.delete_user(users.lock_user(ada.id))
        db.session.rollback()

    assert send(as_ada, url, 10, TEXT[10:]).status_code == 204


def test_bytes_that_come_in_while_the_account_is_deleted_do_not_count(
    app: Flask, client: Client, ada: User, stored_keys: Keys
) -> None:
    upload_id = UUID(begin(client.as_user(ada)).rpartition("/")[2])

    def bytes_around_the_deletion() -> Iterator[bytes]:
        yield TEXT[:5]
        with app.app_context():
            delete_account(ada.id)
        yield TEXT[5:10]

    with app.app_context(), pytest.raises(Locked):  # noqa: SIM117
        with uploads.writing(ada.id, upload_id, 0) as turn:
            uploads.append(turn, bytes_around_the_deletion(), None)

    assert stored_keys() == []
    assert used(app) == 0


def test_no_upload_begins_for_an_account_that_is_deleted_meanwhile(
    app: Flask, client: Client, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_ada = client.as_user(ada)
    read = tus.read_description

    def read_and_delete(headers: Any) -> Any:
        with app.app_context():
            delete_account(ada.id)
        return read(headers)

    monkeypatch.setattr(tus, "read_description", read_and_delete)

    assert create(as_ada).status_code == 401
    assert used(app) == 0

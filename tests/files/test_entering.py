"""The row of an upload, in one statement where the database can: no step of it is seen alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from statements import counted
from stored_files import Upload

from ghost import db
from ghost.database import PAUSE_AFTER_FAILURE_SECONDS
from ghost.files import quota, services
from ghost.files.arrivals import receive
from ghost.files.models import StoredFile
from ghost.files.scanning import remove_scanner, scanner
from ghost.files.signals import file_stored
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory
from ghost.testing.servers import PostgreSQL
from ghost.users import services as users
from ghost.users.models import User

pytestmark = pytest.mark.integration

Keys = Callable[[], list[str]]
# Long enough for the other side to be where it waits.
A_MOMENT = 0.5


@pytest.fixture
def ada(client: Client, make_user: UserFactory, upload: Upload) -> User:
    """Somebody who has a file already: five bytes."""
    user = make_user()
    assert upload(client.as_user(user), b"First").status_code == 201
    return user


@pytest.fixture
def sending(client: Client, ada: User, upload: Upload) -> Iterator[Callable[[], Future[Any]]]:
    """Upload as Ada, beside the test."""
    as_ada = client.as_user(ada)
    with ThreadPoolExecutor(1) as pool:
        yield lambda: pool.submit(upload, as_ada)


@contextmanager
def account_locked(app: Flask, user_id: UUID) -> Iterator[User]:
    """Hold an account as whoever deletes it does."""
    with app.app_context():
        yield users.lock_user(user_id)
        db.session.rollback()


def used_by(app: Flask, user: User) -> int:
    with app.app_context():
        return quota.used_by(db.session.connection(), user.id)


@pytest.mark.only_on("postgresql")
def test_after_the_caller_one_statement_is_made(
    app: Flask, client: Client, ada: User, upload: Upload
) -> None:
    as_ada = client.as_user(ada)

    with counted(app) as statements:
        assert upload(as_ada).status_code == 201

    assert len(statements) == 2


def test_the_answer_is_the_row(app: Flask, client: Client, ada: User, upload: Upload) -> None:
    as_ada = client.as_user(ada)

    answer = upload(
        as_ada, b"Hello\n", "a.txt", visibility="public", metadata='{"a": [1, "\u00e9"]}'
    )

    assert answer.status_code == 201
    data = answer.json["data"]
    assert as_ada.get(answer.headers["Location"]).json["data"] == data
    assert data["metadata"] == {"a": [1, "\u00e9"]}
    assert (data["size"], data["visibility"], data["width"]) == (6, "public", None)
    again = as_ada.patch(
        answer.headers["Location"],
        json={"filename": "b.txt"},
        headers={"If-Match": answer.headers["ETag"]},
    )
    assert again.status_code == 200
    assert used_by(app, ada) == 5 + 6


def test_what_the_request_had_changed_before_is_committed_with_it(app: Flask, ada: User) -> None:
    """The account's own row too: the upload does not wait for itself."""
    with app.app_context():
        users.lock_user(ada.id).full_name = "Ada Lovelace"

        arrival = receive([b"Hello"], filename="a.txt")
        file_id = services.add_and_commit(arrival, owner_id=ada.id).id
        db.session.rollback()

        assert db.session.get_one(User, ada.id).full_name == "Ada Lovelace"
        assert db.session.get(StoredFile, file_id) is not None


def test_it_is_told_once_with_the_row_there(
    app: Flask, client: Client, ada: User, upload: Upload
) -> None:
    told: list[UUID] = []

    def receive(_sender: object, file_id: UUID, **_values: Any) -> None:
        assert db.session.get(StoredFile, file_id) is not None
        told.append(file_id)

    with file_stored.connected_to(receive):
        answer = upload(client.as_user(ada))

    assert [str(one) for one in told] == [answer.json["data"]["id"]]


@pytest.mark.only_on("postgresql")
def test_it_waits_for_the_deletion_of_its_account_and_is_refused(
    app: Flask, ada: User, sending: Callable[[], Future[Any]], stored_keys: Keys
) -> None:
    before = stored_keys()
    with account_locked(app, ada.id) as user:
        answer = sending()
        with pytest.raises(TimeoutError):
            answer.result(A_MOMENT)
        users.delete_user(user)
        db.session.commit()

    assert answer.result(10).status_code == 401
    assert stored_keys() == before
    assert used_by(app, ada) == 5


@pytest.mark.only_on("postgresql")
def test_it_waits_for_a_deletion_that_is_rolled_back(
    app: Flask, ada: User, sending: Callable[[], Future[Any]]
) -> None:
    with account_locked(app, ada.id) as user:
        answer = sending()
        users.delete_user(user)
        with pytest.raises(TimeoutError):
            answer.result(A_MOMENT)

    assert answer.result(10).status_code == 201
    assert used_by(app, ada) == 5 + 6


@pytest.mark.only_on("postgresql")
def test_a_wait_that_takes_too_long_leaves_nothing(
    app: Flask, ada: User, sending: Callable[[], Future[Any]], stored_keys: Keys
) -> None:
    before = stored_keys()

    with account_locked(app, ada.id):
        answer = sending().result(10)

    assert answer.status_code == 503
    assert stored_keys() == before
    assert used_by(app, ada) == 5


@pytest.mark.only_on("postgresql")
def test_the_bytes_stay_where_nobody_knows_whether_there_is_a_row(
    app: Flask, ada: User, sending: Callable[[], Future[Any]], stored_keys: Keys
) -> None:
    """The connection breaks while the statement is under way: the sweeper will look for the row."""
    before = stored_keys()

    with account_locked(app, ada.id):
        answer = sending()
        with pytest.raises(TimeoutError):
            answer.result(A_MOMENT)
        killed = db.session.scalar(
            sa.text(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
        )

    assert killed == 1
    assert answer.result(10).status_code == 503
    assert len(stored_keys()) == len(before) + 1
    assert used_by(app, ada) == 5


@pytest.mark.only_on("postgresql")
def test_without_a_database_nothing_is_left(
    app: Flask, client: Client, ada: User, upload: Upload, stored_keys: Keys, postgres: PostgreSQL
) -> None:
    """It goes away when all bytes are there."""
    before = stored_keys()
    with app.app_context():
        name = db.engine.url.database

    def let_in(is_so: bool) -> None:
        postgres.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {is_so}')

    @scanner
    def shut(_file: BinaryIO, _content_type: str) -> None:
        db.engine.dispose()
        let_in(False)

    try:
        answer = upload(client.as_user(ada))
    finally:
        remove_scanner(shut)
        let_in(True)
        time.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    assert answer.status_code == 503
    assert stored_keys() == before

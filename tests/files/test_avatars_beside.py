"""What happens to an avatar's file while its account changes: all lock the account first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from photographs import photo

from ghost.database import db
from ghost.errors import NotFound
from ghost.files import services
from ghost.files.models import StoredFile
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory
from ghost.users import services as users
from ghost.users.models import User

pytestmark = pytest.mark.integration

Beside = Callable[..., Future[Any]]
MINE = "/api/v1/auth/me/avatar"
# Long enough for the other side to be where it waits.
A_MOMENT = 0.5


@pytest.fixture
def ada(make_user: UserFactory) -> User:
    return make_user()


@pytest.fixture
def beside(app: Flask) -> Iterator[Beside]:
    """Do something in a thread of its own, in a context of its own."""
    with ThreadPoolExecutor(1) as pool:

        def run(act: Callable[..., Any], *values: Any) -> Future[Any]:
            def in_context() -> Any:
                with app.app_context():
                    return act(*values)

            return pool.submit(in_context)

        yield run


class Owner:
    """Somebody who may do what is their own."""

    def __init__(self, user: User) -> None:
        self.id = user.id

    def can(self, _permission: str) -> bool:
        return False


def put(client: Client) -> int:
    form = {"file": (BytesIO(photo("JPEG")), "me.jpg")}
    return client.put(MINE, data=form, content_type="multipart/form-data").status_code


def avatar_of(client: Client) -> UUID:
    return UUID(client.get("/api/v1/auth/me").json["data"]["avatar_url"].split("/")[4])


def delete_account(user_id: UUID) -> None:
    users.delete_user(users.lock_user(user_id))
    db.session.commit()


def test_an_account_is_deleted_after_the_file_of_its_avatar(
    app: Flask, client: Client, ada: User, beside: Beside
) -> None:
    me = client.as_user(ada)
    put(me)
    file_id = avatar_of(me)
    with app.app_context():
        file = services.lock_for_change(Owner(ada), file_id)  # type: ignore[arg-type]
        deletion = beside(delete_account, ada.id)
        with pytest.raises(TimeoutError):
            deletion.result(A_MOMENT)

        services.delete_file(file)
        db.session.commit()
        deletion.result(10)

        user = db.session.get_one(User, ada.id)
        assert (user.is_deleted, user.avatar_url) == (True, None)


def test_the_file_of_an_avatar_goes_with_an_account_that_is_deleted_first(
    app: Flask, client: Client, ada: User, beside: Beside
) -> None:
    me = client.as_user(ada)
    put(me)
    file_id = avatar_of(me)
    with app.app_context():
        user = users.lock_user(ada.id)
        change = beside(services.lock_for_change, Owner(ada), file_id)
        with pytest.raises(TimeoutError):
            change.result(A_MOMENT)

        users.delete_user(user)
        db.session.commit()

        with pytest.raises(NotFound):
            change.result(10)


def test_the_avatar_before_is_deleted_though_it_is_changed_meanwhile(
    app: Flask, client: Client, ada: User, beside: Beside
) -> None:
    me = client.as_user(ada)
    put(me)
    file_id = avatar_of(me)
    with app.app_context():
        file = services.lock_for_change(Owner(ada), file_id)  # type: ignore[arg-type]
        replacing = beside(put, me)
        with pytest.raises(TimeoutError):
            replacing.result(A_MOMENT)

        services.update_file(file, {"details": {"x": 1}})
        db.session.commit()
        assert replacing.result(10) == 200

    with app.app_context():
        former = db.session.get_one(StoredFile, file_id)
        assert former.is_deleted
        assert former.details == {"x": 1}
    assert avatar_of(me) != file_id


def test_many_avatars_at_once_all_become_one(app: Flask, client: Client, ada: User) -> None:
    clients = [client.as_user(ada) for _ in range(8)]

    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(put, clients)) == [200] * 8

    with app.app_context():
        kept = db.session.query(StoredFile).filter(StoredFile.deleted_at.is_(None)).all()
        assert [file.id for file in kept] == [avatar_of(clients[0])]

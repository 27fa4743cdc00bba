"""Room is taken and given back exactly once, however many ask at the same time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from stored_files import FileFactory

from ghost import db, db_manager, utcnow, uuid7
from ghost import store_file as store
from ghost.files import quota, services, sweep
from ghost.files.models import FileUsage, StoredFile
from ghost.files.quota import OverQuota

pytestmark = pytest.mark.integration

LIMIT = 10_000
THREADS = 8
Keys = Callable[[], list[str]]


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {"storage": {"quota_per_user": LIMIT}}


def used_by(app: Flask, owner_id: UUID) -> int:
    with app.app_context(), db_manager.connection() as connection:
        return quota.used_by(connection, owner_id)


def together(app: Flask, count: int, act: Callable[[], Any]) -> list[Any]:
    """Do something in several threads at once; gives the results, and errors of the quota."""

    def in_context(_: int) -> Any:
        with app.app_context():
            try:
                return act()
            except OverQuota as error:
                db.session.rollback()
                return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(in_context, range(count)))


def test_of_many_uploads_at_once_as_many_succeed_as_have_room(
    app: Flask, stored_keys: Keys
) -> None:
    owner_id = uuid7()

    def upload() -> StoredFile:
        file = store([b"a" * 1000], owner_id=owner_id, filename="a.txt")
        db.session.commit()
        return file

    results = together(app, 24, upload)

    assert sum(isinstance(result, StoredFile) for result in results) == 10
    assert used_by(app, owner_id) == LIMIT
    assert len(stored_keys()) == 10


def test_of_many_purges_at_once_one_gives_the_room_back(app: Flask, make_file: FileFactory) -> None:
    owner_id = uuid7()
    for _ in range(5):
        make_file(b"a" * 100, owner_id=owner_id, deleted_at=utcnow().replace(year=2020))
    with app.app_context():
        db.session.add(FileUsage(owner_id=owner_id, bytes=700))
        db.session.commit()

    purged = together(app, THREADS, lambda: sweep.purge_deleted(utcnow()))

    assert sum(purged) == 5
    assert used_by(app, owner_id) == 200


def test_what_is_rolled_back_takes_no_room_and_leaves_no_bytes(
    app: Flask, stored_keys: Keys
) -> None:
    owner_id = uuid7()
    with app.app_context():
        store([b"Hello"], owner_id=owner_id, filename="a.txt")
        assert len(stored_keys()) == 1
        db.session.rollback()

    assert stored_keys() == []
    assert used_by(app, owner_id) == 0


def test_a_savepoint_that_is_rolled_back_takes_its_bytes_with_it(
    app: Flask, stored_keys: Keys
) -> None:
    owner_id = uuid7()
    with app.app_context():
        kept = store([b"kept"], owner_id=owner_id, filename="a.txt")
        savepoint = db.session.begin_nested()
        store([b"dropped"], owner_id=owner_id, filename="b.txt")
        savepoint.rollback()
        with db.session.begin_nested():
            also_kept = store([b"also"], owner_id=owner_id, filename="c.txt")
        db.session.commit()

    assert stored_keys() == [kept.key, also_kept.key]
    assert used_by(app, owner_id) == 8


def test_a_commit_of_which_nobody_knows_is_left_to_the_sweeper(
    app: Flask, stored_keys: Keys
) -> None:
    """The connection breaks after the commit was sent: the row may well be there."""
    owner_id = uuid7()

    def commit_and_break(connection: sa.Connection) -> None:
        connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("COMMIT")
        raise sa.exc.OperationalError(None, None, Exception("the connection is gone"))

    with app.app_context():
        file = store([b"Hello"], owner_id=owner_id, filename="a.txt")
        sa.event.listen(db.session.connection(), "commit", commit_and_break)
        with pytest.raises(sa.exc.OperationalError):
            db.session.commit()
        db.session.rollback()
        db.session.remove()

    assert stored_keys() == [file.key]
    with app.app_context():
        assert db.session.get(StoredFile, file.id) is not None
        assert sweep.sweep_portion(utcnow().replace(year=2100)).orphans == 0


def test_a_released_reservation_makes_room_for_its_file(app: Flask) -> None:
    owner_id = uuid7()
    with app.app_context():
        services.take_room(owner_id, LIMIT)
        db.session.commit()
        with pytest.raises(OverQuota):
            store([b"a"], owner_id=owner_id, filename="a.txt")
        db.session.rollback()

        store([b"a" * 9000], owner_id=owner_id, filename="a.txt", release=LIMIT)
        db.session.commit()

    assert used_by(app, owner_id) == 9000


def test_what_can_have_no_room_is_known_before_it_is_sent(
    app: Flask, make_file: FileFactory
) -> None:
    owner_id = uuid7()
    with app.app_context():
        db.session.add(FileUsage(owner_id=owner_id, bytes=LIMIT))
        db.session.commit()
        with pytest.raises(OverQuota):
            services.check_room(owner_id, 1)

    make_file(b"a" * 100, owner_id=owner_id, deleted_at=utcnow())

    with app.app_context():
        services.check_room(owner_id, 100)
        with pytest.raises(OverQuota):
            services.check_room(owner_id, 101)


class TestWithoutLimit:
    @pytest.fixture
    def app_config(self) -> Mapping[str, Any]:
        return {"storage": {"quota_per_user": None}}

    def test_room_is_counted_all_the_same(self, app: Flask) -> None:
        owner_id = uuid7()
        with app.app_context():
            services.check_room(owner_id, 2**60)
            store([b"a" * 10], owner_id=owner_id, filename="a.txt")
            db.session.commit()

        assert used_by(app, owner_id) == 10

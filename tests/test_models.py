"""Keys, times, mixins and the repository."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from flask import Flask
from lab import Parent, Thing, things
from sqlalchemy.orm.exc import StaleDataError

from ghost import models
from ghost.database import db
from ghost.errors import NotFound
from ghost.logging import user_id_var
from ghost.models import Repository, utcnow, uuid7

pytestmark = pytest.mark.lab


# --- Keys -----------------------------------------------------------------------------------------


def test_a_key_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    before = time.time_ns() // 1_000_000
    key = uuid7()
    after = time.time_ns() // 1_000_000

    assert key.version == 7
    assert key.variant == "specified in RFC 4122"
    assert before <= key.int >> 80 <= after + 1
    assert str(key) == str(key).lower()


def test_keys_of_one_process_are_in_order_also_from_many_threads() -> None:
    made: list[list[UUID]] = [[] for _ in range(4)]

    def make(into: list[UUID]) -> None:
        into.extend(uuid7() for _ in range(5000))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(keys == sorted(keys) for keys in made)
    assert len({key for keys in made for key in keys}) == 20_000


def test_keys_stay_in_order_when_the_clock_stands_or_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = time.time_ns() + 10**9
    moments = [start] * 6000 + [start - 10**9] * 100

    keys = []
    for moment in moments:
        monkeypatch.setattr(models.time, "time_ns", lambda moment=moment: moment)
        keys.append(uuid7())
    # What this test borrowed from the future must not disturb the next one.
    monkeypatch.setattr(models, "_last_millisecond", 0)

    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_a_forked_child_makes_keys_while_the_parent_holds_the_lock() -> None:
    with models._lock:
        pid = os.fork()
        if pid == 0:
            uuid7()
            os._exit(7)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            break
        time.sleep(0.02)
    else:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        pytest.fail("the child waited for a lock that nobody holds")

    assert os.waitstatus_to_exitcode(status) == 7


def test_an_object_has_its_key_before_it_is_flushed() -> None:
    thing = Thing(name="a")

    assert thing.id.version == 7
    assert repr(thing) == f"<Thing {thing.id}>"
    assert Thing(id=thing.id, name="b").id == thing.id


# --- Times ----------------------------------------------------------------------------------------


def test_times_come_back_aware_and_in_utc(session: Any) -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=there)
    thing = things.add(Thing(name="a", happened_at=moment))
    session.commit()
    session.expire_all()

    assert thing.happened_at == moment
    assert thing.happened_at is not None
    assert thing.happened_at.utcoffset() == timedelta(0)
    assert thing.happened_at.microsecond == 678_901
    found = session.scalars(sa.select(Thing.id).where(Thing.happened_at == moment)).all()
    assert found == [thing.id]
    later = moment.astimezone(UTC) + timedelta(microseconds=1)
    assert not session.scalars(sa.select(Thing.id).where(Thing.happened_at >= later)).all()


def test_a_naive_time_is_refused(session: Any) -> None:
    session.add(Thing(name="a", happened_at=datetime(2026, 1, 2)))  # noqa: DTZ001

    with pytest.raises(sa.exc.StatementError, match="without a time zone"):
        session.flush()


def test_no_time_is_none(session: Any) -> None:
    thing = things.add(Thing(name="a"))
    session.commit()
    session.expire_all()

    assert thing.happened_at is None


def test_created_and_updated_are_kept_by_the_application(session: Any) -> None:
    before = utcnow()
    thing = things.add(Thing(name="a"))
    session.commit()
    created, updated = thing.created_at, thing.updated_at

    assert before <= created <= updated <= utcnow()
    things.update(thing, {"name": "b"})
    session.commit()
    assert thing.created_at == created
    assert thing.updated_at > updated


# --- Mixins ---------------------------------------------------------------------------------------


def test_who_created_and_who_changed_is_noted(session: Any) -> None:
    ada, bob = uuid4(), uuid4()
    token = user_id_var.set(str(ada))
    try:
        thing = things.add(Thing(name="a"))
        user_id_var.set(str(bob))
        things.update(thing, {"name": "b"})
    finally:
        user_id_var.reset(token)
    by_nobody = things.add(Thing(name="c"))

    assert (thing.created_by, thing.updated_by) == (ada, bob)
    assert (by_nobody.created_by, by_nobody.updated_by) == (None, None)


def test_a_write_from_a_stale_object_fails(session: Any) -> None:
    thing = things.add(Thing(name="a"))
    session.commit()
    assert thing.version == 1
    table = Thing.__table__
    session.execute(sa.update(table).where(table.c.id == thing.id).values(version=2))

    thing.name = "b"
    with pytest.raises(StaleDataError):
        session.flush()


# --- Repository -----------------------------------------------------------------------------------


def test_a_row_is_found_got_or_missed(session: Any) -> None:
    thing = things.add(Thing(name="a"))

    assert things.find(thing.id) is thing
    assert things.get(thing.id) is thing
    assert things.find(uuid4()) is None
    with pytest.raises(NotFound):
        things.get(uuid4())


def test_a_soft_deletion_hides_a_row_until_it_is_restored(session: Any) -> None:
    thing = things.add(Thing(name="a"))

    things.delete(thing)
    assert thing.is_deleted
    assert things.find(thing.id) is None
    with pytest.raises(NotFound):
        things.get(thing.id)
    assert things.get(thing.id, with_deleted=True) is thing
    assert things.list() == ([], 0)
    assert things.list(with_deleted=True) == ([thing], 1)

    things.restore(thing)
    assert not thing.is_deleted
    assert things.list() == ([thing], 1)


def test_a_model_that_can_not_is_deleted_for_good(session: Any) -> None:
    parents = Repository(Parent)
    parent = parents.add(Parent(name="a"))

    parents.delete(parent)

    assert parents.list() == ([], 0)
    assert parents.find(parent.id, with_deleted=True) is None


def test_a_list_is_filtered_searched_sorted_and_paged(session: Any) -> None:
    made = things.add_all(Thing(name=f"thing {n}", count=n % 2, flag=n > 2) for n in range(6))

    assert things.list(count=1, sort="-name") == ([made[5], made[3], made[1]], 3)
    assert things.list(count=1, flag=True, sort="name") == ([made[3], made[5]], 2)
    assert things.list(search="THING 4") == ([made[4]], 1)
    assert things.list(sort="name", page=2, per_page=4) == ([made[4], made[5]], 6)
    assert things.list(price=Decimal("1.00")) == ([], 0)


@pytest.mark.parametrize(
    "asked", [{"sort": "text"}, {"sort": "-id"}, {"text": "a"}, {"deleted_at": None}]
)
def test_what_is_not_on_the_lists_is_refused(session: Any, asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not one of"):
        things.list(**asked)


def test_a_repository_without_search_refuses_it(session: Any) -> None:
    with pytest.raises(ValueError, match="no columns to search"):
        Repository(Parent).list(search="a")


def test_a_repository_never_commits(app: Flask) -> None:
    with app.app_context():
        thing = things.add(Thing(name="a"))
        things.update(thing, {"name": "b"})
        things.delete(thing)
    with app.app_context():
        assert db.session.scalar(sa.select(sa.func.count(Thing.id))) == 0

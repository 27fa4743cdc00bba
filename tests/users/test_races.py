"""What happens when two do it at once: real threads against the real database."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask

from ghost.database import db
from ghost.users.models import User, UserRole

from .conftest import MakePerson, Person

pytestmark = pytest.mark.integration

ROUNDS = 15


def at_once(calls: Sequence[Callable[[], Any]]) -> list[int]:
    """Make calls at the same moment, and return their statuses in order."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> int:
        gate.wait(10)
        return int(call().status_code)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def active_super_admins(app: Flask) -> int:
    with app.app_context():
        return db.session.scalars(
            sa.select(sa.func.count())
            .select_from(User)
            .join(UserRole, UserRole.user_id == User.id)
            .where(UserRole.role_name == "SUPER_ADMIN", User.is_active, User.deleted_at.is_(None))
        ).one()


REMOVALS: dict[str, Callable[[Person, Person], Any]] = {
    "demote": lambda actor, target: actor.put(f"{target.path}/roles", {"roles": ["USER"]}),
    "disable": lambda actor, target: actor.patch(target.path, {"is_active": False}),
    "delete": lambda actor, target: actor.delete(target.path),
}


@pytest.mark.parametrize("removal", REMOVALS)
def test_two_super_admins_who_remove_each_other_leave_one(
    app: Flask, person: MakePerson, removal: str
) -> None:
    remove = REMOVALS[removal]
    lost = Counter[int]()
    for _ in range(ROUNDS):
        first, second = person("SUPER_ADMIN"), person("SUPER_ADMIN")

        statuses = at_once([partial(remove, first, second), partial(remove, second, first)])

        assert active_super_admins(app) == 1, statuses
        done = [status for status in statuses if status in (200, 204)]
        assert len(done) == 1, statuses
        # The other one was refused: as the last, or because they were removed before they came.
        lost.update(status for status in statuses if status not in done)
        _retire(app)
    assert set(lost) <= {401, 403, 409}, lost


def test_three_who_remove_each_other_in_a_circle_leave_one_at_least(
    app: Flask, person: MakePerson
) -> None:
    for _ in range(ROUNDS):
        one, two, three = (person("SUPER_ADMIN") for _ in range(3))

        statuses = at_once(
            [
                partial(REMOVALS["disable"], one, two),
                partial(REMOVALS["delete"], two, three),
                partial(REMOVALS["demote"], three, one),
            ]
        )

        assert active_super_admins(app) >= 1, statuses
        assert set(statuses) <= {200, 204, 401, 403, 409}
        _retire(app)


def _retire(app: Flask) -> None:
    """Take the role from everybody, so that the next round starts with none."""
    with app.app_context():
        db.session.execute(sa.delete(UserRole).where(UserRole.role_name == "SUPER_ADMIN"))
        db.session.commit()


def test_two_changes_at_once_are_both_kept(
    boss: Person, admin: Person, user: Person, row: Callable[[UUID], User]
) -> None:
    version = row(user.id).version
    for number in range(ROUNDS):
        statuses = at_once(
            [
                lambda n=number: boss.patch(user.path, {"full_name": f"Name {n}"}),
                lambda n=number: admin.patch(user.path, {"username": f"name{n}"}),
            ]
        )

        stored = row(user.id)
        assert statuses == [200, 200]
        assert (stored.full_name, stored.username) == (f"Name {number}", f"name{number}")
    assert row(user.id).version == version + 2 * ROUNDS


def test_of_two_changes_from_the_same_version_one_wins(
    boss: Person, admin: Person, user: Person
) -> None:
    for number in range(ROUNDS):
        tag = {"If-Match": boss.get(user.path).headers["ETag"]}
        statuses = at_once(
            [
                lambda n=number, t=tag: boss.patch(user.path, {"full_name": f"A{n}"}, headers=t),
                lambda n=number, t=tag: admin.patch(user.path, {"full_name": f"B{n}"}, headers=t),
            ]
        )

        assert sorted(statuses) == [200, 412]


def test_one_address_makes_one_account_however_many_ask(app: Flask, admin: Person) -> None:
    for number in range(ROUNDS):
        email = f"Ada{number}@example.org"
        statuses = at_once([lambda e=email: admin.post("/users", {"email": e}) for _ in range(4)])

        assert sorted(statuses) == [201, 409, 409, 409]


def test_a_role_is_either_assigned_or_deleted(
    boss: Person, make_role: Callable[..., str], user: Person, row: Callable[[UUID], User]
) -> None:
    for number in range(ROUNDS):
        name = make_role(f"ROLE_{number}")
        assigned, deleted = at_once(
            [
                lambda n=name: boss.put(f"{user.path}/roles", {"roles": [n, "USER"]}),
                lambda n=name: boss.delete(f"/roles/{n}"),
            ]
        )

        assert (assigned, deleted) in ((200, 409), (422, 204))
        assert (name in row(user.id).roles) is (assigned == 200)


def test_ending_sessions_from_many_sides_counts_each(
    app: Flask, boss: Person, admin: Person, user: Person, row: Callable[[UUID], User]
) -> None:
    epoch = row(user.id).session_epoch

    statuses = at_once(
        [
            lambda: boss.patch(user.path, {"email": "new@example.org"}),
            lambda: admin.patch(user.path, {"is_active": False}),
        ]
    )

    assert statuses == [200, 200]
    assert row(user.id).session_epoch == epoch + 2
    assert not user.is_logged_in()


def test_a_promotion_shields_from_a_change_that_waited_for_it(
    app: Flask, admin: Person, boss: Person, user: Person, row: Callable[[UUID], User]
) -> None:
    """The target's rights are read behind its lock, not before."""
    for _ in range(ROUNDS):
        boss.put(f"{user.path}/roles", {"roles": ["USER"]})
        promoted, renamed = at_once(
            [
                lambda: boss.put(f"{user.path}/roles", {"roles": ["ADMIN"]}),
                lambda: admin.patch(user.path, {"full_name": "x"}),
            ]
        )

        assert promoted == 200
        assert renamed in (200, 403)
    with app.app_context():
        locked = threading.Event()
        waiting = threading.Thread(target=lambda: (locked.wait(5), results.append(
            admin.patch(user.path, {"full_name": "late"}).status_code
        )))  # fmt: skip
        results: list[int] = []
        boss.put(f"{user.path}/roles", {"roles": ["USER"]})
        waiting.start()
        target = db.session.scalar(sa.select(User).where(User.id == user.id).with_for_update())
        assert target is not None
        target.role_links.append(UserRole(role_name="ADMIN"))
        target.full_name = "promoted"
        db.session.flush()
        locked.set()
        waiting.join(0.5)  # it waits for the row
        assert waiting.is_alive()
        db.session.commit()
        waiting.join(10)

    assert results == [403]
    assert row(user.id).full_name == "promoted"

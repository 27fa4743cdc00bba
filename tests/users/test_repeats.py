"""A repeated POST, seen from the accounts: rights count again for every repetition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from ghost import db
from ghost.users.models import User, UserRole

NEW = {"email": "new@example.org"}


def test_a_kept_answer_is_not_for_a_caller_who_lost_the_permission(
    app: Any, client: Any, make_user: Callable[..., User]
) -> None:
    admin = make_user(roles=["ADMIN"])
    caller, key = client.as_user(admin), {"Idempotency-Key": "k"}
    assert caller.post("/api/v1/users", json=NEW, headers=key).status_code == 201
    with app.app_context():
        db.session.execute(
            sa.update(UserRole).where(UserRole.user_id == admin.id).values(role_name="USER")
        )
        db.session.commit()

    repeated = caller.post("/api/v1/users", json=NEW, headers=key)

    assert repeated.status_code == 403
    assert "new@example.org" not in repeated.text


def test_a_repetition_by_who_may_gives_the_first_answer(
    client: Any, make_user: Callable[..., User]
) -> None:
    caller, key = client.as_user(make_user(roles=["ADMIN"])), {"Idempotency-Key": "k"}
    first = caller.post("/api/v1/users", json=NEW, headers=key)

    again = caller.post("/api/v1/users", json=NEW, headers=key)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json == first.json
    assert again.headers["Idempotent-Replayed"] == "true"

"""`Idempotency-Key`: one key, one run, one answer; also at once, after crashes and with errors."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import lab
import pytest
import sqlalchemy as sa
from flask import Flask
from lab import Thing
from test_http import is_error

from ghost.database import db, db_manager
from ghost.idempotency import IdempotencyKey
from ghost.models import utcnow
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = [pytest.mark.lab, pytest.mark.integration]

LAB = "/api/v1/lab"
ORDERS = f"{LAB}/orders"
KEY = {"Idempotency-Key": "key-1"}


@pytest.fixture
def caller(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user())


def another(app: Flask, caller: Client) -> Client:
    """A client of the same caller for another thread."""
    copy = Client(app, app.response_class)
    copy.environ_base.update(caller.environ_base)
    return copy


def things(app: Flask, name: str | None = None) -> int:
    statement = sa.select(sa.func.count()).select_from(Thing)
    if name:
        statement = statement.where(Thing.name == name)
    with app.app_context(), db_manager.connection() as connection:
        return connection.scalar(statement) or 0


def kept(app: Flask) -> list[Any]:
    with app.app_context(), db_manager.connection() as connection:
        return list(connection.execute(sa.select(IdempotencyKey.__table__)))


# --- One after the other --------------------------------------------------------------------------


def test_a_repeat_gets_the_first_answer_and_does_nothing(app: Flask, caller: Client) -> None:
    first = caller.post(ORDERS, json={"name": "a"}, headers=KEY)
    second = caller.post(ORDERS, json={"name": "a"}, headers=KEY)

    assert first.status_code == second.status_code == 201
    assert second.data == first.data
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["Content-Type"] == "application/json"
    assert second.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert "X-Lab" not in second.headers
    assert things(app) == 1


def test_without_a_key_or_with_another_one_it_is_done_again(app: Flask, caller: Client) -> None:
    for headers in ({}, {}, KEY, {"Idempotency-Key": "key-2"}, {"Idempotency-Key": "KEY-1"}):
        response = caller.post(ORDERS, json={"name": "a"}, headers=headers)
        assert response.status_code == 201
        assert "Idempotent-Replayed" not in response.headers

    assert things(app) == 5


@pytest.mark.parametrize(
    ("path", "body"),
    [(ORDERS, {"name": "b"}), (ORDERS, {}), (f"{LAB}/files", {"name": "a"})],
)
def test_another_body_or_path_with_the_same_key_is_422(
    app: Flask, caller: Client, path: str, body: dict[str, Any]
) -> None:
    caller.post(ORDERS, json={"name": "a"}, headers=KEY)

    response = caller.post(path, json=body, headers=KEY)

    assert is_error(response, 422, "validation_error")
    assert list(response.json["error"]["details"]["headers"]) == ["Idempotency-Key"]
    assert things(app) == 1


def test_a_key_belongs_to_its_caller(app: Flask, client: Client, make_user: UserFactory) -> None:
    ada, bob = client.as_user(make_user()), client.as_user(make_user())

    first = ada.post(ORDERS, json={"name": "a"}, headers=KEY)
    second = bob.post(ORDERS, json={"name": "a"}, headers=KEY)

    assert first.json["data"]["id"] != second.json["data"]["id"]
    assert things(app) == 2


@pytest.mark.parametrize("key", ["", "a" * 256, "ä", "a\x7f", "a\tb"])
def test_a_key_that_is_none_is_422(app: Flask, caller: Client, key: str) -> None:
    response = caller.post(ORDERS, json={"name": "a"}, headers={"Idempotency-Key": key})

    assert is_error(response, 422, "validation_error")
    assert things(app) == 0


@pytest.mark.parametrize("key", ["a", "a" * 255, "with space", "!~{}'\"%;--"])
def test_every_printable_key_is_welcome(app: Flask, caller: Client, key: str) -> None:
    for _ in range(2):
        response = caller.post(ORDERS, json={"name": "a"}, headers={"Idempotency-Key": key})
        assert response.status_code == 201

    assert things(app) == 1


# --- Where it applies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("PUT", "orders", {"json": {"name": "a"}}),
        ("POST", "public-orders", {"json": {"name": "a"}}),
        ("POST", "form-orders", {"data": {"number": "1"}}),
    ],
)
def test_only_an_authenticated_json_post_keeps_a_key(
    app: Flask, caller: Client, method: str, path: str, options: dict[str, Any]
) -> None:
    for _ in range(2):
        response = caller.open(f"{LAB}/{path}", method=method, headers=KEY, **options)
        assert response.status_code in (200, 201)

    assert things(app) == 2
    assert kept(app) == []


def test_nothing_under_auth_keeps_a_key(app: Flask, caller: Client) -> None:
    for _ in range(2):
        response = caller.post("/api/v1/auth/logout-all", json={}, headers=KEY)
        assert "Idempotent-Replayed" not in response.headers

    assert kept(app) == []


def test_who_is_not_logged_in_claims_no_key(app: Flask, client: Client) -> None:
    response = client.post(ORDERS, json={"name": "a"}, headers=KEY)

    assert is_error(response, 401, "unauthorized")
    assert kept(app) == []


def test_a_repeat_asks_again_who_is_calling(app: Flask, caller: Client) -> None:
    assert caller.post(ORDERS, json={"name": "a"}, headers=KEY).status_code == 201
    caller.post("/api/v1/auth/logout")

    assert is_error(caller.post(ORDERS, json={"name": "a"}, headers=KEY), 401, "token_revoked")


# --- Which answers are kept -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [({"name": "refused"}, 409), ({"count": -1}, 409), ({"role": "ADMIN"}, 422),
     ({"name": "a" * 21}, 422)],
)  # fmt: skip
def test_refusals_are_kept(app: Flask, caller: Client, body: dict[str, Any], status: int) -> None:
    first = caller.post(ORDERS, json=body, headers=KEY)
    second = caller.post(ORDERS, json=body, headers=KEY)

    assert first.status_code == second.status_code == status
    assert second.data == first.data
    assert second.headers["Idempotent-Replayed"] == "true"
    assert things(app) == 0


@pytest.mark.parametrize(("name", "status"), [("fails", 500), ("away", 503)])
def test_an_error_of_ours_rolls_back_and_frees_the_key(
    app: Flask, caller: Client, monkeypatch: pytest.MonkeyPatch, name: str, status: int
) -> None:
    for _ in range(2):
        response = caller.post(ORDERS, json={"name": name}, headers=KEY)
        assert response.status_code == status
        assert "Idempotent-Replayed" not in response.headers

    assert things(app) == 0
    assert kept(app) == []
    assert caller.post(ORDERS, json={"name": "fine"}, headers=KEY).status_code == 201


def test_work_that_was_committed_without_an_answer_is_409_and_never_done_again(
    app: Flask, caller: Client
) -> None:
    first = caller.post(ORDERS, json={"name": "lost"}, headers=KEY)
    started = time.monotonic()
    repeats = [caller.post(ORDERS, json={"name": "lost"}, headers=KEY) for _ in range(2)]

    assert first.status_code == 500
    assert all(is_error(response, 409, "conflict") for response in repeats)
    assert time.monotonic() - started < 10
    assert things(app) == 1


def test_a_process_that_is_killed_after_the_commit_leaves_a_409(app: Flask, caller: Client) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            caller.post(ORDERS, json={"name": "killed"}, headers=KEY)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9

    response = caller.post(ORDERS, json={"name": "killed"}, headers=KEY)

    assert is_error(response, 409, "conflict")
    assert things(app) == 1


def test_a_view_that_rolls_back_on_its_way_still_runs_once(app: Flask, caller: Client) -> None:
    body = {"name": "rolled-back-first"}

    with ThreadPoolExecutor(4) as threads:
        answers = list(
            threads.map(
                lambda _: another(app, caller).post(ORDERS, json=body, headers=KEY).status_code,
                range(4),
            )
        )
    last = caller.post(ORDERS, json=body, headers=KEY)

    assert set(answers) <= {201, 409, 503}
    assert last.headers["Idempotent-Replayed"] == "true"
    assert things(app) == 1


def test_an_answer_that_is_read_once_is_sent_and_not_kept(app: Flask, caller: Client) -> None:
    first = caller.post(f"{LAB}/files", json={}, headers=KEY)
    second = caller.post(f"{LAB}/files", json={}, headers=KEY)

    assert first.status_code == 200
    assert b"A small application" in first.data
    assert is_error(second, 409, "conflict")
    assert things(app) == 1


# --- At once --------------------------------------------------------------------------------------


def at_once(app: Flask, caller: Client, count: int, body: dict[str, Any]) -> list[Any]:
    barrier = threading.Barrier(count)

    def post(_thread: int) -> Any:
        client = another(app, caller)
        barrier.wait(10)
        return client.post(ORDERS, json=body, headers=KEY)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(post, range(count)))


def test_repeats_at_once_run_once_and_get_the_same_answer(app: Flask, caller: Client) -> None:
    answers = at_once(app, caller, 6, {"name": "slow"})

    assert [answer.status_code for answer in answers] == [201] * 6
    assert len({answer.data for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 5
    assert things(app) == 1


def test_the_later_one_waits_a_little_and_is_refused(
    app: Flask, caller: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = lab.Gate()
    monkeypatch.setattr(lab, "gate", gate)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(
            another(app, caller).post, ORDERS, json={"name": "held"}, headers=KEY
        )
        assert gate.reached.wait(10)
        started = time.monotonic()
        second = caller.post(ORDERS, json={"name": "held"}, headers=KEY)
        waited = time.monotonic() - started
        gate.go.set()
        assert first.result(20).status_code == 201

    with app.app_context():
        # A lock of SQLite's does not tell whether it is this key's.
        expected = 503 if db.engine.dialect.name == "sqlite" else 409
    assert second.status_code == expected
    assert waited < 6
    assert things(app) == 1
    repeat = caller.post(ORDERS, json={"name": "held"}, headers=KEY)
    assert repeat.headers["Idempotent-Replayed"] == "true"


@pytest.mark.only_on("postgresql")
def test_other_keys_of_the_caller_do_not_wait(
    app: Flask, caller: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    age_key(app, caller, "old")
    gate = lab.Gate()
    monkeypatch.setattr(lab, "gate", gate)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(
            another(app, caller).post, ORDERS, json={"name": "held"}, headers=KEY
        )
        assert gate.reached.wait(10)
        started = time.monotonic()
        other = caller.post(ORDERS, json={"name": "b"}, headers={"Idempotency-Key": "key-2"})
        waited = time.monotonic() - started
        gate.go.set()
        first.result(20)

    assert other.status_code == 201
    assert waited < 2


# --- How long, and how safely ---------------------------------------------------------------------


def age_key(app: Flask, caller: Client, key: str, hours: float = 24.1) -> None:
    """Make an answer with a key, as long ago as that."""
    caller.post(ORDERS, json={"name": key}, headers={"Idempotency-Key": key})
    with app.app_context(), db_manager.transaction() as connection:
        table = IdempotencyKey.__table__
        connection.execute(
            sa.update(table)
            .where(table.c.key == key)
            .values(created_at=utcnow() - timedelta(hours=hours))
        )


@pytest.mark.parametrize(("hours", "runs"), [(23.9, 1), (24.1, 2)])
def test_a_key_is_kept_for_24_hours(app: Flask, caller: Client, hours: float, runs: int) -> None:
    age_key(app, caller, "key-1", hours)

    response = caller.post(ORDERS, json={"name": "key-1"}, headers=KEY)

    assert response.status_code == 201
    assert things(app) == runs


def test_expired_keys_of_the_caller_are_swept(app: Flask, caller: Client) -> None:
    for number in range(3):
        age_key(app, caller, f"old-{number}")

    caller.post(ORDERS, json={"name": "new"}, headers=KEY)

    assert [row.key for row in kept(app)] == ["key-1"]


def test_a_stored_answer_can_not_be_read_without_the_secret(
    app: Flask, caller: Client, make_app: Callable[[Mapping[str, Any]], Flask]
) -> None:
    answer = caller.post(ORDERS, json={"name": "confidential"}, headers=KEY)
    (row,) = kept(app)

    assert answer.json["data"]["name"] == "confidential"
    assert b"confidential" not in bytes(row.body)
    assert b"data" not in bytes(row.body)
    assert "confidential" not in str(row)


def test_an_answer_of_another_secret_is_409(app: Flask, caller: Client) -> None:
    caller.post(ORDERS, json={"name": "a"}, headers=KEY)
    with app.app_context(), db_manager.transaction() as connection:
        connection.execute(sa.update(IdempotencyKey.__table__).values(body=b"gAAAAA" * 20))

    assert is_error(caller.post(ORDERS, json={"name": "a"}, headers=KEY), 409, "conflict")
    assert things(app) == 1

"""Logging in, and what keeps others from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bcrypt
import pytest
import sqlalchemy as sa
from auth_steps import OTHER_PASSWORD, PASSWORD, Account, Api, at_once, meanwhile
from flask import Flask

from ghost import passwords, prepared
from ghost.auth import services
from ghost.database import db


@pytest.mark.parametrize(
    "name", ["ada@example.org", "ADA@example.ORG", "ada", "ADA"], ids=lambda name: name
)
def test_one_logs_in_by_address_or_username_in_any_case(api: Api, ada: Account, name: str) -> None:
    answer = api.login(name)

    data = answer.json["data"]
    assert data["user"]["id"] == ada.id
    assert data["user"]["last_login_at"].endswith("Z")
    assert api.get("/me", data["access_token"]).json["data"] == data["user"]


def delete(run_sql: Callable[..., list[Any]], email: str) -> None:
    run_sql("UPDATE users SET deleted_at = created_at WHERE email = :email", email=email)


def test_unknown_wrong_deleted_and_without_a_password_get_the_same_answer(
    api: Api, register: Callable[..., Account], run_sql: Callable[..., list[Any]]
) -> None:
    register(email="wrong@example.org")
    register(email="deleted@example.org")
    register(email="invited@example.org")
    delete(run_sql, "deleted@example.org")
    run_sql("UPDATE users SET password_hash = NULL WHERE email = 'invited@example.org'")
    tries = {
        "wrong@example.org": OTHER_PASSWORD,
        "deleted@example.org": PASSWORD,
        "invited@example.org": PASSWORD,
        "unknown@example.org": PASSWORD,
        "unknown": PASSWORD,
        "not an @ address": PASSWORD,
    }

    answers = [api.login(name, password, expect=401) for name, password in tries.items()]

    bodies = [{**answer.json, "meta": None} for answer in answers]
    assert bodies[0]["error"]["code"] == "unauthorized"
    assert all(body == bodies[0] for body in bodies)
    headers = [{name for name, _ in answer.headers} for answer in answers]
    assert all(names == headers[0] for names in headers)
    assert all(answer.headers["WWW-Authenticate"] == "Bearer" for answer in answers)


def test_every_refused_log_in_costs_one_bcrypt_of_the_current_cost(
    api: Api,
    register: Callable[..., Account],
    run_sql: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(email="wrong@example.org")
    register(email="invited@example.org")
    run_sql("UPDATE users SET password_hash = NULL WHERE email = 'invited@example.org'")
    costs: list[list[int]] = []
    check = bcrypt.checkpw

    def watch(password: bytes, hashed: bytes) -> bool:
        costs[-1].append(int(hashed[4:6]))
        return check(password, hashed)

    monkeypatch.setattr(passwords.bcrypt, "checkpw", watch)
    for name in ("wrong@example.org", "invited@example.org", "unknown@example.org", "a@b@c"):
        costs.append([])
        api.login(name, OTHER_PASSWORD, expect=401)

    assert costs == [[4], [4], [4], [4]]


def test_no_transaction_and_no_connection_is_held_while_bcrypt_works(
    app: Flask, api: Api, ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    check, make = bcrypt.checkpw, bcrypt.hashpw

    def note() -> None:
        held.append((db.session().in_transaction(), db.engine.pool.checkedout()))

    def watch_check(password: bytes, hashed: bytes) -> bool:
        note()
        return check(password, hashed)

    def watch_make(password: bytes, salt: bytes) -> bytes:
        note()
        return make(password, salt)

    monkeypatch.setattr(passwords.bcrypt, "checkpw", watch_check)
    monkeypatch.setattr(passwords.bcrypt, "hashpw", watch_make)
    api.login("ada")
    api.login("ada", OTHER_PASSWORD, expect=401)
    api.post("/register", {"email": "b@example.org", "password": PASSWORD})
    changed = api.post(
        "/change-password",
        {"current_password": PASSWORD, "new_password": OTHER_PASSWORD},
        token=ada.access_token,
    )

    assert changed.status_code == 200
    assert held == [(False, 0)] * 5


def test_a_disabled_account_is_told_so_only_with_the_right_password(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    run_sql("UPDATE users SET is_active = :no", no=False)

    right = api.login("ada", expect=403)
    wrong = api.login("ada", OTHER_PASSWORD, expect=401)

    assert right.json["error"]["code"] == "account_disabled"
    assert wrong.json["error"]["code"] == "unauthorized"


def test_an_unconfirmed_address_can_be_kept_out(
    make_app: Callable[..., Flask], ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    strict = Api(make_app({"auth": {"require_verified_email": True}}))

    right = strict.login("ada", expect=403)
    wrong = strict.login("ada", OTHER_PASSWORD, expect=401)
    run_sql("UPDATE users SET is_verified = :yes", yes=True)

    assert right.json["error"]["code"] == "email_not_verified"
    assert wrong.json["error"]["code"] == "unauthorized"
    strict.login("ada")


def test_right_log_ins_at_once_all_succeed(api: Api, ada: Account) -> None:
    answers = at_once(16, lambda _: api.post("/login", {"email": "ada", "password": PASSWORD}))

    assert {answer.status_code for answer in answers} == {200}
    tokens = [answer.json["data"]["access_token"] for answer in answers]
    assert all(api.is_logged_in(token) for token in tokens)


def test_logging_in_leaves_the_version_and_the_time_of_change_alone(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    before = run_sql("SELECT version, updated_at, updated_by FROM users")

    api.login("ada")

    assert run_sql("SELECT version, updated_at, updated_by FROM users") == before
    assert run_sql("SELECT last_login_at FROM users")[0][0] is not None


def test_a_cheaper_hash_is_replaced_when_its_owner_logs_in(
    make_app: Callable[..., Flask], api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    dearer = Api(make_app({"auth": {"bcrypt_rounds": 5}}))

    dearer.login("ada", OTHER_PASSWORD, expect=401)
    assert run_sql("SELECT password_hash FROM users")[0][0].startswith("$2b$04$")
    dearer.login("ada")

    assert run_sql("SELECT password_hash FROM users")[0][0].startswith("$2b$05$")
    dearer.login("ada")
    assert api.is_logged_in(ada.access_token)


def test_an_account_that_is_deleted_while_its_password_is_checked_is_not_let_in(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = services.verify_password

    def slowly(password: str, stored: str | None) -> bool:
        meanwhile(lambda: delete(run_sql, ada.email))
        return verify(password, stored)

    monkeypatch.setattr(services, "verify_password", slowly)

    api.login(ada.email, expect=401)


def test_dead_sessions_are_deleted_when_the_account_has_as_many_as_it_may(
    make_app: Callable[..., Flask], ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    api = Api(make_app({"auth": {"max_sessions": 4}}))
    for _ in range(3):
        api.post("/logout", token=api.login("ada").json["data"]["access_token"])

    api.login("ada")

    assert run_sql("SELECT count(*) FROM sessions")[0][0] == 2


def test_a_log_in_takes_few_statements(app: Flask, api: Api, ada: Account) -> None:
    api.login("ada")
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement.split()[0])

    with app.app_context():
        engine = db.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    api.login("ada")
    sa.event.remove(engine, "before_cursor_execute", note)

    # Account and throttle before bcrypt, the log-in and its session after it.
    assert [word for word in sent if word != "BEGIN"] == ["SELECT", "SELECT", "UPDATE", "INSERT"]


@pytest.mark.only_on("postgresql")
@pytest.mark.parametrize("name", ["ada", "nobody", "ada@example.org", "nobody@example.org"])
def test_the_same_is_read_in_the_same_way_whether_there_is_an_account_or_not(
    api: Api, ada: Account, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    read: list[str] = []
    execute = prepared._execute

    def note(raw: Any, cursor: Any, plan: Any, sent: Any) -> None:
        read.append(plan.prepare.partition("FROM ")[2].split()[0])
        execute(raw, cursor, plan, sent)

    monkeypatch.setattr(prepared, "_execute", note)

    api.login(name, OTHER_PASSWORD, expect=401)

    assert len(read) == 2
    assert read[1] == "throttles"


@pytest.mark.parametrize(
    "change", ["is_active = false", "deleted_at = created_at", "session_epoch = session_epoch + 1"]
)
def test_what_ends_an_account_wins_the_race_against_its_log_in(
    api: Api,
    ada: Account,
    run_sql: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    """It is disabled, deleted, or given another password while bcrypt works."""
    verify = services.verify_password

    def slowly(password: str, stored: str | None) -> bool:
        result = verify(password, stored)
        run_sql(f"UPDATE users SET {change}")
        return result

    monkeypatch.setattr(services, "verify_password", slowly)
    before = run_sql("SELECT count(*) FROM sessions")

    api.login("ada", expect=401)

    assert run_sql("SELECT count(*) FROM sessions") == before


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "ada"},
        {"email": "ada", "password": PASSWORD, "otp": "123456"},
        {"email": "ada", "password": None},
        {"email": 7, "password": PASSWORD},
        {"email": "", "password": PASSWORD},
        {"email": "ada\0", "password": PASSWORD},
        {"email": "a" * 255, "password": PASSWORD},
    ],
)
def test_a_malformed_log_in_is_a_validation_error(api: Api, body: dict[str, Any]) -> None:
    assert api.post("/login", body).status_code == 422


def test_a_user_agent_is_kept_short_and_printable(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    api.login("ada", headers={"User-Agent": "Tab\there" + "x" * 1000})

    kept = run_sql("SELECT user_agent FROM sessions ORDER BY created_at DESC")[0][0]
    assert kept.startswith("Tab here")
    assert len(kept) == 300


def test_log_ins_leave_records_without_secrets_or_what_was_typed(
    api: Api, ada: Account, events: list[dict[str, Any]]
) -> None:
    api.login("ada")
    api.login("ada", "a mistyped secret", expect=401)
    api.login("typed-into-the-wrong-field", expect=401)

    kinds = [(event["event"], event["user_id"]) for event in events]
    assert kinds == [("login", ada.id), ("login_failed", ada.id), ("login_failed", None)]
    assert all(event["ip_address"] == "127.0.0.1" for event in events)
    text = str(events)
    assert PASSWORD not in text
    assert "mistyped" not in text
    assert "wrong-field" not in text

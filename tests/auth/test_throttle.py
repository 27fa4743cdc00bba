"""Failed log-ins of one account are counted, whoever makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import bcrypt
import pytest
import sqlalchemy as sa
from auth_steps import OTHER_PASSWORD, PASSWORD, Account, Api, at_once, meanwhile, token_in
from flask import Flask

from ghost import passwords
from ghost.auth import services
from ghost.auth.models import Throttle
from ghost.mail import Message

LIMIT = 10
CHEAP_HASH = bcrypt.hashpw(passwords._prehash(PASSWORD), bcrypt.gensalt(4)).decode()


def fail(api: Api, name: str, times: int = LIMIT) -> None:
    for _ in range(times):
        api.login(name, OTHER_PASSWORD, expect=401)


def age(run_sql: Callable[..., list[Any]], seconds: int) -> None:
    """Let time pass for every count."""
    rows = run_sql(sa.select(Throttle.key, Throttle.expires_at))
    for key, expires_at in rows:
        run_sql(
            sa.update(Throttle)
            .where(Throttle.key == key)
            .values(expires_at=expires_at - timedelta(seconds=seconds))
        )


@pytest.mark.parametrize("name", ["ada@example.org", "unknown@example.org", "unknown"])
def test_after_ten_failures_even_the_right_password_has_to_wait(
    api: Api, ada: Account, name: str
) -> None:
    fail(api, name)

    answer = api.login(name, PASSWORD, expect=429)

    assert answer.json["error"]["code"] == "rate_limited"
    assert 890 <= int(answer.headers["Retry-After"]) <= 900
    assert answer.headers["X-RateLimit-Limit"] == "10"
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert int(answer.headers["X-RateLimit-Reset"]) > datetime.now(UTC).timestamp()


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_a_throttled_log_in_costs_no_hashing(
    api: Api, ada: Account, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[bytes] = []
    check = bcrypt.checkpw

    def watch(password: bytes, hashed: bytes) -> bool:
        checked.append(hashed)
        return check(password, hashed)

    monkeypatch.setattr(passwords.bcrypt, "checkpw", watch)
    fail(api, name)
    api.login(name, PASSWORD, expect=429)

    assert len(checked) == LIMIT


def test_the_count_is_the_accounts_by_whichever_name(api: Api, ada: Account) -> None:
    fail(api, "ada@example.org", LIMIT // 2)
    fail(api, "ADA", LIMIT // 2)

    api.login("Ada@Example.org", expect=429)
    api.login("ada", expect=429)


def test_an_unknown_name_is_counted_in_its_canonical_form(api: Api) -> None:
    fail(api, "Nobody@example.org", LIMIT // 2)
    fail(api, "nobody@EXAMPLE.org", LIMIT // 2)

    api.login("nobody@example.org", expect=429)


def test_the_count_is_one_for_all_sources(api: Api, ada: Account) -> None:
    for number in range(LIMIT):
        api.login(
            "ada", OTHER_PASSWORD, expect=401, environ_base={"REMOTE_ADDR": f"192.0.2.{number}"}
        )

    api.login("ada", expect=429, environ_base={"REMOTE_ADDR": "198.51.100.1"})


def test_other_accounts_and_live_sessions_go_on(
    api: Api, ada: Account, register: Callable[..., Account]
) -> None:
    other = register()
    fail(api, "ada")

    assert api.is_logged_in(ada.access_token)
    assert api.refresh(ada.refresh_token).status_code == 200
    api.login(other.email)


def test_the_wait_ends_with_the_window(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    fail(api, "ada")
    api.login("ada", expect=429)

    age(run_sql, 901)

    api.login("ada")
    fail(api, "ada")
    api.login("ada", expect=429)


def test_right_log_ins_do_not_count_and_do_not_clear(api: Api, ada: Account) -> None:
    fail(api, "ada", LIMIT - 1)
    for _ in range(3):
        api.login("ada")
    fail(api, "ada", 1)

    api.login("ada", expect=429)


def test_of_forty_guesses_at_once_no_more_than_ten_learn_that_they_were_wrong(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    body = {"email": "ada", "password": OTHER_PASSWORD}

    answers = at_once(40, lambda _: api.post("/login", body).status_code)

    assert answers.count(401) == LIMIT
    assert answers.count(429) == 40 - LIMIT
    assert run_sql(sa.select(Throttle.count))[0][0] >= LIMIT


@pytest.mark.parametrize(
    "change",
    [None, "is_active = (1 = 0)", f"password_hash = '{CHEAP_HASH}'"],
    ids=["usual", "disabled", "with a cheaper hash"],
)
def test_a_right_guess_that_is_checked_while_the_limit_is_reached_learns_nothing(
    make_app: Callable[[Mapping[str, Any]], Flask],
    ada: Account,
    run_sql: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    change: str | None,
) -> None:
    """Ten failures come in while bcrypt works on the right password."""
    api = Api(make_app({"auth": {"bcrypt_rounds": 5}}))
    if change:
        run_sql(f"UPDATE users SET {change}")
    hashed: list[str] = []
    monkeypatch.setattr(services, "hash_password", lambda password: hashed.append(password))
    verify = services.verify_password

    def slowly(password: str, stored: str | None) -> bool:
        result = verify(password, stored)
        if password == PASSWORD:
            monkeypatch.setattr(services, "verify_password", verify)
            meanwhile(lambda: fail(api, "ada"))
        return result

    monkeypatch.setattr(services, "verify_password", slowly)

    api.login("ada", PASSWORD, expect=429)

    assert hashed == []


def test_a_completed_reset_lets_the_owner_in_again(
    api: Api, ada: Account, new_mails: Callable[[], list[Message]]
) -> None:
    fail(api, "ada")
    api.login("ada", expect=429)
    new_mails()

    api.post("/forgot-password", {"email": ada.email})
    token = token_in(new_mails()[0])
    api.post("/reset-password", {"token": token, "new_password": OTHER_PASSWORD})

    api.login("ada", OTHER_PASSWORD)


def test_wrong_current_passwords_count_too(api: Api, ada: Account) -> None:
    body = {"current_password": "not the right one", "new_password": OTHER_PASSWORD}

    answers = [
        api.post("/change-password", body, token=ada.access_token).status_code
        for _ in range(LIMIT + 1)
    ]

    assert answers == [422] * LIMIT + [429]
    api.login("ada", expect=429)


def test_the_limit_and_the_window_are_settings(
    make_app: Callable[[Mapping[str, Any]], Flask], ada: Account
) -> None:
    strict = Api(make_app({"auth": {"throttle_failures": 2, "throttle_window": 60}}))

    fail(strict, "ada", 2)
    answer = strict.login("ada", expect=429)

    assert int(answer.headers["Retry-After"]) <= 60


def test_the_table_tells_no_addresses(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    fail(api, "ada", 1)
    fail(api, "nobody@example.org", 1)

    assert all(len(key) == 64 for (key,) in run_sql(sa.select(Throttle.key)))


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_every_throttled_log_in_leaves_a_record(
    api: Api, ada: Account, events: list[dict[str, Any]], name: str
) -> None:
    answers = at_once(
        LIMIT + 5,
        lambda _: api.post("/login", {"email": name, "password": OTHER_PASSWORD}).status_code,
    )

    reasons = [event.get("reason") for event in events]
    assert reasons.count("throttled") == answers.count(429) == 5
    assert events[-1]["user_id"] == (ada.id if name == "ada" else None)


def test_the_auth_limit_counts_per_source(
    make_app: Callable[[Mapping[str, Any]], Flask], app: Flask
) -> None:
    limited = Api(make_app({"ratelimit": {"enabled": True, "auth": "3/minute"}}))
    calls = {
        "/register": {"email": "a@example.org", "password": "short"},
        "/login": {"email": "nobody", "password": PASSWORD},
        "/forgot-password": {"email": "a@example.org"},
        "/reset-password": {"token": "x", "new_password": OTHER_PASSWORD},
        "/verify-email": {"token": "x"},
        "/resend-verification": {"email": "a@example.org"},
    }
    for path, body in calls.items():
        answers = [limited.post(path, body) for _ in range(4)]

        assert [answer.status_code == 429 for answer in answers] == [False] * 3 + [True], path
        assert "Retry-After" in answers[-1].headers
        elsewhere = limited.post(path, body, environ_base={"REMOTE_ADDR": "192.0.2.7"})
        assert elsewhere.status_code != 429


def test_the_wait_of_an_account_is_told_although_its_source_has_a_limit_too(
    make_app: Callable[[Mapping[str, Any]], Flask], ada: Account
) -> None:
    limited = Api(make_app({"ratelimit": {"enabled": True, "auth": "100/minute"}}))
    fail(limited, "ada")

    answer = limited.login("ada", expect=429)

    assert int(answer.headers["Retry-After"]) > 800
    assert answer.headers["X-RateLimit-Limit"] == "10"
    assert len(answer.headers.getlist("X-RateLimit-Limit")) == 1

"""Seeing and ending one's own sessions, at once and for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from auth_steps import Account, Api, at_once
from flask import Flask

from ghost.auth.models import Session


def opened(api: Api, account: Account, agent: str = "Phone/1") -> dict[str, Any]:
    data: dict[str, Any] = api.login(
        account.email, account.password, headers={"User-Agent": agent}
    ).json["data"]
    return data


def listed(api: Api, token: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("/sessions", token).json["data"]
    return found


def test_a_session_says_where_and_when_it_was_opened(api: Api, ada: Account) -> None:
    phone = opened(api, ada)

    newest, first = listed(api, phone["access_token"])

    assert set(newest) == {
        "id", "created_at", "last_used_at", "expires_at", "ip_address", "user_agent", "is_current",
    }  # fmt: skip
    assert newest["user_agent"] == "Phone/1"
    assert newest["ip_address"] == "127.0.0.1"
    assert (newest["is_current"], first["is_current"]) == (True, False)
    assert newest["expires_at"].endswith("Z")


def test_only_live_sessions_of_ones_own_are_listed(
    api: Api, ada: Account, register: Callable[..., Account], run_sql: Callable[..., list[Any]]
) -> None:
    register()
    expired, revoked, outdated = (opened(api, ada) for _ in range(3))
    ids = [session["id"] for session in listed(api, ada.access_token)]
    assert len(ids) == 4
    for number, values in enumerate(
        ({"expires_at": sa.func.current_timestamp()}, {"revoked_at": sa.func.current_timestamp()})
    ):
        run_sql(
            sa.update(Session)
            .where(sa.cast(Session.id, sa.String).in_([ids[number], ids[number].replace("-", "")]))
            .values(**values)
        )
    assert expired != revoked != outdated

    assert len(listed(api, ada.access_token)) == 2


def test_sessions_come_in_pages(api: Api, ada: Account) -> None:
    for _ in range(2):
        opened(api, ada)

    answer = api.get("/sessions?per_page=2&sort=created_at", ada.access_token)

    assert len(answer.json["data"]) == 2
    assert answer.json["data"][0]["is_current"] is True
    assert answer.json["meta"]["pagination"]["total"] == 3
    assert api.get("/sessions?sort=ip_address", ada.access_token).status_code == 422


def test_a_log_out_ends_this_session_at_once_and_no_other(api: Api, ada: Account) -> None:
    phone = opened(api, ada)

    assert api.post("/logout", token=ada.access_token).status_code == 200

    answer = api.get("/me", ada.access_token)
    assert answer.status_code == 401
    assert answer.json["error"]["code"] == "token_revoked"
    assert api.refresh(ada.refresh_token).status_code == 401
    assert api.is_logged_in(phone["access_token"])


def test_logging_out_everywhere_ends_every_session_at_once(
    api: Api, ada: Account, register: Callable[..., Account]
) -> None:
    other = register()
    phone = opened(api, ada)

    assert api.post("/logout-all", token=ada.access_token).status_code == 200

    for access, refresh in (
        (ada.access_token, ada.refresh_token),
        (phone["access_token"], phone["refresh_token"]),
    ):
        assert not api.is_logged_in(access)
        assert api.refresh(refresh).status_code == 401
    assert api.is_logged_in(other.access_token)
    assert api.is_logged_in(opened(api, ada)["access_token"])


def test_logging_out_everywhere_from_everywhere_at_once_works(api: Api, ada: Account) -> None:
    tokens = [opened(api, ada)["access_token"] for _ in range(6)]

    answers = at_once(6, lambda number: api.post("/logout-all", token=tokens[number]).status_code)

    assert set(answers) <= {200, 401}
    assert 200 in answers
    assert not any(api.is_logged_in(token) for token in tokens)


def test_a_session_can_be_ended_from_another(api: Api, ada: Account) -> None:
    phone = opened(api, ada)
    mine, own = listed(api, phone["access_token"])[1], listed(api, phone["access_token"])[0]

    answer = api.delete(f"/sessions/{mine['id']}", phone["access_token"])

    assert (answer.status_code, answer.data) == (204, b"")
    assert not api.is_logged_in(ada.access_token)
    again = api.delete(f"/sessions/{mine['id']}", phone["access_token"])
    assert again.status_code == 404
    assert api.delete(f"/sessions/{own['id']}", phone["access_token"]).status_code == 204
    assert not api.is_logged_in(phone["access_token"])


def test_somebody_elses_session_is_as_if_it_were_not_there(
    api: Api, ada: Account, register: Callable[..., Account]
) -> None:
    other = register()
    theirs = listed(api, other.access_token)[0]["id"]

    answers = [
        api.delete(f"/sessions/{session_id}", ada.access_token) for session_id in (theirs, uuid4())
    ]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].json["error"] == answers[1].json["error"]
    assert api.is_logged_in(other.access_token)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/logout"),
        ("POST", "/logout-all"),
        ("GET", "/me"),
        ("PATCH", "/me"),
        ("POST", "/change-password"),
        ("GET", "/sessions"),
        ("DELETE", f"/sessions/{uuid4()}"),
    ],
)
def test_ones_own_account_needs_a_log_in(api: Api, method: str, path: str) -> None:
    answer = api.call(method, path, {} if method in ("PATCH", "POST") else None)

    assert answer.status_code == 401
    assert answer.json["error"]["code"] == "unauthorized"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_log_in_beyond_the_limit_ends_the_session_that_was_unused_longest(
    make_app: Callable[..., Flask], ada: Account
) -> None:
    api = Api(make_app({"auth": {"max_sessions": 3}}))
    others = [opened(api, ada), opened(api, ada)]
    api.refresh(ada.refresh_token)  # of the oldest, which is in use

    newest = opened(api, ada)

    tokens = [ada.access_token, *(one["access_token"] for one in (*others, newest))]
    assert [api.is_logged_in(token) for token in tokens] == [True, False, True, True]


def test_of_many_log_ins_at_once_no_more_sessions_live_than_may(
    make_app: Callable[..., Flask], ada: Account
) -> None:
    api = Api(make_app({"auth": {"max_sessions": 1}}))

    tokens = at_once(6, lambda _: opened(api, ada)["access_token"])

    assert [api.is_logged_in(token) for token in tokens].count(True) == 1
    assert not api.is_logged_in(ada.access_token)


def test_sessions_that_are_over_do_not_count_for_the_limit(
    make_app: Callable[..., Flask], ada: Account
) -> None:
    api = Api(make_app({"auth": {"max_sessions": 2}}))
    for _ in range(3):
        api.post("/logout", token=opened(api, ada)["access_token"])

    opened(api, ada)

    assert api.is_logged_in(ada.access_token)


def test_sessions_of_others_do_not_count_for_the_limit(
    make_app: Callable[..., Flask], ada: Account, register: Callable[..., Account]
) -> None:
    api = Api(make_app({"auth": {"max_sessions": 1}}))
    other = register()

    again = opened(api, other)

    tokens = [ada.access_token, other.access_token, again["access_token"]]
    assert [api.is_logged_in(token) for token in tokens] == [True, False, True]

"""Refreshing: rotation, its grace, and the end of a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
import sqlalchemy as sa
from auth_steps import OTHER_PASSWORD, PASSWORD, Account, Api, at_once, meanwhile
from flask import Flask

from ghost.auth import sessions, tokens
from ghost.auth.models import Session
from ghost.auth.sessions import SPENT_KEPT, Verdict, judge

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


# --- The decision, without a database -------------------------------------------------------------


@dataclass
class State:
    """A session's row with its user's."""

    generation: int = 3
    spent: list[Any] = field(default_factory=list)
    revoked_at: datetime | None = None
    expires_at: datetime = NOW + timedelta(days=1)
    epoch: int = 1
    session_epoch: int = 1
    is_active: bool = True
    deleted_at: datetime | None = None


def ago(seconds: float) -> float:
    return NOW.timestamp() - seconds


@pytest.mark.parametrize(
    ("state", "generation", "verdict"),
    [
        (State(), 3, Verdict.ROTATE),
        (State(spent=[[2, ago(10)]]), 2, Verdict.REPEAT),
        (State(spent=[[2, ago(10.1)]]), 2, Verdict.REUSED),
        (State(spent=[[1, ago(9)], [2, ago(1)]]), 1, Verdict.REPEAT),
        (State(spent=[[2, ago(1)]]), 1, Verdict.REUSED),
        (State(), 2, Verdict.REUSED),
        (State(), 4, Verdict.DEAD),
        (State(revoked_at=NOW), 3, Verdict.DEAD),
        (State(expires_at=NOW), 3, Verdict.DEAD),
        (State(session_epoch=2), 3, Verdict.DEAD),
        (State(is_active=False), 3, Verdict.DEAD),
        (State(deleted_at=NOW), 3, Verdict.DEAD),
        (State(spent=[[2, ago(1)]], session_epoch=2), 2, Verdict.DEAD),
        (State(revoked_at=NOW), 2, Verdict.DEAD),
    ],
    ids=[
        "live", "spent just in time", "spent too long ago", "its successor is spent too",
        "no longer remembered", "never remembered", "of the future", "revoked", "expired",
        "of an earlier epoch", "disabled", "deleted", "spent in an earlier epoch",
        "spent and revoked",
    ],
)  # fmt: skip
def test_a_refresh_token_is_judged_by_its_session(
    state: State, generation: int, verdict: Verdict
) -> None:
    assert judge(state, generation, NOW, 10) is verdict


# --- Over the API ---------------------------------------------------------------------------------


def claims(token: str) -> dict[str, Any]:
    decoded: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return decoded


def spent_long_ago(run_sql: Callable[..., list[Any]], seconds: float = 11) -> None:
    """Let the grace of every spent token pass."""
    for session_id, spent in run_sql(sa.select(Session.id, Session.spent)):
        older = [[number, moment - seconds] for number, moment in spent]
        run_sql(sa.update(Session).where(Session.id == session_id).values(spent=older))


def test_refreshing_gives_a_new_pair_of_the_same_session(api: Api, ada: Account) -> None:
    answer = api.refresh(ada.refresh_token)

    assert answer.status_code == 200
    pair = answer.json["data"]
    assert set(pair) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert pair["refresh_token"] != ada.refresh_token
    assert api.is_logged_in(pair["access_token"])
    before, after = claims(ada.refresh_token), claims(pair["refresh_token"])
    assert (after["sid"], after["gen"]) == (before["sid"], before["gen"] + 1)


def test_refreshing_does_not_put_off_the_end_of_the_session(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    before = run_sql(sa.select(Session.expires_at, Session.last_used_at))[0]

    token = api.refresh(ada.refresh_token).json["data"]["refresh_token"]

    after = run_sql(sa.select(Session.expires_at, Session.last_used_at))[0]
    assert after.expires_at == before.expires_at
    assert after.last_used_at > before.last_used_at
    assert claims(token)["exp"] == claims(ada.refresh_token)["exp"]


def test_an_access_token_does_not_outlive_its_session(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    run_sql(sa.update(Session).values(expires_at=datetime.now(UTC) + timedelta(seconds=60)))

    data = api.refresh(ada.refresh_token).json["data"]

    assert data["expires_in"] <= 60
    assert claims(data["access_token"])["exp"] <= datetime.now(UTC).timestamp() + 61


def test_a_spent_token_gives_the_same_successor_within_its_grace(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    first = api.refresh(ada.refresh_token).json["data"]
    spent_long_ago(run_sql, 8)

    second = api.refresh(ada.refresh_token).json["data"]

    assert claims(second["refresh_token"])["gen"] == claims(first["refresh_token"])["gen"]
    assert api.is_logged_in(second["access_token"])
    assert api.refresh(second["refresh_token"]).status_code == 200


def test_where_the_successor_is_spent_too_the_live_one_is_given(api: Api, ada: Account) -> None:
    second = api.refresh(ada.refresh_token).json["data"]["refresh_token"]
    third = api.refresh(second).json["data"]["refresh_token"]

    late = api.refresh(ada.refresh_token)

    assert late.status_code == 200
    assert claims(late.json["data"]["refresh_token"])["gen"] == claims(third)["gen"]


def test_a_token_that_was_spent_long_ago_ends_its_session(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]], events: list[dict[str, Any]]
) -> None:
    other_session = api.login(ada.email).json["data"]["access_token"]
    live = api.refresh(ada.refresh_token).json["data"]
    spent_long_ago(run_sql)

    answer = api.refresh(ada.refresh_token)

    assert answer.status_code == 401
    assert answer.json["error"]["code"] == "token_revoked"
    assert "WWW-Authenticate" in answer.headers
    assert not api.is_logged_in(live["access_token"])
    assert api.refresh(live["refresh_token"]).json["error"]["code"] == "token_revoked"
    assert api.is_logged_in(other_session)
    (event,) = [each for each in events if each["event"] == "refresh_token_reused"]
    assert event["user_id"] == ada.id
    assert ada.refresh_token not in str(events)


def test_twenty_refreshes_of_one_token_at_once_all_succeed(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    answers = at_once(20, lambda _: api.refresh(ada.refresh_token))

    assert [answer.status_code for answer in answers] == [200] * 20
    pairs = [answer.json["data"] for answer in answers]
    assert {claims(pair["refresh_token"])["sid"] for pair in pairs} == {
        claims(ada.refresh_token)["sid"]
    }
    assert {claims(pair["refresh_token"])["gen"] for pair in pairs} == {2}
    assert all(api.is_logged_in(pair["access_token"]) for pair in pairs)
    assert all(api.refresh(pair["refresh_token"]).status_code == 200 for pair in pairs)
    assert run_sql(sa.select(sa.func.count()).select_from(Session)) == [(1,)]


def test_two_tabs_that_refresh_over_and_over_are_never_logged_out(api: Api, ada: Account) -> None:
    def tab(_number: int) -> list[int]:
        token, statuses = ada.refresh_token, []
        for _ in range(15):
            answer = api.refresh(token)
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                token = answer.json["data"]["refresh_token"]
        return statuses

    assert at_once(3, tab) == [[200] * 15] * 3


def test_what_is_remembered_of_spent_tokens_stays_small(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    recent = datetime.now(UTC).timestamp()
    many = [[number, recent] for number in range(-500, 1)]
    run_sql(sa.update(Session).values(spent=many))

    api.refresh(ada.refresh_token)

    (kept,) = run_sql(sa.select(Session.spent))[0]
    assert len(kept) == SPENT_KEPT
    assert kept[-1][0] == 1


def test_spent_tokens_are_forgotten_after_their_grace(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]]
) -> None:
    token = ada.refresh_token
    for _ in range(3):
        token = api.refresh(token).json["data"]["refresh_token"]
        spent_long_ago(run_sql)

    (spent,) = run_sql(sa.select(Session.spent))[0]

    assert [number for number, _ in spent] == [3]


ENDINGS = {
    "logout": lambda api, ada: api.post("/logout", token=ada.access_token),
    "logout-all": lambda api, ada: api.post("/logout-all", token=ada.access_token),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_a_log_out_wins_every_race_against_a_refresh(
    api: Api, register: Callable[..., Account], how: str
) -> None:
    for _ in range(5):
        account = register()

        def call(number: int, account: Account = account) -> Any:
            if number == 0:
                return ENDINGS[how](api, account)
            return api.refresh(account.refresh_token)

        answers = at_once(6, call)

        assert answers[0].status_code == 200
        assert {answer.status_code for answer in answers[1:]} <= {200, 401}
        for answer in answers[1:]:
            if answer.status_code == 200:
                pair = answer.json["data"]
                assert not api.is_logged_in(pair["access_token"])
                assert api.refresh(pair["refresh_token"]).status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE users SET is_active = :no",
        "UPDATE users SET deleted_at = created_at WHERE :no = :no",
        "UPDATE users SET session_epoch = session_epoch + 1 WHERE :no = :no",
    ],
    ids=["disabled", "deleted", "a new epoch"],
)
def test_an_account_that_lost_its_sessions_can_not_refresh(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]], change: str
) -> None:
    successor = api.refresh(ada.refresh_token).json["data"]["refresh_token"]
    run_sql(change, no=False)

    answers = [api.refresh(token) for token in (successor, ada.refresh_token)]

    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].json["error"]["code"] == "token_revoked"


def test_a_change_of_epoch_between_reading_and_rotating_wins(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = sessions.judge

    def late(*facts: Any) -> Verdict:
        verdict = decide(*facts)
        run_sql("UPDATE users SET session_epoch = session_epoch + 1")
        monkeypatch.setattr(sessions, "judge", decide)
        return verdict

    monkeypatch.setattr(sessions, "judge", late)

    assert api.refresh(ada.refresh_token).status_code == 401
    assert run_sql(sa.select(Session.generation)) == [(1,)]


def test_a_slow_refresh_does_not_set_back_what_faster_ones_did(
    api: Api, ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = sessions.judge
    newest: list[str] = []

    def refresh_twice() -> str:
        token = ada.refresh_token
        for _ in range(2):
            token = api.refresh(token).json["data"]["refresh_token"]
        return token

    def late(*facts: Any) -> Verdict:
        verdict = decide(*facts)
        monkeypatch.setattr(sessions, "judge", decide)
        newest.append(meanwhile(refresh_twice))
        return verdict

    monkeypatch.setattr(sessions, "judge", late)

    slow = api.refresh(ada.refresh_token)

    assert slow.status_code == 200
    assert claims(slow.json["data"]["refresh_token"])["gen"] == claims(newest[0])["gen"] == 3
    assert api.refresh(newest[0]).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "unauthorized"),
        ({"Authorization": "Basic YWRhOnB3"}, "token_invalid"),
        ({"Authorization": "Bearer garbage"}, "token_invalid"),
        ({"Authorization": "Bearer a.b.c"}, "token_invalid"),
    ],
    ids=["none", "another scheme", "garbage", "three parts"],
)
def test_a_refresh_without_a_refresh_token_is_refused(
    api: Api, headers: dict[str, str], code: str
) -> None:
    answer = api.post("/refresh", headers=headers)

    assert answer.status_code == 401
    assert answer.json["error"]["code"] == code


def test_an_access_token_refreshes_nothing_and_a_refresh_token_opens_nothing(
    api: Api, ada: Account
) -> None:
    assert api.refresh(ada.access_token).json["error"]["code"] == "token_invalid"
    assert api.get("/me", ada.refresh_token).json["error"]["code"] == "token_invalid"


def test_a_token_of_an_expired_session_says_that_it_expired(api: Api, ada: Account) -> None:
    mine = claims(ada.refresh_token)
    past = datetime.now(UTC) - timedelta(seconds=1)
    session = Session(id=UUID(mine["sid"]), user_id=UUID(ada.id), generation=1, expires_at=past)
    with api.app.app_context():
        expired = tokens.issue_pair(session)

    assert api.refresh(expired["refresh_token"]).json["error"]["code"] == "token_expired"
    assert api.get("/me", expired["access_token"]).json["error"]["code"] == "token_expired"


def test_refreshes_are_limited_per_session(make_app: Callable[..., Flask], ada: Account) -> None:
    limited = Api(make_app({"ratelimit": {"enabled": True, "refresh": "2/minute"}}))
    other = limited.login(ada.email).json["data"]["refresh_token"]

    answers = [limited.refresh(ada.refresh_token).status_code for _ in range(3)]

    assert answers == [200, 200, 429]
    assert limited.refresh(other).status_code == 200


def test_bad_refresh_tokens_are_limited_per_source(
    make_app: Callable[..., Flask], app: Flask
) -> None:
    limited = Api(make_app({"ratelimit": {"enabled": True, "refresh": "2/minute"}}))

    answers = [limited.refresh(f"bad {number}").status_code for number in range(3)]

    assert answers == [401, 401, 429]


def test_passwords_are_not_what_a_refresh_depends_on(api: Api, ada: Account) -> None:
    api.post(
        "/change-password",
        {"current_password": PASSWORD, "new_password": OTHER_PASSWORD},
        token=ada.access_token,
    )

    assert api.refresh(ada.refresh_token).status_code == 200

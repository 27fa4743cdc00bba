"""Changing and resetting a password."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from auth_steps import OTHER_PASSWORD, PASSWORD, Account, Api, at_once, meanwhile, token_in
from flask import Flask

from ghost import signals
from ghost.auth import services
from ghost.mail import Message
from ghost.tokens import MailedToken

NewMails = Callable[[], list[Message]]
RunSql = Callable[..., list[Any]]
THIRD_PASSWORD = "three small wishes"


def change(api: Api, account: Account, current: str = PASSWORD, new: str = OTHER_PASSWORD) -> Any:
    return api.post(
        "/change-password",
        {"current_password": current, "new_password": new},
        token=account.access_token,
    )


def reset(api: Api, token: str, password: str = OTHER_PASSWORD) -> Any:
    return api.post("/reset-password", {"token": token, "new_password": password})


@pytest.fixture
def reset_token(api: Api, new_mails: NewMails) -> Callable[[str], str]:
    """Ask for a reset and read the token in the mail."""

    def ask(email: str) -> str:
        new_mails()
        assert api.post("/forgot-password", {"email": email}).status_code == 202
        (mail,) = new_mails()
        assert mail.recipients == (email,)
        return token_in(mail)

    return ask


# --- Changing -------------------------------------------------------------------------------------


def test_a_change_ends_every_other_session_and_keeps_this_one(api: Api, ada: Account) -> None:
    phone = api.login(ada.email).json["data"]

    assert change(api, ada).status_code == 200

    assert api.is_logged_in(ada.access_token)
    assert api.refresh(ada.refresh_token).status_code == 200
    assert not api.is_logged_in(phone["access_token"])
    assert api.refresh(phone["refresh_token"]).status_code == 401
    api.login(ada.email, PASSWORD, expect=401)
    api.login(ada.email, OTHER_PASSWORD)


def test_a_change_needs_the_current_password(api: Api, ada: Account) -> None:
    answer = change(api, ada, current="a wrong password")

    assert answer.status_code == 422
    assert list(answer.json["error"]["details"]["json"]) == ["current_password"]
    api.login(ada.email, PASSWORD)


@pytest.mark.parametrize("new", ["short", "password1", "Ada Lovelace 1815", "x" * 129])
def test_a_bad_new_password_is_refused(api: Api, ada: Account, new: str) -> None:
    answer = change(api, ada, new=new)

    assert answer.status_code == 422
    assert list(answer.json["error"]["details"]["json"]) == ["new_password"]
    api.login(ada.email, PASSWORD)


def test_the_owner_is_told_of_a_change(api: Api, ada: Account, new_mails: NewMails) -> None:
    new_mails()

    change(api, ada)

    (mail,) = new_mails()
    assert mail.recipients == (ada.email,)
    assert "password" in mail.subject
    assert "#token=" not in mail.text


def test_of_changes_at_once_one_counts_and_the_rest_are_refused(api: Api, ada: Account) -> None:
    wishes = [f"{PASSWORD} {number}" for number in range(4)]

    answers = at_once(4, lambda number: change(api, ada, new=wishes[number]).status_code)

    assert answers.count(200) == 1
    assert set(answers) <= {200, 409, 422}
    api.login(ada.email, wishes[answers.index(200)])
    assert api.is_logged_in(ada.access_token)


def change_while(
    monkeypatch: pytest.MonkeyPatch, between: Callable[[], Any], call: Callable[[], Any]
) -> tuple[Any, Any]:
    """Make a change, and let another request come in while its hash is made."""
    make, seen = services.hash_password, []

    def slowly(password: str) -> str:
        monkeypatch.setattr(services, "hash_password", make)
        seen.append(meanwhile(between))
        return make(password)

    monkeypatch.setattr(services, "hash_password", slowly)
    return call(), seen[0]


def test_a_change_that_lost_against_one_of_the_same_session_is_a_conflict(
    api: Api, ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = change_while(
        monkeypatch,
        lambda: change(api, ada, new=OTHER_PASSWORD),
        lambda: change(api, ada, new=THIRD_PASSWORD),
    )

    assert (fast.status_code, slow.status_code) == (200, 409)
    assert slow.json["error"]["code"] == "conflict"
    assert list(slow.json["error"]["details"]["json"]) == ["current_password"]
    assert api.is_logged_in(ada.access_token)
    api.login(ada.email, OTHER_PASSWORD)


def test_a_change_that_lost_against_one_of_another_session_finds_its_own_ended(
    api: Api, ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = replace(ada, access_token=api.login(ada.email).json["data"]["access_token"])

    slow, fast = change_while(
        monkeypatch,
        lambda: change(api, phone, new=OTHER_PASSWORD),
        lambda: change(api, ada, new=THIRD_PASSWORD),
    )

    assert (fast.status_code, slow.status_code) == (200, 401)
    assert slow.json["error"]["code"] == "token_revoked"


def test_a_log_out_everywhere_that_comes_in_between_wins_over_a_change(
    api: Api, ada: Account, run_sql: RunSql, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = services.hash_password

    def slowly(password: str) -> str:
        run_sql("UPDATE users SET session_epoch = session_epoch + 1")
        return make(password)

    monkeypatch.setattr(services, "hash_password", slowly)

    assert change(api, ada).status_code == 401
    api.login(ada.email, PASSWORD)


def test_listeners_hear_of_a_change_and_of_a_reset(
    api: Api, ada: Account, reset_token: Callable[[str], str]
) -> None:
    heard = []

    def listen(_sender: Flask, user_id: Any) -> None:
        heard.append(str(user_id))

    with signals.password_changed.connected_to(listen):
        change(api, ada)
        reset(api, reset_token(ada.email))

    assert heard == [ada.id, ada.id]


# --- Asking for a reset ---------------------------------------------------------------------------


def test_forgot_password_answers_the_same_whatever_exists(
    api: Api, ada: Account, register: Callable[..., Account], run_sql: RunSql, new_mails: NewMails
) -> None:
    register(email="gone@example.org")
    register(email="off@example.org")
    run_sql("UPDATE users SET deleted_at = created_at WHERE email = 'gone@example.org'")
    run_sql("UPDATE users SET is_active = :no WHERE email = 'off@example.org'", no=False)
    new_mails()

    answers = [
        api.post("/forgot-password", {"email": email})
        for email in (ada.email, "nobody@example.org", "gone@example.org", "off@example.org")
    ]

    assert {answer.status_code for answer in answers} == {202}
    bodies = [{**answer.json, "meta": None} for answer in answers]
    assert all(body == bodies[0] for body in bodies)
    assert [mail.recipients for mail in new_mails()] == [(ada.email,)]


def test_a_reset_mail_goes_to_the_stored_address(
    api: Api, ada: Account, new_mails: NewMails
) -> None:
    new_mails()

    api.post("/forgot-password", {"email": "ADA@example.org"})

    assert new_mails()[0].recipients == ("ada@example.org",)


def test_nobodys_mailbox_can_be_flooded(
    api: Api, ada: Account, new_mails: NewMails, events: list[dict[str, Any]]
) -> None:
    new_mails()
    for _ in range(8):
        api.post("/forgot-password", {"email": ada.email})

    mails = new_mails()

    assert len(mails) == 5
    assert reset(api, token_in(mails[-1])).status_code == 200
    assert sum(event["event"] == "mail_throttled" for event in events) == 3


def test_no_job_and_no_row_holds_a_usable_token(
    api: Api, ada: Account, run_sql: RunSql, reset_token: Callable[[str], str]
) -> None:
    token = reset_token(ada.email)

    stored = str(
        run_sql("SELECT * FROM jobs")
        + run_sql("SELECT * FROM mailed_tokens")
        + run_sql("SELECT * FROM users")
    )

    assert token not in stored
    assert token[22:] not in stored


# --- Resetting ------------------------------------------------------------------------------------


def test_a_reset_sets_the_password_and_ends_every_session(
    api: Api, ada: Account, reset_token: Callable[[str], str]
) -> None:
    answer = reset(api, reset_token(ada.email))

    assert answer.status_code == 200
    assert not api.is_logged_in(ada.access_token)
    assert api.refresh(ada.refresh_token).status_code == 401
    api.login(ada.email, PASSWORD, expect=401)
    user = api.login(ada.email, OTHER_PASSWORD).json["data"]["user"]
    assert user["is_verified"] is True  # the link was mailed to this very address


def test_the_owner_is_told_of_a_reset(
    api: Api, ada: Account, reset_token: Callable[[str], str], new_mails: NewMails
) -> None:
    reset(api, reset_token(ada.email))

    assert [mail.recipients for mail in new_mails()] == [(ada.email,)]


def test_a_refused_password_does_not_use_the_token_up(
    api: Api, ada: Account, reset_token: Callable[[str], str]
) -> None:
    token = reset_token(ada.email)

    for bad in ("short", "password1", "ada@example.org"):
        answer = reset(api, token, bad)
        assert answer.status_code == 422
        assert list(answer.json["error"]["details"]["json"]) == ["new_password"]

    assert reset(api, token).status_code == 200


def test_a_token_works_once(api: Api, ada: Account, reset_token: Callable[[str], str]) -> None:
    token = reset_token(ada.email)
    reset(api, token)

    answer = reset(api, token, THIRD_PASSWORD)

    assert answer.status_code == 410
    assert answer.json["error"]["code"] == "token_used"
    api.login(ada.email, OTHER_PASSWORD)


def test_of_resets_with_one_token_at_once_one_succeeds(
    api: Api, ada: Account, reset_token: Callable[[str], str]
) -> None:
    token = reset_token(ada.email)
    wishes = [f"{PASSWORD} {number}" for number in range(6)]

    answers = at_once(6, lambda number: reset(api, token, wishes[number]).status_code)

    assert sorted(answers) == [200] + [410] * 5
    api.login(ada.email, wishes[answers.index(200)])


def test_a_newer_token_replaces_the_older_one(
    api: Api, ada: Account, reset_token: Callable[[str], str]
) -> None:
    older, newer = reset_token(ada.email), reset_token(ada.email)

    assert reset(api, older).status_code == 410
    assert reset(api, newer).status_code == 200


DEATHS: dict[str, Callable[[Api, Account, RunSql], Any]] = {
    "a change of the password": lambda api, ada, sql: change(api, ada),
    "a log-out everywhere": lambda api, ada, sql: api.post("/logout-all", token=ada.access_token),
    "another address": lambda api, ada, sql: sql("UPDATE users SET email = 'new@example.org'"),
    "disabling": lambda api, ada, sql: sql("UPDATE users SET is_active = :no", no=False),
    "deletion": lambda api, ada, sql: sql("UPDATE users SET deleted_at = created_at"),
    "its hour": lambda api, ada, sql: sql(
        sa.update(MailedToken).values(expires_at=MailedToken.created_at)
    ),
}


@pytest.mark.parametrize("cause", DEATHS)
def test_a_token_dies_with(
    api: Api,
    ada: Account,
    run_sql: RunSql,
    reset_token: Callable[[str], str],
    cause: str,
) -> None:
    token = reset_token(ada.email)

    DEATHS[cause](api, ada, run_sql)

    assert reset(api, token, THIRD_PASSWORD).status_code == 410
    assert run_sql("SELECT count(*) FROM users WHERE password_hash IS NULL") == [(0,)]
    api.login("ada", THIRD_PASSWORD, expect=401)


def test_a_change_that_comes_in_between_wins_over_a_reset(
    api: Api,
    ada: Account,
    run_sql: RunSql,
    reset_token: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = reset_token(ada.email)
    make = services.hash_password

    def slowly(password: str) -> str:
        monkeypatch.setattr(services, "hash_password", make)
        assert meanwhile(lambda: change(api, ada)).status_code == 200
        return make(password)

    monkeypatch.setattr(services, "hash_password", slowly)

    assert reset(api, token, THIRD_PASSWORD).status_code == 410
    api.login(ada.email, OTHER_PASSWORD)


def test_a_log_in_that_was_checked_before_a_reset_is_born_dead(
    api: Api,
    ada: Account,
    run_sql: RunSql,
    reset_token: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = reset_token(ada.email)
    verify = services.verify_password

    def slowly(password: str, stored: str | None) -> bool:
        result = verify(password, stored)
        monkeypatch.setattr(services, "verify_password", verify)
        assert meanwhile(lambda: reset(api, token)).status_code == 200
        return result

    monkeypatch.setattr(services, "verify_password", slowly)

    api.login(ada.email, PASSWORD, expect=401)

    assert run_sql("SELECT count(*) FROM sessions WHERE epoch > 1") == [(0,)]


@pytest.mark.parametrize(
    "token", ["", "x", "x" * 64, "x" * 200, "é" * 64, "=" * 64, "../" * 21 + "x"]
)
def test_garbage_is_a_used_token(api: Api, ada: Account, token: str) -> None:
    answer = reset(api, token)

    assert answer.status_code == 410
    assert answer.json["error"]["code"] == "token_used"


def test_opening_a_link_changes_nothing(
    api: Api, ada: Account, reset_token: Callable[[str], str]
) -> None:
    token = reset_token(ada.email)
    client = api.app.test_client()

    client.get(f"/account/reset-password?token={token}")
    client.head(f"/account/reset-password?token={token}")
    assert api.call("GET", "/reset-password").status_code == 405

    assert reset(api, token).status_code == 200


def test_links_come_from_the_configuration_not_from_the_request(
    make_app: Callable[..., Flask], ada: Account, new_mails: NewMails
) -> None:
    new_mails()
    served = Api(make_app({"app": {"public_url": "https://app.example.com"}}))
    served.post("/forgot-password", {"email": ada.email}, headers={"Host": "app.example.com"})
    forged = served.post(
        "/forgot-password",
        {"email": ada.email},
        headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"},
    )

    mails = new_mails()

    assert forged.status_code == 400
    assert len(mails) == 1
    assert "evil.example" not in mails[0].text


def test_changes_and_resets_leave_records_without_secrets(
    api: Api,
    ada: Account,
    reset_token: Callable[[str], str],
    events: list[dict[str, Any]],
) -> None:
    token = reset_token(ada.email)
    reset(api, token)
    change(api, ada)

    kinds = [event["event"] for event in events]
    assert "password_changed" in kinds
    text = str(events)
    assert token not in text
    assert PASSWORD not in text
    assert OTHER_PASSWORD not in text

"""Confirming an address, by link and by code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from auth_steps import Account, Api, at_once, code_in, token_in
from flask import Flask

from ghost import signals
from ghost.auth.models import Throttle
from ghost.mail import Message

NewMails = Callable[[], list[Message]]


@pytest.fixture
def mail(ada: Account, new_mails: NewMails) -> Message:
    """The verification mail of a registration."""
    return new_mails()[0]


def is_verified(api: Api, account: Account) -> bool:
    return bool(api.get("/me", account.access_token).json["data"]["is_verified"])


def test_the_link_confirms_the_address(api: Api, ada: Account, mail: Message) -> None:
    assert not is_verified(api, ada)

    answer = api.post("/verify-email", {"token": token_in(mail)})

    assert answer.status_code == 200
    assert is_verified(api, ada)


def test_the_code_confirms_the_address(api: Api, ada: Account, mail: Message) -> None:
    answer = api.post("/verify-email", {"email": "ADA@example.org", "code": code_in(mail)})

    assert answer.status_code == 200
    assert is_verified(api, ada)


def test_link_and_code_work_once_between_them(api: Api, ada: Account, mail: Message) -> None:
    by_code = {"email": ada.email, "code": code_in(mail)}
    api.post("/verify-email", {"token": token_in(mail)})

    again = [api.post("/verify-email", body) for body in ({"token": token_in(mail)}, by_code)]

    assert [answer.status_code for answer in again] == [410, 410]
    assert again[0].json["error"]["code"] == "token_used"


def test_of_confirmations_at_once_one_succeeds(api: Api, ada: Account, mail: Message) -> None:
    bodies = [{"token": token_in(mail)}, {"email": ada.email, "code": code_in(mail)}] * 2

    answers = at_once(4, lambda number: api.post("/verify-email", bodies[number]).status_code)

    assert sorted(answers) == [200, 410, 410, 410]


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06}"


def test_after_five_wrong_codes_the_right_one_is_worth_nothing_but_the_link_is(
    api: Api, ada: Account, mail: Message
) -> None:
    guess = {"email": ada.email, "code": wrong(code_in(mail))}
    answers = [api.post("/verify-email", guess).status_code for _ in range(5)]
    assert answers == [410] * 5

    right = api.post("/verify-email", {"email": ada.email, "code": code_in(mail)})

    assert right.status_code == 410
    assert not is_verified(api, ada)
    assert api.post("/verify-email", {"token": token_in(mail)}).status_code == 200


def test_four_wrong_codes_leave_a_try(api: Api, ada: Account, mail: Message) -> None:
    for _ in range(4):
        api.post("/verify-email", {"email": ada.email, "code": wrong(code_in(mail))})

    answer = api.post("/verify-email", {"email": ada.email, "code": code_in(mail)})

    assert answer.status_code == 200


def test_guesses_at_once_have_five_tries_between_them(
    api: Api, ada: Account, mail: Message, run_sql: Callable[..., list[Any]]
) -> None:
    guess = {"email": ada.email, "code": wrong(code_in(mail))}

    at_once(16, lambda _: api.post("/verify-email", guess).status_code)

    assert run_sql(sa.select(Throttle.count)) == [(16,)]
    right = api.post("/verify-email", {"email": ada.email, "code": code_in(mail)})
    assert right.status_code == 410


def test_a_code_is_for_its_own_account(
    api: Api, ada: Account, mail: Message, register: Callable[..., Account], new_mails: NewMails
) -> None:
    other = register()
    new_mails()

    answer = api.post("/verify-email", {"email": other.email, "code": code_in(mail)})

    assert answer.status_code == 410


def test_unknown_addresses_get_the_answer_of_wrong_codes(
    api: Api, ada: Account, mail: Message
) -> None:
    answers = [
        api.post("/verify-email", {"email": email, "code": wrong(code_in(mail))})
        for email in (ada.email, "nobody@example.org")
    ]

    assert [answer.status_code for answer in answers] == [410, 410]
    assert answers[0].json["error"] == answers[1].json["error"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "ada@example.org"},
        {"code": "123456"},
        {"token": "x", "email": "ada@example.org", "code": "123456"},
        {"token": "x", "code": "123456"},
        {"token": None},
        {"token": 5},
        {"email": "ada@example.org", "code": "12345"},
        {"email": "ada@example.org", "code": "1234567"},
        {"email": "ada@example.org", "code": 123456},
        {"email": "ada@example.org", "code": "١٢٣٤٥٦"},
    ],
)
def test_anything_but_a_token_or_an_address_with_a_code_is_refused(
    api: Api, body: dict[str, Any]
) -> None:
    assert api.post("/verify-email", body).status_code == 422


def test_a_token_for_a_former_address_confirms_nothing(
    api: Api, ada: Account, mail: Message, run_sql: Callable[..., list[Any]]
) -> None:
    run_sql("UPDATE users SET email = 'new@example.org'")

    assert api.post("/verify-email", {"token": token_in(mail)}).status_code == 410
    answer = api.post("/verify-email", {"email": "new@example.org", "code": code_in(mail)})
    assert answer.status_code == 410
    assert not is_verified(api, ada)


@pytest.mark.parametrize("what", ["/change-password", "/logout-all"])
def test_a_token_from_before_a_new_password_or_a_log_out_everywhere_confirms_nothing(
    api: Api, ada: Account, mail: Message, new_mails: NewMails, what: str
) -> None:
    passwords = {"current_password": ada.password, "new_password": "another fine staple"}
    body = passwords if what == "/change-password" else None
    assert api.post(what, body, token=ada.access_token).status_code == 200

    by_link = api.post("/verify-email", {"token": token_in(mail)})
    by_code = api.post("/verify-email", {"email": ada.email, "code": code_in(mail)})
    new_mails()
    api.post("/resend-verification", {"email": ada.email})
    (newer,) = new_mails()
    afterwards = api.post("/verify-email", {"token": token_in(newer)})

    assert [by_link.status_code, by_code.status_code, afterwards.status_code] == [410, 410, 200]


def test_an_address_that_comes_back_needs_a_new_mail(
    api: Api, ada: Account, mail: Message, run_sql: Callable[..., list[Any]]
) -> None:
    for email in ("new@example.org", ada.email):  # as an administrator's change does
        change = "UPDATE users SET email = :email, session_epoch = session_epoch + 1"
        run_sql(change, email=email)

    assert api.post("/verify-email", {"token": token_in(mail)}).status_code == 410


def test_a_mail_that_is_tried_again_brings_no_link_that_has_died_meanwhile(
    api: Api,
    register: Callable[..., Account],
    new_mails: NewMails,
    run_sql: Callable[..., list[Any]],
) -> None:
    ada = register()
    new_mails()
    api.post("/logout-all", token=ada.access_token)
    run_sql("UPDATE jobs SET status = 'queued', attempts = 0, finished_at = NULL")

    assert new_mails() == []


def test_a_verification_token_sets_no_password_and_a_reset_token_confirms_nothing(
    api: Api, ada: Account, mail: Message, new_mails: NewMails
) -> None:
    api.post("/forgot-password", {"email": ada.email})
    reset = token_in(new_mails()[0])

    as_reset = api.post(
        "/reset-password", {"token": token_in(mail), "new_password": "another fine staple"}
    )
    as_verification = api.post("/verify-email", {"token": reset})

    assert (as_reset.status_code, as_verification.status_code) == (410, 410)
    assert not is_verified(api, ada)


def test_no_mailed_token_opens_a_session(api: Api, ada: Account, mail: Message) -> None:
    assert not api.is_logged_in(token_in(mail))
    assert api.refresh(token_in(mail)).status_code == 401


def test_resending_gives_a_new_link_that_replaces_the_old_one(
    api: Api, ada: Account, mail: Message, new_mails: NewMails
) -> None:
    assert api.post("/resend-verification", {"email": ada.email}).status_code == 202
    (newer,) = new_mails()

    assert api.post("/verify-email", {"token": token_in(mail)}).status_code == 410
    assert api.post("/verify-email", {"token": token_in(newer)}).status_code == 200


def test_resending_answers_the_same_whatever_there_is_to_confirm(
    api: Api,
    ada: Account,
    mail: Message,
    register: Callable[..., Account],
    run_sql: Callable[..., list[Any]],
    new_mails: NewMails,
) -> None:
    done = register(email="done@example.org")
    run_sql("UPDATE users SET is_verified = :yes WHERE email = :email", yes=True, email=done.email)
    new_mails()

    answers = [
        api.post("/resend-verification", {"email": email})
        for email in (ada.email, done.email, "nobody@example.org")
    ]

    assert {answer.status_code for answer in answers} == {202}
    bodies = [{**answer.json, "meta": None} for answer in answers]
    assert all(body == bodies[0] for body in bodies)
    assert [sent.recipients for sent in new_mails()] == [(ada.email,)]


def test_opening_the_link_changes_nothing(api: Api, ada: Account, mail: Message) -> None:
    client = api.app.test_client()

    client.get(f"/account/verify-email?token={token_in(mail)}")

    assert api.call("GET", "/verify-email").status_code == 405
    assert not is_verified(api, ada)


def test_listeners_hear_of_a_confirmed_address(api: Api, ada: Account, mail: Message) -> None:
    heard = []

    def listen(_sender: Flask, user_id: Any) -> None:
        heard.append(str(user_id))

    with signals.user_verified.connected_to(listen):
        api.post("/verify-email", {"token": token_in(mail)})

    assert heard == [ada.id]

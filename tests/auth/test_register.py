"""Registering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from auth_steps import PASSWORD, Account, Api, at_once
from flask import Flask

from ghost import signals
from ghost.mail import Message

USER_FIELDS = {
    "id", "email", "username", "full_name", "roles", "is_active", "is_verified", "avatar_url",
    "created_at", "updated_at", "last_login_at",
}  # fmt: skip


def test_registering_gives_the_account_and_its_first_tokens(api: Api) -> None:
    answer = api.post(
        "/register",
        {
            "email": "ada@example.org",
            "password": PASSWORD,
            "username": "Ada",
            "full_name": "Ada Lovelace",
        },
    )

    assert answer.status_code == 201
    data = answer.json["data"]
    assert set(data) == {"user", "access_token", "refresh_token", "token_type", "expires_in"}
    assert (data["token_type"], data["expires_in"]) == ("Bearer", 900)
    user = data["user"]
    assert set(user) == USER_FIELDS
    assert user["email"] == "ada@example.org"
    assert user["username"] == "Ada"
    assert user["full_name"] == "Ada Lovelace"
    assert user["roles"] == ["USER"]
    assert user["is_active"] is True
    assert user["is_verified"] is False
    assert user["created_at"].endswith("Z")
    assert api.get("/me", data["access_token"]).json["data"] == user


def test_no_answer_holds_a_hash_or_the_password(api: Api) -> None:
    body = {"email": "ada@example.org", "password": PASSWORD}

    answers = [api.post("/register", body), api.post("/login", body)]

    for answer in answers:
        assert "$2b$" not in answer.text
        assert "password" not in answer.text
        assert PASSWORD not in answer.text


@pytest.mark.parametrize(
    ("taken", "field"),
    [
        ({"email": "ADA@Example.ORG"}, "email"),
        ({"email": "other@example.org", "username": "ADA"}, "username"),
    ],
    ids=["the address in capitals", "the username in capitals"],
)
def test_a_taken_name_is_a_conflict_that_names_the_field(
    api: Api, ada: Account, taken: Mapping[str, str], field: str
) -> None:
    answer = api.post("/register", {"password": PASSWORD, **taken})

    assert answer.status_code == 409
    assert answer.json["error"]["code"] == "conflict"
    assert list(answer.json["error"]["details"]["json"]) == [field]


def test_an_address_is_stored_in_its_canonical_form(register: Callable[..., Account]) -> None:
    assert register(email="Ada@BÜCHER.example").email == "ada@xn--bcher-kva.example"


def test_of_registrations_of_one_address_at_once_one_succeeds(
    api: Api, run_sql: Callable[..., list[Any]]
) -> None:
    body = {"email": "ada@example.org", "password": PASSWORD}

    answers = at_once(8, lambda _: api.post("/register", body).status_code)

    assert sorted(answers) == [201] + [409] * 7
    assert run_sql("SELECT count(*) FROM users")[0][0] == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"email": "no address"}, "email"),
        ({"email": None}, "email"),
        ({"email": ["ada@example.org"]}, "email"),
        ({"password": "short"}, "password"),
        ({"password": "password1"}, "password"),
        ({"password": "x" * 129}, "password"),
        ({"password": 12345678}, "password"),
        ({"password": "nul \0 inside it"}, "password"),
        ({"username": "a@b"}, "username"),
        ({"username": "ab"}, "username"),
        ({"username": "Root"}, "username"),
        ({"username": "-dash"}, "username"),
        ({"full_name": "x" * 201}, "full_name"),
        ({"full_name": "line\nbreak"}, "full_name"),
        ({"role": "SUPER_ADMIN"}, "role"),
        ({"is_verified": True}, "is_verified"),
    ],
)
def test_a_bad_field_is_refused_and_named(
    api: Api, run_sql: Callable[..., list[Any]], change: Mapping[str, Any], field: str
) -> None:
    answer = api.post("/register", {"email": "ada@example.org", "password": PASSWORD, **change})

    assert answer.status_code == 422
    assert answer.json["error"]["code"] == "validation_error"
    assert list(answer.json["error"]["details"]["json"]) == [field]
    assert run_sql("SELECT count(*) FROM users")[0][0] == 0


def test_registering_can_be_closed(make_app: Callable[..., Flask], app: Flask) -> None:
    closed = Api(make_app({"auth": {"allow_registration": False}}))

    answer = closed.post("/register", {"email": "ada@example.org", "password": PASSWORD})

    assert answer.status_code == 403
    assert answer.json["error"]["code"] == "forbidden"


def test_a_verification_mail_goes_to_the_new_address(
    register: Callable[..., Account], new_mails: Callable[[], list[Message]]
) -> None:
    register(email="ada@example.org")

    (mail,) = new_mails()

    assert mail.recipients == ("ada@example.org",)
    assert "#token=" in mail.text


def test_a_refused_registration_mails_nothing(
    api: Api, ada: Account, new_mails: Callable[[], list[Message]]
) -> None:
    new_mails()

    api.post("/register", {"email": "ada@example.org", "password": PASSWORD})

    assert new_mails() == []


def test_listeners_hear_of_a_new_account_after_the_commit(
    app: Flask, register: Callable[..., Account], run_sql: Callable[..., list[Any]]
) -> None:
    heard = []

    def listen(sender: Flask, user_id: Any) -> None:
        heard.append((sender, str(user_id), run_sql("SELECT count(*) FROM users")[0][0]))

    with signals.user_registered.connected_to(listen):
        ada = register()

    assert heard == [(app, ada.id, 1)]


def test_a_listener_that_fails_does_not_spoil_the_answer(
    register: Callable[..., Account],
) -> None:
    def fail(_sender: Flask, **_facts: Any) -> None:
        raise RuntimeError("not my day")

    with signals.user_registered.connected_to(fail):
        assert register().id

"""One's own name and username."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from auth_steps import Account, Api, at_once
from flask import Flask


def test_name_and_username_can_be_changed(api: Api, ada: Account) -> None:
    answer = api.patch(
        "/me", {"username": "Countess", "full_name": "Ada King"}, token=ada.access_token
    )

    assert answer.status_code == 200
    assert answer.json["data"]["username"] == "Countess"
    assert api.get("/me", ada.access_token).json["data"] == answer.json["data"]
    api.login("countess")
    api.login("ada", expect=401)


def test_what_is_not_sent_stays_and_null_removes(api: Api, ada: Account) -> None:
    assert api.patch("/me", {}, token=ada.access_token).json["data"]["username"] == "ada"

    answer = api.patch("/me", {"username": None}, token=ada.access_token)

    assert answer.json["data"]["username"] is None
    assert answer.json["data"]["full_name"] == "Ada Lovelace"


@pytest.mark.parametrize(
    "field",
    ["email", "roles", "is_active", "is_verified", "password", "password_hash", "id", "created_at"],
)
def test_nothing_else_can_be_changed(
    api: Api, ada: Account, run_sql: Callable[..., list[Any]], field: str
) -> None:
    before = run_sql("SELECT * FROM users")

    answer = api.patch("/me", {"full_name": "New", field: "x"}, token=ada.access_token)

    assert answer.status_code == 422
    assert list(answer.json["error"]["details"]["json"]) == [field]
    assert run_sql("SELECT * FROM users") == before


@pytest.mark.parametrize("name", ["Admin", "me", "a@b", "x", "né", ".dot", "two words"])
def test_a_bad_username_is_refused(api: Api, ada: Account, name: str) -> None:
    assert api.patch("/me", {"username": name}, token=ada.access_token).status_code == 422


def test_a_taken_username_is_a_conflict(
    api: Api, ada: Account, register: Callable[..., Account]
) -> None:
    other = register()

    answer = api.patch("/me", {"username": "ADA"}, token=other.access_token)

    assert answer.status_code == 409
    assert list(answer.json["error"]["details"]["json"]) == ["username"]


def test_of_those_who_take_one_username_at_once_one_gets_it(
    api: Api, register: Callable[..., Account]
) -> None:
    accounts = [register() for _ in range(6)]

    def take(number: int) -> int:
        token = accounts[number].access_token
        return api.patch("/me", {"username": "wanted"}, token=token).status_code

    assert sorted(at_once(6, take)) == [200] + [409] * 5


def test_with_verification_required_ones_own_account_still_opens(
    make_app: Callable[..., Flask], ada: Account
) -> None:
    strict = Api(make_app({"auth": {"require_verified_email": True}}))

    assert strict.is_logged_in(ada.access_token)
    assert strict.post("/logout", token=ada.access_token).status_code == 200

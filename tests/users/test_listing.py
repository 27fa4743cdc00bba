"""`GET /users`: pages, order, filters, search, and how few queries they take."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from statements import counted

from ghost.database import db
from ghost.models import utcnow
from ghost.users.models import User

from .conftest import MakePerson, Person


def emails(response: Any) -> list[str]:
    assert response.status_code == 200, response.json
    return [user["email"].partition("@")[0] for user in response.json["data"]]


@pytest.fixture
def crowd(app: Flask, person: MakePerson) -> None:
    """Four accounts, a minute apart, older than everybody else's."""
    people = [
        person("USER", email="dora@example.org", username="Beta", full_name="Dora 100% Day"),
        person("USER", email="carl@example.org", username="alpha"),
        person("ADMIN", email="bert@example.org", full_name="O'Brien; DROP TABLE users"),
        person("USER", "ADMIN", email="anna@example.org", username="c_d", is_active=False),
    ]
    with app.app_context():
        start = utcnow() - timedelta(days=1)
        for number, one in enumerate(people):
            db.session.get_one(User, one.id).created_at = start + timedelta(minutes=number)
        db.session.commit()


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (None, ["boss", "anna", "bert", "carl", "dora"]),
        ("-created_at", ["boss", "anna", "bert", "carl", "dora"]),
        ("created_at", ["dora", "carl", "bert", "anna", "boss"]),
        ("email", ["anna", "bert", "boss", "carl", "dora"]),
        ("-email", ["dora", "carl", "boss", "bert", "anna"]),
        # In any case; who has none comes last.
        ("username", ["carl", "dora", "anna"]),
        ("-username", ["anna", "dora", "carl"]),
    ],
)
def test_accounts_come_in_the_order_asked_for(
    boss: Person, sort: str | None, expected: list[str]
) -> None:
    found = emails(boss.get("/users", query_string={"sort": sort} if sort else {}))

    assert found[: len(expected)] == expected
    assert len(found) == 5


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"search": "ANNA"}, {"anna"}),
        ({"search": "beta"}, {"dora"}),
        ({"search": "day"}, {"dora"}),
        ({"search": "example.org"}, {"anna", "bert", "carl", "dora", "boss"}),
        ({"search": "%"}, {"dora"}),
        ({"search": "0% d"}, {"dora"}),
        ({"search": "_"}, {"anna"}),
        ({"search": "a%"}, set()),
        ({"search": "\\"}, set()),
        ({"search": "/"}, set()),
        ({"search": "'"}, {"bert"}),
        ({"search": "' OR 1=1 --"}, set()),
        ({"role": "ADMIN"}, {"anna", "bert"}),
        ({"role": "SUPER_ADMIN"}, {"boss"}),
        ({"role": "PIRATE"}, set()),
        ({"role": "%"}, set()),
        ({"is_active": "false"}, {"anna"}),
        ({"is_active": "true", "role": "ADMIN"}, {"bert"}),
        ({"search": "a", "role": "ADMIN", "is_active": "false"}, {"anna"}),
    ],
    ids=str,
)
def test_filters_and_search_narrow_the_list_and_its_total(
    boss: Person, query: dict[str, str], expected: set[str]
) -> None:
    response = boss.get("/users", query_string=query)

    assert set(emails(response)) == expected
    assert response.json["meta"]["pagination"]["total"] == len(expected)


@pytest.mark.parametrize(
    "query",
    [
        {"sort": "password_hash"},
        {"sort": "-password_hash"},
        {"sort": "session_epoch"},
        {"sort": "id"},
        {"sort": "--email"},
        {"sort": "email,username"},
        {"sort": "email; DROP TABLE users"},
        {"sort": ""},
        {"email": "boss@example.org"},
        {"password_hash": "x"},
        {"deleted_at": "null"},
        {"with_deleted": "true"},
        {"is_active": "1"},
        {"is_active": "True"},
        {"is_active": ""},
        {"search": ""},
        {"search": "x" * 201},
        {"search": "\x00"},
        {"role": "\x00"},
        {"page": "0"},
        {"per_page": "101"},
        {"page": "1e3"},
        {"fields": "password_hash"},
    ],
    ids=str,
)
def test_what_is_not_offered_is_refused(boss: Person, query: dict[str, str]) -> None:
    response = boss.get("/users", query_string=query)

    assert response.status_code == 422
    assert response.json["error"]["details"]["query"].keys() == query.keys()


def test_a_field_given_twice_is_refused(boss: Person) -> None:
    assert boss.get("/users?sort=email&sort=-email").status_code == 422


def test_rows_are_whole_accounts_without_secrets(boss: Person, person: MakePerson) -> None:
    ada = person("USER", "ADMIN", username="Ada", full_name="Ada L", password_hash="secret-hash")

    response = boss.get("/users", query_string={"search": "ada"})

    assert response.json["data"] == [boss.get(ada.path).json["data"]]
    assert response.json["data"][0]["roles"] == ["ADMIN", "USER"]
    assert b"secret-hash" not in response.data


def test_every_account_is_on_exactly_one_page(app: Flask, boss: Person, person: MakePerson) -> None:
    for _ in range(12):
        person()
    with app.app_context():  # the same moment for all: the key decides
        db.session.execute(sa.update(User).values(created_at=utcnow()))
        db.session.commit()

    seen = [
        user["id"]
        for page in (1, 2, 3)
        for user in boss.get("/users", query_string={"page": page, "per_page": 5}).json["data"]
    ]

    assert len(seen) == len(set(seen)) == 13


def test_a_page_says_where_it_is(boss: Person, person: MakePerson) -> None:
    for _ in range(4):
        person()

    meta = boss.get("/users?page=2&per_page=2").json["meta"]["pagination"]

    assert meta == {
        "page": 2, "per_page": 2, "total": 5, "pages": 3, "has_next": True, "has_prev": True,
    }  # fmt: skip


def test_a_page_takes_three_statements_however_long_it_is(
    app: Flask, boss: Person, person: MakePerson, make_role: Callable[..., str]
) -> None:
    for number in range(30):
        person("USER", make_role(f"EXTRA_{number}"))
    boss.get("/users")

    with counted(app) as sent:
        response = boss.get("/users?per_page=100")

    assert len(response.json["data"]) == 31
    # Who asks and what they may, how many there are, and the page.
    assert len(sent) == 3, sent

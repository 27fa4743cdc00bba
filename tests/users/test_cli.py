"""`flask users`: the commands of an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask

from ghost.database import db
from ghost.passwords import verify_password
from ghost.users.models import User

from .conftest import MakePerson, Person

PASSWORD = "a passphrase of four words"
Flask_ = Callable[..., Result]


@pytest.fixture
def flask(app: Flask) -> Flask_:
    """Run a command: `flask("list", "--role", "ADMIN")`."""
    runner = app.test_cli_runner()

    def run(*words: str, typed: str | None = None) -> Result:
        return runner.invoke(args=["users", *words], input=typed)

    return run


@pytest.fixture
def account(app: Flask) -> Callable[[str], User | None]:
    def read(email: str) -> User | None:
        with app.app_context():
            return db.session.scalar(sa.select(User).where(User.email == email))

    return read


def test_the_first_administrator_is_made_with_a_password_that_is_typed_twice(
    app: Flask, flask: Flask_, account: Callable[[str], User], client: Any
) -> None:
    result = flask(
        "create", "Ada@Example.org", "--username", "ada", "--full-name", "Ada L",
        "--role", "SUPER_ADMIN", "--role", "USER", typed=f"{PASSWORD}\n{PASSWORD}\n",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "Created ada@example.org with the roles SUPER_ADMIN, USER." in result.output
    assert PASSWORD not in result.output
    user = account("ada@example.org")
    assert (user.roles, user.is_verified, user.full_name) == (
        ["SUPER_ADMIN", "USER"],
        True,
        "Ada L",
    )
    with app.app_context():
        assert verify_password(PASSWORD, user.password_hash)
    login = client.post("/api/v1/auth/login", json={"email": "ada", "password": PASSWORD})
    assert login.status_code == 200


def test_a_password_can_come_from_standard_input(
    app: Flask, flask: Flask_, account: Callable[[str], User]
) -> None:
    result = flask("create", "ada@example.org", "--password-stdin", typed=f"  {PASSWORD} \n")

    assert result.exit_code == 0, result.output
    user = account("ada@example.org")
    assert user.roles == ["USER"]
    with app.app_context():  # nothing but the line's end is taken away
        assert verify_password(f"  {PASSWORD} ", user.password_hash)


@pytest.mark.parametrize(
    ("words", "typed", "said", "status"),
    [
        (["ada"], None, "Not a valid email address", 2),
        (["ada@example.org", "--username", "root"], None, "reserved", 2),
        (["ada@example.org", "--full-name", " "], None, "blank", 2),
        (["ada@example.org", "--role", "admin"], None, "capital letters", 2),
        (["ada@example.org", "--password", PASSWORD], None, "No such option", 2),
        (["ada@example.org", PASSWORD], None, "unexpected extra argument", 2),
        (["ada@example.org", "--role", "PIRATE"], None, "There is no role PIRATE.", 1),
        (["ada@example.org", "--password-stdin"], "short\n", "at least 8 characters", 1),
        (["ada@example.org", "--password-stdin"], "", "at least 8 characters", 1),
        (["ada@example.org", "--password-stdin"], "password123\n", "tried first", 1),
        (["ada@example.org", "--password-stdin"], "ada-ada-ada\n", "too close", 1),
        (["boss@example.org", "--password-stdin"], f"{PASSWORD}\n", "already has an account", 1),
        (["ada@example.org"], f"{PASSWORD}\nanother\n", "do not match", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_makes_no_account_is_said_in_a_line(
    flask: Flask_, boss: Person, account: Callable[[str], User | None],
    words: list[str], typed: str | None, said: str, status: int,
) -> None:  # fmt: skip
    result = flask("create", *words, typed=typed)

    assert (result.exit_code, said in result.output) == (status, True), result.output
    assert "Traceback" not in result.output
    assert account("ada@example.org") is None


def test_accounts_are_listed_as_a_table(flask: Flask_, boss: Person, person: MakePerson) -> None:
    person("USER", "ADMIN", email="ada@example.org", username="Ada", is_active=False)
    person(email="bob@example.org", is_verified=False)
    boss.delete(person(email="gone@example.org").path)

    result = flask("list")

    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0][:2] == ["E-MAIL", "USERNAME"]
    assert [line[0] for line in lines[1:]] == [
        "boss@example.org", "ada@example.org", "bob@example.org",
    ]  # fmt: skip
    assert lines[2][1:6] == ["Ada", "ADMIN,", "USER", "disabled", "verified"]
    assert lines[3][1:5] == ["-", "USER", "active", "unverified"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--role", "SUPER_ADMIN"], ["boss"]),
        (["--search", "BOB"], ["bob"]),
        (["--search", "%"], []),
    ],
)
def test_the_list_can_be_narrowed(
    flask: Flask_, boss: Person, person: MakePerson, words: list[str], expected: list[str]
) -> None:
    person(email="bob@example.org")

    result = flask("list", *words)

    found = [line.partition("@")[0] for line in result.output.splitlines()[1:]]
    assert found == expected


def test_a_disabled_account_is_out_at_once(
    flask: Flask_, user: Person, row: Callable[[UUID], User]
) -> None:
    assert user.is_logged_in()

    result = flask("disable", "USER@example.org")

    assert result.exit_code == 0, result.output
    assert not row(user.id).is_active
    assert not user.is_logged_in()


def test_roles_are_replaced_and_count_at_once(
    flask: Flask_, user: Person, row: Callable[[UUID], User]
) -> None:
    result = flask("set-roles", "user@example.org", "ADMIN", "USER")

    assert result.output == "user@example.org now has the roles ADMIN, USER.\n"
    assert row(user.id).roles == ["ADMIN", "USER"]
    assert user.get("/users").status_code == 200


@pytest.mark.parametrize(
    "words", [["disable", "boss@example.org"], ["set-roles", "boss@example.org", "ADMIN"]], ids=str
)
def test_the_last_super_admin_is_guarded_here_too(
    flask: Flask_, boss: Person, person: MakePerson, words: list[str]
) -> None:
    person("SUPER_ADMIN", is_active=False)

    refused = flask(*words)
    person("SUPER_ADMIN")
    done = flask(*words)

    assert (refused.exit_code, done.exit_code) == (1, 0)
    assert "last active SUPER_ADMIN" in refused.output


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (["disable", "nobody@example.org"], "There is no account nobody@example.org.", 1),
        (["disable", "nobody"], "Not a valid email address", 2),
        (["set-roles", "nobody@example.org", "ADMIN"], "There is no account", 1),
        (["set-roles", "boss@example.org", "PIRATE", "SUPER_ADMIN"], "no role PIRATE", 1),
        (["set-roles", "boss@example.org"], "Missing argument", 2),
    ],
    ids=str,
)
def test_mistakes_are_said_in_a_line(
    flask: Flask_, boss: Person, words: list[str], said: str, status: int
) -> None:
    result = flask(*words)

    assert (result.exit_code, said in result.output) == (status, True), result.output
    assert "Traceback" not in result.output


def test_a_database_without_tables_is_said_in_a_line(
    make_app: Callable[..., Flask], empty_database: Callable[[], str]
) -> None:
    bare = make_app({"database": {"url": empty_database()}})

    for words in (["list"], ["disable", "ada@example.org"]):
        result = bare.test_cli_runner().invoke(args=["users", *words])

        assert result.exit_code == 1
        assert "flask db upgrade" in result.output
        assert "SELECT" not in result.output

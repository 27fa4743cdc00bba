"""What the other rooms use of this one."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
import pytest
import sqlalchemy as sa
from flask import Flask

from ghost.database import db
from ghost.errors import Conflict, ValidationFailed
from ghost.users import services
from ghost.users.models import Role, User
from ghost.users.names import RESERVED_USERNAMES
from ghost.users.rights import SEED_ROLES
from ghost.users.roles import permissions_of
from ghost.users.schemas import FullName, Username


@pytest.mark.parametrize(
    ("identifier", "is_found"),
    [
        ("ada@example.org", True),
        ("ADA@Example.ORG", True),
        ("ada", True),
        ("ADA", True),
        ("Ada", True),
        ("", False),
        ("ad", False),
        ("ada ", False),
        (" ada@example.org", False),
        ("ada@", False),
        ("@", False),
        ("ada@example.org\x00", False),
        ("ada\x00", False),
        ("\ud800", False),
        ("\ud800@example.org", False),
        ("%", False),
        ("_d_", False),
        ("x" * 100_000, False),
        ("x" * 100_000 + "@example.org", False),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_an_account_is_found_by_address_or_username(
    session: Any, identifier: str, is_found: bool
) -> None:
    services.add_user(email="ada@example.org", username="Ada")

    found = services.find_by_login(identifier)

    assert (found is not None) is is_found


def test_a_deleted_account_is_not_found(session: Any) -> None:
    user = services.add_user(email="ada@example.org", username="ada")
    services.delete_user(user)

    assert services.find_by_login("ada@example.org") is None
    assert services.find_by_login("ada") is None


@pytest.mark.parametrize("identifier", ["ada@example.org", "bob@example.org", "ada", "bob"])
def test_to_find_an_account_takes_one_query_whether_it_is_there_or_not(
    session: Any, identifier: str
) -> None:
    services.add_user(email="ada@example.org", username="ada")
    session.commit()
    session.expunge_all()
    sent: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    sa.event.listen(db.engine, "before_cursor_execute", note)
    services.find_by_login(identifier)
    sa.event.remove(db.engine, "before_cursor_execute", note)

    assert len([statement for statement in sent if statement.startswith("SELECT")]) == 1


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"email": "ada@example.org"}, "email"),
        ({"email": "b@example.org", "username": "ADA"}, "username"),
        ({"email": "username_key@example.org", "username": "ADA"}, "username"),
    ],
    ids=["email", "username", "address named like a column"],
)
@pytest.mark.parametrize("is_deleted", [False, True])
def test_the_constraint_names_what_is_taken_and_the_transaction_lives_on(
    session: Any, values: dict[str, Any], field: str, is_deleted: bool
) -> None:
    user = services.add_user(email="ada@example.org", username="ada")
    if is_deleted:
        services.delete_user(user)

    with pytest.raises(Conflict) as caught:
        services.add_user(**values)

    assert caught.value.details is not None
    assert caught.value.details["json"].keys() == {field}
    services.add_user(email="c@example.org")
    session.commit()
    assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 2


def test_an_account_is_never_added_with_a_role_that_is_not_there(session: Any) -> None:
    with pytest.raises(ValidationFailed):
        services.add_user(email="ada@example.org", roles=["USER", "PIRATE"])

    assert services.find_by_login("ada@example.org") is None


def test_the_epoch_is_counted_by_the_database(app: Flask) -> None:
    with app.app_context():
        user_id = services.add_user(email="ada@example.org").id
        db.session.commit()
    with app.app_context():
        user = db.session.get_one(User, user_id)
        epoch = user.session_epoch
        db.session.commit()
        with db.engine.begin() as beside:  # somebody else ends the sessions meanwhile
            beside.execute(sa.update(User.__table__).values(session_epoch=epoch + 1))

        services.end_sessions(user)
        db.session.commit()

        assert user.session_epoch == epoch + 2


def test_grants_are_those_of_the_roles_and_of_what_they_imply(session: Any) -> None:
    user_role = session.get_one(Role, "USER")
    user_role.grants = [*_grant("shop:buy")]
    session.add(Role(name="SELLER", description="", grants=_grant("shop:sell")))
    session.flush()
    admin_grants = set(next(grants for name, _, grants in SEED_ROLES if name == "ADMIN"))

    assert permissions_of(["SELLER"]) == {"shop:buy", "shop:sell"}
    assert permissions_of([]) == {"shop:buy"}
    assert permissions_of(["ADMIN"]) == admin_grants | {"shop:buy"}
    assert permissions_of(["SUPER_ADMIN"]) == admin_grants | {"shop:buy"}


def _grant(permission: str) -> list[Any]:
    from ghost.users.models import RolePermission

    return [RolePermission(permission=permission)]


def test_the_migration_seeds_the_roles_that_the_code_names(session: Any) -> None:
    found = {
        role.name: (role.description, set(role.permissions))
        for role in session.scalars(sa.select(Role))
    }

    assert found == {name: (text, set(grants)) for name, text, grants in SEED_ROLES}


def test_there_are_no_accounts_but_those_that_somebody_made(session: Any) -> None:
    assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 0


@pytest.mark.unit
@pytest.mark.parametrize("word", sorted(RESERVED_USERNAMES))
def test_reserved_words_are_no_usernames_in_any_case(word: str) -> None:
    for spelling in (word, word.upper(), word.title()):
        with pytest.raises(ma.ValidationError):
            Username().deserialize(spelling)


@pytest.mark.unit
@pytest.mark.parametrize("name", ["ada", "Ada.L", "a-b", "a_b", "007", "a" * 64])
def test_usernames_keep_the_letters_that_were_chosen(name: str) -> None:
    assert Username().deserialize(name) == name


@pytest.mark.unit
@pytest.mark.parametrize("name", ["Ada Lovelace", "Ḧ", "李小龍", "Ö" * 200, "O'Brien <b>"])
def test_people_are_called_what_they_are_called(name: str) -> None:
    assert FullName().deserialize(name) == name

"""Decisions about rights, as tables."""

from __future__ import annotations

import pytest

from ghost.users.rights import SEED_ROLES, may_act_on, may_edit_role, may_grant, rights
from ghost.users.roles import Standing

pytestmark = pytest.mark.unit

ADMIN_GRANTS = next(grants for name, _, grants in SEED_ROLES if name == "ADMIN")
PEOPLE = {
    "user": Standing(["USER"], frozenset()),
    "nobody": Standing([], frozenset()),
    "reader": Standing(["READER"], frozenset({"users:read"})),
    "editor": Standing(["EDITOR"], frozenset({"users:read", "users:write"})),
    "mailer": Standing(["MAILER"], frozenset({"mail:bulk"})),
    "staffer": Standing(["STAFF"], frozenset({"users:read", "users:write", "roles:write"})),
    "admin": Standing(["ADMIN"], frozenset(ADMIN_GRANTS)),
    "admin+": Standing(["ADMIN", "STAFF"], frozenset({*ADMIN_GRANTS, "roles:write"})),
    "boss": Standing(["SUPER_ADMIN"], frozenset()),
}
# Who may act on whom; everybody else may not.
BELOW = {
    "user": set(),
    "nobody": set(),
    "reader": {"user", "nobody"},
    "editor": {"user", "nobody", "reader"},
    "mailer": {"user", "nobody"},
    "staffer": {"user", "nobody", "reader", "editor"},
    "admin": {"user", "nobody", "reader", "editor"},
    "admin+": {"user", "nobody", "reader", "editor", "staffer", "admin"},
    "boss": set(PEOPLE),
}


@pytest.mark.parametrize("target", PEOPLE)
@pytest.mark.parametrize("actor", PEOPLE)
def test_an_account_acts_only_on_those_whose_rights_are_a_strict_part_of_its_own(
    actor: str, target: str
) -> None:
    assert may_act_on(PEOPLE[actor], PEOPLE[target]) is (target in BELOW[actor])


@pytest.mark.parametrize(
    ("actor", "role", "permissions", "may"),
    [
        ("user", "USER", (), True),
        ("user", "READER", ("users:read",), False),
        ("staffer", "READER", ("users:read",), True),
        ("staffer", "MAILER", ("mail:bulk",), False),
        # All the permissions of ADMIN would not do: the role itself is a right.
        ("staffer", "ADMIN", (), False),
        ("admin", "ADMIN", ADMIN_GRANTS, True),
        ("admin", "SUPER_ADMIN", (), False),
        ("admin+", "SUPER_ADMIN", (), False),
        ("boss", "SUPER_ADMIN", (), True),
        ("boss", "MAILER", ("mail:bulk",), True),
    ],
)
def test_a_role_is_given_by_those_who_hold_every_right_of_it(
    actor: str, role: str, permissions: tuple[str, ...], may: bool
) -> None:
    assert may_grant(PEOPLE[actor], role, permissions) is may


@pytest.mark.parametrize(
    ("actor", "role", "permissions", "may"),
    [
        ("staffer", "READER", ("users:read",), True),
        ("staffer", "STAFF", ("users:read",), False),  # their own
        ("staffer", "USER", (), False),  # everybody's, theirs too
        ("staffer", "ADMIN", (), False),
        ("staffer", "MAILER", ("mail:bulk",), False),
        ("admin+", "USER", (), False),
        ("boss", "USER", (), True),
        ("boss", "ADMIN", ADMIN_GRANTS, True),
        ("boss", "MAILER", ("mail:bulk",), True),
    ],
)
def test_a_role_is_changed_by_those_who_hold_its_rights_without_having_it(
    actor: str, role: str, permissions: tuple[str, ...], may: bool
) -> None:
    assert may_edit_role(PEOPLE[actor], role, permissions) is may


def test_rights_are_permissions_and_implied_built_in_roles() -> None:
    assert rights(Standing(["ADMIN", "READER"], frozenset({"users:read"}))) == {
        "USER",
        "ADMIN",
        "users:read",
    }


def test_admin_starts_with_everything_but_the_say_on_roles_and_on_verified_addresses() -> None:
    assert {"roles:write", "users:verify"}.isdisjoint(ADMIN_GRANTS)
    assert "users:write" in ADMIN_GRANTS

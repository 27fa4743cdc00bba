"""Who may act on whom, and who may hand out what: decisions without a database.

The rights of an account are the permissions that its roles grant and the built-in roles that it
has or implies. A role of an application's own is worth its permissions, no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ghost.access import ADMIN, BUILT_IN_ROLES, SUPER_ADMIN, USER, implied

# What the first migration puts into the tables: name, description, granted permissions. SUPER_ADMIN
# has every permission without a grant.
SEED_ROLES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (USER, "Everybody with an account", ()),
    (
        ADMIN,
        "Runs the service day by day",
        (
            "users:read",
            "users:write",
            "files:read_any",
            "files:write_any",
            "mail:send",
            "jobs:read",
            "jobs:write",
        ),
    ),
    (SUPER_ADMIN, "Has every permission and appoints the others", ()),
)


class Holder(Protocol):
    """Somebody with rights: the caller of a request, or the target of what they do."""

    @property
    def roles(self) -> Iterable[str]:
        """The assigned roles."""

    @property
    def granted(self) -> frozenset[str]:
        """The permissions that these roles grant, and those that they imply."""


def rights_of(roles: Iterable[str], granted: Iterable[str]) -> frozenset[str]:
    """The rights that roles and their grants add up to; role names and permissions differ in form.

    >>> sorted(rights_of(["ADMIN"], ["users:read"]))
    ['ADMIN', 'USER', 'users:read']
    """
    return frozenset(granted) | (implied(roles) & set(BUILT_IN_ROLES))


def rights(holder: Holder) -> frozenset[str]:
    """The rights of an account; a SUPER_ADMIN has more than are listed here."""
    return rights_of(holder.roles, holder.granted)


def is_super_admin(holder: Holder) -> bool:
    return SUPER_ADMIN in holder.roles


def may_act_on(actor: Holder, target: Holder) -> bool:
    """Tell whether an account may change another: that one's rights are a strict part of its own.

    A SUPER_ADMIN may act on everybody, other SUPER_ADMINs included.
    """
    return is_super_admin(actor) or rights(target) < rights(actor)


def may_grant(actor: Holder, role: str, permissions: Iterable[str]) -> bool:
    """Tell whether an account holds every right of a role, so that it may give or take it."""
    return is_super_admin(actor) or rights_of([role], permissions) <= rights(actor)


def may_edit_role(actor: Holder, role: str, permissions: Iterable[str]) -> bool:
    """Tell whether an account may change a role: it holds every right of it, but not the role.

    A role that one has oneself is out of reach, as one's own account is; the roles that a
    SUPER_ADMIN has are no secret from it.
    """
    if is_super_admin(actor):
        return True
    return role not in implied(actor.roles) and may_grant(actor, role, permissions)

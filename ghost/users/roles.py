"""Roles and their permissions: read, create, change and delete them; the last SUPER_ADMIN."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ghost.access import BUILT_IN_ROLES, SUPER_ADMIN, Caller, declared_permissions, implied
from ghost.database import db, lock_row
from ghost.errors import Conflict, Forbidden, NotFound, ValidationFailed
from ghost.users.models import Role, RolePermission, User, UserRole
from ghost.users.names import ROLE_NAME
from ghost.users.rights import is_super_admin, may_edit_role


class RoleTaken(Conflict):
    message = "There is a role of this name."


class BuiltInRole(Conflict):
    message = "This role is built in: it can't be deleted."


class SuperAdminRole(Conflict):
    message = "SUPER_ADMIN has every permission: its permissions can't be changed."


class RoleAssigned(Conflict):
    message = "Accounts still have this role, deleted ones perhaps. Take it from them first."


class LastSuperAdmin(Conflict):
    message = "This is the last active SUPER_ADMIN. Appoint another one first."


class RoleAbove(Forbidden):
    message = "This role has rights that you don't have."


class OwnRole(Forbidden):
    message = "Nobody changes a role that they have."


class PermissionAbove(Forbidden):
    message = "Nobody gives or takes a permission that they don't have."


@dataclass(frozen=True, slots=True)
class Standing:
    """The roles of an account and the permissions that they grant."""

    roles: Sequence[str]
    granted: frozenset[str]


def standing_of(user: User) -> Standing:
    """What an account may do, read now."""
    return Standing(user.roles, permissions_of(user.roles))


def permissions_of(roles: Iterable[str]) -> frozenset[str]:
    """The permissions that roles grant, those that they imply included."""
    return frozenset(
        db.session.scalars(
            sa.select(RolePermission.permission).where(RolePermission.role_name.in_(implied(roles)))
        )
    )


def require_roles(names: Iterable[str]) -> None:
    """Check that roles exist.

    :raises ValidationFailed: one does not.
    """
    wanted = set(names)
    missing = wanted.difference(
        db.session.scalars(sa.select(Role.name).where(Role.name.in_(wanted)))
    )
    if missing:
        lines = [f"There is no role {name}." for name in sorted(missing)]
        raise ValidationFailed(details={"json": {"roles": lines}})


def require_other_super_admin(user: User, field: str = "roles") -> None:
    """Check that without this account there is still an active SUPER_ADMIN.

    Of two transactions that take away one each, the second waits here and then sees the first.

    :param user: with its row locked.
    :param field: what is about to change, for the error.
    :raises LastSuperAdmin: there is no other one.
    """
    if SUPER_ADMIN not in user.roles or not user.is_active or user.is_deleted:
        return
    db.session.execute(lock_row(sa.select(Role.name).where(Role.name == SUPER_ADMIN)))
    others = (
        sa.select(User.id)
        .join(UserRole, UserRole.user_id == User.id)
        .where(
            UserRole.role_name == SUPER_ADMIN,
            User.id != user.id,
            User.is_active,
            User.deleted_at.is_(None),
        )
    )
    if not db.session.scalar(sa.select(others.exists())):
        raise LastSuperAdmin(field=field)


def list_roles() -> sa.Select[tuple[Role]]:
    """Select all roles, by name."""
    return sa.select(Role).order_by(Role.name)


def get_role(name: str, *, lock: bool = False) -> Role:
    """Return one role, locked until the transaction ends if that is asked for.

    :raises NotFound: there is none.
    """
    if not ROLE_NAME.fullmatch(name):
        raise NotFound  # and the database need not see what stands in a URL
    statement = sa.select(Role).where(Role.name == name)
    role = db.session.scalar(lock_row(statement) if lock else statement)
    if role is None:
        raise NotFound
    return role


def create_role(
    actor: Caller, name: str, description: str = "", permissions: Sequence[str] = ()
) -> Role:
    """Add a role.

    :raises ValidationFailed: a permission that nothing declares.
    :raises PermissionAbove: one that the actor does not have.
    :raises RoleTaken: there is a role of this name.
    """
    _require_grantable(actor, set(permissions))
    role = Role(name=name, description=description, grants=_grants(permissions))
    try:
        with db.session.begin_nested():
            db.session.add(role)
    except IntegrityError as error:
        raise RoleTaken(field="name") from error
    return role


def update_role(
    actor: Caller,
    name: str,
    *,
    description: str | None = None,
    permissions: Sequence[str] | None = None,
) -> Role:
    """Change a role; what is None stays. Accounts that have it notice with their next request.

    :raises NotFound: there is no such role.
    :raises Forbidden: it is out of the actor's reach, or a permission is.
    :raises SuperAdminRole: the permissions of SUPER_ADMIN.
    :raises ValidationFailed: a permission that nothing declares.
    """
    role = get_role(name, lock=True)
    _require_editable(actor, role)
    if permissions is not None:
        if role.name == SUPER_ADMIN:
            raise SuperAdminRole(field="permissions")
        before, after = set(role.permissions), set(permissions)
        # What it has may stay, though the feature that declared it is gone.
        _require_grantable(actor, after - before, before - after)
        role.grants = [grant for grant in role.grants if grant.permission in after]
        role.grants += _grants(after - before)
    if description is not None:
        role.description = description
    db.session.flush()
    return role


def delete_role(actor: Caller, name: str) -> None:
    """Delete a role that nobody has.

    :raises NotFound: there is no such role.
    :raises Forbidden: it is out of the actor's reach.
    :raises BuiltInRole: it is one of the three.
    :raises RoleAssigned: an account has it.
    """
    role = get_role(name, lock=True)
    _require_editable(actor, role)
    if role.name in BUILT_IN_ROLES:
        raise BuiltInRole(field="name")
    try:
        with db.session.begin_nested():
            db.session.delete(role)
    except IntegrityError as error:
        raise RoleAssigned(field="name") from error


def _grants(permissions: Iterable[str]) -> list[RolePermission]:
    return [RolePermission(permission=name) for name in sorted(set(permissions))]


def _require_editable(actor: Caller, role: Role) -> None:
    if not may_edit_role(actor, role.name, permissions_of([role.name])):
        raise OwnRole if role.name in implied(actor.roles) else RoleAbove


def _require_grantable(actor: Caller, given: set[str], taken: Iterable[str] = ()) -> None:
    unknown = given - declared_permissions().keys()
    if unknown:
        lines = [f"There is no permission {name}." for name in sorted(unknown)]
        raise ValidationFailed(details={"json": {"permissions": lines}})
    if not is_super_admin(actor) and not actor.granted.issuperset({*given, *taken}):
        raise PermissionAbove

"""Accounts: find, add, change, delete and restore them, by the rules between administrators."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import lazyload

from ghost.access import USER, implied
from ghost.database import db, lock_row
from ghost.errors import Conflict, Forbidden, NotFound, ValidationFailed
from ghost.schemas import canonical_email
from ghost.users.models import Role, RolePermission, User, UserRole

USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}[A-Za-z0-9]\Z")


class EmailTaken(Conflict):
    message = "This e-mail address already has an account."


class UsernameTaken(Conflict):
    message = "This username is taken."


class LastSuperAdmin(Conflict):
    message = "This is the last active SUPER_ADMIN. Appoint another one first."


class OwnAccount(Forbidden):
    message = "Nobody changes their own account here: use /auth/me."


class OwnRoles(Forbidden):
    message = "Nobody changes their own roles."


class AccountAbove(Forbidden):
    message = "This account has rights that are not a part of yours."


class RoleAbove(Forbidden):
    message = "This role has rights that you don't have."


class NotDeleted(Conflict):
    message = "This account is not deleted."


@dataclass(frozen=True, slots=True)
class Standing:
    """Roles, and the permissions that they grant: a `Holder`."""

    roles: Sequence[str]
    granted: frozenset[str]


def username_key(username: str) -> str:
    """What is compared: usernames are unique whatever their case."""
    return username.lower()


def permissions_of(roles: Iterable[str]) -> frozenset[str]:
    """The permissions that roles grant, those that they imply included."""
    return frozenset(
        db.session.scalars(
            sa.select(RolePermission.permission).where(RolePermission.role_name.in_(implied(roles)))
        )
    )


def standing_of(user: User) -> Standing:
    """What an account may do, read now."""
    return Standing(user.roles, permissions_of(user.roles))


# --- Finding --------------------------------------------------------------------------------------


def find_by_login(identifier: str) -> User | None:
    """Find the account that somebody means by an e-mail address or a username.

    One query, whether there is such an account or not: its roles are read when they are asked for.
    """
    if "@" in identifier:
        try:
            mine = User.email == canonical_email(identifier)
        except ValueError:
            return None
    elif USERNAME.match(identifier):
        mine = User.username_key == username_key(identifier)
    else:
        return None
    return db.session.scalar(
        sa.select(User).where(mine, User.deleted_at.is_(None)).options(lazyload(User.role_links))
    )


def get_user(user_id: UUID) -> User:
    """Return one account.

    :raises NotFound: there is none, or it is deleted.
    """
    user = db.session.get(User, user_id)
    if user is None or user.is_deleted:
        raise NotFound
    return user


def lock_user(user_id: UUID, *, deleted: bool = False) -> User:
    """Return one account as it is now, locked until the transaction ends.

    :param deleted: whether a deleted one is welcome.
    :raises NotFound: there is none.
    """
    user = db.session.scalar(
        lock_row(sa.select(User).where(User.id == user_id)).execution_options(
            populate_existing=True
        )
    )
    if user is None or (user.is_deleted and not deleted):
        raise NotFound
    return user


# --- Adding ---------------------------------------------------------------------------------------


def add_user(
    *,
    email: str,
    username: str | None = None,
    full_name: str | None = None,
    password_hash: str | None = None,
    roles: Sequence[str] = (USER,),
    is_verified: bool = False,
) -> User:
    """Add an account.

    :param email: in its canonical form.
    :param roles: names of roles that exist.
    :raises EmailTaken: another account has this address, a deleted one perhaps.
    :raises UsernameTaken: the same for the username.
    :raises ValidationFailed: there is no such role.
    """
    user = User(
        email=email,
        username=username,
        username_key=username_key(username) if username else None,
        full_name=full_name,
        password_hash=password_hash,
        is_verified=is_verified,
        role_links=[UserRole(role_name=name) for name in sorted(set(roles))],
    )
    try:
        # The constraint decides, not a query before: two requests may arrive together.
        with db.session.begin_nested():
            db.session.add(user)
    except IntegrityError as error:
        raise _taken(error, roles) from error
    return user


def require_roles(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the roles of these names: name -> granted permissions.

    :raises ValidationFailed: a role is unknown.
    """
    wanted = set(names)
    found = {
        role.name: frozenset(role.permissions)
        for role in db.session.scalars(sa.select(Role).where(Role.name.in_(wanted)))
    }
    if wanted - found.keys():
        raise _unknown(wanted - found.keys())
    return found


def _unknown(names: Iterable[str]) -> ValidationFailed:
    return ValidationFailed(
        details={"json": {"roles": [f"There is no role {name}." for name in sorted(names)]}}
    )


def _taken(error: IntegrityError, roles: Iterable[str] = ()) -> Conflict | ValidationFailed:
    """Say which constraint refused a row."""
    # PostgreSQL's text has the row's values in it, SQLite's only the column.
    diagnosis = getattr(error.orig, "diag", None)
    constraint = str(diagnosis.constraint_name if diagnosis else error.orig)
    if "username_key" in constraint:
        return UsernameTaken(field="username")
    if "email" in constraint:
        return EmailTaken(field="email")
    known = db.session.scalars(sa.select(Role.name).where(Role.name.in_(roles)))
    return _unknown(set(roles).difference(known))


# --- Changing -------------------------------------------------------------------------------------


def end_sessions(user: User) -> None:
    """End every session and every mailed token of an account, whatever runs beside; flushes."""
    user.session_epoch = User.session_epoch + 1  # counted by the database: no race loses one
    db.session.flush()

"""Accounts: find, add, change, delete and restore them, by the rules between administrators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask, current_app
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import lazyload
from sqlalchemy.types import TypeDecorator

from ghost.access import SUPER_ADMIN, USER, Caller
from ghost.database import db, joined, lock_row
from ghost.errors import Conflict, Forbidden, NotFound
from ghost.fields import canonical_email
from ghost.models import searched, utcnow
from ghost.users.mails import send_email_changed, send_invitation, send_verification
from ghost.users.models import User, UserRole
from ghost.users.names import USERNAME, username_key
from ghost.users.rights import may_act_on, may_grant
from ghost.users.roles import (
    RoleAbove,
    permissions_of,
    require_other_super_admin,
    require_roles,
    standing_of,
)
from ghost.users.signals import user_deleted, user_restored


class EmailTaken(Conflict):
    message = "This e-mail address already has an account."


class UsernameTaken(Conflict):
    message = "This username is taken."


class NotDeleted(Conflict):
    message = "This account is not deleted."


class OwnAccount(Forbidden):
    message = "Nobody changes their own account here: use /auth/me."


class OwnRoles(Forbidden):
    message = "Nobody changes their own roles."


class AccountAbove(Forbidden):
    message = "This account has rights that are not a part of yours."


class MayNotVerify(Forbidden):
    message = "Declaring an address verified needs the permission users:verify."


class MayNotAssign(Forbidden):
    message = "Assigning a role needs the permission roles:write."


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
    elif USERNAME.fullmatch(identifier):
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


def lock_user(user_id: UUID, *, with_deleted: bool = False) -> User:
    """Return one account as it is now, locked until the transaction ends.

    :raises NotFound: there is none, or it is deleted.
    """
    statement = lock_row(sa.select(User).where(User.id == user_id))
    user = db.session.scalar(statement.execution_options(populate_existing=True))
    if user is None or (user.is_deleted and not with_deleted):
        raise NotFound
    return user


class _Names(TypeDecorator[list[str]]):
    """Aggregated names, read back as a list in alphabetical order."""

    impl = sa.String
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> list[str]:
        return sorted(value.split(",")) if value else []


_users = User.__table__.c


def user_columns() -> tuple[sa.ColumnElement[Any], ...]:
    """What the API shows of an account, as columns: no row becomes an object."""
    links = UserRole.__table__.c
    names = sa.select(joined(links.role_name)).where(links.user_id == _users.id)
    roles = sa.type_coerce(names.correlate(User.__table__).scalar_subquery(), _Names())
    return (
        _users.id, _users.email, _users.username, _users.full_name, roles.label("roles"),
        _users.is_active, _users.is_verified, _users.avatar_url,
        _users.created_at, _users.updated_at, _users.last_login_at,
    )  # fmt: skip


_LISTED: sa.Select[Any] = sa.select(*user_columns()).where(_users.deleted_at.is_(None))
# Accounts without a username come last in both directions, on both databases.
_ORDERS = {
    "created_at": (_users.created_at, _users.id),
    "-created_at": (_users.created_at.desc(), _users.id.desc()),
    "email": (_users.email,),
    "-email": (_users.email.desc(),),
    "username": (_users.username_key.asc().nulls_last(), _users.id),
    "-username": (_users.username_key.desc().nulls_last(), _users.id.desc()),
}
_ARRANGED = {sort: _LISTED.order_by(*order) for sort, order in _ORDERS.items()}


def list_users(
    *,
    sort: str = "-created_at",
    search: str | None = None,
    role: str | None = None,
    is_active: bool | None = None,
) -> sa.Select[Any]:
    """Select the accounts that are not deleted, as rows with the columns of an account.

    :param sort: `created_at`, `email` or `username`, with `-` in front descending.
    :param search: text that the address, the username or the full name contains, in any case.
    :param role: only accounts to which this role is assigned.
    """
    statement = _ARRANGED[sort]
    if search is not None:
        statement = searched(statement, _users, ("email", "username", "full_name"), search)
    if role is not None:
        holders = sa.select(UserRole.__table__.c.user_id).where(
            UserRole.__table__.c.role_name == role
        )
        statement = statement.where(_users.id.in_(holders))
    if is_active is not None:
        statement = statement.where(_users.is_active == is_active)
    return statement


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
        _raise_taken(error)
        require_roles(roles)  # it was the foreign key, then
        raise
    return user


def create_user(
    actor: Caller,
    *,
    email: str,
    username: str | None = None,
    full_name: str | None = None,
    roles: Sequence[str] = (USER,),
) -> User:
    """Add an account and have its owner invited to set a password.

    :raises ValidationFailed: there is no such role.
    :raises MayNotAssign: a role beyond USER, by somebody who may not assign roles.
    :raises RoleAbove: a role with rights that the actor does not have.
    :raises EmailTaken: another account has this address, a deleted one perhaps.
    :raises UsernameTaken: the same for the username.
    """
    require_roles(roles)
    if set(roles) != {USER} and not actor.can("roles:write"):
        raise MayNotAssign
    _require_grantable(actor, roles)
    user = add_user(email=email, username=username, full_name=full_name, roles=roles)
    send_invitation(user)
    return user


def _raise_taken(error: IntegrityError) -> None:
    """Name the unique constraint that refused a row, if it was one."""
    # PostgreSQL's text has the row's values in it, SQLite's only the column.
    diagnosis = getattr(error.orig, "diag", None)
    constraint = str(diagnosis.constraint_name if diagnosis else error.orig)
    if "username_key" in constraint:
        raise UsernameTaken(field="username") from error
    if "email" in constraint:
        raise EmailTaken(field="email") from error


def _require_grantable(actor: Caller, roles: Sequence[str] | set[str]) -> None:
    for role in sorted(roles):
        if not may_grant(actor, role, permissions_of([role])):
            raise RoleAbove(f"The role {role} has rights that you don't have.")


# --- Changing -------------------------------------------------------------------------------------


def lock_for_change(
    actor: Caller,
    user_id: UUID,
    *,
    takes_super_admin: bool = False,
    field: str = "roles",
    own: type[Forbidden] = OwnAccount,
    with_deleted: bool = False,
) -> User:
    """Return an account that somebody is about to change, locked, if they may.

    :param takes_super_admin: whether an active SUPER_ADMIN would be one no longer.
    :param field: by which change of the account, for the error.
    :param own: what is raised when it is the actor's own account.
    :raises NotFound: there is none, or it is deleted.
    :raises LastSuperAdmin: there would be none left.
    :raises Forbidden: it is the actor's own account, or one whose rights are not a part of theirs.
    """
    user = lock_user(user_id, with_deleted=with_deleted)
    if user.id != actor.id and not may_act_on(actor, standing_of(user)):
        raise AccountAbove
    if takes_super_admin:
        require_other_super_admin(user, field)
    if user.id == actor.id:
        raise own
    return user


def lock_for_update(actor: Caller, user_id: UUID, changes: Mapping[str, Any]) -> User:
    """Return an account that somebody is about to update, locked, if they may make these changes.

    :raises MayNotVerify: the changes name `is_verified`, which needs a permission of its own.
    :raises LastSuperAdmin, Forbidden, NotFound: as `lock_for_change`.
    """
    disables = changes.get("is_active") is False
    user = lock_for_change(actor, user_id, takes_super_admin=disables, field="is_active")
    if "is_verified" in changes and not actor.can("users:verify"):
        raise MayNotVerify
    return user


def update_user(user: User, changes: Mapping[str, Any]) -> None:
    """Change an account's `email`, `username`, `full_name`, `is_active` or `is_verified`.

    A new address is unverified unless the same change says otherwise; it ends the sessions and
    the mailed tokens, the former one is told, and a mail to the new one has it confirmed. To
    disable an account ends them too.

    :param user: locked by `lock_for_update`.
    :raises EmailTaken: another account has this address, a deleted one perhaps.
    :raises UsernameTaken: the same for the username.
    """
    former_email, was_active = user.email, user.is_active
    try:
        with db.session.begin_nested():
            for name, value in changes.items():
                setattr(user, name, value)
            if "username" in changes:
                user.username_key = username_key(user.username) if user.username else None
            if user.email != former_email:
                user.is_verified = changes.get("is_verified", False)
            if user.email != former_email or (was_active and not user.is_active):
                end_sessions(user)
    except IntegrityError as error:
        _raise_taken(error)
        raise
    if user.email != former_email:
        send_email_changed(user, former_email)
        confirm_address(user)


def confirm_address(user: User) -> None:
    """Have the address of an account confirmed by its owner.

    Who never set a password is invited again: the first link ended with the former address.
    """
    if user.password_hash is None:
        send_invitation(user)
    elif not user.is_verified:
        send_verification(user)


def lock_for_roles(actor: Caller, user_id: UUID, roles: Sequence[str]) -> User:
    """Return an account whose roles somebody is about to replace, locked, if they may.

    :raises LastSuperAdmin, Forbidden, NotFound: as `lock_for_change`.
    """
    takes = SUPER_ADMIN not in roles
    return lock_for_change(actor, user_id, takes_super_admin=takes, own=OwnRoles)


def set_roles(actor: Caller, user: User, roles: Sequence[str]) -> None:
    """Replace the roles of an account.

    :param user: locked by `lock_for_roles`.
    :raises ValidationFailed: there is no such role.
    :raises RoleAbove: a role that is given or taken has rights that the actor does not have.
    """
    require_roles(roles)
    _require_grantable(actor, set(roles) ^ set(user.roles))
    replace_roles(user, roles)


def replace_roles(user: User, roles: Sequence[str]) -> None:
    """Give an account these roles and no others, unasked who wants it; flushes.

    :raises ValidationFailed: there is no such role.
    """
    wanted, present = set(roles), set(user.roles)
    if wanted == present:
        return
    user.updated_at = utcnow()  # the row's version counts a change of its roles too
    try:
        with db.session.begin_nested():
            user.role_links = [
                *(link for link in user.role_links if link.role_name in wanted),
                *(UserRole(role_name=name) for name in sorted(wanted - present)),
            ]
    except IntegrityError:
        require_roles(roles)  # one was deleted in this moment
        raise


def delete_user(user: User) -> None:
    """Delete an account softly; its sessions and mailed tokens end, and other rooms are told.

    :param user: locked by `lock_for_change`.
    """
    user.deleted_at = deleted_at = utcnow()
    end_sessions(user)
    user_deleted.send(_application(), user_id=user.id, deleted_at=deleted_at)


def restore_user(user: User) -> None:
    """Take back the deletion of an account; its sessions stay ended, and other rooms are told.

    :param user: locked by `lock_for_change`.
    :raises NotDeleted: it is not deleted.
    """
    if not user.is_deleted:
        raise NotDeleted(field="id")
    deleted_at, user.deleted_at = user.deleted_at, None
    db.session.flush()
    user_restored.send(_application(), user_id=user.id, deleted_at=deleted_at)


def _application() -> Flask:
    application: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return application


def end_sessions(user: User) -> None:
    """End every session and every mailed token of an account, whatever runs beside; flushes."""
    user.session_epoch = User.session_epoch + 1  # counted by the database: no race loses one
    db.session.flush()

"""Who is calling and what they may do; the decorators that every route declares it with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import wraps
from typing import Any, Protocol, TypeVar, cast
from uuid import UUID

import sqlalchemy as sa
from flask import Flask, current_app, g, request
from werkzeug.local import LocalProxy

from ghost.config import Config, current_config
from ghost.errors import EmailNotVerified, Forbidden
from ghost.logging import user_id_var

USER, ADMIN, SUPER_ADMIN = "USER", "ADMIN", "SUPER_ADMIN"
BUILT_IN_ROLES = (USER, ADMIN, SUPER_ADMIN)  # each implies the ones before it

View = TypeVar("View", bound=Callable[..., Any])


def implied(roles: Iterable[str]) -> frozenset[str]:
    """Roles with all that they imply; everybody is at least a USER."""
    found = {USER, *roles}
    highest = max(BUILT_IN_ROLES.index(role) for role in found if role in BUILT_IN_ROLES)
    return frozenset(found | set(BUILT_IN_ROLES[: highest + 1]))


@dataclass(frozen=True, slots=True)
class Caller:
    """The account behind a request, as the database has it now."""

    id: UUID
    email: str
    username: str | None
    full_name: str | None
    roles: tuple[str, ...]
    granted: frozenset[str]
    is_active: bool
    is_verified: bool
    avatar_url: str | None
    created_at: datetime
    updated_at: datetime
    last_login_at: datetime | None
    session_id: UUID

    def has_role(self, role: str) -> bool:
        """Tell whether the caller has a role or one that implies it."""
        return role in implied(self.roles)

    def can(self, permission: str) -> bool:
        """Tell whether the caller has a permission; a SUPER_ADMIN has every one."""
        return permission in self.granted or SUPER_ADMIN in self.roles

    @property
    def permissions(self) -> frozenset[str]:
        """Every permission that the caller has."""
        if SUPER_ADMIN in self.roles:
            return self.granted | frozenset(declared_permissions())
        return self.granted


class Loader(Protocol):
    """How requests are authenticated; the auth room registers one at assembly."""

    @property
    def statement(self) -> sa.Select[Any]:
        """Selects the one caller whom `values` name; no row when they are none any more."""

    def identity(self) -> str | None:
        """The user id of a token that is genuine and unexpired, without asking the database."""

    def values(self) -> dict[str, Any]:
        """The statement's parameters in this request. Raises an `Unauthorized` without a token."""

    def caller_of(self, row: Sequence[Any]) -> Caller:
        """The caller of a row of the statement."""

    def caller(self) -> Caller:
        """The caller, read now. Raises an `Unauthorized` when there is none."""


def init_app(app: Flask, loader: Loader) -> None:
    """Register how the application authenticates its requests."""
    app.extensions["ghost"].loader = loader


def authenticate() -> Caller:
    """Return the caller of this request; asked twice, the database is asked once.

    :raises Unauthorized: no credentials, or bad ones.
    """
    caller = g.get("caller")
    if caller is None:
        caller = current_app.extensions["ghost"].loader.caller()
        remember(caller)
    return cast(Caller, caller)


def remember(caller: Caller) -> None:
    """Have a caller who was read just now be that of this request."""
    g.caller = caller
    user_id_var.set(str(caller.id))


def identity() -> str | None:
    """A user id for limits and logs: the token was checked, the account was not."""
    return current_app.extensions["ghost"].loader.identity()


current_user: Caller = LocalProxy(authenticate)  # type: ignore[assignment]


@dataclass(frozen=True)
class Access:
    """What a route declares about its callers."""

    public: bool = False
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    unverified: bool = False
    also: Access | None = None  # what a decorator below declares

    def check(self) -> None:
        """Refuse a caller who may not.

        :raises Unauthorized: nobody is logged in.
        :raises Forbidden: a role, a permission or the confirmed address is missing.
        """
        if self.also is not None:
            self.also.check()
        if self.public:
            return
        caller = authenticate()
        allowed = caller.is_verified or self.unverified
        if not allowed and current_config().auth.require_verified_email:
            raise EmailNotVerified
        if self.roles and not any(caller.has_role(role) for role in self.roles):
            raise Forbidden
        if not all(caller.can(permission) for permission in self.permissions):
            raise Forbidden

    @property
    def text(self) -> str:
        """A sentence for the API's documentation."""
        if self.permissions:
            return "Needs the permission " + " and ".join(f"`{p}`" for p in self.permissions) + "."
        if self.roles:
            return "Needs the role " + " or ".join(f"`{role}`" for role in self.roles) + "."
        return ""


@dataclass(frozen=True)
class Contract:
    """What the decorators of a view declare, in one object on the view."""

    access: Access | None = None
    rate_limit: tuple[str, Callable[[], str]] | None = None  # None: the default limit
    is_limited: bool = True
    locations: frozenset[str] = frozenset()  # the parts of the request that it reads
    errors: frozenset[int] = frozenset()  # statuses that can't be told from the rest
    body_limit: Callable[[Config], int] | None = None  # bytes; None for `app.max_body`


def contract_of(view: Callable[..., Any] | None) -> Contract:
    """What a view declares; nothing, for a plain one."""
    declared: Contract = getattr(view, "contract", None) or Contract()
    return declared


def declare(view: Callable[..., Any], **changes: Any) -> None:
    """Add to what a view declares."""
    view.contract = replace(contract_of(view), **changes)  # type: ignore[attr-defined]


def _requiring(access: Access) -> Callable[[View], View]:
    """Make a decorator that declares a view's access and checks it on every call."""

    def decorate(view: View) -> View:
        declared = replace(access, also=contract_of(view).access)
        if access.public:
            declare(view, access=declared)
            return view

        @wraps(view)
        def guarded(*args: Any, **values: Any) -> Any:
            access.check()
            return view(*args, **values)

        declare(guarded, access=declared)
        return cast(View, guarded)

    return decorate


def public(view: View) -> View:
    """Let anybody call a view."""
    return _requiring(Access(public=True))(view)


def login_required(view: View) -> View:
    """Let every logged-in account call a view."""
    return _requiring(Access())(view)


def unverified_allowed(view: View) -> View:
    """Like `login_required`, also while the address is unconfirmed and the setting demands it."""
    return _requiring(Access(unverified=True))(view)


def roles_required(*roles: str) -> Callable[[View], View]:
    """Let those call a view who have one of the roles, or a role that implies it."""
    return _requiring(Access(roles=roles))


def permissions_required(*permissions: str) -> Callable[[View], View]:
    """Let those call a view who have all of the permissions."""
    return _requiring(Access(permissions=permissions))


def declare_permissions(app: Flask, permissions: dict[str, str]) -> None:
    """Add permissions, name -> description, that roles of this application can be granted."""
    app.extensions["ghost"].permissions.update(permissions)


def declared_permissions() -> dict[str, str]:
    """Every permission of the application, name -> description."""
    return cast(dict[str, str], current_app.extensions["ghost"].permissions)


def client_address() -> str | None:
    """The caller's address, behind as many proxies as are configured."""
    return request.remote_addr

"""How a request is authenticated: one bearer token, one query for session, user and rights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from flask import Flask, g, request
from flask_jwt_extended import JWTManager

from ghost import access
from ghost.access import USER, Caller
from ghost.auth import tokens
from ghost.auth.models import Session
from ghost.database import joined
from ghost.errors import GhostError, TokenInvalid, TokenRevoked, Unauthorized
from ghost.models import utcnow
from ghost.prepared import PreparedRead
from ghost.users.models import RolePermission, User, UserRole

_roles = (
    sa.select(joined(UserRole.role_name))
    .where(UserRole.user_id == User.id)
    .correlate(User)
    .scalar_subquery()
)
_granted = (
    sa.select(joined(RolePermission.permission))
    .outerjoin(
        UserRole,
        (UserRole.role_name == RolePermission.role_name) & (UserRole.user_id == User.id),
    )
    # Every role implies USER. That SUPER_ADMIN implies ADMIN needs no grants: it has them all.
    .where((RolePermission.role_name == USER) | UserRole.user_id.is_not(None))
    .correlate(User)
    .scalar_subquery()
)
_user_columns = (
    User.id, User.email, User.username, User.full_name, _roles, _granted, User.is_active,
    User.is_verified, User.avatar_url, User.created_at, User.updated_at, User.last_login_at,
)  # fmt: skip
# The fields of a `Caller`, in their order. Built once: building it costs more than running it.
_STATEMENT = (
    sa.select(*_user_columns, Session.id.label("session_id"))
    .select_from(Session)
    .join(User, User.id == Session.user_id)
    .where(
        Session.id == sa.bindparam("session_id"),
        Session.user_id == sa.bindparam("user_id"),
        Session.revoked_at.is_(None),
        Session.expires_at > sa.bindparam("now"),
        Session.epoch == User.session_epoch,
        User.is_active,
        User.deleted_at.is_(None),
    )
)
_CALLER = PreparedRead(_STATEMENT)


def bearer_token() -> str:
    """The token of the Authorization header. See RFC 6750, section 2.1.

    :raises Unauthorized: there is none.
    :raises TokenInvalid: the header is of another kind, or malformed.
    """
    header = request.environ.get("HTTP_AUTHORIZATION")
    if not header:
        raise Unauthorized
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token or " " in token or "," in token:
        raise TokenInvalid
    return str(token)


class BearerLoader:
    """Authenticates by `Authorization: Bearer <access token>`."""

    statement = _STATEMENT

    def claims(self) -> dict[str, Any]:
        """The verified claims of the request's access token, checked once."""
        claims: dict[str, Any] | None = g.get("claims")
        if claims is None:
            claims = g.claims = tokens.verify(bearer_token(), "access")
        return claims

    def identity(self) -> str | None:
        """The user id of a genuine, unexpired token."""
        try:
            return str(self.claims()["sub"])
        except GhostError:
            return None

    def values(self) -> dict[str, Any]:
        """Which session is asked for.

        :raises Unauthorized: there is no token, or it is worth nothing.
        """
        claims = self.claims()
        return {"session_id": claims["sid"], "user_id": claims["sub"], "now": utcnow()}

    def caller_of(self, row: Sequence[Any]) -> Caller:
        """The account of a live session and its rights."""
        found = list(row)
        found[4] = tuple(sorted(found[4].split(","))) if found[4] else ()
        found[5] = frozenset(found[5].split(",")) if found[5] else frozenset()
        return Caller(*found)

    def caller(self) -> Caller:
        """The caller, read now.

        :raises Unauthorized: there is no token, or it is worth nothing.
        :raises TokenRevoked: the session has ended, or the account is disabled or deleted.
        """
        row = _CALLER.first(self.values())
        if row is None:
            raise TokenRevoked
        return self.caller_of(row)


def init_app(app: Flask, jwt: JWTManager) -> None:
    """Register the loader, and give `@jwt_required()` of plain views the same rules."""
    loader = BearerLoader()
    access.init_app(app, loader)
    tokens.init_app(app, jwt)

    @jwt.token_verification_loader
    def verified(_header: dict[str, Any], _claims: dict[str, Any]) -> bool:
        """Ask our own check, which also reads the session; its errors become the answer."""
        access.authenticate()
        return True

    @jwt.unauthorized_loader
    def unauthorized(_reason: str) -> Any:
        raise Unauthorized

    @jwt.invalid_token_loader
    def invalid(_reason: str) -> Any:
        raise TokenInvalid

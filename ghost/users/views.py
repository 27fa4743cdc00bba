"""Accounts, over HTTP; the roles have a module of their own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import url_for

from ghost.access import current_user, permissions_required
from ghost.api import APIResponse, Blueprint, check_version, etag_of
from ghost.database import db
from ghost.errors import Conflict, Forbidden, NotFound, PreconditionFailed
from ghost.openapi import IF_MATCH, IF_NONE_MATCH, NOT_MODIFIED
from ghost.users import services
from ghost.users.models import User
from ghost.users.role_views import roles_bp
from ghost.users.schemas import AssignedRoles, NewUser, UserChanges, UserQuery, UserSchema

bp = Blueprint("users", __name__, url_prefix="/users", description="Accounts, for administrators.")

documents_if_match = bp.doc(parameters=[IF_MATCH])
documents_if_none_match = bp.doc(parameters=[IF_NONE_MATCH], responses=NOT_MODIFIED)


@bp.get("/")
@permissions_required("users:read")
@bp.paginated(UserSchema, query=UserQuery)
def list_users(query: dict[str, Any]) -> sa.Select[Any]:
    """List accounts, the newest first.

    Deleted ones never appear.
    """
    return services.list_users(**query)


@bp.post("/")
@permissions_required("users:write")
@bp.errors(Forbidden, Conflict)
@bp.arguments(NewUser)
@bp.response(201, UserSchema)
def create_user(data: dict[str, Any]) -> APIResponse:
    """Create an account and invite its owner.

    A mail takes them to a page where they choose a password; until then nobody can log in. Roles
    other than USER need the permission `roles:write` and all the rights of the role (403). Address
    and username are unique whatever their case, deleted accounts included (409).
    """
    user = services.create_user(current_user, **data)
    db.session.commit()
    location = url_for("users.get_user", user_id=user.id)
    return _answer(user, headers={"Location": location})


@bp.get("/<uuid:user_id>")
@permissions_required("users:read")
@bp.errors(NotFound)
@documents_if_none_match
@bp.response(200, UserSchema)
def get_user(user_id: UUID) -> APIResponse:
    """Get one account.

    The `ETag` is that of its version: `If-None-Match` with it is answered by 304, and `If-Match`
    keeps a change from overwriting a newer one.
    """
    return _answer(services.get_user(user_id))


@bp.patch("/<uuid:user_id>")
@permissions_required("users:write")
@bp.errors(Forbidden, NotFound, Conflict, PreconditionFailed)
@documents_if_match
@bp.arguments(UserChanges)
@bp.response(200, UserSchema)
def update_user(data: dict[str, Any], user_id: UUID) -> APIResponse:
    """Change an account.

    A new `email` is unverified, ends the account's sessions, and is announced to the former one.
    `is_active: false` ends the sessions too. Accounts whose rights are not a part of one's own,
    and one's own account, are out of reach (403); the last active SUPER_ADMIN stays (409).
    """
    user = services.lock_for_update(current_user, user_id, data)
    check_version(user.version)
    services.update_user(user, data)
    db.session.commit()
    return _answer(user)


@bp.delete("/<uuid:user_id>")
@permissions_required("users:write")
@bp.errors(Forbidden, NotFound, Conflict, PreconditionFailed)
@documents_if_match
@bp.response(204)
def delete_user(user_id: UUID) -> None:
    """Delete an account.

    Its sessions end at once. It can be restored, and keeps its address and username until then.
    """
    user = services.lock_for_change(current_user, user_id, takes_super_admin=True)
    check_version(user.version)
    services.delete_user(user)
    db.session.commit()


@bp.post("/<uuid:user_id>/restore")
@permissions_required("users:write")
@bp.errors(Forbidden, NotFound, Conflict)
@bp.response(200, UserSchema)
def restore_user(user_id: UUID) -> APIResponse:
    """Restore a deleted account.

    Its owner has to log in again. One that is not deleted is a conflict (409).
    """
    user = services.lock_for_change(current_user, user_id, with_deleted=True)
    services.restore_user(user)
    db.session.commit()
    return _answer(user)


@bp.put("/<uuid:user_id>/roles")
@permissions_required("roles:write")
@bp.errors(Forbidden, NotFound, Conflict, PreconditionFailed)
@documents_if_match
@bp.arguments(AssignedRoles)
@bp.response(200, UserSchema)
def set_roles(data: dict[str, Any], user_id: UUID) -> APIResponse:
    """Replace the roles of an account.

    They count from its next request. Nobody changes their own, or gives or takes a role with
    rights that they don't have (403); the last active SUPER_ADMIN stays one (409).
    """
    user = services.lock_for_roles(current_user, user_id, data["roles"])
    check_version(user.version)
    services.set_roles(current_user, user, data["roles"])
    db.session.commit()
    return _answer(user)


def _answer(user: User, headers: dict[str, str] | None = None) -> APIResponse:
    return APIResponse(user, headers={"ETag": etag_of(user.version), **(headers or {})})


__all__ = ["bp", "roles_bp"]

"""The roles, over HTTP."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import url_for

from ghost.access import current_user, permissions_required
from ghost.api import APIResponse, Blueprint
from ghost.database import db
from ghost.errors import Conflict, Forbidden, NotFound
from ghost.schemas import PageQuery
from ghost.users import roles
from ghost.users.models import Role
from ghost.users.schemas import NewRole, RoleChanges, RoleSchema

roles_bp = Blueprint(
    "roles", __name__, url_prefix="/roles", description="Roles, and the permissions they grant."
)


@roles_bp.get("/")
@permissions_required("roles:write")
@roles_bp.paginated(RoleSchema, query=PageQuery)
def list_roles(query: dict[str, Any]) -> sa.Select[Any]:
    """List the roles by name.

    `permissions` of SUPER_ADMIN are all that this application knows.
    """
    return roles.list_roles()


@roles_bp.post("/")
@permissions_required("roles:write")
@roles_bp.errors(Conflict)
@roles_bp.arguments(NewRole)
@roles_bp.response(201, RoleSchema)
def create_role(data: dict[str, Any]) -> APIResponse:
    """Create a role.

    Nobody can grant a permission that they don't have.
    """
    role = roles.create_role(current_user, **data)
    db.session.commit()
    return APIResponse(role, headers={"Location": url_for("roles.update_role", name=role.name)})


@roles_bp.patch("/<name>")
@permissions_required("roles:write")
@roles_bp.errors(Forbidden, NotFound, Conflict)
@roles_bp.arguments(RoleChanges)
@roles_bp.response(200, RoleSchema)
def update_role(data: dict[str, Any], name: str) -> Role:
    """Change a role's description or its permissions.

    `permissions` replaces all of them, and counts from the next request of everybody who has the
    role. Those of SUPER_ADMIN can't be changed: it has every one (409).
    """
    role = roles.update_role(current_user, name, **data)
    db.session.commit()
    return role


@roles_bp.delete("/<name>")
@permissions_required("roles:write")
@roles_bp.errors(Forbidden, NotFound, Conflict)
@roles_bp.response(204)
def delete_role(name: str) -> None:
    """Delete a role that no account has.

    USER, ADMIN and SUPER_ADMIN stay (409), and so does a role that is still assigned (409), be it
    to a deleted account.
    """
    roles.delete_role(current_user, name)
    db.session.commit()

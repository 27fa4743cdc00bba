"""What the API takes and gives of accounts and roles."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from ghost.access import BUILT_IN_ROLES, SUPER_ADMIN, USER, declared_permissions
from ghost.fields import UUID, Boolean, DateTime, Email, List, Text
from ghost.schemas import PageQuery, Schema
from ghost.users.models import Role
from ghost.users.names import RESERVED_USERNAMES, ROLE_NAME, USERNAME, username_key


class Username(Text):
    """A name to log in with: letters, digits, `.`, `_` and `-`, no reserved word, no `@`."""

    def __init__(self, **options: Any) -> None:
        rules = [validate.Regexp(USERNAME, error="Use letters, digits and . _ - between them.")]
        super().__init__(min_length=3, max_length=64, validate=rules, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        if username_key(text) in RESERVED_USERNAMES:
            raise ma.ValidationError("This username is reserved.")
        return text


class FullName(Text):
    """A person's name, as they write it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(min_length=1, max_length=200, blank=False, **options)


class RoleName(Text):
    """The name of a role: `UPPER_SNAKE`."""

    def __init__(self, **options: Any) -> None:
        rule = validate.Regexp(ROLE_NAME, error="Use capital letters, digits and _.")
        super().__init__(min_length=2, max_length=64, validate=rule, **options)


class UserSchema(Schema):
    """An account, as everybody sees it who may see it."""

    id = UUID(required=True)
    email = Email(required=True)
    username = fields.String(required=True, allow_none=True)
    full_name = fields.String(required=True, allow_none=True)
    roles = fields.List(fields.String(), required=True, metadata={"example": [USER]})
    is_active = Boolean(required=True)
    is_verified = Boolean(required=True)
    avatar_url = fields.String(required=True, allow_none=True)
    created_at = DateTime(required=True)
    updated_at = DateTime(required=True)
    last_login_at = DateTime(required=True, allow_none=True)


SORTS = ("created_at", "-created_at", "email", "-email", "username", "-username")


class UserQuery(PageQuery):
    """Which accounts to list, and in which order."""

    search = Text(
        min_length=1,
        max_length=200,
        metadata={"description": "Text that the address, the username or the name contains."},
    )
    role = Text(max_length=64, metadata={"description": "Accounts to which this role is assigned."})
    is_active = Boolean()
    sort = Text(
        load_default="-created_at",
        validate=validate.OneOf(SORTS),
        metadata={"description": "A column; with `-` in front descending."},
    )


class RoleNames(List):
    """Roles to assign, at least one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(RoleName(), validate=validate.Length(1, 20), **options)


class NewUser(Schema):
    """An account to create; its owner is invited to choose a password."""

    email = Email(required=True)
    username = Username(allow_none=True)
    full_name = FullName(allow_none=True)
    roles = RoleNames(load_default=[USER])


class UserChanges(Schema):
    """What to change of an account; what is left out stays."""

    email = Email()
    username = Username(allow_none=True)
    full_name = FullName(allow_none=True)
    is_active = Boolean()
    is_verified = Boolean(metadata={"description": "Needs the permission `users:verify`."})


class AssignedRoles(Schema):
    """All roles of an account."""

    roles = RoleNames(required=True)


class RoleSchema(Schema):
    """A role and the permissions that it grants."""

    name = fields.String(required=True, metadata={"example": "SUPPORT"})
    description = fields.String(required=True)
    permissions = fields.Method(
        "effective_permissions",
        required=True,
        metadata={"type": "array", "items": {"type": "string"}, "example": ["users:read"]},
    )
    is_built_in = fields.Function(
        lambda role: role.name in BUILT_IN_ROLES, required=True, metadata={"type": "boolean"}
    )
    created_at = DateTime(required=True)
    updated_at = DateTime(required=True)

    def effective_permissions(self, role: Role) -> list[str]:
        """What the role grants: for SUPER_ADMIN everything that the application declares."""
        if role.name == SUPER_ADMIN:
            return sorted(declared_permissions())
        return role.permissions


class PermissionNames(List):
    """Declared permissions, in any order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(Text(max_length=64), validate=validate.Length(max=500), **options)


class NewRole(Schema):
    """A role to create."""

    name = RoleName(required=True)
    description = Text(max_length=200, load_default="")
    permissions = PermissionNames(load_default=[])


class RoleChanges(Schema):
    """What to change of a role; what is left out stays."""

    description = Text(max_length=200)
    permissions = PermissionNames()

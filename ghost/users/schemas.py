"""What the API takes and gives of accounts and roles."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from ghost.access import USER
from ghost.schemas import UUID, Boolean, DateTime, Email, Schema, Text
from ghost.users.services import USERNAME, username_key

RESERVED_USERNAMES = frozenset(
    {
        "abuse", "account", "accounts", "admin", "administrator", "anonymous", "api", "auth",
        "billing", "contact", "docs", "everyone", "ghost", "health", "help", "hostmaster", "info",
        "login", "logout", "mail", "me", "metrics", "moderator", "no-reply", "none", "noreply",
        "null", "official", "openapi", "owner", "password", "postmaster", "redoc", "register",
        "root", "security", "signin", "signup", "staff", "static", "super_admin", "superadmin",
        "superuser", "support", "sysadmin", "system", "undefined", "user", "username", "users",
        "webmaster", "ws", "www",
    }
)  # fmt: skip


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
        rule = validate.Regexp(r"[A-Z][A-Z0-9_]*\Z", error="Use capital letters, digits and _.")
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

"""What the API takes and gives around accounts, sessions and tokens."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from ghost.fields import UUID, Boolean, DateTime, Email, Secret, Text
from ghost.schemas import Schema
from ghost.users.schemas import FullName, Username, UserSchema


def _password(what: str) -> Secret:
    return Secret(
        required=True,
        metadata={
            "description": f"{what}: 8 to 128 characters of any kind, no common password.",
            "minLength": 8,
        },
    )


class RegisterSchema(Schema):
    email = Email(required=True)
    password = _password("The password")
    username = Username(load_default=None, allow_none=True)
    full_name = FullName(load_default=None, allow_none=True)


class LoginSchema(Schema):
    email = Text(
        required=True,
        min_length=1,
        max_length=254,
        metadata={"description": "The e-mail address, or the username."},
    )
    password = Secret(required=True)


class TokensSchema(Schema):
    access_token = fields.String(required=True)
    refresh_token = fields.String(required=True)
    token_type = fields.String(required=True, metadata={"enum": ["Bearer"]})
    expires_in = fields.Integer(
        required=True, metadata={"description": "Life of the access token, in seconds."}
    )


class LoggedInSchema(TokensSchema):
    user = fields.Nested(UserSchema, required=True)


class ProfileSchema(Schema):
    username = Username(allow_none=True)
    full_name = FullName(allow_none=True)


class ChangePasswordSchema(Schema):
    current_password = Secret(required=True)
    new_password = _password("The new password")


class EmailSchema(Schema):
    email = Email(required=True)


class ResetPasswordSchema(Schema):
    token = Secret(
        required=True,
        max_length=200,
        metadata={"description": "From the mailed link, of a reset or of an invitation."},
    )
    new_password = _password("The new password")


class VerifyEmailSchema(Schema):
    """`token` of the mailed link, or `email` and the `code` of the same mail."""

    token = Secret(max_length=200, metadata={"description": "From the mailed link."})
    email = Email()
    code = Text(
        max_length=6,
        validate=validate.Regexp(r"^[0-9]{6}$", error="Send six digits."),
        metadata={"description": "The six digits of the mail; needs `email` beside it."},
    )

    @ma.validates_schema
    def _one_way(self, data: dict[str, Any], **_options: Any) -> None:
        if set(data) not in ({"token"}, {"email", "code"}):
            raise ma.ValidationError("Send either token, or email and code.")


class SessionSchema(Schema):
    id = UUID(required=True)
    created_at = DateTime(required=True)
    last_used_at = DateTime(
        required=True, metadata={"description": "When its tokens were last refreshed."}
    )
    expires_at = DateTime(required=True)
    ip_address = fields.String(required=True, allow_none=True)
    user_agent = fields.String(required=True, allow_none=True)
    is_current = Boolean(
        required=True, metadata={"description": "Whether this request belongs to it."}
    )

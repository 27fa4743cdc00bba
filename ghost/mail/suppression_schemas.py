"""What the API takes and gives of addresses that get no mail."""

from __future__ import annotations

from marshmallow import fields, validate

from ghost.fields import UUID, DateTime, Email, Text
from ghost.mail.models import REASONS
from ghost.mail.suppression import MAX_DETAILS
from ghost.schemas import Schema


class SuppressionSchema(Schema):
    """An address that gets nothing but security mails."""

    id = UUID(required=True)
    email = fields.String(required=True, metadata={"format": "email"})
    reason = fields.String(required=True, validate=validate.OneOf(REASONS))
    details = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "What the mail service or the person said."},
    )
    created_by = UUID(required=True, allow_none=True)
    created_at = DateTime(required=True)
    updated_at = DateTime(required=True)


class NewSuppression(Schema):
    """An address that shall get no more mail."""

    email = Email(required=True)
    details = Text(load_default=None, allow_none=True, max_length=MAX_DETAILS, multiline=True)

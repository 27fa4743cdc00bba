"""What the API takes and gives of mail templates."""

from __future__ import annotations

from marshmallow import fields, validate

from ghost.fields import Boolean, Text
from ghost.schemas import Schema


class TemplateSchema(Schema):
    """A mail template: what it needs, and in which languages it is there."""

    name = fields.String(required=True)
    locales = fields.List(
        fields.String(), required=True, metadata={"description": "Beside the default."}
    )
    source = fields.String(required=True, validate=validate.OneOf(["application", "ghost"]))
    variables = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "What its context may have to hold, beside `full_name`."},
    )
    is_security = Boolean(
        required=True, metadata={"description": "Sent by Ghost itself alone; never by the API."}
    )
    problem = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Why one of its files can't be used, if so."},
    )


class NewPreview(Schema):
    """The data to show a template with."""

    context = fields.Dict(keys=fields.String(), load_default=dict)
    locale = Text(
        load_default=None,
        allow_none=True,
        validate=validate.Regexp(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})?\Z"),
    )


class PreviewSchema(Schema):
    """A mail as it would be; images stand in the HTML as `data:` addresses."""

    subject = fields.String(required=True)
    text = fields.String(required=True)
    html = fields.String(required=True, allow_none=True)

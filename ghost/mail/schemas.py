"""What the API takes and gives of single mails."""

from __future__ import annotations

import marshmallow as ma
from marshmallow import fields, validate

from ghost.fields import UUID, DateTime, Dict, Integer, List, Text
from ghost.mail.messages import MAX_HEADER_CHARACTERS
from ghost.mail.models import STATUSES
from ghost.schemas import PageQuery, Schema

LONGEST_BODY = 1_000_000
MAX_NAMED = 1000  # addresses or files; the settings allow fewer


def _addresses(meaning: str, *, required: bool = False) -> List:
    rule = validate.Length(min=1 if required else 0, max=MAX_NAMED)
    return List(
        Text(max_length=MAX_HEADER_CHARACTERS),
        required=required,
        validate=rule,
        metadata={"description": meaning, "example": ["Ada <ada@example.org>"]},
    )


class NewMail(Schema):
    """A mail: by a template and its context, or with a subject and a text, HTML or both."""

    to = _addresses("Who it is for.", required=True)
    cc = _addresses("Who gets a copy, for all to see.")
    bcc = _addresses("Who gets a copy that nobody sees.")
    reply_to = _addresses("Where answers go.")
    subject = Text(max_length=MAX_HEADER_CHARACTERS)
    text = Text(max_length=LONGEST_BODY, multiline=True)
    html = Text(max_length=LONGEST_BODY, multiline=True)
    template = Text(min_length=1, max_length=100, metadata={"example": "order-shipped"})
    context = Dict(
        keys=fields.String(), metadata={"description": "The values of the template's variables."}
    )
    locale = Text(
        max_length=35,
        metadata={"description": "Whose templates are taken where there are any, as `de-AT`."},
    )
    attachments = List(
        UUID(), validate=validate.Length(max=MAX_NAMED), metadata={"description": "Ids of files."}
    )
    headers = Dict(
        keys=fields.String(),
        values=Text(max_length=MAX_HEADER_CHARACTERS),
        metadata={"description": "More headers; none that every mail has.", "example": {}},
    )
    send_at = DateTime(metadata={"description": "Not before this time."})

    @ma.validates_schema
    def _says_one_thing(self, data: dict[str, object], **_options: object) -> None:
        written = [name for name in ("subject", "text", "html") if name in data]
        if "template" in data:
            if written:
                raise ma.ValidationError("A mail by a template has none of its own.", written[0])
            return
        for name in ("context", "locale"):
            if name in data:
                raise ma.ValidationError("It needs a template.", name)
        if "subject" not in data:
            raise ma.ValidationError("A mail needs a subject, or a template.", "subject")
        if "text" not in data and "html" not in data:
            raise ma.ValidationError("A mail needs a text, HTML or both, or a template.", "text")


class AcceptedMail(Schema):
    """A mail that was accepted."""

    id = UUID(required=True)
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    job_id = UUID(required=True, allow_none=True)


class MessageQuery(PageQuery):
    """Which mails, and which page of them."""

    status = Text(validate=validate.OneOf(STATUSES))
    batch_id = UUID()


class MailMessageSchema(Schema):
    """A mail and what became of it, without what it says."""

    id = UUID(required=True)
    batch_id = UUID(required=True, allow_none=True)
    job_id = UUID(required=True, allow_none=True)
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    template = fields.String(required=True, allow_none=True)
    locale = fields.String(required=True, allow_none=True)
    to = fields.List(fields.String(), required=True)
    cc = fields.List(fields.String(), required=True)
    bcc = fields.List(fields.String(), required=True)
    subject = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Null until it is rendered, and always of a security mail."},
    )
    attempts = Integer(required=True)
    accepted = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "Addresses that the mail service took."},
    )
    refused = fields.Dict(
        required=True, metadata={"description": "By address, why it does not get the mail."}
    )
    error = fields.String(required=True, allow_none=True)
    provider = fields.String(required=True, allow_none=True)
    created_by = UUID(required=True, allow_none=True)
    created_at = DateTime(required=True)
    send_at = DateTime(required=True, allow_none=True)
    sent_at = DateTime(required=True, allow_none=True)
    delivered_at = DateTime(required=True, allow_none=True)
    bounced_at = DateTime(required=True, allow_none=True)
    complained_at = DateTime(required=True, allow_none=True)

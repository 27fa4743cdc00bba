"""What the API takes and gives of batches."""

from __future__ import annotations

import marshmallow as ma
from marshmallow import fields, validate

from ghost.config import current_config
from ghost.fields import UUID, DateTime, Dict, Integer, List, Nested, Text
from ghost.mail.messages import MAX_HEADER_CHARACTERS
from ghost.schemas import Schema

STATUSES = ("queued", "sending", "finished", "canceled")


class RecipientSchema(Schema):
    """Somebody who gets a mail of their own."""

    to = Text(
        required=True,
        max_length=MAX_HEADER_CHARACTERS,
        metadata={"example": "Ada <ada@example.org>"},
    )
    context = Dict(
        keys=fields.String(),
        load_default=dict,
        metadata={"description": "The values of the template's variables."},
    )


class NewBatch(Schema):
    """A template, and who gets it."""

    template = Text(required=True, min_length=1, max_length=100)
    recipients = List(Nested(RecipientSchema), required=True, validate=validate.Length(min=1))
    locale = Text(
        load_default=None,
        allow_none=True,
        max_length=35,
        metadata={"description": "Whose templates are taken where there are any, as `de-AT`."},
    )

    @ma.pre_load
    def count(self, data: object, **_options: object) -> object:
        """Refuse too many before each of them is read."""
        recipients = data.get("recipients") if isinstance(data, dict) else None
        most = current_config().mail.max_batch
        if isinstance(recipients, list) and len(recipients) > most:
            raise ma.ValidationError(f"There are more than {most:,}.", "recipients")
        return data

    @ma.post_load
    def as_pairs(self, data: dict[str, object], **_options: object) -> dict[str, object]:
        """Recipients as `send_bulk` takes them."""
        found: list[dict[str, object]] = data["recipients"]  # type: ignore[assignment]
        data["recipients"] = [(one["to"], one["context"]) for one in found]
        return data


class AcceptedBatch(Schema):
    """A batch that was accepted."""

    batch_id = UUID(required=True)
    job_id = UUID(required=True)
    queued = Integer(required=True, metadata={"description": "Distinct addresses."})
    duplicates = Integer(
        required=True, metadata={"description": "Recipients left out, whose address came before."}
    )


class BatchSchema(Schema):
    """One template for many recipients, and how far it is."""

    id = UUID(required=True)
    template = fields.String(required=True)
    locale = fields.String(required=True, allow_none=True)
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    total = Integer(required=True)
    queued = Integer(required=True)
    sending = Integer(required=True)
    sent = Integer(required=True)
    failed = Integer(required=True)
    job_id = UUID(required=True, allow_none=True)
    created_by = UUID(required=True, allow_none=True)
    created_at = DateTime(required=True)
    finished_at = DateTime(required=True, allow_none=True)
    canceled_at = DateTime(required=True, allow_none=True)

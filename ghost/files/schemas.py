"""What the API takes and gives of files."""

from __future__ import annotations

from marshmallow import fields, validate

from ghost.api import API_PREFIX
from ghost.fields import UUID, DateTime, Dict, Integer
from ghost.files.models import CATEGORIES, VISIBILITIES
from ghost.schemas import Schema

SORTS = tuple(
    order
    for name in ("created_at", "filename", "size", "content_type")
    for order in (name, f"-{name}")
)


class FileSchema(Schema):
    """A file, as everybody sees it who may see it."""

    id = UUID(required=True)
    filename = fields.String(required=True, metadata={"example": "report.pdf"})
    content_type = fields.String(required=True, metadata={"example": "application/pdf"})
    size = Integer(required=True, metadata={"description": "Bytes."})
    sha256 = fields.String(required=True)
    category = fields.String(required=True, validate=validate.OneOf(CATEGORIES))
    visibility = fields.String(required=True, validate=validate.OneOf(VISIBILITIES))
    metadata = Dict(required=True, attribute="details")
    width = Integer(required=True, allow_none=True, metadata={"description": "Pixels; of images."})
    height = Integer(required=True, allow_none=True)
    owner_id = UUID(required=True)
    created_at = DateTime(required=True)
    url = fields.Function(
        lambda file: f"{API_PREFIX}/files/{file.id}/content",
        required=True,
        metadata={"type": "string", "description": "Path of its bytes."},
    )

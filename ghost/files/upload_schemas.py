"""What the API gives of resumable uploads; what it takes are the headers of tus."""

from __future__ import annotations

from marshmallow import fields

from ghost.fields import UUID, DateTime, Integer
from ghost.schemas import Schema


class UploadSchema(Schema):
    """A resumable upload, finished or not."""

    id = UUID(required=True)
    filename = fields.String(required=True, metadata={"example": "film.mp4"})
    length = Integer(required=True, metadata={"description": "Bytes of the whole file."})
    offset = Integer(required=True, metadata={"description": "Bytes that have arrived."})
    expires_at = DateTime(required=True)
    file_id = UUID(
        required=True,
        allow_none=True,
        metadata={"description": "The file that came of it, when all is there."},
    )

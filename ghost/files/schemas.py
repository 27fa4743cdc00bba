"""What the API takes and gives of files."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from ghost.api import API_PREFIX
from ghost.fields import UUID, Boolean, DateTime, Dict, Integer, Text
from ghost.files.metadata import check_metadata
from ghost.files.models import CATEGORIES, VISIBILITIES
from ghost.files.services import SORTABLE
from ghost.schemas import PageQuery, Schema

SORTS = tuple(order for name in SORTABLE for order in (name, f"-{name}"))


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


class FileQuery(PageQuery):
    """Which files to list, and in which order."""

    category = Text(validate=validate.OneOf(CATEGORIES))
    content_type = Text(max_length=127)
    search = Text(
        min_length=1,
        max_length=200,
        metadata={"description": "Text that the file name contains."},
    )
    owner_id = UUID(metadata={"description": "Whose; others' need `files:read_any`."})
    all = Boolean(
        load_default=False,
        metadata={"description": "Everybody's; needs `files:read_any`."},
    )
    sort = Text(
        load_default="-created_at",
        validate=validate.OneOf(SORTS),
        metadata={"description": "A column; with `-` in front descending."},
    )


class Metadata(Dict):
    """A JSON object of 4 KiB at most."""

    def __init__(self, **options: Any) -> None:
        super().__init__(keys=fields.String(), validate=_check, **options)


def _check(value: dict[str, Any]) -> None:
    try:
        check_metadata(value)
    except ValueError as error:
        raise ma.ValidationError(str(error)) from error


class FileChanges(Schema):
    """What to change of a file; what is left out stays."""

    filename = Text(min_length=1, max_length=255, blank=False)
    visibility = Text(validate=validate.OneOf(VISIBILITIES))
    metadata = Metadata(
        attribute="details",
        metadata={"description": "Replaces all of it; a JSON object of 4 KiB at most."},
    )

"""What is asked of the bytes of files, and of addresses for them."""

from __future__ import annotations

from typing import Any

from marshmallow import fields, validate

from ghost.fields import Boolean, DateTime, Integer, Text
from ghost.schemas import Schema

SHORTEST_SECONDS = 60
LONGEST_SECONDS = 7 * 24 * 3600


class Switch(Boolean):
    """true or false, or 1 or 0, as links have it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        return super()._deserialize(_WORDS.get(value, value), attr, data, **options)


_WORDS = {"1": "true", "0": "false"}


class ContentQuery(Schema):
    """How to give a file, and by which right."""

    download = Switch(
        load_default=False, metadata={"description": "Whether browsers save it, whatever it is."}
    )
    # Whatever it is: a signed URL that was altered has one answer.
    expires = Text(load_default="", metadata={"description": "Of a signed URL."})
    signature = Text(metadata={"description": "Of a signed URL."})


class NewLink(Schema):
    """What a signed URL is to be good for."""

    expires_in = Integer(
        required=True,
        validate=validate.Range(SHORTEST_SECONDS, LONGEST_SECONDS),
        metadata={"description": "Seconds; from a minute to seven days.", "example": 3600},
    )
    variant = Text(
        load_default=None,
        allow_none=True,
        max_length=50,
        metadata={"description": "A variant of an image instead of the file itself."},
    )
    download = Boolean(
        load_default=False, metadata={"description": "Whether browsers save it, whatever it is."}
    )


class LinkSchema(Schema):
    """A signed URL."""

    url = fields.String(required=True)
    expires_at = DateTime(required=True)

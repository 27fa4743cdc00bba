"""Smaller copies of pictures, over HTTP."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Response, request

from ghost.access import public
from ghost.api import Blueprint
from ghost.errors import PreconditionFailed, Unauthorized, UnsupportedMediaType
from ghost.files.content_schemas import ContentQuery
from ghost.files.content_views import documents_bytes
from ghost.files.ranges import RangeNotSatisfiable
from ghost.files.serving import serve
from ghost.files.signatures import LinkInvalid
from ghost.files.variants import find_variant

bp = Blueprint("file_images", __name__, url_prefix="/files", description="Variants of images.")


@bp.get("/<uuid:file_id>/images/<variant>")
@public
@bp.errors(LinkInvalid, Unauthorized, PreconditionFailed, RangeNotSatisfiable, UnsupportedMediaType)
@documents_bytes
@bp.arguments(ContentQuery, location="query")
def get_image(query: dict[str, Any], file_id: UUID, variant: str) -> Response:
    """Get a smaller copy of an image.

    By the name of a variant: `thumb`, `small`, `medium`, `large`, or one of the configuration's.
    For whoever may read the image itself, by a signed URL too, which has to be one for this
    variant. The format goes by `Accept`: WebP, or AVIF where it is offered, for those who name it,
    else JPEG. The first request makes it, all others get what was made; while a large one is being
    made, the answer is 503 with `Retry-After`. A file that is no image, or a damaged one, has
    none (415).
    """
    download, audience = find_variant(file_id, variant, query, request.headers.get("Accept"))
    response = serve(download, audience, is_attachment=query["download"])
    response.vary.add("Accept")
    return response

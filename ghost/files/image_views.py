"""Smaller copies of pictures, over HTTP."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Response, request

from ghost.access import public
from ghost.api import Blueprint
from ghost.errors import PayloadTooLarge, PreconditionFailed, Unauthorized, UnsupportedMediaType
from ghost.files.content_schemas import ContentQuery
from ghost.files.content_views import documents_bytes
from ghost.files.ranges import RangeNotSatisfiable
from ghost.files.serving import serve, serve_if_there
from ghost.files.signatures import LinkInvalid
from ghost.files.storage.base import Missing
from ghost.files.variant_rows import forget_lost
from ghost.files.variants import find_variant
from ghost.logging import logger
from ghost.ratelimit import caller_or_source, rate_limit

bp = Blueprint("file_images", __name__, url_prefix="/files", description="Variants of images.")


@bp.get("/<uuid:file_id>/images/<variant>")
@public
@rate_limit("storage.download_limit", key=caller_or_source)
@bp.errors(
    LinkInvalid,
    Unauthorized,
    PreconditionFailed,
    PayloadTooLarge,
    RangeNotSatisfiable,
    UnsupportedMediaType,
)
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
    accept, is_attachment = request.headers.get("Accept"), query["download"]
    download, audience = find_variant(file_id, variant, query, accept)
    try:
        response = serve_if_there(download, audience, is_attachment=is_attachment)
    except Missing:
        logger.bind(key=download.key).warning("a variant has lost its bytes and is made anew")
        forget_lost(download.key)
        download, audience = find_variant(file_id, variant, query, accept)
        response = serve(download, audience, is_attachment=is_attachment)
    response.vary.add("Accept")
    return response

"""The bytes of files, over HTTP, and addresses that give them without a login."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Response

from ghost.access import current_user, login_required, public
from ghost.api import APIResponse, Blueprint
from ghost.errors import Forbidden, NotFound, PreconditionFailed, Unauthorized
from ghost.files import contents, services
from ghost.files.content_schemas import ContentQuery, LinkSchema, NewLink
from ghost.files.ranges import RangeNotSatisfiable
from ghost.files.serving import serve
from ghost.files.signatures import LinkInvalid, sign_url
from ghost.openapi import IF_NONE_MATCH, NOT_MODIFIED
from ghost.ratelimit import caller_or_source, rate_limit

bp = Blueprint("file_contents", __name__, url_prefix="/files", description="The bytes of files.")

_BYTES = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
documents_bytes = bp.doc(
    parameters=[
        IF_NONE_MATCH,
        {
            "in": "header",
            "name": "Range",
            "description": "Parts of the file, `bytes=0-99`; 16 at most.",
            "schema": {"type": "string"},
        },
    ],
    responses={
        "200": {"description": "OK", **_BYTES},
        "206": {"description": "Partial Content", **_BYTES},
        "302": {"description": "Found"},
        **NOT_MODIFIED,
    },
)


@bp.get("/<uuid:file_id>/content")
@public
@rate_limit("storage.download_limit", key=caller_or_source)
@bp.errors(LinkInvalid, Unauthorized, PreconditionFailed, RangeNotSatisfiable)
@documents_bytes
@bp.arguments(ContentQuery, location="query")
def get_content(query: dict[str, Any], file_id: UUID) -> Response:
    """Download a file.

    Anybody gets a public one. A private one goes to its owner, to callers with the permission
    `files:read_any`, and to whoever has a signed URL, for which no login is looked at (403 when it
    is altered or over); for others it is not there (404). Pictures, sound, films and plain text are
    shown by browsers, all else is saved, and with `download=1` those too. Ranges, also several, and
    conditional requests work as in RFC 9110. An object store may answer instead (302).
    """
    download, audience = contents.find_content(file_id, query)
    return serve(download, audience, is_attachment=query["download"])


@bp.post("/<uuid:file_id>/signed-url")
@login_required
@bp.errors(Forbidden, NotFound)
@bp.arguments(NewLink)
@bp.response(200, LinkSchema)
def create_signed_url(data: dict[str, Any], file_id: UUID) -> APIResponse:
    """Make a URL that gives a file without a login.

    For the owner of the file, and callers with the permission `files:read_any`. It is good for the
    given time, for GET and HEAD of this file (or this `variant` of an image) alone, and as long as
    the file is not deleted; it can't be taken back otherwise, also not by making the file private.
    """
    file = services.get_file(current_user, file_id)
    contents.check_may_pass_on(current_user, file)
    contents.check_variant(file, data["variant"])
    link = sign_url(file.id, data["expires_in"], variant=data["variant"], download=data["download"])
    return APIResponse(link, headers={"Cache-Control": "no-store"})

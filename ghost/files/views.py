"""Files, over HTTP: taking them in, and what is known about them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import request, url_for

from ghost.access import View, current_user, declare, login_required
from ghost.api import APIResponse, Blueprint, check_version, etag_of
from ghost.config import current_config
from ghost.database import db
from ghost.errors import (
    Forbidden,
    GhostError,
    NotFound,
    PayloadTooLarge,
    PreconditionFailed,
    UnsupportedMediaType,
)
from ghost.files import services
from ghost.files.arrivals import receive
from ghost.files.models import VISIBILITIES, StoredFile
from ghost.files.receiving import FORM_BYTES, Body, UploadForm
from ghost.files.schemas import FileChanges, FileQuery, FileSchema
from ghost.http import body_limit
from ghost.openapi import IF_MATCH, IF_NONE_MATCH, NOT_MODIFIED
from ghost.ratelimit import caller_or_source, rate_limit

bp = Blueprint("files", __name__, url_prefix="/files", description="Files and what they are.")

documents_if_match = bp.doc(parameters=[IF_MATCH])
documents_if_none_match = bp.doc(parameters=[IF_NONE_MATCH], responses=NOT_MODIFIED)
documents_form = bp.doc(
    requestBody={
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "visibility": {"type": "string", "enum": list(VISIBILITIES)},
                        "metadata": {
                            "type": "string",
                            "description": "A JSON object of 4 KiB at most.",
                        },
                    },
                }
            }
        },
    }
)

# A shorter body is read as fast as the database is asked whether there is room for it.
ASKED_FIRST_BYTES = 4 * 2**20


def takes_form(view: View) -> View:
    """Say that a view reads a form with a file, by itself: nobody else may touch the body."""
    declare(view, locations=frozenset({"files"}))
    return documents_form(view)


@bp.post("/")
@login_required
@rate_limit("storage.upload_limit", key=caller_or_source)
@body_limit(lambda config: config.storage.max_file_size + FORM_BYTES)
@bp.errors(PayloadTooLarge, UnsupportedMediaType)
@takes_form
@bp.response(201, FileSchema)
def upload_file() -> APIResponse:
    """Upload a file.

    Its type is decided from its content. Refused are a name or a declared type that contradicts
    it, a type that is not allowed (415), and what is too large or has no room left (413). The name
    loses folders, invisible characters and what is beyond 255 characters.
    """
    body = Body(request.environ, current_config().storage.max_file_size + FORM_BYTES)
    try:
        file = _take_in(body, current_user.id)
    except GhostError:
        db.session.rollback()  # nothing is locked while the sender is listened to
        body.drain()
        raise
    return _answer(file, {"Location": url_for("files.get_file", file_id=file.id)})


def _take_in(body: Body, owner_id: UUID) -> StoredFile:
    body.check()
    form = UploadForm(body, request.headers.get("Content-Type", ""))
    if (body.length or 0) > ASKED_FIRST_BYTES:
        services.check_room(owner_id, (body.length or 0) - FORM_BYTES)
    form.open()
    arrival = receive(form.pieces(), filename=form.filename, declared_type=form.declared_type)
    return services.add_and_commit(
        arrival, owner_id=owner_id, visibility=form.visibility, details=form.metadata
    )


@bp.get("/")
@login_required
@bp.errors(Forbidden)
@bp.paginated(FileSchema, query=FileQuery)
def list_files(query: dict[str, Any]) -> sa.Select[Any]:
    """List one's own files, the newest first.

    Those of somebody else, by `owner_id`, or of everybody, by `all`, need the permission
    `files:read_any`.
    """
    return services.list_files(current_user, of_everybody=query.pop("all"), **query)


@bp.get("/<uuid:file_id>")
@login_required
@bp.errors(NotFound)
@documents_if_none_match
@bp.response(200, FileSchema)
def get_file(file_id: UUID) -> APIResponse:
    """Get what is known about a file.

    One's own, a public one, or any with the permission `files:read_any`; a private file of somebody
    else is not there (404). The `ETag` is that of its version.
    """
    return _answer(services.get_file(current_user, file_id))


@bp.patch("/<uuid:file_id>")
@login_required
@bp.errors(Forbidden, NotFound, PreconditionFailed)
@documents_if_match
@bp.arguments(FileChanges)
@bp.response(200, FileSchema)
def update_file(data: dict[str, Any], file_id: UUID) -> APIResponse:
    """Rename a file, or change who sees it or what is noted about it.

    The extension of a new name has to agree with the content (422). `metadata` replaces all that
    was there. Others' files need the permission `files:write_any`.
    """
    file = services.lock_for_change(current_user, file_id)
    check_version(file.version)
    services.update_file(file, data)
    db.session.commit()
    return _answer(file)


@bp.delete("/<uuid:file_id>")
@login_required
@bp.errors(Forbidden, NotFound, PreconditionFailed)
@documents_if_match
@bp.response(204)
def delete_file(file_id: UUID) -> None:
    """Delete a file.

    It is gone at once; its bytes count in the quota until they are deleted, within a day usually,
    or as soon as their room is needed.
    """
    file = services.lock_for_change(current_user, file_id)
    check_version(file.version)
    services.delete_file(file)
    db.session.commit()


def _answer(file: StoredFile, headers: dict[str, str] | None = None) -> APIResponse:
    return APIResponse(file, headers={"ETag": etag_of(file.version), **(headers or {})})

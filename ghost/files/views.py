"""Files, over HTTP: taking them in, and what is known about them."""

from __future__ import annotations

from uuid import UUID

from flask import request

from ghost.access import current_user, login_required
from ghost.api import APIResponse, Blueprint, etag_of
from ghost.config import current_config
from ghost.database import db
from ghost.errors import (
    NotFound,
    PayloadTooLarge,
    UnsupportedMediaType,
)
from ghost.files import services
from ghost.files.arrivals import receive
from ghost.files.models import StoredFile
from ghost.files.receiving import FORM_BYTES, Body, UploadForm
from ghost.files.schemas import FileSchema
from ghost.http import body_limit
from ghost.ratelimit import caller_or_source, rate_limit

bp = Blueprint("files", __name__, url_prefix="/files", description="Files and what they are.")


@bp.post("/")
@login_required
@rate_limit("storage.upload_limit", key=caller_or_source)
@body_limit(lambda config: config.storage.max_file_size + FORM_BYTES)
@bp.errors(PayloadTooLarge, UnsupportedMediaType)
@bp.response(201, FileSchema)
def upload_file() -> APIResponse:
    """Upload a file.

    Its type is decided from its content; a name or a declared type that contradicts it, and a type
    that is not allowed, are refused (415), as is what is too large or has no room (413).
    """
    owner_id = current_user.id
    body = Body(request.environ, current_config().storage.max_file_size + FORM_BYTES)
    form = UploadForm(body, request.headers.get("Content-Type", ""))
    services.check_room(owner_id, (body.length or 0) - FORM_BYTES)
    form.open()
    arrival = receive(form.pieces(), filename=form.filename, declared_type=form.declared_type)
    file = services.add(
        arrival, owner_id=owner_id, visibility=form.visibility, details=form.metadata
    )
    db.session.commit()
    return _answer(file)


@bp.get("/<uuid:file_id>")
@login_required
@bp.errors(NotFound)
@bp.response(200, FileSchema)
def get_file(file_id: UUID) -> APIResponse:
    """Get what is known about a file."""
    return _answer(services.get_file(current_user, file_id))


def _answer(file: StoredFile, headers: dict[str, str] | None = None) -> APIResponse:
    return APIResponse(file, headers={"ETag": etag_of(file.version), **(headers or {})})

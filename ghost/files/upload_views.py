"""Resumable uploads over HTTP: the protocol tus, version 1.0.0."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast
from uuid import UUID

from flask import Response, request, url_for
from werkzeug.http import http_date

from ghost.access import current_user, login_required
from ghost.api import APIResponse, Blueprint
from ghost.config import current_config
from ghost.database import db
from ghost.errors import (
    Conflict,
    GhostError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    PreconditionFailed,
    UnsupportedMediaType,
)
from ghost.files import tus, uploads
from ghost.files.receiving import PIECE_BYTES, Body
from ghost.files.upload_schemas import UploadSchema
from ghost.files.upload_turns import Locked, UploadState
from ghost.http import body_limit
from ghost.ratelimit import caller_or_source, rate_limit

View = TypeVar("View", bound=Callable[..., Any])

# Where so much takes longer than a moment to arrive, less is read at once: what is lost with a
# connection is what was being read.
SLOW_PIECE_BYTES, MOMENT_SECONDS = 16 * 1024, 0.5

bp = Blueprint(
    "file_uploads",
    __name__,
    url_prefix="/files/uploads",
    description="Resumable uploads, by the protocol tus 1.0.0 (tus.io).",
)


_COUNT = {"type": "string", "pattern": "^[0-9]{1,18}$"}
_TEXT = {"type": "string"}


def _header(
    name: str, schema: dict[str, Any], description: str, *, required: bool = False
) -> dict[str, Any]:
    return {
        "in": "header", "name": name, "required": required, "schema": schema,
        "description": description,
    }  # fmt: skip


_VERSION = _header("Tus-Resumable", {"const": tus.VERSION}, "The protocol.", required=True)
_CHECKSUM = _header("Upload-Checksum", _TEXT, "`sha1` or `sha256`, and the digest in base64.")
_BYTES = {"content": {tus.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
_ERROR = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
_MISMATCH = {"460": {"description": "Checksum Mismatch", **_ERROR}}


def speaks_tus(view: View) -> View:
    """Refuse requests of another version of the protocol, once the caller is known."""

    @wraps(view)
    def checked(*args: Any, **values: Any) -> Any:
        tus.check_protocol(request.headers)
        return view(*args, **values)

    return cast(View, checked)


@bp.after_request
def _say_what_is_spoken(response: Response) -> Response:
    """Name the protocol with every answer, and what we know of it to who asks by OPTIONS."""
    response.headers["Tus-Resumable"] = tus.VERSION
    if request.method == "OPTIONS":
        response.headers["Tus-Version"] = tus.VERSION
        response.headers["Tus-Extension"] = tus.EXTENSIONS
        response.headers["Tus-Max-Size"] = str(current_config().storage.max_file_size)
        response.headers["Tus-Checksum-Algorithm"] = ",".join(tus.ALGORITHMS)
    return response


@bp.post("/")
@login_required
@rate_limit("storage.upload_limit", key=caller_or_source)
@body_limit(lambda config: config.storage.max_file_size)
@bp.errors(PayloadTooLarge, PreconditionFailed, UnsupportedMediaType)
@bp.doc(
    parameters=[
        _VERSION,
        _header("Upload-Length", _COUNT, "Bytes of the whole file.", required=True),
        _header(
            "Upload-Metadata",
            _TEXT,
            "Keys and values in base64: `filename`, `filetype`, `visibility`, `metadata` (JSON).",
        ),
        _CHECKSUM,
    ],
    requestBody={"required": False, **_BYTES},
    responses=_MISMATCH,
)
@bp.response(201, UploadSchema)
@speaks_tus
def create_upload() -> APIResponse:
    """Begin a resumable upload.

    The answer's `Location` is where the bytes go, by PATCH; the first ones may come with this
    request. The whole length counts in the quota from now on. An upload that is not finished by
    `Upload-Expires` is given up.
    """
    owner_id, body = current_user.id, Body(request.environ, _max_bytes())
    with _draining(body):
        length = tus.read_count(request.headers, "Upload-Length")
        description = tus.read_description(request.headers)
        checksum = tus.read_checksum(request.headers)
        has_bytes = bool(body.length) or "Transfer-Encoding" in request.headers
        if has_bytes:
            _check_body(body, length)
        upload_id = uploads.create_upload(owner_id, length, description).id
        db.session.commit()
        if has_bytes:
            try:
                _append(owner_id, upload_id, 0, body, checksum)
            except Exception:
                # Who sent it does not learn where it is.
                uploads.abandon(upload_id)
                raise
    upload = uploads.get_upload(owner_id, upload_id)
    location = url_for("file_uploads.get_upload", upload_id=upload_id)
    return _answer(upload, {"Location": location})


@bp.get("/<uuid:upload_id>")
@login_required
@rate_limit("storage.piece_limit", key=caller_or_source)
@bp.errors(NotFound, PreconditionFailed, uploads.UploadGone)
@bp.doc(parameters=[_VERSION])
@bp.response(200, UploadSchema)
@speaks_tus
def get_upload(upload_id: UUID) -> APIResponse:
    """Ask how much of an upload has arrived.

    By HEAD, as tus has it, or by GET; the headers are the same. When all is there, `Upload-File-Id`
    is the file, for as long as the upload would have been valid.
    """
    return _answer(uploads.get_upload(current_user.id, upload_id))


@bp.patch("/<uuid:upload_id>")
@login_required
@rate_limit("storage.piece_limit", key=caller_or_source)
@body_limit(lambda config: config.storage.max_file_size)
@bp.errors(
    Conflict, Locked, NotFound, PayloadTooLarge, PreconditionFailed, UnsupportedMediaType,
    uploads.UploadGone,
)  # fmt: skip
@bp.doc(
    parameters=[
        _VERSION,
        _header("Upload-Offset", _COUNT, "How many bytes have arrived so far.", required=True),
        _CHECKSUM,
    ],
    requestBody={"required": True, **_BYTES},
    responses=_MISMATCH,
)
@bp.response(204)
@speaks_tus
def append_to_upload(upload_id: UUID) -> APIResponse:
    """Send the next bytes of an upload.

    Those that arrive before a connection breaks count, and the upload goes on behind them. The last
    ones make the file, by the checks that every file passes: refused, it is 415, 422 or 413, and
    the upload is over. The file's id is the header `Upload-File-Id`.
    """
    return _take_bytes(upload_id)


@bp.delete("/<uuid:upload_id>")
@login_required
@rate_limit("storage.piece_limit", key=caller_or_source)
@bp.errors(NotFound, PreconditionFailed, uploads.UploadGone)
@bp.doc(parameters=[_VERSION])
@bp.response(204)
@speaks_tus
def delete_upload(upload_id: UUID) -> None:
    """Give up an upload.

    Its bytes are deleted, and no longer count in the quota. Of a finished one the file stays.
    """
    _delete(upload_id)


@bp.post("/<uuid:upload_id>")
@login_required
@rate_limit("storage.piece_limit", key=caller_or_source)
@body_limit(lambda config: config.storage.max_file_size)
@bp.errors(
    Conflict, Locked, MethodNotAllowed, NotFound, PayloadTooLarge, PreconditionFailed,
    UnsupportedMediaType, uploads.UploadGone,
)  # fmt: skip
@bp.doc(
    parameters=[
        _VERSION,
        _header(
            "X-HTTP-Method-Override", {"enum": ["PATCH", "DELETE"]}, "The method.", required=True
        ),
        _header("Upload-Offset", _COUNT, "As with PATCH."),
        _CHECKSUM,
    ],
    requestBody={"required": False, **_BYTES},
    responses=_MISMATCH,
)
@bp.response(204)
@speaks_tus
def override_method(upload_id: UUID) -> APIResponse | None:
    """Do what another method does, where PATCH and DELETE don't get through.

    `X-HTTP-Method-Override` names it.
    """
    method = request.headers.get("X-HTTP-Method-Override", "")
    if method == "PATCH":
        return _take_bytes(upload_id)
    if method == "DELETE":
        _delete(upload_id)
        return None
    raise MethodNotAllowed(headers={"Allow": "DELETE, GET, HEAD, OPTIONS, PATCH"})


# --- What they share ------------------------------------------------------------------------------


def _take_bytes(upload_id: UUID) -> APIResponse:
    owner_id, body = current_user.id, Body(request.environ, _max_bytes())
    with _draining(body):
        offset = tus.read_count(request.headers, "Upload-Offset")
        checksum = tus.read_checksum(request.headers)
        upload = uploads.get_upload(owner_id, upload_id)
        # Asked again for the last of it, because the answer was lost.
        is_repeated = upload.file_id and offset == upload.length and not body.length
        if not is_repeated:
            uploads.check_offset(upload, offset)
        _check_body(body, upload.length - offset)
        if not is_repeated:
            _append(owner_id, upload_id, offset, body, checksum)
    return _answer(uploads.get_upload(owner_id, upload_id))


@contextmanager
def _draining(body: Body) -> Iterator[None]:
    """Read on a little when the block refuses its request, while nobody waits for its locks."""
    try:
        yield
    except GhostError:
        db.session.rollback()
        body.drain()
        raise


def _append(
    owner_id: UUID, upload_id: UUID, offset: int, body: Body, checksum: tus.Checksum | None
) -> None:
    with uploads.writing(owner_id, upload_id, offset) as turn:
        uploads.append(turn, _read(body), checksum)
        db.session.commit()


def _read(body: Body) -> Iterator[bytes]:
    size = PIECE_BYTES
    while True:
        began_at = time.monotonic()
        some = body.read(size)
        if not some:
            return
        is_slow = time.monotonic() - began_at > MOMENT_SECONDS
        yield some
        size = SLOW_PIECE_BYTES if is_slow else PIECE_BYTES


def _check_body(body: Body, limit: int) -> None:
    if request.mimetype != tus.MEDIA_TYPE:
        raise UnsupportedMediaType(f"Send the bytes as {tus.MEDIA_TYPE}.")
    body.check()
    if body.length is not None and body.length > limit:
        raise PayloadTooLarge("These are more bytes than the upload lacks.")


def _delete(upload_id: UUID) -> None:
    uploads.delete_upload(current_user.id, upload_id)
    db.session.commit()


def _max_bytes() -> int:
    return current_config().storage.max_file_size


def _answer(upload: UploadState, headers: dict[str, str] | None = None) -> APIResponse:
    found = {
        "Upload-Offset": str(upload.offset),
        "Upload-Length": str(upload.length),
        "Cache-Control": "no-store",
        **(headers or {}),
    }
    if upload.description:
        found["Upload-Metadata"] = upload.description
    if upload.file_id is None:
        found["Upload-Expires"] = http_date(upload.expires_at)
    else:
        found["Upload-File-Id"] = str(upload.file_id)
    return APIResponse(upload, headers=found)

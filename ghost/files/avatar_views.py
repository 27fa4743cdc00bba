"""Avatars, over HTTP: one's own, and those of accounts below one's own."""

from __future__ import annotations

from uuid import UUID

from flask import request

from ghost.access import current_user, login_required
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
from ghost.files.aftermath import discard
from ghost.files.arrivals import receive
from ghost.files.avatars import MARKER, lock_for_avatar, set_avatar, settings_for_avatars
from ghost.files.models import PUBLIC
from ghost.files.receiving import FORM_BYTES, Body, UploadForm
from ghost.http import body_limit
from ghost.openapi import IF_MATCH
from ghost.ratelimit import caller_or_source, rate_limit
from ghost.users.models import User
from ghost.users.schemas import UserSchema

bp = Blueprint("avatars", __name__, description="Pictures of accounts.")

documents_if_match = bp.doc(parameters=[IF_MATCH])
documents_form = bp.doc(
    requestBody={
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
)
limits_uploads = rate_limit("storage.upload_limit", key=caller_or_source)
limits_body = body_limit(lambda config: config.storage.max_avatar_size + FORM_BYTES)
may_fail = bp.errors(Forbidden, NotFound, PreconditionFailed, PayloadTooLarge, UnsupportedMediaType)


@bp.put("/users/<uuid:user_id>/avatar")
@login_required
@limits_uploads
@limits_body
@may_fail
@documents_if_match
@documents_form
@bp.response(200, UserSchema)
def set_user_avatar(user_id: UUID) -> APIResponse:
    """Give an account an avatar.

    One's own, or with the permission `users:write` that of an account below one's own. The picture
    is a public file of the account's, and counts in its quota; the one before is deleted.
    `avatar_url` is the path of its variant `thumb`.
    """
    return _put(user_id)


@bp.delete("/users/<uuid:user_id>/avatar")
@login_required
@bp.errors(Forbidden, NotFound, PreconditionFailed)
@documents_if_match
@bp.response(204)
def delete_user_avatar(user_id: UUID) -> None:
    """Delete the avatar of an account, if it has one.

    One's own, or with the permission `users:write` that of an account below one's own.
    """
    _delete(user_id)


@bp.put("/auth/me/avatar")
@login_required
@limits_uploads
@limits_body
@may_fail
@documents_if_match
@documents_form
@bp.response(200, UserSchema)
def set_my_avatar() -> APIResponse:
    """Give one's own account an avatar.

    The picture is a public file of one's own, and counts in the quota; the one before is deleted.
    `avatar_url` is the path of its variant `thumb`.
    """
    return _put(current_user.id)


@bp.delete("/auth/me/avatar")
@login_required
@bp.errors(NotFound, PreconditionFailed)
@documents_if_match
@bp.response(204)
def delete_my_avatar() -> None:
    """Delete one's own avatar, if there is one."""
    _delete(current_user.id)


def _put(user_id: UUID) -> APIResponse:
    limit = current_config().storage.max_avatar_size + FORM_BYTES
    body = Body(request.environ, limit)
    try:
        user = _take_in(body, user_id)
    except GhostError:
        db.session.rollback()  # the account may be locked, and its sender slow
        body.drain()
        raise
    db.session.commit()
    return APIResponse(user, headers={"ETag": etag_of(user.version)})


def _take_in(body: Body, user_id: UUID) -> User:
    # Before a byte is read, and again when all are there: no row is locked while they come.
    _lock(user_id)
    db.session.rollback()
    body.check()
    form = UploadForm(body, request.headers.get("Content-Type", ""), fields=())
    services.check_room(user_id, (body.length or 0) - FORM_BYTES)
    form.open()
    arrival = receive(
        form.pieces(),
        filename=form.filename,
        declared_type=form.declared_type,
        settings=settings_for_avatars(),
    )
    try:
        # Locked for a change from the first: `add` locks it too, but for reading, and two that
        # come together would wait for each other.
        user = _lock(user_id)
    except BaseException:
        discard(arrival.key)
        raise
    set_avatar(user, services.add(arrival, owner_id=user_id, visibility=PUBLIC, details=MARKER))
    return user


def _delete(user_id: UUID) -> None:
    set_avatar(_lock(user_id), None)
    db.session.commit()


def _lock(user_id: UUID) -> User:
    user = lock_for_avatar(current_user, user_id)
    check_version(user.version)
    return user

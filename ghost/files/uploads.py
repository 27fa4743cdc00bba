"""Resumable uploads: begun, gone on with, made a file when all is there, or given up.

What a request brings is durable before it counts, and what counts survives whatever is killed. An
upload says that it is complete only when its file is there: one that was interrupted while the
file was being made lacks its last piece, and whoever sends that again has it made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.config import current_config
from ghost.database import db, db_manager
from ghost.errors import Conflict, GhostError, NotFound, RateLimited, ValidationFailed
from ghost.files import quota, services
from ghost.files.aftermath import discard, follow
from ghost.files.arrivals import receive, too_large
from ghost.files.models import StoredFile, Upload
from ghost.files.names import clean_filename
from ghost.files.owners import lock_owner
from ghost.files.storage.base import Missing
from ghost.files.tus import Checksum, Description
from ghost.files.upload_pieces import Arriving, discard_pieces, read_pieces, write_pieces
from ghost.files.upload_turns import (
    STATE_COLUMNS,
    Locked,
    Piece,
    Turn,
    UploadState,
    is_free,
    take_turn,
)
from ghost.logging import logger
from ghost.models import utcnow
from ghost.retention import repair_with

# In what time one of several uploads may well be finished.
ONE_LESS_SECONDS = 60
# The statuses with which a file is refused for what it is; all others may be tried again.
_REFUSALS = (413, 415, 422)

_uploads: Any = Upload.__table__


class UploadGone(GhostError):
    """An upload that can't be gone on with any more; the client begins a new one."""

    status, code, message = 410, "gone", "This upload is over. Please begin a new one."


class TooManyUploads(RateLimited):
    """The account has `storage.max_uploads` unfinished uploads."""

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": str(ONE_LESS_SECONDS)})


class WrongOffset(Conflict):
    """The bytes that are sent do not follow those that have arrived."""


# --- Beginning ------------------------------------------------------------------------------------


def create_upload(owner_id: UUID, length: int, description: Description) -> Upload:
    """Begin an upload; flushes. Its length counts in the owner's usage from now on.

    :param length: of the whole file, in bytes.
    :raises ValidationFailed: the file would be empty.
    :raises FileTooLarge: it is longer than `storage.max_file_size`.
    :raises OwnerDeleted: the owner's account was deleted meanwhile.
    :raises OverQuota: the owner has no room for it.
    :raises TooManyUploads: the owner has too many that are not finished.
    """
    settings = current_config().storage
    if length == 0:
        raise ValidationFailed(details={"headers": {"Upload-Length": ["The file is empty."]}})
    if length > settings.max_file_size:
        raise too_large(settings)
    lock_owner(owner_id)
    # Before the count, since it makes those wait who do the same for this owner: so it is right.
    services.take_room(owner_id, length)
    is_open = (_uploads.c.owner_id == owner_id) & _uploads.c.file_id.is_(None)
    count = db.session.scalar(sa.select(sa.func.count()).where(is_open)) or 0
    if count >= settings.max_uploads:
        raise TooManyUploads(
            f"{settings.max_uploads} uploads are not finished yet: finish or cancel one."
        )
    upload = Upload(
        owner_id=owner_id,
        length=length,
        filename=clean_filename(description.filename),
        content_type=description.content_type,
        visibility=description.visibility,
        details=dict(description.details or {}),
        description=description.text,
        expires_at=utcnow() + timedelta(seconds=settings.upload_expiry),
    )
    db.session.add(upload)
    db.session.flush()
    return upload


# --- Finding --------------------------------------------------------------------------------------


def get_upload(owner_id: UUID, upload_id: UUID) -> UploadState:
    """Return one of somebody's own uploads as it is now; opens no transaction.

    :raises NotFound: there is none, or it is somebody else's.
    :raises UploadGone: it was not finished in time.
    """
    statement = sa.select(*STATE_COLUMNS).where(
        _uploads.c.id == upload_id, _uploads.c.owner_id == owner_id
    )
    with db_manager.connection() as connection:
        row: Any = connection.execute(statement).first()
    if row is None:
        raise NotFound
    upload = UploadState(*row)
    if upload.file_id is None and upload.expires_at <= utcnow():
        raise UploadGone
    return upload


# --- Going on -------------------------------------------------------------------------------------


def check_offset(upload: UploadState, offset: int) -> None:
    """Refuse bytes that do not follow those that have arrived.

    :raises WrongOffset: this is not how much has arrived, or all has.
    """
    if upload.offset != offset or upload.file_id is not None:
        raise WrongOffset(f"{upload.offset} bytes have arrived.")


@contextmanager
def writing(owner_id: UUID, upload_id: UUID, offset: int) -> Iterator[Turn]:
    """Take the turn at an upload for a block, in which the file that comes of it is committed.

    No transaction may be open.

    :raises NotFound, UploadGone: as `get_upload`.
    :raises WrongOffset: as `check_offset`.
    :raises Locked: somebody else is writing.
    """
    upload = get_upload(owner_id, upload_id)
    check_offset(upload, offset)
    turn = take_turn(upload)
    if turn is None:
        raise Locked
    try:
        yield turn
    except BaseException:
        db.session.rollback()  # whose locks the release would wait for
        turn.release()
        raise
    if not turn.is_closed:
        turn.release()


def append(turn: Turn, data: Iterator[bytes], checksum: Checksum | None) -> StoredFile | None:
    """Add bytes to an upload; the file, flushed, if they were the last ones.

    What arrives before the sender is cut off counts, but for bytes with a checksum: of those all
    count or none.

    :param data: read once; the errors that it raises are passed on when what came before counts.
    :raises BadRequest, PayloadTooLarge: of `data`, or there are more bytes than the upload lacks.
    :raises ChecksumMismatch: nothing of it counts.
    :raises Locked: somebody else has the turn now.
    :raises StorageUnavailable: there is no room, or the storage is away.
    :raises OwnerDeleted: the owner's account was deleted meanwhile.
    :raises ValidationFailed, TypeRefused, NotAnImage, ImageTooLarge, OverQuota: the file is
        refused, and the upload is over.
    """
    length = turn.upload.length
    arriving = Arriving(data, length - turn.offset, checksum)
    waiting: list[Piece] = []  # written, and not counted yet
    try:
        for piece in write_pieces(turn, arriving):
            waiting.append(piece)
            if checksum is None and piece.offset + piece.size < length:
                turn.keep(waiting)
                waiting = []
        if arriving.failure is not None:
            raise arriving.failure
        if checksum is not None:
            checksum.verify()
        if waiting and waiting[-1].offset + waiting[-1].size == length:
            return _finish(turn, waiting)
        turn.keep(waiting)
    except BaseException:
        discard(*(piece.key for piece in waiting))
        raise
    return None


def _finish(turn: Turn, last: Sequence[Piece]) -> StoredFile:
    """Make the file of an upload of which all is there, by the checks that every file passes."""
    upload = turn.upload
    try:
        arrival = receive(
            turn.renewing(read_pieces([*turn.kept(), *last])),
            filename=upload.filename,
            declared_type=upload.content_type,
        )
    except Missing as error:
        logger.bind(upload_id=str(upload.id), key=str(error)).error("a piece of an upload is gone")
        _give_up(turn)
        raise UploadGone from error
    except GhostError as error:
        if error.status in _REFUSALS:
            _give_up(turn)
        raise
    try:
        lock_owner(upload.owner_id)  # before the upload's own row, as everywhere
        turn.close(arrival.id)
    except BaseException:
        discard(arrival.key)
        raise
    follow(on_commit=lambda: discard_pieces(upload.id))
    try:
        return services.add(
            arrival,
            owner_id=upload.owner_id,
            visibility=upload.visibility,
            details=upload.details,
            release=upload.length,
        )
    except quota.OverQuota:  # a picture that is stored anew may be larger than it came
        db.session.rollback()
        _give_up(turn)
        raise


# --- Giving up ------------------------------------------------------------------------------------


def delete_upload(owner_id: UUID, upload_id: UUID) -> None:
    """Give up one of somebody's own uploads, also one that is being written.

    The file of a finished one stays.

    :raises NotFound, UploadGone: as `get_upload`.
    """
    get_upload(owner_id, upload_id)
    if not end_uploads(db.session.connection(), _uploads.c.id == upload_id):
        raise NotFound
    follow(on_commit=lambda: discard_pieces(upload_id))


@repair_with
def end_expired(_connection: sa.Connection, now: datetime, limit: int) -> int:
    """Delete the rows of uploads whose time is over; their pieces are the sweeper's then."""
    over = (
        sa.select(_uploads.c.id)
        .where(_uploads.c.expires_at <= now, is_free(now))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    with db_manager.transaction() as connection:
        return len(end_uploads(connection, _uploads.c.id.in_(over)))


def abandon(upload_id: UUID) -> None:
    """Give up an upload that nobody can go on with, in a transaction of its own."""
    _end_now(_uploads.c.id == upload_id)


def _give_up(turn: Turn) -> None:
    _end_now(turn.is_mine)


def _end_now(is_over: sa.ColumnElement[bool]) -> None:
    with db_manager.transaction() as connection:
        ended = end_uploads(connection, is_over)
    discard_pieces(*ended)


def end_uploads(connection: sa.Connection, is_over: sa.ColumnElement[bool]) -> list[UUID]:
    """Delete the rows of uploads and give their room back, in the caller's transaction.

    Exactly once, whoever else does the same: what counts are the rows that were deleted here.

    :returns: the uploads whose pieces are to be deleted after the commit.
    """
    gone = connection.execute(
        sa.delete(_uploads)
        .where(is_over)
        .returning(_uploads.c.id, _uploads.c.owner_id, _uploads.c.length, _uploads.c.file_id)
    ).all()
    freed: Counter[UUID] = Counter()
    for row in gone:
        if row.file_id is None:
            freed[row.owner_id] += row.length
    for owner_id in sorted(freed):  # in one order, so that nobody waits in a circle
        quota.take(connection, owner_id, -freed[owner_id])
    return [row.id for row in gone]

"""Turns at writing an upload: one writer at a time, and one that is late changes nothing more.

A writer holds its turn by a lease that it renews while bytes come in. One that was killed, or hears
nothing of its client any more, loses it within seconds to whoever asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from ghost.database import db, db_manager
from ghost.errors import GhostError
from ghost.files.models import Upload, UploadPiece
from ghost.logging import logger
from ghost.models import utcnow

# Clients that lost their connection come back after a second or a few, and give up within ten.
LEASE_SECONDS = 5.0
RENEW_SECONDS = 1.5
# When all bytes are there nobody renews any more: a picture or a virus scanner may take a while.
# Where they take longer another request may do the same, and then one of the two makes the file.
CHECKING_SECONDS = 20.0

_uploads: Any = Upload.__table__
_pieces: Any = UploadPiece.__table__


class Locked(GhostError):
    """Somebody else is writing this upload."""

    status, code = 423, "locked"
    message = "Another request is writing this upload; try again in a moment."


@dataclass(frozen=True, slots=True)
class UploadState:
    """An upload as its row says."""

    id: UUID
    owner_id: UUID
    length: int
    offset: int
    filename: str
    content_type: str | None
    visibility: str
    details: dict[str, Any]
    description: str
    expires_at: datetime
    file_id: UUID | None


STATE_COLUMNS = (
    _uploads.c.id, _uploads.c.owner_id, _uploads.c.length, _uploads.c.offset, _uploads.c.filename,
    _uploads.c.content_type, _uploads.c.visibility, _uploads.c.metadata, _uploads.c.description,
    _uploads.c.expires_at, _uploads.c.file_id,
)  # fmt: skip


class Piece(NamedTuple):
    """A part of an upload that lies in the storage, durably."""

    offset: int
    size: int
    key: str


class Turn:
    """The right to write an upload, held until `release`.

    :ivar offset: bytes that have arrived and count.
    """

    def __init__(self, upload: UploadState, writer: UUID) -> None:
        self.upload, self.offset = upload, upload.offset
        self.writer = writer
        self.is_closed = False
        self._renew_at = time.monotonic() + RENEW_SECONDS

    def renew(self) -> None:
        """Go on holding the turn; called often, it does something once in a while.

        :raises Locked: somebody else has it now.
        """
        if time.monotonic() >= self._renew_at:
            self._hold(LEASE_SECONDS)

    def renewing(self, data: Iterable[bytes]) -> Iterator[bytes]:
        """Hold the turn while all bytes are read again, and for a time after that."""
        for piece in data:
            self.renew()
            yield piece
        self._hold(CHECKING_SECONDS)

    def keep(self, pieces: Sequence[Piece]) -> None:
        """Have pieces count that follow the offset.

        :raises Locked: somebody else has the turn now; nothing has changed.
        """
        if not pieces:
            return
        end = self.offset + sum(piece.size for piece in pieces)
        with db_manager.transaction() as connection:
            moved = connection.execute(
                sa.update(_uploads)
                .where(self.is_mine, _uploads.c.offset == self.offset)
                .values(offset=end, writing_until=_in(LEASE_SECONDS))
            )
            if moved.rowcount != 1:
                raise Locked
            connection.execute(
                sa.insert(_pieces),
                [{"upload_id": self.upload.id, **piece._asdict()} for piece in pieces],
            )
        self.offset = end
        self._renew_at = time.monotonic() + RENEW_SECONDS

    def kept(self) -> list[Piece]:
        """The pieces that count, in their order."""
        columns = (_pieces.c.offset, _pieces.c.size, _pieces.c.key)
        with db_manager.connection() as connection:
            found = connection.execute(
                sa.select(*columns)
                .where(_pieces.c.upload_id == self.upload.id)
                .order_by(_pieces.c.offset)
            )
            return [Piece(*row) for row in found]

    def close(self, file_id: UUID) -> None:
        """Note what came of the upload, in the transaction of `db.session`.

        :raises Locked: somebody else has the turn now.
        """
        connection = db.session.connection()
        closed = connection.execute(
            sa.update(_uploads)
            .where(self.is_mine)
            .values(offset=_uploads.c.length, file_id=file_id, writer=None, writing_until=None)
        )
        if closed.rowcount != 1:
            raise Locked
        connection.execute(sa.delete(_pieces).where(_pieces.c.upload_id == self.upload.id))
        self.is_closed = True

    def release(self) -> None:
        """Give the turn back; where the database is away it ends by itself."""
        try:
            with db_manager.transaction() as connection:
                connection.execute(
                    sa.update(_uploads).where(self.is_mine).values(writer=None, writing_until=None)
                )
        except SQLAlchemyError as error:
            logger.bind(upload_id=str(self.upload.id), error=str(error)).warning(
                "the turn at an upload was not given back; it ends by itself"
            )

    def _hold(self, seconds: float) -> None:
        with db_manager.transaction() as connection:
            held = connection.execute(
                sa.update(_uploads).where(self.is_mine).values(writing_until=_in(seconds))
            )
        if held.rowcount != 1:
            raise Locked
        self._renew_at = time.monotonic() + RENEW_SECONDS

    @property
    def is_mine(self) -> sa.ColumnElement[bool]:
        """The condition that this turn is not lost."""
        mine: sa.ColumnElement[bool] = (_uploads.c.id == self.upload.id) & (
            _uploads.c.writer == self.writer
        )
        return mine


def take_turn(upload: UploadState) -> Turn | None:
    """Take the turn at an upload that is as it was read; None if it has changed, or is taken."""
    now = utcnow()
    writer = uuid4()
    with db_manager.transaction() as connection:
        row = connection.execute(
            sa.update(_uploads)
            .where(
                _uploads.c.id == upload.id,
                _uploads.c.offset == upload.offset,
                _uploads.c.file_id.is_(None),
                _uploads.c.expires_at > now,
                is_free(now),
            )
            .values(writer=writer, writing_until=_in(LEASE_SECONDS))
            .returning(_uploads.c.id)
        ).first()
    return Turn(upload, writer) if row else None


def is_free(now: datetime) -> sa.ColumnElement[bool]:
    """The condition that nobody writes an upload."""
    free: sa.ColumnElement[bool] = sa.or_(
        _uploads.c.writing_until.is_(None), _uploads.c.writing_until <= now
    )
    return free


def _in(seconds: float) -> datetime:
    return utcnow() + timedelta(seconds=seconds)

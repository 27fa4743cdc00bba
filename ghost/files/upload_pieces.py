"""The pieces of uploads in the storage: written while they arrive, read one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from uuid import UUID

from ghost.errors import BadRequest, GhostError, PayloadTooLarge
from ghost.files.aftermath import discard
from ghost.files.storage import current_storage
from ghost.files.storage.base import StorageUnavailable
from ghost.files.tus import Checksum
from ghost.files.types import OPAQUE
from ghost.files.upload_turns import Piece, Turn
from ghost.logging import logger

FOLDER = "uploads/"
# What a killed server loses at most: so many bytes, or what arrived in so many seconds.
MAX_PIECE_BYTES = 16 * 2**20
MAX_PIECE_SECONDS = 10.0


class Arriving:
    """Bytes on their way in, up to what the upload still lacks.

    :ivar failure: why they ended before their end; what arrived before that is good.
    """

    def __init__(self, data: Iterator[bytes], limit: int, checksum: Checksum | None) -> None:
        self._data, self._left, self._checksum = data, limit, checksum
        self.failure: GhostError | None = None

    def read(self) -> bytes:
        """The next bytes; none at the end, and after a failure."""
        if self.failure is not None:
            return b""
        try:
            some = next(self._data, b"")
        except (BadRequest, PayloadTooLarge) as error:  # cut off, or silent for too long
            self.failure = error
            return b""
        self._left -= len(some)
        if self._left < 0:
            self.failure = PayloadTooLarge("These are more bytes than the upload lacks.")
            return b""
        if self._checksum is not None:
            self._checksum.update(some)
        return some


def write_pieces(turn: Turn, arriving: Arriving) -> Iterator[Piece]:
    """Write what arrives behind the offset; each piece is durable when it is given.

    :raises Locked: somebody else has the turn now.
    :raises StorageUnavailable: there is no room, or the storage is away.
    """
    offset = turn.offset
    while some := arriving.read():
        piece = _write_piece(turn, arriving, offset, some)
        yield piece
        offset += piece.size


def _write_piece(turn: Turn, arriving: Arriving, offset: int, some: bytes) -> Piece:
    key = f"{folder_of(turn.upload.id)}{offset}-{turn.writer.hex}"
    size, ends_at = 0, time.monotonic() + MAX_PIECE_SECONDS
    with current_storage().create(key, OPAQUE) as writer:
        while some:
            writer.write(some)
            size += len(some)
            turn.renew()
            if size + len(some) > MAX_PIECE_BYTES or time.monotonic() >= ends_at:
                break
            some = arriving.read()
        writer.commit()
    return Piece(offset, size, key)


def read_pieces(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Give the bytes of pieces, one after the other.

    :raises Missing: one is not there.
    :raises StorageUnavailable: one is not whole, or the storage is away.
    """
    for piece in pieces:
        with closing(current_storage().read(piece.key, 0, piece.size)) as data:
            yield from data


def folder_of(upload_id: UUID) -> str:
    """What the keys of an upload's pieces begin with."""
    return f"{FOLDER}{upload_id}/"


def discard_pieces(*upload_ids: UUID) -> None:
    """Delete all that lies in the storage of uploads, also what never counted.

    Where the storage is away the rest is left to the sweeper: one wait for it is enough.
    """
    for upload_id in upload_ids:
        try:
            keys = [found.key for found in current_storage().list(folder_of(upload_id))]
        except StorageUnavailable:
            logger.bind(upload_id=str(upload_id)).warning(
                "the pieces of an upload could not be deleted; the sweeper will do it"
            )
            return
        if not discard(*keys):
            return

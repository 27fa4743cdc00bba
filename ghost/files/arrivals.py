"""Bytes on their way in: written, hashed and looked at in one pass, never whole in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO, cast
from uuid import UUID

from ghost.config import current_config
from ghost.config_sections import StorageSection
from ghost.errors import PayloadTooLarge, ValidationFailed
from ghost.files import scanning
from ghost.files.images import Limits
from ghost.files.names import clean_filename
from ghost.files.pictures import settle
from ghost.files.storage import current_storage
from ghost.files.storage.base import PIECE_BYTES, StorageUnavailable, Writer
from ghost.files.types import HEAD_BYTES, OPAQUE, Content, Sniffer, recognize
from ghost.logging import logger
from ghost.models import utcnow, uuid7

SPOOL_BYTES = 2**20  # of a copy that is kept in memory; what is longer lies in the system's folder


class FileTooLarge(PayloadTooLarge):
    """The file is larger than `storage.max_file_size`."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file whose bytes lie in the storage, durably, while no row names them yet."""

    id: UUID
    key: str
    filename: str
    content: Content
    size: int
    sha256: str


def receive(
    pieces: Iterable[bytes],
    *,
    filename: str,
    declared_type: str | None = None,
    settings: StorageSection | None = None,
) -> Arrival:
    """Store the bytes of a file, if they are what may be stored; else nothing is left of them.

    No transaction may be open meanwhile: it would last as long as the sender takes. A picture is
    stored without its metadata (`storage.strip_metadata`), and of the one that came nothing stays.

    :param pieces: in any sizes; read once. What it raises is passed on.
    :param filename: as the sender says; it becomes a label, see `ghost.files.names`.
    :param declared_type: as the sender says; None for nothing.
    :param settings: what is taken; None for the configuration's.
    :raises FileTooLarge: there are more bytes than `max_file_size`.
    :raises ValidationFailed: there are none, or a scanner rejects them.
    :raises TypeRefused, NotAnImage, ImageTooLarge: the content is not taken.
    :raises StorageUnavailable: there is no room, or the storage is away.
    :raises WorkshopFull: too many pictures are being worked on.
    """
    settings = settings or current_config().storage
    file_id = uuid7()
    key = f"{utcnow():%Y/%m}/{file_id}"
    label = clean_filename(filename)
    with ExitStack() as kept:
        # What the content is shows only when it is there; whoever serves it says what it is.
        with ExitStack() as stack:
            writer = stack.enter_context(current_storage().create(key, OPAQUE))
            copy = _Copy(writer, stack)
            sniffer, size, sha256 = _take(pieces, writer, copy, settings)
            content = recognize(
                sniffer,
                copy.whole() if sniffer.needs_whole else None,
                filename=label,
                declared_type=declared_type,
                allowed=settings.allowed_types,
                limits=limits_of(settings),
            )
            if scanning.has_scanners():
                scanning.scan(copy.whole(), content.content_type)
            bare = None
            if content.category == "image":
                content, bare = settle(
                    copy.whole(),
                    content,
                    limits_of(settings),
                    kept,
                    strips=settings.strip_metadata,
                )
            if bare is None:
                writer.commit()
        # Only now, when of the picture as it came nothing is left.
        if bare is not None:
            size, sha256 = _store(bare, key)
    return Arrival(file_id, key, label, content, size, sha256)


def _take(
    pieces: Iterable[bytes], writer: Writer, copy: _Copy, settings: StorageSection
) -> tuple[Sniffer, int, str]:
    """Write all bytes; gives what was seen of them, how many there were, and their SHA-256."""
    sniffer, digest, size = Sniffer(), hashlib.sha256(), 0
    for piece in pieces:
        size += len(piece)
        if size > settings.max_file_size:
            raise too_large(settings)
        writer.write(piece)
        digest.update(piece)
        sniffer.feed(piece)
        copy.take(piece, sniffer)
    if size == 0:
        raise empty_file()
    return sniffer, size, digest.hexdigest()


def _store(file: BinaryIO, key: str) -> tuple[int, str]:
    """Store a file that was made here; gives its size and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with current_storage().create(key, OPAQUE) as writer:
        while piece := file.read(PIECE_BYTES):
            writer.write(piece)
            digest.update(piece)
            size += len(piece)
        writer.commit()
    return size, digest.hexdigest()


def empty_file() -> ValidationFailed:
    """The error that says that there is nothing to store."""
    return ValidationFailed(details={"files": {"file": ["The file is empty."]}})


def too_large(settings: StorageSection) -> FileTooLarge:
    """The error that says how large a file may be."""
    return FileTooLarge(f"A file may have {settings.max_file_size} bytes at most.")


def limits_of(settings: StorageSection) -> Limits:
    """How much a picture may ask of us, by the configuration."""
    return Limits(
        max_bytes=settings.max_file_size,
        max_pixels=settings.max_image_pixels,
        max_frames=settings.max_image_frames,
    )


class _Copy:
    """All bytes of a file that is on its way, for those who have to see more than its beginning.

    What the storage writes to this machine's disk is read from there. For others a copy is kept as
    long as it may be needed.
    """

    def __init__(self, writer: Writer, stack: ExitStack) -> None:
        self._path, self._stack = writer.path, stack
        self._spool: IO[bytes] | None = None
        if self._path is None:
            self._spool = stack.enter_context(SpooledTemporaryFile(max_size=SPOOL_BYTES))  # noqa: SIM115
        self._is_decided = self._path is not None

    def take(self, piece: bytes, sniffer: Sniffer) -> None:
        """Keep the next bytes, if anybody will ask for them.

        :raises StorageUnavailable: there is no room for them.
        """
        if self._spool is None:
            return
        if not self._is_decided and len(sniffer.head) >= HEAD_BYTES:
            self._is_decided = True
            if not (sniffer.needs_whole or scanning.has_scanners()):
                self._spool.close()
                self._spool = None
                return
        try:
            self._spool.write(piece)
        except OSError as error:
            logger.bind(error=str(error)).error("no room for the copy of a file")
            raise StorageUnavailable from error

    def whole(self) -> BinaryIO:
        """The whole file, from its beginning."""
        if self._spool is None:
            assert self._path is not None  # noqa: S101 - one of the two is there
            self._spool = self._stack.enter_context(self._path.open("rb"))
        self._spool.seek(0)
        return cast(BinaryIO, self._spool)

"""What every place for files can do: a disk, or a store of objects."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from ghost.errors import ServiceUnavailable

# Whose place it is; no key, and so never listed.
MARK = ".ghost"
MAX_MARK_BYTES = 200
# What is read at once, in bytes.
PIECE_BYTES = 256 * 1024

# No part begins with a dot: there is no way up, and what does is the storage's own.
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
MAX_KEY_LENGTH = 200


class Missing(Exception):
    """There are no bytes under a key."""


class StorageUnavailable(ServiceUnavailable):
    """The storage is away, full or broken; whoever was writing has left nothing behind."""

    message = "Files can't be stored or read at the moment."


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What lies under a key: how many bytes, and since when."""

    key: str
    size: int
    modified_at: datetime


class Writer(Protocol):
    """Takes the bytes of one file; they are under their key only after `commit`.

    `path` is where they lie meanwhile on this machine's disk, for others to read; None where they
    leave it as they come.
    """

    path: Path | None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take some more.

        :raises StorageUnavailable: there is no room, or the storage is away.
        """

    def commit(self) -> None:
        """Put all that was written in its place, so that it outlasts a loss of power.

        :raises StorageUnavailable: as `write`.
        """


class Storage(Protocol):
    """Bytes by key; a key is made here, like `2026/11/0197...`, and never by a user.

    What is under a key is never changed, only written once and deleted. All methods but `delete`,
    for which that is no mistake, raise `Missing` where nothing is; all raise `StorageUnavailable`,
    and none waits for longer than `storage.timeout` for the next bytes, but for a minute until an
    object store has taken a part.
    """

    def create(self, key: str, content_type: str) -> AbstractContextManager[Writer]:
        """Begin a file. Leaving the context without a commit leaves nothing behind."""

    def read(
        self, key: str, start: int = 0, length: int | None = None
    ) -> Generator[bytes, None, None]:
        """Give the bytes from `start` in pieces; the first one has been read when this returns.

        Close it where it is not read to its end.

        :param start: the first byte to give; one that is there, or 0.
        :param length: bytes to give; None for all that follow. Where there are fewer, this or the
            last piece raises `StorageUnavailable`: half a file is never taken for a whole one.
        """

    def stat(self, key: str) -> StoredObject:
        """Tell size and age."""

    def delete(self, keys: Collection[str]) -> None:
        """Delete what is under these keys, as far as there is anything."""

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Go through all that lies under a prefix and behind a key, in the order of the keys."""

    def tidy(self, before: datetime) -> int:
        """Remove what writers left behind that were killed, and last wrote before a time.

        :returns: how many there were.
        """

    def open_local(self, key: str) -> BinaryIO | None:
        """Open a file on this machine's disk, without a buffer; None for object stores."""

    def signed_url(self, key: str, seconds: int, headers: Mapping[str, str]) -> str | None:
        """Make an address at the store itself that gives the bytes for a while.

        :param headers: what the store is to answer with: Content-Type, Content-Disposition and
            Cache-Control.
        :returns: None where that is not possible: a disk.
        """

    def claim(self, holder: str) -> str:
        """Note whose place this is, if nobody has yet.

        :param holder: a name, in ASCII.
        :returns: whose it is.
        """

    def check(self) -> str | None:
        """See whether the storage answers and can be written to.

        :returns: what should worry somebody although it works, a disk that is nearly full.
        """


def check_key(key: str) -> str:
    """Return a key that is one.

    :raises ValueError: it is none, and whoever made it is mistaken.
    """
    if not is_key(key):
        raise ValueError(f"{key[:80]!r} is no key of a stored file.")
    return key


def is_key(name: str) -> bool:
    """Tell whether a name can be a key."""
    return len(name) <= MAX_KEY_LENGTH and bool(_KEY.fullmatch(name))


def begun(pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """Run a generator to its first `yield`, which says that it holds its first piece.

    So it fails where it is made, and closing it gives back what it holds, begun or not.
    """
    next(pieces)
    return pieces

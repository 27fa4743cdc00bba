"""Files in a folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ghost.files.storage.base import Missing, StorageUnavailable, StoredObject
from ghost.logging import logger
from ghost.models import uuid7

PIECE_BYTES = 256 * 1024
TEMPORARY = ".incoming"


@contextmanager
def _failing_clearly() -> Iterator[None]:
    """Turn what the system says into what a storage says.

    :raises Missing, StorageUnavailable: accordingly.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise Missing from error
    except OSError as error:
        logger.bind(error=str(error)).error("the folder of files can't be used")
        raise StorageUnavailable from error


class DiskWriter:
    """Writes beside the place of a file, and moves it there in the end."""

    def __init__(self, path: Path, descriptor: int, target: Path) -> None:
        self.path: Path | None = path
        self._path, self._descriptor, self._target = path, descriptor, target

    def write(self, data: bytes | bytearray | memoryview) -> None:
        with _failing_clearly():
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def commit(self) -> None:
        with _failing_clearly():
            os.fsync(self._descriptor)
            _make_folders(self._target.parent)
            self._path.rename(self._target)
            _sync(self._target.parent)


def _make_folders(folder: Path) -> None:
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Make the names in a folder outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DiskStorage:
    """A folder, of this machine or shared by several."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def create(self, key: str, content_type: str) -> Iterator[DiskWriter]:
        with _failing_clearly():
            folder = self.root / TEMPORARY
            _make_folders(folder)
            path = folder / str(uuid7())
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640)
        try:
            yield DiskWriter(path, descriptor, self.root / key)
        finally:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        with _failing_clearly():
            file = (self.root / key).open("rb", buffering=0)

        def pieces() -> Iterator[bytes]:
            left = length
            with file, _failing_clearly():
                file.seek(start)
                while left is None or left > 0:
                    piece = file.read(PIECE_BYTES if left is None else min(left, PIECE_BYTES))
                    if not piece:
                        return
                    left = None if left is None else left - len(piece)
                    yield piece

        return pieces()

    def stat(self, key: str) -> StoredObject:
        with _failing_clearly():
            return _describe(key, (self.root / key).stat())

    def delete(self, keys: Collection[str]) -> None:
        with _failing_clearly():
            for key in keys:
                (self.root / key).unlink(missing_ok=True)

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        with _failing_clearly():
            if self.root.is_dir():
                yield from self._walk("", prefix, after)

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[StoredObject]:
        # A folder sorts as its keys do: "a/" after "a.b".
        with os.scandir(self.root / folder) as found:
            entries = sorted((e.name + "/" * e.is_dir(follow_symlinks=False), e) for e in found)
        for name, entry in entries:
            key = folder + name
            if name == f"{TEMPORARY}/" or not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if key.endswith("/"):
                if not after or key >= after or after.startswith(key):
                    yield from self._walk(key, prefix, after)
            elif key > after:
                with suppress(FileNotFoundError):
                    yield _describe(key, entry.stat())

    def local_path(self, key: str) -> Path | None:
        return self.root / key

    def signed_url(self, key: str, seconds: int, headers: Mapping[str, str]) -> str | None:
        return None

    def tidy(self, before: datetime) -> int:
        with _failing_clearly():
            removed = 0
            folder = self.root / TEMPORARY
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.stat().st_mtime < before.timestamp():
                    path.unlink(missing_ok=True)
                    removed += 1
            return removed

    def check(self) -> None:
        with _failing_clearly():
            _make_folders(self.root)
            if not os.access(self.root, os.W_OK):
                raise StorageUnavailable


def _describe(key: str, found: os.stat_result) -> StoredObject:
    return StoredObject(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

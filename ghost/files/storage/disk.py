"""Files in a folder: on this machine's disk, or one that several machines mount."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from loguru import logger

from ghost.files.storage.base import (
    MARK,
    MAX_MARK_BYTES,
    PIECE_BYTES,
    Missing,
    StorageUnavailable,
    StoredObject,
    begun,
    check_key,
)

# Begun files lie here, in the same file system as finished ones, so that a rename is enough.
DRAFTS = ".tmp"
# A folder may be deleted, being empty, between its making and the first file in it.
ATTEMPTS = 5
NEARLY_FULL_SHARE = 0.05
NEARLY_FULL_BYTES = 10 * 2**30

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
# Without O_NONBLOCK, opening a pipe that somebody put there would wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_DRAFT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
# A link, or a file where a folder should be: nothing of ours.
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)


class DiskStorage:
    """Files below one folder; symbolic links in it are never followed.

    :param root: made when the first file is written.
    :param is_group_readable: let the folder's group read, nginx for one; else only the owner can.
    """

    def __init__(self, root: Path, *, is_group_readable: bool = False) -> None:
        self.root = root
        self._folder_mode = 0o750 if is_group_readable else 0o700
        self._file_mode = 0o640 if is_group_readable else 0o600

    @contextmanager
    def create(self, key: str, content_type: str) -> Iterator[DiskWriter]:
        """Begin a file. See `Storage.create`; a disk keeps no content type."""
        *_, name = check_key(key).split("/")
        draft = f"{name}.{secrets.token_hex(8)}"
        with _writing(key), self._open_folder((DRAFTS,), makes=True) as drafts:
            handle = os.open(draft, _DRAFT, self._file_mode, dir_fd=drafts)
        writer = DiskWriter(self, key, draft, handle)
        try:
            yield writer
        finally:
            os.close(handle)
            if not writer.is_committed:
                self._delete_draft(draft)

    def _delete_draft(self, draft: str) -> None:
        """Give up a draft; where the disk is too broken for that, the sweep finds it."""
        with suppress(OSError), self._open_folder((DRAFTS,)) as drafts:
            os.unlink(draft, dir_fd=drafts)

    def put_in_place(self, draft: str, key: str) -> None:
        """Give a draft its name, so that both outlast a loss of power.

        :raises OSError: it has none then.
        """
        *folders, name = key.split("/")
        with self._open_folder((DRAFTS,)) as drafts:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    self._rename(draft, drafts, name, folders)
                except FileNotFoundError:
                    if attempt == ATTEMPTS:
                        raise
                else:
                    return

    def _rename(self, draft: str, drafts: int, name: str, folders: Sequence[str]) -> None:
        with self._open_folder(folders, makes=True) as folder:
            os.rename(draft, name, src_dir_fd=drafts, dst_dir_fd=folder)
            try:
                os.fsync(folder)
            except OSError:
                os.unlink(name, dir_fd=folder)
                raise

    def read(
        self, key: str, start: int = 0, length: int | None = None
    ) -> Generator[bytes, None, None]:
        """Give the bytes from `start` in pieces. See `Storage.read`."""
        return begun(self._read(key, start, length))

    def _read(self, key: str, start: int, length: int | None) -> Generator[bytes, None, None]:
        with _reading(key), self.open_local(key) as file:
            left = os.fstat(file.fileno()).st_size - start
            if left < (length or 0) or (start and left <= 0):
                raise OSError(errno.EIO, "the file is shorter than it should be")
            if length is not None:
                left = length
            file.seek(start)
            piece = file.read(min(left, PIECE_BYTES))
            yield b""
            while piece:
                yield piece
                left -= len(piece)
                piece = file.read(min(left, PIECE_BYTES))
            if left:
                raise OSError(errno.EIO, "the file became shorter")

    def stat(self, key: str) -> StoredObject:
        """Tell size and age. See `Storage.stat`."""
        with self.open_local(key) as file:
            return _describe(key, os.fstat(file.fileno()))

    def delete(self, keys: Collection[str]) -> None:
        """Delete files, and folders that are empty then. See `Storage.delete`."""
        for key in keys:
            *folders, name = check_key(key).split("/")
            with suppress(Missing), _reading(key):
                with self._open_folder(folders) as folder:
                    os.unlink(name, dir_fd=folder)
                self._delete_empty(folders)

    def _delete_empty(self, folders: Sequence[str]) -> None:
        for depth in range(len(folders), 0, -1):
            with self._open_folder(folders[: depth - 1]) as parent:
                try:
                    os.rmdir(folders[depth - 1], dir_fd=parent)
                except OSError:  # mostly: there is more in it
                    return

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Go through files in the order of their keys. See `Storage.list`.

        The names of one folder at a time are held in memory.
        """
        yield from self._list((), prefix, after)

    def _list(self, folders: tuple[str, ...], prefix: str, after: str) -> Iterator[StoredObject]:
        above = "".join(f"{name}/" for name in folders)
        with suppress(Missing), _reading(above), self._open_folder(folders) as folder:
            with os.scandir(folder) as entries:
                # As in a store of objects, the slash counts among a key's characters.
                names = sorted(
                    entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
                    for entry in entries
                    if not entry.name.startswith(".")
                )
            for name in names:
                key = above + name
                if name.endswith("/"):
                    if _may_hold(key, prefix, after):
                        yield from self._list((*folders, name[:-1]), prefix, after)
                elif key.startswith(prefix) and key > after:
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        if stat.S_ISREG(found.st_mode):
                            yield _describe(key, found)

    def tidy(self, before: datetime) -> int:
        """Delete drafts of killed writers. See `Storage.tidy`."""
        count = 0
        with suppress(Missing), _reading(DRAFTS), self._open_folder((DRAFTS,)) as drafts:
            with os.scandir(drafts) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                with suppress(FileNotFoundError):  # finished or given up meanwhile
                    written = os.stat(name, dir_fd=drafts, follow_symlinks=False).st_mtime
                    if written < before.timestamp():
                        os.unlink(name, dir_fd=drafts)
                        count += 1
        return count

    def open_local(self, key: str) -> BinaryIO:
        """Open a file. See `Storage.open_local`."""
        *folders, name = check_key(key).split("/")
        with _reading(key), self._open_folder(folders) as folder:
            handle = os.open(name, _FILE, dir_fd=folder)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise Missing(key)
            return os.fdopen(handle, "rb", buffering=0)

    def signed_url(self, key: str, seconds: int, headers: Mapping[str, str]) -> None:
        """A disk has no addresses. See `Storage.signed_url`."""
        check_key(key)

    def claim(self, holder: str) -> str:
        """Write a hidden file, once. See `Storage.claim`."""
        with _writing(MARK):
            with self._open_folder((DRAFTS,), makes=True) as drafts:
                draft = f"mark.{secrets.token_hex(8)}"
                handle = os.open(draft, _DRAFT, self._file_mode, dir_fd=drafts)
                try:
                    _write(handle, holder.encode())
                    os.fsync(handle)
                finally:
                    os.close(handle)
                with self._open_folder(()) as root:
                    with suppress(FileExistsError):
                        os.link(draft, MARK, src_dir_fd=drafts, dst_dir_fd=root)
                        os.fsync(root)
                    os.unlink(draft, dir_fd=drafts)
                    mark = os.open(MARK, _FILE, dir_fd=root)
            with os.fdopen(mark, "rb") as file:
                return file.read(MAX_MARK_BYTES).decode("ascii", "replace")

    def check(self) -> str | None:
        """Write and delete a file, and see how full the disk is. See `Storage.check`."""
        with _writing("a probe"):
            with self._open_folder((DRAFTS,), makes=True) as drafts:
                probe = f"probe.{secrets.token_hex(8)}"
                handle = os.open(probe, _DRAFT, self._file_mode, dir_fd=drafts)
                try:
                    _write(handle, b"probe")
                    os.fsync(handle)
                finally:
                    os.close(handle)
                    os.unlink(probe, dir_fd=drafts)
            room = shutil.disk_usage(self.root)
        if room.free < min(room.total * NEARLY_FULL_SHARE, NEARLY_FULL_BYTES):
            return f"The disk is nearly full: {room.free // 2**20} MiB are free."
        return None

    @contextmanager
    def _open_folder(self, names: Sequence[str], *, makes: bool = False) -> Iterator[int]:
        """Open a folder below the root, one step after the other, following no link.

        :param makes: make what is not there.
        """
        if makes and not self.root.exists():
            self.root.mkdir(self._folder_mode, parents=True, exist_ok=True)
        handle = os.open(self.root, _FOLDER)
        try:
            for name in names:
                if makes:
                    self._make_folder(name, handle)
                inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)

    def _make_folder(self, name: str, parent: int) -> None:
        try:
            os.mkdir(name, self._folder_mode, dir_fd=parent)
        except FileExistsError:
            return
        os.fsync(parent)


class DiskWriter:
    """Writes a draft and puts it in its place. See `Writer`."""

    def __init__(self, storage: DiskStorage, key: str, draft: str, handle: int) -> None:
        self._storage, self._key, self._draft = storage, key, draft
        self.path: Path | None = storage.root / DRAFTS / draft
        self.handle = handle
        self.is_committed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take some more. See `Writer.write`."""
        with _writing(self._key):
            _write(self.handle, data)

    def commit(self) -> None:
        """Put the file in its place. See `Writer.commit`."""
        with _writing(self._key):
            # A file is as old as its name: one that took long to write is no orphan yet.
            os.utime(self.handle)
            os.fsync(self.handle)
            self._storage.put_in_place(self._draft, self._key)
            self.is_committed = True


def _write(handle: int, data: bytes | bytearray | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _describe(key: str, found: os.stat_result) -> StoredObject:
    return StoredObject(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _may_hold(folder: str, prefix: str, after: str) -> bool:
    """Tell whether a folder, with its slash, can hold a key with a prefix behind another key."""
    is_meant = folder.startswith(prefix) or prefix.startswith(folder)
    return is_meant and (folder > after or after.startswith(folder))


@contextmanager
def _reading(key: str) -> Iterator[None]:
    """Tell a file that is not there from a disk that can't be read."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            raise Missing(key) from error
        raise _unavailable(key, error) from error


@contextmanager
def _writing(key: str) -> Iterator[None]:
    """For what makes its own way: whatever fails is the disk's failure."""
    try:
        yield
    except OSError as error:
        raise _unavailable(key, error) from error


def _unavailable(key: str, error: OSError) -> StorageUnavailable:
    logger.bind(key=key, reason=error.strerror or str(error)).error("the disk of files failed")
    return StorageUnavailable()

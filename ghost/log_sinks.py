"""Where log lines go: to a stream of the process, or into files with one writer each.

A sink never raises and never waits long: a full disk or a reader that has stopped loses lines,
which the next line that gets through tells, and no request pays for it.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import stat
import sys
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from loguru import logger

from ghost.log_records import IDS, OWN_NAME, clean

if TYPE_CHECKING:
    from loguru import Message, Record

StreamName = Literal["stdout", "stderr"]
Render: TypeAlias = Callable[["Record"], bytes]

ROTATE_BYTES = 50 * 1024 * 1024
RETENTION_SECONDS = 14 * 24 * 3600


class Sink:
    """What a loguru sink of ours does around the writing itself: it never raises."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self.lost_count = 0

    def write(self, message: Message) -> None:
        try:
            record = message.record
            if "cleaned" not in record:
                clean(record)
            data = self._render(record)
            if self.lost_count:
                data = self._lost_line(record) + data
            self._put(data)
            self.lost_count = 0
        except Exception:
            # Disk full, closed stdout, a reader that is gone: there is nobody left to tell, and
            # the request that logged must not pay for it. The next line that gets through
            # says how many were lost.
            self.lost_count += 1

    def _lost_line(self, record: Record) -> bytes:
        lost: Any = {
            **record,
            "level": logger.level("WARNING"),
            "name": OWN_NAME,
            "message": "Log lines were lost because they could not be written.",
            "extra": dict.fromkeys(IDS) | {"lost_count": self.lost_count},
            "exception": None,
        }
        lost.pop("access", None)
        return self._render(lost)

    def _put(self, data: bytes) -> None:
        raise NotImplementedError


class StreamSink(Sink):
    """Writes to the process's stdout or stderr."""

    def __init__(self, name: StreamName, render: Render) -> None:
        super().__init__(render)
        self._name = name
        self._number = 1 if name == "stdout" else 2
        self._stream: Any = None  # the stream that was found to be the real one
        self._is_pipe = False
        self._stalled_until = 0.0

    def _put(self, data: bytes) -> None:
        stream = getattr(sys, self._name)
        if stream is not self._stream:
            if stream is None or not self._is_real(stream):
                # Captured by a test, or replaced by the program: only its own write() will do.
                stream.write(data.decode("utf-8", "replace"))
                stream.flush()
                return
            self._stream = stream
            self._is_pipe = stat.S_ISFIFO(os.fstat(self._number).st_mode)
        if stream.closed:  # its number may belong to another file by now
            raise ValueError("closed stream")
        if self._is_pipe:
            self._wait_for_room()
        _write_all(self._number, data)

    def _is_real(self, stream: Any) -> bool:
        try:
            return stream.fileno() == self._number
        except (OSError, ValueError, AttributeError):
            return False

    def _wait_for_room(self) -> None:
        """Wait a second at most for a reader that has stopped, then drop for another second."""
        if self._stalled_until and time.monotonic() < self._stalled_until:
            raise BlockingIOError
        poll = select.poll()
        poll.register(self._number, select.POLLOUT)
        if not poll.poll(1000):
            self._stalled_until = time.monotonic() + 1.0
            raise BlockingIOError
        self._stalled_until = 0.0


class FileSink(Sink):
    """Writes to the first free of `web.log`, `web-1.log`, ... and rotates it.

    Two processes that write and rotate one file lose lines, so that each file has one writer: who
    holds its lock. The lock ends with its process, whatever ended that, and a successor goes on
    with the file; the number of files is that of the processes that ever ran at once.
    """

    def __init__(self, folder: Path, component: str, render: Render) -> None:
        super().__init__(render)
        self._folder = folder
        self._component = component
        self._number: int | None = None
        self._path = folder / f"{component}.log"
        self._size = 0
        self._is_torn = False
        self._retry_at = 0.0
        _file_sinks.add(self)

    def _put(self, data: bytes) -> None:
        number = self._number
        if number is None:
            number = self._open()
        elif self._size and self._size + len(data) > ROTATE_BYTES:
            number = self._rotate()
        if self._is_torn:
            data = b"\n" + data
        self._is_torn = True  # until the whole line is written
        _write_all(number, data)
        self._is_torn = False
        self._size += len(data)

    def _open(self) -> int:
        if time.monotonic() < self._retry_at:
            raise BlockingIOError
        self._retry_at = time.monotonic() + 5.0
        self._folder.mkdir(parents=True, exist_ok=True)
        _delete_old_files(self._folder)
        number: int | None = None
        slot = 0
        while number is None:
            suffix = f"-{slot}" if slot else ""
            self._path = self._folder / f"{self._component}{suffix}.log"
            number = _open_locked(self._path)
            slot += 1
        self._number = number
        self._size = os.fstat(number).st_size
        # A process before us may have died, or found the disk full, within a line.
        self._is_torn = self._size > 0 and os.pread(number, 1, self._size - 1) != b"\n"
        self._retry_at = 0.0
        return number

    def _rotate(self) -> int:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
        self._path.rename(self._path.with_suffix(f".{stamp}.log"))
        self.close()
        return self._open()

    def close(self) -> None:
        if self._number is not None:
            number, self._number = self._number, None
            os.close(number)

    def stop(self) -> None:
        """Loguru's word for closing a sink that was removed."""
        self.close()


_file_sinks: weakref.WeakSet[FileSink] = weakref.WeakSet()


def _write_all(number: int, data: bytes) -> None:
    written = os.write(number, data)
    while written < len(data):
        written += os.write(number, data[written:])


def _open_locked(path: Path) -> int | None:
    """Open a file for appending as its only writer; None when it has one already."""
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Renamed or deleted between the opening and the lock?
            if os.path.samestat(os.fstat(number), path.stat()):
                return number
        except BlockingIOError:
            os.close(number)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(number)
            raise
        os.close(number)


_LOG_FILE = re.compile(r"(?:web|worker|cli)(?:-\d+)?(?:\.\d{8}T\d{12}Z)?\.log")


def _delete_old_files(folder: Path) -> None:
    """Delete the log files that nobody writes and that were last written 14 days ago."""
    oldest = time.time() - RETENTION_SECONDS
    for path in folder.iterdir():
        if _LOG_FILE.fullmatch(path.name) is None:
            continue
        try:
            if path.stat().st_mtime >= oldest or (number := _open_locked(path)) is None:
                continue
        except OSError:  # deleted by another process, or not ours to touch
            continue
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(number)


def reopen_files() -> None:
    """Close the log files; the next line opens them anew."""
    for sink in _file_sinks:
        sink.close()


# A forked child inherits the parent's lock with the file: it lets go and finds a file of its own.
os.register_at_fork(after_in_child=reopen_files)

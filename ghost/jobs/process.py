"""Processes that belong to a worker: waited for with a limit, and never left behind."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress

from ghost.database import db

PARENT_WATCH_SECONDS = 1.0

# <linux/prctl.h>. Looked up here: little should happen between the fork and the call.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class ChildProcess:
    """A child process that is waited for with a time limit."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._status: int | None = None
        self._handle: int | None = None

    def __enter__(self) -> ChildProcess:
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):  # an old kernel, a sandbox
                self._handle = os.pidfd_open(self._pid)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        if self._handle is not None:
            os.close(self._handle)

    def wait(self, seconds: float) -> int | None:
        """Return the wait status, or None when it has not ended after so long."""
        deadline = time.monotonic() + seconds
        while True:
            if self._handle is not None:
                select.select([self._handle], [], [], seconds)
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                return status
            if time.monotonic() >= deadline:
                return None
            if self._handle is None:
                time.sleep(0.02)

    def kill_group(self) -> None:
        """Kill the process and those that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)


def make_ready_to_fork() -> None:
    """Leave a child nothing that it would use, or write, together with this process."""
    if db.engine.dialect.name == "sqlite":
        # A child that inherits an open SQLite database may damage it when it closes it:
        # https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_across_a_fork_
        db.engine.dispose()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def end_with(parent: int) -> None:
    """Have this process killed when its parent is gone.

    Nobody would renew its lease, and it would run on beside its own repetition.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_WATCH_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def adopt_orphans() -> None:
    """Become the parent of what the programs started here leave behind (Linux)."""
    if _prctl is not None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def describe_end(status: int) -> str:
    """Say how a job's process ended, by the status that `wait` gives."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with suppress(ValueError):
            return f"the job's process was killed by {signal.Signals(-code).name}"
    return f"the job's process ended by itself with code {code}"

"""Programs that run as parts of a group: started, watched over, and ended without leftovers."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

import click

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
# Looked up here: between fork and exec there is no loading of libraries.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

_POLL_SECONDS = 0.05

# A part that dies this often ...
DEATHS_AT_MOST = 5
# ... within this time, or as often in a row before it ever worked, is given up.
DEATHS_WINDOW_SECONDS = 10.0
# A longer line is cut in two.
LINE_BYTES = 64 * 1024


def die_with_parent() -> Callable[[], None]:
    """Make a `preexec_fn` that has the new process stopped when the calling one is gone.

    Linux sends SIGTERM, also when the parent was killed. Other systems have nothing like it.
    The parent is the calling thread: call this, and `Popen`, in the main one.
    """
    parent = os.getpid()

    def prepare() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def session_members(session: int) -> list[int]:
    """List the living processes of a session but the calling one."""
    return [pid for pid in _process_ids() if pid != os.getpid() and _session_of(pid) == session]


def end_session(session: int, grace_seconds: float) -> None:
    """End every process of a session: SIGTERM, and SIGKILL after the grace."""
    _signal_all(session_members(session), signal.SIGTERM)
    if _wait_until_empty(session, grace_seconds):
        return
    # Again and again: a process may have started another one between the list and the signal.
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        _signal_all(session_members(session), signal.SIGKILL)
        if _wait_until_empty(session, 0.5):
            return


def _wait_until_empty(session: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while session_members(session):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _process_ids() -> list[int]:
    folder = Path("/proc")
    if (folder / "self" / "stat").exists():
        return [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]
    listing = subprocess.run(["ps", "-axo", "pid="], capture_output=True, text=True, check=False)
    return [int(word) for word in listing.stdout.split()]


def _session_of(pid: int) -> int | None:
    """The session of a living process; None for one that is gone or only waits to be reaped."""
    with suppress(OSError, ValueError, IndexError):
        # "pid (any name) state parent group session ...", see proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(fields[3]) if fields[0] not in "ZX" else None
    with suppress(OSError):
        return os.getsid(pid)
    return None


class Output:
    """Writes whole lines of several parts into one stream, each after the name of its part."""

    COLOURS: Mapping[str, str] = {
        "redis": "magenta",
        "migrate": "yellow",
        "api": "cyan",
        "worker": "green",
        "scheduler": "blue",
        "dev": "bright_black",
    }

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._is_terminal = stream.isatty()

    def line(self, name: str, text: str) -> None:
        """Write one line."""
        label = f"{name:<9} |"
        if self._is_terminal:
            label = click.style(label, fg=self.COLOURS.get(name))
        # A reader that is gone must not stop anybody.
        with self._lock, suppress(OSError, ValueError):
            self._stream.write(f"{label} {text}\n")
            self._stream.flush()

    def plain(self, text: str) -> None:
        """Write a text as it is."""
        with self._lock, suppress(OSError, ValueError):
            self._stream.write(text + "\n")
            self._stream.flush()


@dataclass
class Part:
    """One program of the group: how it is started, and how it has been doing."""

    name: str
    command: list[str]
    folder: Path
    environment: Mapping[str, str]
    output: Output
    listener: socket.socket | None = None
    is_quiet: bool = False
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=DEATHS_AT_MOST))
    failed_starts: int = 0
    is_settled: bool = False
    is_after_change: bool = False
    is_waiting: bool = False
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    reader: threading.Thread | None = None

    def start(self) -> None:
        """Start the program in a process group of its own; its output is read by a thread."""
        self.is_settled = False
        self.is_waiting = False
        self.restart_at = None
        self.last_lines.clear()
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[self.listener.fileno()] if self.listener else [],
            process_group=0,
            preexec_fn=die_with_parent(),
        )
        self.reader = threading.Thread(target=self._read, args=[self.process], daemon=True)
        self.reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 Popen was asked for a pipe
        with process.stdout as stream:
            while data := stream.readline(LINE_BYTES):
                text = data.decode(errors="replace").rstrip("\r\n")
                self.last_lines.append(text)
                if not self.is_quiet:
                    self.output.line(self.name, text)

    @property
    def is_running(self) -> bool:
        """Tell whether the program runs."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program, if it runs."""
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End the program's whole process group at once."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.finish_output()

    def finish_output(self) -> None:
        """Wait a moment until the last lines of a program that has ended are written."""
        if self.reader is not None:
            self.reader.join(timeout=0.5)

    def describe_end(self) -> str:
        """Say how the program ended."""
        code = self.process.returncode if self.process is not None else None
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


Verdict = Literal["restart", "wait", "give up"]


def judge_death(
    deaths: Iterable[float], failed_starts: int, is_after_change: bool, was_killed: bool, now: float
) -> Verdict:
    """Decide what becomes of a part that has died.

    :param deaths: monotonic times of its last deaths, this one included.
    :param failed_starts: how often in a row, this time included, it died before it ever worked.
    :param is_after_change: it was started because a file had changed.
    :param was_killed: by a signal, so that its own code is not to blame.
    """
    if failed_starts and is_after_change and not was_killed:
        return "wait"
    recent = [died_at for died_at in deaths if now - died_at <= DEATHS_WINDOW_SECONDS]
    if len(recent) >= DEATHS_AT_MOST or failed_starts >= DEATHS_AT_MOST:
        return "give up"
    return "restart"

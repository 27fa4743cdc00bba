"""Ghost in a gunicorn of its own, and an nginx before it."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from ghost.testing.applications import environ_for
from ghost.testing.servers import free_port

# So that a test can tell what the kernel sent.
COUNTS_SENDFILE = """
import os
_sendfile = os.sendfile

def _counted(*values):
    sent = _sendfile(*values)
    with open("sendfile.log", "a") as file:
        file.write(f"{sent}\\n")
    return sent

os.sendfile = _counted
"""
SECONDS = 30


class Gunicorn:
    """Workers with Ghost's own settings, on the database and the storage of a test.

    :param code: what is run before the application is made.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], code: str = "", *, workers: int = 1
    ) -> None:
        self.port = free_port()
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "gunicorn.conf.py").write_text("from ghost.server import *\n")
        (folder / "wsgi.py").write_text(
            f"{code}\nfrom ghost import create_app\n\napp = create_app()\n"
        )
        self.log = folder / "output.log"
        environment = environ_for(settings, folder) | {
            "API_PORT": str(self.port),
            "WEB_CONCURRENCY": str(workers),
        }
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "wsgi:app"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: self.get("/health/live").status == 200)
        except AssertionError:
            self.stop()
            raise AssertionError(self.log.read_text()) from None

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return ask(self.port, path, method, **headers)

    def memory(self) -> int:
        """Bytes of memory that the worker has for itself."""
        (worker,) = psutil.Process(self.process.pid).children()
        return int(worker.memory_full_info().uss)

    def sent_by_the_kernel(self) -> int:
        """Bytes, with COUNTS_SENDFILE."""
        log = self.folder / "sendfile.log"
        return sum(map(int, log.read_text().split())) if log.exists() else 0

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:  # a thread waits for a client that takes nothing
            self.process.kill()
            self.process.wait()


class Nginx:
    """An nginx with a configuration of a test, whose `{port}` and `{folder}` are filled in."""

    def __init__(self, folder: Path, configuration: str) -> None:
        program = find_nginx()
        assert program is not None
        self.port = free_port()
        folder.mkdir()
        (folder / "nginx.conf").write_text(
            configuration.replace("{port}", str(self.port)).replace("{folder}", str(folder))
        )
        self.process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "error.log"],
            stdin=subprocess.DEVNULL,
        )
        wait_until(lambda: _is_open(self.port))

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return ask(self.port, path, method, **headers)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


class Answer:
    """An answer, wholly read."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    """Ask once, over a connection of its own."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)) as connection:
        connection.request(method, path, headers=named)
        return Answer(connection.getresponse())


def wait_until(is_so: Any) -> None:
    """Look until something is so.

    :raises AssertionError: it is not in time.
    """
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            if is_so():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


def find_nginx() -> str | None:
    """Where nginx is; Debian keeps it where users don't look."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

"""Measure uploads by gunicorn: Ghost's, and those of a bare Flask that saves and hashes the file.

    .venv/bin/python scripts/bench/files/upload.py --rounds 5

Each round sends so many files of 1 MiB and of 64 MiB over one connection, one server after the
other; the median of each counts. One worker each, on the same disk. Says as well by how much the
worker has grown.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import flask_migrate
import psutil

from ghost import create_app
from ghost.testing.applications import DEFAULTS, environ_for, merged
from ghost.testing.clients import log_in
from ghost.testing.factories import UserFactory
from ghost.testing.servers import free_port, scratch_folder

MIB = 2**20
BOUNDARY = "0123456789abcdef"
PEER = """
import hashlib, os, uuid
from flask import Flask, request

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 2**30
FOLDER = os.environ["PEER_FOLDER"]

@app.post("/upload")
def upload():
    file = request.files["file"]
    path = os.path.join(FOLDER, str(uuid.uuid4()))
    file.save(path)
    with open(path, "rb") as stored:
        digest = hashlib.file_digest(stored, "sha256").hexdigest()
    return {"sha256": digest}, 201
"""


class Web:
    """One gunicorn worker."""

    def __init__(self, module: str, folder: Path, environ: dict[str, str], *words: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", module, "--bind", f"127.0.0.1:{self.port}"),
                *("--workers", "1", "--worker-class", "gthread", "--threads", "4", *words),
            ],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            time.sleep(0.05)

    def memory(self) -> int:
        """Bytes of the worker's own, at their most."""
        (worker,) = psutil.Process(self.process.pid).children()
        with Path(f"/proc/{worker.pid}/status").open() as status:
            peak = next(line for line in status if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(40)


def form(size: int) -> tuple[bytes, bytes]:
    """What stands before a file of random bytes, and behind it."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode(), f"\r\n--{BOUNDARY}--\r\n".encode()


def send(connection: http.client.HTTPConnection, path: str, data: bytes, token: str) -> None:
    head, tail = form(len(data))
    connection.putrequest("POST", path)
    connection.putheader("Authorization", f"Bearer {token}")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", str(len(head) + len(data) + len(tail)))
    connection.endheaders()
    connection.send(head)
    connection.send(data)
    connection.send(tail)
    response = connection.getresponse()
    body = response.read()
    if response.status != 201:
        raise RuntimeError(f"{response.status}: {body[:500]!r}")


def measure(web: Web, path: str, token: str, size: int, count: int) -> float:
    """MiB per second of one client."""
    data = os.urandom(size)
    with closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)) as connection:
        send(connection, path, data, token)
        started = time.perf_counter()
        for _ in range(count):
            send(connection, path, data, token)
        return count * size / MIB / (time.perf_counter() - started)


@contextmanager
def ghost_web(folder: Path, scratch: Path) -> Iterator[tuple[Web, str]]:
    root = Path(__file__).parent.parent.parent.parent
    settings = merged(
        DEFAULTS,
        {
            "auth": {"jwt_secret_key": "u8Rz3kQv0Lx7Yt2Wn5Bc9Md4Fg6Hj1Ps"},
            "database": {"url": f"sqlite:///{scratch / 'files.db'}"},
            "storage": {
                "url": f"file://{folder / 'uploads'}",
                "allowed_types": ["application/octet-stream"],
                "quota_per_user": None,
                "max_file_size": 2 * 2**30,
            },
            "logging": {"level": "WARNING"},
        },
    )
    app = create_app(settings)
    with app.app_context():
        flask_migrate.upgrade()
    user: Any = UserFactory(app)()
    token = log_in(app, user)["access_token"]
    web = Web("wsgi:app", root, environ_for(settings, root))
    try:
        yield web, token
    finally:
        web.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where files are written; memory by default")
    parser.add_argument("--huge", action="store_true", help="send 1 GiB too, for the memory")
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        folder = options.folder or scratch
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "peer.py").write_text(PEER)
        with ghost_web(folder, scratch) as (ours, token):
            peer = stack.enter_context(
                closing(Web("peer:app", folder, os.environ | {"PEER_FOLDER": str(folder)}))
            )
            before = ours.memory()
            for size, count in ((1, 50), (64, 3)):
                found: dict[str, list[float]] = {"ghost": [], "flask": []}
                for _ in range(options.rounds):
                    speed = measure(ours, "/api/v1/files", token, size * MIB, count)
                    found["ghost"].append(speed)
                    found["flask"].append(measure(peer, "/upload", "", size * MIB, count))
                    clear(folder)
                medians = {name: statistics.median(values) for name, values in found.items()}
                print(
                    f"{size} MiB: ghost {medians['ghost']:.0f} MiB/s, bare Flask "
                    f"{medians['flask']:.0f} MiB/s"
                )
            if options.huge:
                measure(ours, "/api/v1/files", token, 1024 * MIB, 0)
            print(f"the worker has grown by {(ours.memory() - before) / MIB:.0f} MiB at its most")


def clear(folder: Path) -> None:
    """Make room for the next round."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size >= MIB and path.suffix not in (".db", ".db-wal"):
            path.unlink()


if __name__ == "__main__":
    main()

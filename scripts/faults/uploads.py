"""Cut the connection and kill the server while a file is uploaded, and see that it arrives whole.

    .venv/bin/python scripts/faults/uploads.py --megabytes 200 --cuts 3 --kills 2 --storage s3

The client is a real one of the protocol tus: tuspy, or tus-js-client with `--client node` (run
`npm install` in scripts/faults/tus before). Servers, database and processes are its own, and gone
afterwards, also when it is killed. Exit status 1 when the file has another SHA-256, is there twice,
when pieces are left in the storage, or the room that it takes is not its size; also when it takes
longer than `--seconds`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import flask_migrate
import sqlalchemy as sa
from flask import Flask
from requests import RequestException
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from ghost import create_app, db
from ghost.files.models import FileUsage, StoredFile
from ghost.files.storage import current_storage
from ghost.testing.applications import DEFAULTS, environ_for, merged
from ghost.testing.servers import (
    PostgreSQL,
    Redis,
    Server,
    ServerUnavailable,
    free_port,
    scratch_folder,
)

ROOT = Path(__file__).parent.parent.parent
NODE = ROOT / "scripts/faults/tus"
KEY, SECRET, BUCKET = "test-key", "test/secret+key", "bucket"
PIECE_BYTES = 64 * 1024


class TimeIsUp(Exception):
    """The trial takes too long. No `TimeoutError`: after those a client tries again."""


class Moto(Server):
    """moto's S3."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.start()
        client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage_url(self) -> str:
        secret = quote(SECRET, safe="")
        return f"s3://{KEY}:{secret}@{BUCKET}/files?endpoint={self.url}&region=us-east-1"

    def command(self) -> list[str]:
        program = str(Path(sys.executable).with_name("moto_server"))
        return [program, "-H", "127.0.0.1", "-p", str(self.port)]

    def is_ready(self) -> bool:
        return answers(f"{self.url}/moto-api/")


class Backend(Server):
    """gunicorn with the application, which can be killed and is there again."""

    def __init__(self, environ: dict[str, str]) -> None:
        super().__init__()
        self.environ, self.port = environ, 0
        try:
            self._start()
        except ServerUnavailable:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has written since it was started last."""
        return (self.folder / "log").read_text(errors="replace")

    def _start(self) -> None:
        for attempt in range(3):  # another process may take the port between choosing and using
            self.port = free_port()
            try:
                self.start()
                return
            except ServerUnavailable:
                if attempt == 2:
                    raise

    def command(self) -> list[str]:
        environ = self.environ | {"API_PORT": str(self.port), "WEB_CONCURRENCY": "2"}
        return [
            *("env", *(f"{name}={value}" for name, value in environ.items())),
            *(sys.executable, "-m", "gunicorn", "--chdir", str(ROOT)),
            *("--config", str(ROOT / "gunicorn.conf.py"), "wsgi:app"),
        ]

    def is_ready(self) -> bool:
        return answers(f"{self.url}/health/live")

    def crash(self) -> None:
        """End all of it at once, as a machine does that loses its power, and start it again.

        Elsewhere: its old port may be somebody's by then.
        """
        self.kill()
        self._start()


class Line:
    """A slow connection to a server, that something happens to after so many bytes.

    :param target: gives the server's port of this moment.
    :param rate: bytes each second.
    :param events: bytes from the client, all connections together -> what happens then.
    """

    def __init__(
        self,
        target: Callable[[], int],
        rate: float,
        events: dict[int, Callable[[Line], object]],
    ) -> None:
        self.target, self.rate = target, rate
        self.events = sorted(events.items())
        self.sent = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection."""
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RD)
            reset(one)
        self._open.clear()

    def close(self) -> None:
        """Take no more connections, and end those that there are."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target()), 10)
                except OSError:  # it was killed, and is not back yet
                    client.close()
                    continue
                self._open += [client, server]
                threading.Thread(target=self._connect, args=(client, server), daemon=True).start()

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
        back.start()
        self._pass_on(client, server, self._count)
        back.join()
        for one in (client, server):
            reset(one)

    def _pass_on(
        self,
        source: socket.socket,
        target: socket.socket,
        count: Callable[[int], object] = lambda _size: None,
    ) -> None:
        with suppress(OSError):
            while some := source.recv(PIECE_BYTES):
                target.sendall(some)
                count(len(some))
        # A socket that another thread reads from is not closed by closing it.
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _count(self, size: int) -> None:
        self.sent += size
        time.sleep(size / self.rate)
        if self.events and self.sent >= self.events[0][0]:
            _, happens = self.events.pop(0)
            happens(self)


def reset(connection: socket.socket) -> None:
    """Close it by a reset: who sends into full buffers would not notice a polite end."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def answers(url: str) -> bool:
    """Tell whether something is there."""
    try:
        open_url(url, timeout=1).close()
    except (OSError, HTTPException):
        return False
    return True


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Bound a block, whatever it waits for: clients wait for an answer as long as it takes."""

    def end(_number: int, _frame: object) -> None:
        raise TimeIsUp(f"not done after {seconds} seconds")

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def open_url(url: str, body: object = None, token: str = "", timeout: float = 60) -> Any:
    """Ask the API, and give the response."""
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None)  # noqa: S310
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    return urllib.request.urlopen(request, timeout=timeout)  # noqa: S310


def call(url: str, body: object = None, token: str = "") -> Any:
    """Call the API, and give the data of its answer."""
    with open_url(url, body, token) as response:
        return json.load(response)["data"]


def log_in(url: str) -> str:
    """Make an account, and give its token."""
    account = {"email": "ada@example.org", "password": "correct horse battery"}
    call(f"{url}/api/v1/auth/register", account)
    token: str = call(f"{url}/api/v1/auth/login", account)["access_token"]
    return token


@contextmanager
def application(
    database: str, storage: str, megabytes: int
) -> Iterator[tuple[Flask, Backend, Path]]:
    """An application and its server, for as long as the block runs."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        redis = Redis()
        stack.callback(redis.close)
        url = f"sqlite:///{folder / 'files.db'}"
        if database == "postgresql":
            postgres = PostgreSQL()
            stack.callback(postgres.close)
            url = postgres.create_database()
        place = f"file://{folder / 'stored'}"
        if storage == "s3":
            moto = Moto()
            stack.callback(moto.close)
            place = moto.storage_url
        settings = merged(
            DEFAULTS,
            {
                # The same ones after a restart.
                "auth": {"jwt_secret_key": secrets.token_hex(32)},
                "app": {"secret_key": secrets.token_hex(32)},
                "database": {"url": url},
                "redis": {"url": redis.url},
                "logging": {"level": "INFO"},
                "storage": {
                    "url": place,
                    "max_file_size": (megabytes + 1) * 2**20,
                    "quota_per_user": (megabytes + 1) * 2**20,
                    "allowed_types": ["application/octet-stream"],
                },
            },
        )
        app = create_app(settings)
        with app.app_context():
            flask_migrate.upgrade()
        backend = Backend(environ_for(settings, ROOT))
        stack.callback(backend.close)
        yield app, backend, folder


def upload_with_python(url: str, token: str, path: Path) -> None:
    """Upload with tuspy, and go on as long as it takes."""
    client = TusClient(f"{url}/api/v1/files/uploads", {"Authorization": f"Bearer {token}"})
    address = None
    while True:
        try:
            uploader = client.uploader(
                str(path), url=address, chunk_size=32 * 2**20, metadata={"filename": path.name}
            )
            if address is None:
                address = uploader.create_url()
                uploader.set_url(address)
            uploader.upload()
            return
        except (TusCommunicationError, RequestException) as error:
            print(f"retries after: {str(error)[:200]}")
            time.sleep(0.5)


def upload_with_node(url: str, token: str, path: Path) -> None:
    """Upload with tus-js-client, which goes on by itself."""
    subprocess.run(["node", "upload.js", url, token, str(path)], cwd=NODE, check=True)


def run(options: argparse.Namespace, seed: int) -> int:
    """Do it once; gives the exit status."""
    chance = random.Random(seed)
    size = options.megabytes * 2**20
    with application(options.database, options.storage, options.megabytes) as (
        app,
        backend,
        folder,
    ):
        path, digest = folder / "film.bin", hashlib.sha256()
        with path.open("wb") as file:
            for _ in range(options.megabytes):
                some = chance.randbytes(2**20)
                file.write(some)
                digest.update(some)
        happens = ["cut"] * options.cuts + ["kill"] * options.kills
        chance.shuffle(happens)
        moments = sorted(chance.sample(range(size // 20, size - size // 20), len(happens)))
        kinds: dict[str, Callable[[Line], object]] = {
            "cut": Line.cut, "kill": lambda _line: backend.crash(),
        }  # fmt: skip
        events = {moment: kinds[what] for moment, what in zip(moments, happens, strict=True)}
        line = Line(lambda: backend.port, options.rate * 2**20, events)
        try:
            token = log_in(backend.url)
            upload = upload_with_node if options.client == "node" else upload_with_python
            started = time.monotonic()
            upload(f"http://127.0.0.1:{line.port}", token, path)
            seconds = time.monotonic() - started
        except BaseException:
            print(backend.log[-4000:])
            raise
        finally:
            line.close()
        print(
            f"seed {seed}, {options.client}, {options.storage}, {options.database}: "
            f"{options.megabytes} MiB in {seconds:.1f} s with {', '.join(happens) or 'no faults'}; "
            f"{line.sent / 2**20:.0f} MiB sent; {len(line.events)} faults did not come"
        )
        show_slowest(backend.log)
        return report(app, backend, token, size, digest.hexdigest())


def show_slowest(log: str) -> None:
    """Print how long the last request with bytes took, which made the file."""
    lines = [one for one in log.splitlines() if "PATCH" in one]
    if lines:
        print(f"the last PATCH: {lines[-1][:160]}")


def report(app: Flask, backend: Backend, token: str, size: int, sha256: str) -> int:
    """Hold what is there against what was sent."""
    files = call(f"{backend.url}/api/v1/files", token=token)
    digest = hashlib.sha256()
    if files:
        with open_url(backend.url + files[0]["url"], token=token) as response:
            while some := response.read(2**20):
                digest.update(some)
    with app.app_context():
        rows = db.session.scalar(sa.select(sa.func.count()).select_from(StoredFile))
        used = db.session.scalar(sa.select(sa.func.sum(FileUsage.bytes)))
        keys = [found.key for found in current_storage().list()]
    left = [key for key in keys if key.startswith("uploads/")]
    print(
        f"{rows} files, {used} of {size} bytes counted, {len(left)} pieces left, {len(keys)} keys"
    )
    is_whole = digest.hexdigest() == sha256 == (files[0]["sha256"] if files else None)
    print(f"SHA-256 {'agrees' if is_whole else 'differs'}: {digest.hexdigest()}")
    return 0 if is_whole and rows == 1 and used == size and len(keys) == 1 else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=3)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--rate", type=float, default=50.0, help="MiB each second")
    parser.add_argument("--storage", choices=("disk", "s3"), default="disk")
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="sqlite")
    parser.add_argument("--client", choices=("python", "node"), default="python")
    parser.add_argument("--seconds", type=float, default=600.0, help="give up after so long")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    with time_limit(options.seconds):
        status = run(options, seed)
    sys.exit(status)


if __name__ == "__main__":
    main()

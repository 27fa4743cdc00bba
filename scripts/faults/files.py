"""Kill web workers while files are uploaded, or fill the disk: nothing is lost, nothing is left.

    .venv/bin/python scripts/faults/files.py --uploads 50 --kills 10 --seed 1
    .venv/bin/python scripts/faults/files.py --uploads 20 --full

Servers, database and folders are its own, and gone afterwards. In the end every file whose upload
was answered by 201 reads back with its hash, nothing lies in the storage that has no row once the
sweeper has been there, every row has its bytes, and the quota is the sum of the rows. Exit status 1
when one of these does not hold.

The full disk is a small tmpfs where this process may mount one. Where it may not, the server can
write no file beyond a size (RLIMIT_FSIZE), which fails in the middle of a write just so.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import flask_migrate
import psutil
import sqlalchemy as sa
from flask import Flask

from ghost import create_app, db, utcnow
from ghost.files import sweep
from ghost.files.models import FileUsage, StoredFile
from ghost.files.storage import current_storage
from ghost.files.verifying import verify
from ghost.testing.applications import DEFAULTS, environ_for, merged
from ghost.testing.clients import log_in
from ghost.testing.factories import UserFactory
from ghost.testing.servers import PostgreSQL, free_port, scratch_folder

ROOT = Path(__file__).parent.parent.parent
MIB = 2**20
DISK_BYTES = 8 * MIB
CLIENTS = 8
KILL_SECONDS = 600  # within which all kills have to be done
BOUNDARY = b"0123456789abcdef"


@dataclass
class Web:
    """A gunicorn of two workers on Ghost's settings."""

    environ: dict[str, str]
    log: Path
    limit: Callable[[], None] | None = None
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "wsgi:app"],
                cwd=ROOT,
                env=self.environ | {"API_PORT": str(self.port), "WEB_CONCURRENCY": "2"},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                preexec_fn=self.limit,
            )

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/health/live")[0] == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(self.log.read_text(errors="replace")[-4000:])

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """Ask over a connection of its own.

        :raises OSError, HTTPException: the worker died meanwhile.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return response.status, response.read()

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill one worker as a crash does; the master starts another."""
        with suppress(psutil.Error):
            workers = psutil.Process(self.process.pid).children()
            if workers:
                chance.choice(workers).kill()
                return True
        return False

    def close(self) -> None:
        """End it as a service manager does."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None] | None]:
    """Let a folder have little room; gives what limits the server's process instead, or None."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield None
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))


@contextmanager
def application(database: str, *, full: bool) -> Iterator[tuple[Flask, Web, str]]:
    """An application, its web server, and the token of an account."""
    postgres = PostgreSQL() if database == "postgresql" else None
    try:
        with scratch_folder() as folder, small_disk(folder / "disk") as limit:
            # SQLite's own files must not run into the limit.
            database = postgres.create_database() if postgres else f"sqlite:///{folder / 'f.db'}"
            uploads = folder / ("disk" if full else "uploads") / "files"
            settings = merged(
                DEFAULTS,
                {
                    "auth": {"jwt_secret_key": "u8Rz3kQv0Lx7Yt2Wn5Bc9Md4Fg6Hj1Ps"},
                    "database": {"url": database},
                    "storage": {
                        "url": f"file://{uploads}",
                        "allowed_types": ["application/octet-stream"],
                    },
                    "logging": {"level": "ERROR"},
                },
            )
            app = create_app(settings)
            with app.app_context():
                flask_migrate.upgrade()
            user: Any = UserFactory(app)()
            token = log_in(app, user)["access_token"]
            web = Web(environ_for(settings, ROOT), folder / "log", limit if full else None)
            try:
                web.wait()
                yield app, web, token
            finally:
                web.close()
    finally:
        if postgres:
            postgres.close()


def send(web: Web, token: str, content: bytes) -> tuple[int | None, str]:
    """Upload a file.

    :returns: the status, None without an answer, and the id of the file that was acknowledged.
    """
    head = b'--%s\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    body = head % BOUNDARY + content + b"\r\n--%s--\r\n" % BOUNDARY
    headers = {
        "Authorization": f"Bearer {token}",
        "Content_Type": f"multipart/form-data; boundary={BOUNDARY.decode()}",
    }
    try:
        status, answer = web.ask("POST", "/api/v1/files", body, **headers)
    except (OSError, http.client.HTTPException):
        return None, ""
    return status, json.loads(answer)["data"]["id"] if status == 201 else ""


def run(uploads: int, kills: int, seed: int, database: str, *, full: bool) -> int:
    """Do it once.

    :returns: the exit status.
    """
    chance = random.Random(seed)
    sizes = [chance.choice((1000, 100_000, MIB // 2, 2 * MIB)) for _ in range(uploads)]
    with application(database, full=full) as (app, web, token):
        acknowledged: dict[str, str] = {}
        statuses: Counter[int | None] = Counter()
        lock, done = threading.Lock(), threading.Event()

        def upload(size: int) -> None:
            # Bytes that happen to begin as some other type does would be refused.
            content = b"\x01\x02\x03\x04" + os.urandom(size)
            status, file_id = send(web, token, content)
            with lock:
                statuses[status] += 1
                if file_id:
                    acknowledged[file_id] = hashlib.sha256(content).hexdigest()
            time.sleep(0.02)

        killed = 0

        def kill() -> None:
            nonlocal killed
            while killed < kills and not done.wait(chance.uniform(0.02, 0.3)):
                killed += web.kill_worker(chance)

        killer = threading.Thread(target=kill)
        killer.start()
        ends_at = time.monotonic() + KILL_SECONDS
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(upload, sizes))
            # Of small files more are needed to fill the disk.
            while full and not statuses[503] and time.monotonic() < ends_at:
                list(pool.map(upload, sizes))
            # A kill while nobody uploads is none.
            while killer.is_alive() and killed < kills and time.monotonic() < ends_at:
                list(pool.map(upload, sizes[:CLIENTS]))
        done.set()
        killer.join()
        web.wait()
        print(
            f"seed {seed}, {database}: {statuses.total()} uploads, {killed} kills; answers: "
            + ", ".join(f"{n} x {s or 'none'}" for s, n in sorted(statuses.items(), key=str))
        )
        problems = list(look(app, web, token, acknowledged))
        if killed < kills:
            problems.append(f"only {killed} of {kills} workers were killed")
        if not acknowledged:
            problems.append("no upload was answered by 201")
        if full and not (statuses[503] and statuses[201]):
            problems.append("the disk was not full, or always")
        if set(statuses) - {None, 201, 503} or (statuses[None] and not kills):
            problems.append("an answer that is none of 201 and 503")
        for problem in problems:
            print(f"  {problem}")
        print("nothing is lost, nothing is left" if not problems else "FAILED")
        return 1 if problems else 0


def look(app: Flask, web: Web, token: str, acknowledged: dict[str, str]) -> Iterator[str]:
    """Tell what is not as it should be, once the sweeper has been there."""
    for file_id, sha256 in acknowledged.items():
        path = f"/api/v1/files/{file_id}/content"
        status, content = web.ask("GET", path, Authorization=f"Bearer {token}")
        if status != 200 or hashlib.sha256(content).hexdigest() != sha256:
            yield f"{file_id}: answered by 201, and now {status} with other bytes"
    with app.app_context():
        later = utcnow() + timedelta(hours=2)
        temporary, orphans, after = sweep.remove_temporary(later), 0, ""
        while True:
            portion = sweep.sweep_portion(later, after)
            orphans += portion.orphans
            yield from (f"{file_id}: a row without bytes" for file_id in portion.missing)
            if portion.last is None:
                break
            after = portion.last
        print(f"swept: {orphans} orphans, {temporary} temporary files")
        rows = {row.key: row.size for row in db.session.scalars(sa.select(StoredFile))}
        kept = {found.key: found.size for found in current_storage().list()}
        if rows != kept:
            yield f"{len(rows)} rows, {len(kept)} files in the storage"
        if sweep.remove_temporary(later):
            yield "temporary files are left"
        used = db.session.scalar(sa.select(sa.func.sum(FileUsage.bytes))) or 0
        if used != sum(rows.values()):
            yield f"the quota says {used} bytes, the rows {sum(rows.values())}"
        yield from (f"{one.id}: {one.problem}" for one in verify(lambda _: None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--uploads", type=int, default=50)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="on a disk that has no room for all")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    sys.exit(run(options.uploads, options.kills, seed, options.database, full=options.full))


if __name__ == "__main__":
    main()

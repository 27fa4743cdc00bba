"""Object stores as processes of their own, so that they can be killed and made to hang."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
from botocore.config import Config

from ghost.config_storage import BucketPlace
from ghost.testing.servers import Server, free_port

KEY, SECRET = "test-key", "test/secret+key"
BUCKET = "bucket"
LISTED_AT_ONCE = 10  # and not 1,000, so that a list of some files needs several answers


class Moto(Server):
    """moto's S3, over HTTP."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.start()

    def command(self) -> Sequence[str]:
        program = Path(sys.executable).with_name("moto_server")
        setting = f"MOTO_S3_DEFAULT_MAX_KEYS={LISTED_AT_ONCE}"
        return ["env", setting, str(program), "-H", "127.0.0.1", "-p", str(self.port)]

    def is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/moto-api/", timeout=1).close()
        except OSError:
            return False
        return True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        return self.make_client()

    def make_client(self, **settings: Any) -> Any:
        """Amazon's own client, with settings of botocore's."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(**settings),
        )

    def make_place(self, prefix: str, *, bucket: str = BUCKET) -> BucketPlace:
        """A bucket as the configuration names it."""
        if bucket == BUCKET:
            self.client.create_bucket(Bucket=BUCKET)
        return BucketPlace("s3", bucket, prefix, KEY, SECRET, self.url, "us-east-1")

    def storage_url(self) -> str:
        """A place in the bucket as `storage.url` names it."""
        self.make_place("")
        secret = quote(SECRET, safe="")
        return f"s3://{KEY}:{secret}@{BUCKET}/files?endpoint={self.url}&region=us-east-1"

    def unfinished(self, prefix: str) -> list[str]:
        """The keys of uploads in parts that were neither finished nor given up.

        :param prefix: of the keys; other tests have theirs in the same bucket.
        """
        found = self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
        return [upload["Key"] for upload in found.get("Uploads", [])]


class SlowLine:
    """A way to a local server on which two megabytes a second get through."""

    PIECE_BYTES, PAUSE_SECONDS = 64 * 1024, 0.03

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.socket()
        # What lies in buffers is not on its way.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.PIECE_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> SlowLine:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for pair in ((client, server, self.PAUSE_SECONDS), (server, client, 0.0)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, pause: float) -> None:
        with suppress(OSError):
            while piece := source.recv(self.PIECE_BYTES):
                target.sendall(piece)
                time.sleep(pause)
            target.shutdown(socket.SHUT_WR)


# Known to everybody: the account that Azurite has.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
API_VERSION = "2021-08-06"


def find_azurite() -> str | None:
    """Where Azurite is: in PATH, or where .ci/run installs it. It comes from npm."""
    beside = Path(sys.prefix) / "azurite/node_modules/.bin"
    return shutil.which("azurite-blob", path=f"{beside}:{os.environ.get('PATH', '')}")


class Azurite(Server):
    """Microsoft's own emulator of Azure Blob Storage."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.start()
        self._make_container()

    def command(self) -> Sequence[str]:
        program = find_azurite()
        assert program is not None
        return [
            *(program, "--blobHost", "127.0.0.1", "--blobPort", str(self.port)),
            *("--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"),
        ]

    def is_ready(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=1).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    def make_place(self, prefix: str) -> BucketPlace:
        """A container as the configuration names it."""
        return BucketPlace("az", BUCKET, prefix, ACCOUNT, ACCOUNT_KEY, self.url)

    def _make_container(self) -> None:
        """Ask for it by the shared key; obstore makes none."""
        now = formatdate(usegmt=True)
        text = (
            f"PUT{12 * chr(10)}x-ms-date:{now}\nx-ms-version:{API_VERSION}\n"
            f"/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
        )
        digest = hmac.digest(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256)
        headers = {
            "x-ms-date": now,
            "x-ms-version": API_VERSION,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
            "Content-Length": "0",
        }
        url = f"{self.url}/{BUCKET}?restype=container"
        request = urllib.request.Request(url, method="PUT", headers=headers)
        urllib.request.urlopen(request, timeout=10).close()

"""Object stores as processes of their own, so that they can be killed and made to hang."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
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

    def unfinished(self) -> list[str]:
        """The keys of uploads in parts that were neither finished nor given up."""
        found = self.client.list_multipart_uploads(Bucket=BUCKET)
        return [upload["Key"] for upload in found.get("Uploads", [])]

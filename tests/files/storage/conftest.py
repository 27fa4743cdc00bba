"""The storages that the contract is tested with."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from object_stores import Moto

from ghost.files.storage.base import Storage
from ghost.files.storage.disk import DiskStorage
from ghost.files.storage.objects import open_bucket


@pytest.fixture(params=["disk", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return DiskStorage(tmp_path / "uploads")
    server: Moto = request.getfixturevalue("moto")
    return open_bucket(server.make_place(f"of-a-test/{uuid4().hex}"), 10)

"""The storages that the contract is tested with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from object_stores import Azurite, Moto, find_azurite

from ghost.files.storage.base import Storage
from ghost.files.storage.disk import DiskStorage
from ghost.files.storage.objects import open_bucket

# Left out without a word where npm has not brought Azurite.
collect_ignore = [] if find_azurite() else ["test_azure.py"]
STORAGES = ("disk", "s3", "azure") if find_azurite() else ("disk", "s3")


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    server = Azurite()
    yield server
    server.close()


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return DiskStorage(tmp_path / "uploads")
    server: Moto | Azurite = request.getfixturevalue("moto" if request.param == "s3" else "azurite")
    return open_bucket(server.make_place(f"of-a-test/{uuid4().hex}"), 10)

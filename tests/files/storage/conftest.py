"""The storages that the contract is tested with."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghost.files.storage.base import Storage
from ghost.files.storage.disk import DiskStorage


@pytest.fixture(params=["disk"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return DiskStorage(tmp_path / "uploads")

"""What the fixtures `make_file` and `upload` give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from werkzeug.test import TestResponse

from ghost.files.models import StoredFile
from ghost.files.storage import current_storage
from ghost.files.storage.disk import DiskStorage

Upload = Callable[..., TestResponse]


class FileFactory(Protocol):
    """Makes a stored file of somebody, with its bytes."""

    def __call__(self, content: bytes = ..., **values: Any) -> StoredFile: ...


def path_of(key: str) -> Path:
    """Where the bytes of a file lie on the disk, in the context of an application."""
    storage = current_storage()
    assert isinstance(storage, DiskStorage)
    return storage.root / key

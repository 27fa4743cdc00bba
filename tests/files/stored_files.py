"""What the fixture `make_file` gives."""

from __future__ import annotations

from typing import Any, Protocol

from ghost.files.models import StoredFile


class FileFactory(Protocol):
    """Makes a stored file of somebody, with its bytes."""

    def __call__(self, content: bytes = ..., **values: Any) -> StoredFile: ...

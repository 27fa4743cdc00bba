"""What the fixtures `make_file` and `upload` give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from werkzeug.test import TestResponse

from ghost.files.models import StoredFile

Upload = Callable[..., TestResponse]


class FileFactory(Protocol):
    """Makes a stored file of somebody, with its bytes."""

    def __call__(self, content: bytes = ..., **values: Any) -> StoredFile: ...

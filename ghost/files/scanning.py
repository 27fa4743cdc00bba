"""A look at files before they are stored, by functions of the application: a virus scanner, say."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, TypeVar

from ghost.errors import ValidationFailed

Scanner = Callable[[BinaryIO, str], None]
ScannerT = TypeVar("ScannerT", bound=Scanner)

_scanners: list[Scanner] = []


class FileRejected(ValidationFailed):
    """A scanner does not want a file; nothing of it is stored.

    :param reason: one sentence for whoever sent it.
    """

    message = "This file was rejected."

    def __init__(self, reason: str | None = None) -> None:
        message = reason or self.message
        super().__init__(message, details={"files": {"file": [message]}})


def scanner(function: ScannerT) -> ScannerT:
    """Have a function look at every file before it is stored.

    It is called with the bytes, from their beginning, and the type of the content. It raises
    `FileRejected` for a file that is not to be stored, and whatever else it raises refuses the file
    too. It bounds its own waits.
    """
    if function not in _scanners:
        _scanners.append(function)
    return function


def remove_scanner(function: Scanner) -> None:
    """Undo `scanner`."""
    if function in _scanners:
        _scanners.remove(function)


def has_scanners() -> bool:
    """Tell whether files are to be scanned at all."""
    return bool(_scanners)


def scan(file: BinaryIO, content_type: str) -> None:
    """Show a file to every scanner.

    :raises FileRejected: one of them does not want it.
    """
    for look in _scanners:
        file.seek(0)
        look(file, content_type)

"""The folder of the development mailbox: one .eml file for each mail."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from flask import Flask
from loguru import logger

from ghost.config import Config, current_config
from ghost.mail.messages import Message
from ghost.mail.providers import Delivery

MAX_KEPT = 200
MAX_READ_BYTES = 50 * 1024 * 1024
ENVELOPE = "X-Envelope-To"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")


@dataclass(frozen=True)
class Kept:
    """A mail of the folder: its name without `.eml`, and when it was written."""

    name: str
    path: Path
    written_at: datetime
    size: int = 0  # bytes


def folder(config: Config) -> Path:
    """Where the mails lie; it may not be there yet."""
    return config.instance / "mailbox"


def keep(_app: Flask, *, message: Message, row_id: UUID, delivery: Delivery, **_more: Any) -> None:
    """Write a mail that was sent; a mail that can't be written is a warning, nothing else."""
    try:
        place = folder(current_config())
        envelope = "".join(f"{ENVELOPE}: {address}\r\n" for address in delivery.accepted)
        write(place, str(row_id), envelope.encode() + message.as_bytes(readable=True))
        for old in list_kept(place)[MAX_KEPT:]:
            old.path.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        logger.bind(row_id=str(row_id), reason=str(error)).warning(
            "a mail could not be put into the development mailbox"
        )


def write(place: Path, name: str, content: bytes) -> None:
    """Put a file into the folder, whole or not at all, for its owner's eyes only."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = place / f".{uuid4().hex}"
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        unfinished.replace(place / f"{name}.eml")
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def list_kept(place: Path) -> list[Kept]:
    """The mails of the folder, the newest first."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in place.glob("*.eml"):
            if _NAME.match(path.stem):
                with suppress(OSError):  # deleted meanwhile
                    about = path.stat()
                    written_at = datetime.fromtimestamp(about.st_mtime, UTC)
                    found.append(Kept(path.stem, path, written_at, about.st_size))
    return sorted(found, key=lambda kept: (kept.written_at, kept.name), reverse=True)


def find(place: Path, name: str) -> Kept | None:
    """One mail of the folder, or None."""
    return next((kept for kept in list_kept(place) if kept.name == name), None)


def read(kept: Kept) -> bytes:
    """A mail's bytes, up to 50 MiB; none when it was deleted meanwhile."""
    try:
        with kept.path.open("rb") as file:
            return file.read(MAX_READ_BYTES)
    except OSError:
        return b""


def delete(place: Path, name: str | None = None) -> None:
    """Delete one mail, or all of them (None)."""
    for kept in list_kept(place):
        if name in (None, kept.name):
            kept.path.unlink(missing_ok=True)

"""What the files room tells whoever listens, after what it tells of is committed."""

from __future__ import annotations

from typing import Any

from blinker import NamedSignal, Namespace
from flask import current_app

from ghost.logging import logger

_signals = Namespace()

file_stored = _signals.signal(
    "file-stored",
    """A file was stored: its bytes and its row are there. The sender is the application.

    Keywords: `file_id` and `owner_id` (UUID), `content_type`, `category`, `size` (bytes).
    """,
)


def tell(signal: NamedSignal, **values: Any) -> None:
    """Send a signal; a receiver that fails is logged, since what it is told of has happened."""
    try:
        signal.send(current_app._get_current_object(), **values)  # type: ignore[attr-defined]
    except Exception:
        logger.bind(signal=signal.name).exception("a receiver of a signal failed")

"""What the files room tells whoever listens, after what it tells of is committed."""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

file_stored = _signals.signal(
    "file-stored",
    """A file was stored: its bytes and its row are there. The sender is the application.

    Keywords: `file_id` and `owner_id` (UUID), `content_type`, `category`, `size` (bytes).
    """,
)

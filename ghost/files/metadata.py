"""What people note about a file: a small JSON object."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_METADATA_BYTES = 4096
# As JSON writes it; behind another backslash it is text.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_metadata(value: Any) -> dict[str, Any]:
    """Return what was read as JSON, if it may be kept.

    :raises ValueError: it is no object, longer than 4 KiB, or holds a NUL; in words for its sender.
    """
    if not isinstance(value, dict):
        raise ValueError("Send a JSON object.")
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) > MAX_METADATA_BYTES:
        raise ValueError(f"Longer than {MAX_METADATA_BYTES} bytes.")
    if _NUL.search(text):  # no database has text with it
        raise ValueError("NUL characters are not allowed.")
    return value

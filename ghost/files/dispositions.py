"""How a browser is to treat a file: show it or save it, and under which name."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

# What a browser shows without running anything in it. No SVG, HTML, XML: they hold scripts. No PDF:
# the sandbox that it would need keeps browsers from showing it.
INLINE_TYPES = frozenset(
    (
        "image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/bmp",
        "text/plain",
        "audio/mpeg", "audio/mp4", "audio/aac", "audio/ogg", "audio/wav", "audio/x-wav",
        "audio/flac", "audio/x-flac", "audio/webm",
        "video/mp4", "video/webm", "video/ogg", "video/quicktime",
    )
)  # fmt: skip

# RFC 8187, section 3.2.1: what stands unencoded in the value of `filename*`.
_PLAIN = "!#$&+-.^_`|~"


def may_be_shown(content_type: str) -> bool:
    """Tell whether a browser may show files of a type, and not only save them."""
    return content_type in INLINE_TYPES


def content_disposition(filename: str, *, is_shown: bool) -> str:
    """Write Content-Disposition. See RFC 6266, with its appendix D.

    A name that is not plain is given twice, for old readers nearly right and for others exactly.
    """
    kind = "inline" if is_shown else "attachment"
    # NFD, and not NFKD, which makes paths and extensions of wide characters.
    plain = "".join(
        character if character.isascii() and character.isprintable() else "_"
        for character in unicodedata.normalize("NFD", filename)
        if not unicodedata.combining(character)
    )
    # Readers that undo %xx in the plain form, or stop at a quote, are given neither.
    for sign in '"\\/%':
        plain = plain.replace(sign, "_")
    written = f'{kind}; filename="{plain}"'
    if plain != filename:
        written += f"; filename*=UTF-8''{quote(filename, safe=_PLAIN, errors='replace')}"
    return written


def content_type_header(content_type: str) -> str:
    """Write Content-Type; texts are stored as UTF-8, and a browser would guess otherwise."""
    return f"{content_type}; charset=utf-8" if content_type.startswith("text/") else content_type

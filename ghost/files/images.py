"""Pictures that strangers sent: what they are, smaller copies, and their metadata taken off.

Nothing here knows a request, a row or a setting. A file is any binary file that can seek; it is
read from its beginning, and left open wherever reading ended.

Every picture passes two stages. Its structure is walked first (`image_headers`), with a bound for
every loop, and tells size, frames and which bytes belong to the picture. Only then, if the limits
hold, does Pillow (`image_pixels`) see those bytes, and no others: no texts, no Exif, nothing that
was appended. Pillow costs time and memory to import, so the first picture does it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, BinaryIO

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from ghost.files.image_headers import read_header
from ghost.files.image_values import (
    ImageInfo,
    ImageTooLarge,
    Limits,
    NotAnImage,
    OutOfMemory,
    Picture,
    Variant,
)

__all__ = [
    "VARIANT_TYPES",
    "ImageInfo",
    "ImageTooLarge",
    "Limits",
    "NotAnImage",
    "OutOfMemory",
    "Picture",
    "Variant",
    "choose_content_type",
    "inspect",
    "make_variant",
    "strip",
]

# What a variant can be made as, the smallest first.
VARIANT_TYPES = ("image/avif", "image/webp", "image/jpeg")


def inspect(file: BinaryIO, limits: Limits) -> ImageInfo:
    """Tell what a picture is, having decoded its first frame to the end.

    :raises ImageTooLarge: it passes a limit; nothing of it was decoded.
    :raises NotAnImage: it is of no allowed format, damaged, or cut off.
    :raises OutOfMemory: there is no memory for it at the moment.
    """
    return _pixels().inspect(file, read_header(file, limits), limits)


def make_variant(file: BinaryIO, variant: Variant, content_type: str, limits: Limits) -> Picture:
    """Make a smaller copy of a picture: upright, in sRGB, without metadata, of one frame.

    :param content_type: one of VARIANT_TYPES; what is transparent becomes white in a JPEG.
    :raises ImageTooLarge: as `inspect`.
    :raises NotAnImage, OutOfMemory: as `inspect`.
    """
    return _pixels().make_variant(file, read_header(file, limits), variant, content_type, limits)


def strip(file: BinaryIO, limits: Limits) -> Picture:
    """Make the same picture in its own format: upright, in sRGB, without metadata.

    A still picture is encoded anew. An animated GIF or WebP is put together anew from the blocks
    that make up its frames, each of which has been decoded once: encoding them anew would hold all
    of them in memory, and lose colours. Of an animated PNG or AVIF the first frame is kept.

    :raises ImageTooLarge: as `inspect`.
    :raises NotAnImage, OutOfMemory: as `inspect`.
    """
    return _pixels().strip(file, read_header(file, limits), limits)


def choose_content_type(accept: str | None, offered: tuple[str, ...] = VARIANT_TYPES) -> str:
    """Choose what a variant is served as: the client's preference, then the order of `offered`.

    The last one of `offered` is what everybody can show: it is the answer to a header that is
    missing, has only wildcards or excludes everything. The others have to be named.

    :param accept: the header `Accept`. See RFC 9110, section 12.5.1.
    """
    named = {
        value.lower(): quality
        for value, quality in parse_accept_header(accept or "", MIMEAccept)
        if "*" not in value
    }
    best = max(offered, key=lambda one: named.get(one, 0.0))
    return best if named.get(best, 0.0) > 0 else offered[-1]


def _pixels() -> Any:
    return import_module("ghost.files.image_pixels")

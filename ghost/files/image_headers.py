"""The structure of image files, walked without decoding: sizes, frames, and what belongs to them.

Each walk has a bound for its steps, since a file of 50 MiB can hold ten million empty blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import SEEK_END
from typing import BinaryIO

from ghost.files.image_boxes import read_boxes
from ghost.files.image_pieces import Piece
from ghost.files.image_values import (
    ImageInfo,
    ImageTooLarge,
    Limits,
    NotAnImage,
    check_frames,
    check_limits,
)

MAX_STEPS = 50_000  # segments of a JPEG, chunks of a PNG or WebP
MAX_BLOCKS = 500_000  # of a GIF, whose blocks have 255 bytes at most
# Passes over a JPEG, each of which may be a few bytes and costs a walk over all of its pixels: how
# many there may be, and how many of the largest picture. Encoders make about ten.
MAX_SCANS = 64
MAX_LARGE_SCANS = 12
MAX_PROFILE_BYTES = 4 * 2**20
MAX_EXIF_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Header:
    """What a walk found.

    :param width: as stored, before the picture is turned upright.
    :param orientation: 1 to 8. See Exif 2.32, tag 0x0112.
    :param pieces: what a decoder gets to see, in order.
    :param is_lossless: a WebP that was encoded without loss.
    """

    format: str
    content_type: str
    width: int
    height: int
    frames: int
    orientation: int
    pieces: tuple[Piece, ...]
    is_lossless: bool = False

    @property
    def info(self) -> ImageInfo:
        size = (self.width, self.height)
        width, height = reversed(size) if self.orientation >= 5 else size
        return ImageInfo(self.format, self.content_type, width, height, self.frames)


@dataclass(slots=True)
class _Found:
    """What a walk gathers."""

    width: int = 0
    height: int = 0
    frames: int = 1
    orientation: int = 1
    pieces: list[Piece] = field(default_factory=list)
    is_lossless: bool = False

    def keep(self, start: int, end: int) -> None:
        last = self.pieces[-1] if self.pieces else b""
        if isinstance(last, range) and last.stop == start:
            self.pieces[-1] = range(last.start, end)
        else:
            self.pieces.append(range(start, end))


def read_header(file: BinaryIO, limits: Limits) -> Header:
    """Walk through a picture's structure and hold it against the limits.

    :raises ImageTooLarge: it passes a limit.
    :raises NotAnImage: it is of no known format, cut off, or not built as its format says.
    """
    size = file.seek(0, SEEK_END)
    if size > limits.max_bytes:
        raise ImageTooLarge(f"An image may have {limits.max_bytes} bytes; this one has {size}.")
    file.seek(0)
    start = file.read(32)
    walk = next((walk for match, walk in _WALKS if match(start)), None)
    if walk is None:
        raise NotAnImage("This is no image of a supported format.")
    try:
        header = walk(file, size, limits)
    except (IndexError, struct.error) as error:
        raise NotAnImage("This image is cut off.") from error
    if header.format in ("AVIF", "WEBP"):
        # Decoder (WebP) or encoder (AVIF) take 16 bytes or more for a pixel, where others take 4.
        limits = replace(limits, max_pixels=limits.max_pixels // 2)
    check_limits(header.width, header.height, header.frames, limits)
    return header


def read_orientation(exif: bytes) -> int:
    """Find the orientation in an Exif block, which begins with the byte order; 1 without one.

    Pillow would read all of its entries, whose values may overlap: 64 KiB can stand for 300 MB.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, offset)
        for entry in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == 0x0112:
                wide = kind == 4  # a LONG, where the standard asks for a SHORT
                (value,) = struct.unpack_from(order + ("I" if wide else "H"), exif, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


# --- JPEG. See ITU-T T.81, annex B. ---------------------------------------------------------------

_FRAMES_READ = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive, with Huffman coding
_FRAMES_REFUSED = {*range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}  # lossless, hierarchical, arithmetic
_TABLES = (0xC4, 0xDB, 0xDD)  # Huffman tables, quantisation tables, restart interval


def _walk_jpeg(file: BinaryIO, size: int, limits: Limits) -> Header:
    found = _Found()
    found.keep(0, 2)
    position = 2
    components = profile_bytes = 0
    is_progressive = has_exif = False
    for _ in range(MAX_STEPS):
        file.seek(position)
        sign, kind, length = struct.unpack(">BBH", file.read(4))
        if sign != 0xFF:
            raise NotAnImage
        if kind == 0xFF:  # any number of these may come before a marker
            position += 1
            continue
        end = position + 2 + length
        if length < 2 or kind < 0xC0 or 0xD0 <= kind <= 0xD9:
            raise NotAnImage
        if end > size:
            raise NotAnImage("This image is cut off.")
        if kind == 0xDA:
            if not components:
                raise NotAnImage
            if is_progressive or file.read(1)[0] < components:
                _check_scans(file, position, found.width * found.height, limits)
            found.keep(position, size)
            return _header("JPEG", "image/jpeg", found)
        if kind in _FRAMES_READ:
            if components:
                raise NotAnImage
            _, found.height, found.width, components = struct.unpack(">BHHB", file.read(6))
            is_progressive = kind == 0xC2
            check_limits(found.width, found.height, 1, limits)
            found.keep(position, end)
        elif kind in _FRAMES_REFUSED:
            raise NotAnImage("JPEGs of this kind, which browsers don't show, are not supported.")
        elif kind in _TABLES:
            found.keep(position, end)
        elif 0xE0 <= kind <= 0xEF:
            name = file.read(12)[: length - 2]
            if kind == 0xE1 and name.startswith(b"Exif\0\0") and not has_exif:
                has_exif = True
                file.seek(position + 10)
                found.orientation = read_orientation(file.read(length - 8))
            elif kind == 0xE2 and name == b"ICC_PROFILE\0":
                profile_bytes += length
                if profile_bytes <= MAX_PROFILE_BYTES:
                    found.keep(position, end)
            elif kind == 0xEE and name.startswith(b"Adobe"):  # says how colours are stored
                found.keep(position, end)
        position = end
    raise NotAnImage


def _check_scans(file: BinaryIO, position: int, pixels: int, limits: Limits) -> None:
    file.seek(position)
    scans, last = 0, b""
    while some := file.read(2**20):
        scans += (last + some).count(b"\xff\xda")
        last = some[-1:]
    if scans > MAX_SCANS or scans * pixels > MAX_LARGE_SCANS * limits.max_pixels:
        raise ImageTooLarge(f"A JPEG of this size may not have {scans} scans.")


# --- PNG. See the PNG specification, third edition, section 5. ------------------------------------

_PNG_SIGN = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def _walk_png(file: BinaryIO, size: int, limits: Limits) -> Header:
    """Without the chunks of an animated PNG, whose default image is all that we show."""
    found = _Found()
    found.keep(0, 8)
    position = 8
    for step in range(MAX_STEPS):
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        end = position + 12 + length
        if end > size:
            raise NotAnImage("This image is cut off.")
        if (step == 0) != (kind == b"IHDR"):
            raise NotAnImage
        if kind == b"IHDR":
            found.width, found.height = struct.unpack(">II", file.read(8))
            check_limits(found.width, found.height, 1, limits)
        if kind in _PNG_KEPT or (kind == b"iCCP" and length <= MAX_PROFILE_BYTES):
            found.keep(position, end)
        elif kind == b"eXIf" and length <= MAX_EXIF_BYTES:
            found.orientation = read_orientation(file.read(length))
        if kind == b"IEND":
            return _header("PNG", "image/png", found)
        position = end
    raise NotAnImage


# --- GIF. See GIF89a, Compuserve 1990. ------------------------------------------------------------

_GRAPHIC_CONTROL = 0xF9
_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")


def _walk_gif(file: BinaryIO, size: int, limits: Limits) -> Header:
    file.seek(0)
    data = file.read()
    found = _Found(frames=0)
    found.width, found.height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _palette_bytes(flags)
    found.keep(0, position)
    blocks = 0
    while position < size:  # many a GIF has no trailer
        kind = data[position]
        if kind == 0x3B:
            break
        if kind == 0x21:
            start = position + 2
            keeps = data[position + 1] == _GRAPHIC_CONTROL or (
                data[position + 1] == 0xFF and data[position + 3 : position + 14] in _LOOPS
            )
        elif kind == 0x2C:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, position + 1)
            # A frame that sticks out enlarges the picture.
            found.width = max(found.width, left + width)
            found.height = max(found.height, top + height)
            found.frames += 1
            check_limits(found.width, found.height, found.frames, limits)
            start = position + 11 + _palette_bytes(flags)
            keeps = True
        else:
            raise NotAnImage
        end, blocks = _skip_blocks(data, start, blocks)
        if keeps:
            found.keep(position, end)
        position = end
    if not found.frames:
        raise NotAnImage("This image has no frames.")
    found.pieces.append(b";")
    return _header("GIF", "image/gif", found)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(data: bytes, position: int, blocks: int) -> tuple[int, int]:
    while length := data[position]:
        position += length + 1
        blocks += 1
        if blocks > MAX_BLOCKS:
            raise NotAnImage("This GIF has too many blocks.")
    return position + 1, blocks + 1


# --- WebP. See RFC 9649, section 2. ---------------------------------------------------------------

_WEBP_KEPT = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP")
_HAS_ICC, _HAS_ALPHA, _HAS_ANIMATION = 0x20, 0x10, 0x02


def _walk_webp(file: BinaryIO, size: int, limits: Limits) -> Header:
    """The pieces have their own RIFF header, and a VP8X that names what is left."""
    end = min(size, 8 + struct.unpack("<I", _read_at(file, 4, 4))[0])
    found = _Found(frames=0)
    flags = 0
    canvas = b""
    for kind, start, length in _webp_chunks(file, end):
        stop = start + length + (length & 1)
        if kind == b"VP8X" and start == 20:
            canvas = file.read(10)
            flags = canvas[0] & (_HAS_ALPHA | _HAS_ANIMATION)
            found.width = 1 + int.from_bytes(canvas[4:7], "little")
            found.height = 1 + int.from_bytes(canvas[7:10], "little")
            check_limits(found.width, found.height, 1, limits)
            continue
        if kind in (b"VP8 ", b"VP8L"):
            found.is_lossless = kind == b"VP8L"
            if not canvas:
                found.width, found.height = _frame_size(kind, file.read(10))
        elif kind == b"ANMF":
            found.frames += 1
            check_frames(found.frames, limits)
        elif kind == b"EXIF" and length <= MAX_EXIF_BYTES:
            found.orientation = read_orientation(file.read(length).removeprefix(b"Exif\0\0"))
        elif kind == b"ICCP":
            if not canvas or flags & (_HAS_ANIMATION | _HAS_ICC) or length > MAX_PROFILE_BYTES:
                continue
            flags |= _HAS_ICC
        if kind in _WEBP_KEPT:
            found.keep(start - 8, stop)
    if flags & _HAS_ANIMATION:
        found.orientation = 1  # nobody turns an animation
    found.frames = max(found.frames, 1)
    body = b"WEBP"
    if canvas:
        body += b"VP8X" + struct.pack("<IB", 10, flags) + canvas[1:]
    length = len(body) + sum(map(len, found.pieces))
    found.pieces.insert(0, b"RIFF" + struct.pack("<I", length) + body)
    return _header("WEBP", "image/webp", found)


def _webp_chunks(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the content, length; the file stands at the content."""
    position = 12
    for _ in range(MAX_STEPS):
        if position >= end:
            return
        kind, length = struct.unpack("<4sI", _read_at(file, position, 8))
        if position + 8 + length > end:
            raise NotAnImage("This image is cut off.")
        yield kind, position + 8, length
        position += 8 + length + (length & 1)
    raise NotAnImage


def _frame_size(kind: bytes, start: bytes) -> tuple[int, int]:
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", start, 6)
        return width & 0x3FFF, height & 0x3FFF
    (bits,) = struct.unpack_from("<I", start, 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _read_at(file: BinaryIO, position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)


def _header(name: str, content_type: str, found: _Found) -> Header:
    return Header(
        name,
        content_type,
        found.width,
        found.height,
        found.frames,
        found.orientation,
        tuple(found.pieces),
        found.is_lossless,
    )


# --- AVIF and HEIC: see image_boxes. --------------------------------------------------------------


def _walk_boxes(file: BinaryIO, size: int, limits: Limits) -> Header:
    found = read_boxes(file, size, limits)
    name, content_type = ("AVIF", "image/avif") if found.is_avif else ("HEIC", "image/heic")
    return Header(name, content_type, found.width, found.height, 1, 1, found.pieces)


_WALKS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int, Limits], Header]], ...] = (
    (lambda start: start.startswith(b"\xff\xd8\xff"), _walk_jpeg),
    (lambda start: start.startswith(_PNG_SIGN), _walk_png),
    (lambda start: start.startswith((b"GIF87a", b"GIF89a")), _walk_gif),
    (lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP", _walk_webp),
    (lambda start: start[4:8] == b"ftyp", _walk_boxes),
)

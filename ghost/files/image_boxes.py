"""AVIF and HEIC: pictures in boxes. See ISO/IEC 14496-12, ISO/IEC 23008-12 and AV1's own format.

The size that a box tells is not the one that gets decoded: an AVIF of 1 KiB and 100 x 100 pixels
can hold a frame of 268 megapixels, which its decoder decodes and then scales down. So the sizes in
the AV1 data count as well. For HEIC, libheif holds the two against each other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ghost.files.image_pieces import Piece, PiecesReader
from ghost.files.image_values import ImageTooLarge, Limits, NotAnImage, check_limits

MAX_BOXES = 10_000
MAX_BRANDS_BYTES = 1024
MAX_META_BYTES = 2**20
MAX_UNITS = 1_000  # of AV1 data in one item

_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")


@dataclass(frozen=True, slots=True)
class Boxes:
    """What the boxes say: which of the two formats, the largest size, what a decoder may see."""

    is_avif: bool
    width: int
    height: int
    pieces: tuple[Piece, ...]


def read_boxes(file: BinaryIO, size: int, limits: Limits) -> Boxes:
    """Walk through the boxes of a picture, of which the still one is shown.

    :raises ImageTooLarge: a size, or the sizes of all its parts together, pass a limit.
    :raises NotAnImage: it is of another format, or not built as this one.
    """
    is_avif = None
    meta: range | None = None
    pieces: list[Piece] = []
    for kind, start, content, end in _boxes(file, 0, size):
        if kind == b"ftyp" and is_avif is None:
            if end - content > MAX_BRANDS_BYTES:
                raise NotAnImage
            brands = _read(file, range(content, end))
            is_avif = _is_avif(brands)
            # By its brands, an animated AVIF is a still one.
            pieces += [range(start, content), brands.replace(b"avis", b"avif")]
        elif kind == b"meta" and meta is None:
            meta = range(content + 4, end)
            pieces += [range(start, content + 4), meta]
        else:
            # Nobody reads the tracks and the rest, but their place is kept: offsets are absolute.
            seen = kind if kind == b"mdat" else b"free"
            pieces += [range(start, start + 4), seen, range(start + 8, end)]
    if is_avif is None or meta is None:
        raise NotAnImage
    if len(meta) > MAX_META_BYTES:
        raise ImageTooLarge("This image has more than 1 MiB of metadata.")
    width, height = _largest_size(file, meta, limits)
    if is_avif:
        _check_coded_sizes(file, size, meta, limits)
        # Pillow reads all entries of Exif, whose values may overlap. AVIF is turned by its boxes.
        pieces[pieces.index(meta)] = _read(file, meta).replace(b"Exif", b"skip")
    return Boxes(is_avif, width, height, tuple(pieces))


def _is_avif(brands: bytes) -> bool:
    for position in range(0, len(brands) - 3, 4):
        brand = brands[position : position + 4]
        if brand in _AVIF_BRANDS:
            return True
        if brand in _HEIC_BRANDS:
            return False
    raise NotAnImage("This is no image of a supported format.")


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Kind, start, start of the content and end of each box."""
    for _ in range(MAX_BOXES):
        if start >= end:
            return
        length, kind = struct.unpack(">I4s", _read(file, range(start, start + 8)))
        content = start + 8
        if length == 1:
            (length,) = struct.unpack(">Q", _read(file, range(content, content + 8)))
            content += 8
        stop = start + length if length else end
        if not content <= stop <= end:
            raise NotAnImage("This image is cut off.")
        yield kind, start, content, stop
        start = stop
    raise NotAnImage


def _read(file: BinaryIO, span: range) -> bytes:
    file.seek(span.start)
    return file.read(len(span))


def _find(file: BinaryIO, span: range, *kinds: bytes) -> range | None:
    """The content of the first box of a kind, in the first box of another kind and so on."""
    for kind in kinds:
        found = (
            range(content, end)
            for name, _, content, end in _boxes(file, span.start, span.stop)
            if name == kind
        )
        inside = next(found, None)
        if inside is None:
            return None
        span = inside
    return span


def _largest_size(file: BinaryIO, meta: range, limits: Limits) -> tuple[int, int]:
    properties = _find(file, meta, b"iprp", b"ipco")
    if properties is None:
        raise NotAnImage
    sizes = [(0, 0)]
    for kind, _, content, _ in _boxes(file, properties.start, properties.stop):
        if kind == b"ispe":
            width, height = struct.unpack(">4xII", _read(file, range(content, content + 12)))
            check_limits(width, height, 1, limits)
            sizes.append((width, height))
    return max(sizes, key=lambda size: size[0] * size[1])


def _check_coded_sizes(file: BinaryIO, size: int, meta: range, limits: Limits) -> None:
    """Add up the pixels of all AV1 items: of the picture or its tiles, of alpha, of thumbnails."""
    locations = _read_locations(file, size, meta)
    pixels = 0
    for item in _read_av1_items(file, meta):
        if item not in locations:
            raise NotAnImage
        coded = _coded_pixels(PiecesReader(file, locations[item]))
        pixels += coded
        # Twice, since alpha has as many as the picture.
        if coded > limits.max_pixels or pixels > 2 * limits.max_pixels:
            raise ImageTooLarge(f"An image may have {limits.max_pixels} pixels; this has more.")


def _read_av1_items(file: BinaryIO, meta: range) -> Iterator[int]:
    infos = _find(file, meta, b"iinf")
    if infos is None:
        raise NotAnImage
    version = _read(file, range(infos.start, infos.start + 1))[0]
    first = infos.start + (6 if version == 0 else 8)
    for kind, _, content, end in _boxes(file, first, infos.stop):
        info = _read(file, range(content, min(end, content + 16)))
        if kind != b"infe" or info[0] < 2:
            continue
        item, name = struct.unpack_from(">4xH2x4s" if info[0] == 2 else ">4xI2x4s", info)
        if name == b"av01":
            yield item


def _read_locations(file: BinaryIO, size: int, meta: range) -> dict[int, tuple[Piece, ...]]:
    """Where the data of each item lies. See ISO/IEC 14496-12, section 8.11.3."""
    box = _find(file, meta, b"iloc")
    if box is None:
        raise NotAnImage
    data = _Fields(_read(file, box))
    version = data.take(8)
    data.take(24)
    offset_bits, length_bits, base_bits, index_bits = (data.take(4) * 8 for _ in range(4))
    wide = 32 if version == 2 else 16
    inside = _find(file, meta, b"idat")
    locations: dict[int, tuple[Piece, ...]] = {}
    for _ in range(data.take(wide)):
        item = data.take(wide)
        method = data.take(16) & 15 if version else 0
        data.take(16)
        base = data.take(base_bits)
        within = range(size) if method == 0 else inside
        if method > 1 or within is None:
            raise NotAnImage
        spans: list[Piece] = []
        for _ in range(data.take(16)):
            if version:
                data.take(index_bits)
            start = within.start + base + data.take(offset_bits)
            length = data.take(length_bits) or within.stop - start
            if start + length > within.stop:
                raise NotAnImage("This image is cut off.")
            spans.append(range(start, start + length))
        locations[item] = tuple(spans)
    return locations


def _coded_pixels(item: PiecesReader) -> int:
    """The pixels of the largest frame that AV1 data may have. See AV1, section 5.3."""
    largest = 0
    for _ in range(MAX_UNITS):
        head = item.read(1)
        if not head:
            break
        kind, has_extension, has_length = head[0] >> 3 & 15, head[0] & 4, head[0] & 2
        if has_extension:
            item.read(1)
        length = _read_leb128(item) if has_length else 2**63
        start = item.tell()
        if kind == 1:
            largest = max(largest, _sequence_pixels(_Fields(item.read(min(length, 1024)))))
        if not has_length:
            break
        item.seek(start + length)
    else:
        raise NotAnImage
    if not largest:
        raise NotAnImage
    return largest


def _sequence_pixels(data: _Fields) -> int:
    """The size in a sequence header. See AV1, section 5.5.1."""
    data.take(3 + 1)
    is_reduced = data.take(1)
    if is_reduced:
        data.take(5)
    else:
        _skip_operating_points(data)
    width_bits, height_bits = data.take(4) + 1, data.take(4) + 1
    width, height = data.take(width_bits) + 1, data.take(height_bits) + 1
    # Where a frame may state its own size, it can be what those bits hold: an encoder that takes
    # no more of them than it needs stays within four times the size.
    most = 1 << width_bits + height_bits
    return width * height if is_reduced else max(width * height, most // 4)


def _skip_operating_points(data: _Fields) -> None:
    delay_bits = 0
    if data.take(1):  # timing
        data.take(64)
        if data.take(1):
            zeros = 0
            while zeros < 32 and not data.take(1):
                zeros += 1
            data.take(zeros)
        if data.take(1):  # a model of the decoder
            delay_bits = data.take(5) + 1
            data.take(32 + 5 + 5)
    has_delay = data.take(1)
    for _ in range(data.take(5) + 1):
        data.take(12)
        if data.take(5) > 7:
            data.take(1)
        if delay_bits and data.take(1):
            data.take(2 * delay_bits + 1)
        if has_delay and data.take(1):
            data.take(4)


def _read_leb128(item: PiecesReader) -> int:
    value = 0
    for place in range(8):
        byte = item.read(1)[0]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            break
    return value


class _Fields:
    """Bytes, read as numbers of some bits."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, bits: int) -> int:
        """Read the next number, of no bits at all perhaps.

        :raises IndexError: there are not as many left.
        """
        end = self._position + bits
        if end > 8 * len(self._data):
            raise IndexError
        first, last = self._position // 8, -(-end // 8)
        value = int.from_bytes(self._data[first:last], "big") >> 8 * last - end
        self._position = end
        return value & (1 << bits) - 1

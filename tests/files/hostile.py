"""Files that were made to hurt: bombs, cut, glued, renamed and mutated pictures."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pillow_heif
from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIC")

# 1,000 entries of Exif, each of which claims the same 60 KB as its value.
GREEDY_EXIF = (
    b"MM\0*\0\0\0\x08"
    + struct.pack(">H", 1000)
    + b"".join(struct.pack(">HHII", 0x9000 + n, 7, 60_000, 8) for n in range(1000))
).ljust(65_000, b"\0")


def picture(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    """A picture whose corners and rows differ."""
    grey = Image.linear_gradient("L").resize((width, height))
    image = Image.merge(
        "RGB", (grey, grey.transpose(Image.Transpose.FLIP_TOP_BOTTOM), grey.rotate(180))
    )
    return image.convert(mode)


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    """A picture's bytes in a format, HEIC included."""
    target = BytesIO()
    if name == "HEIC":
        pillow_heif.from_pillow(image).save(target, **options)
    else:
        image.save(target, name, **options)
    return target.getvalue()


def animation(name: str, frames: int, size: tuple[int, int] = (60, 40), **options: Any) -> bytes:
    images = [Image.new("RGB", size, (n * 50 % 256, n // 5 % 256, 99)) for n in range(frames)]
    if name == "WEBP":
        options.setdefault("lossless", True)  # else frames that look the same become one
    return encode(
        images[0], name, save_all=True, append_images=images[1:], duration=20, loop=0, **options
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width: int, height: int, *chunks: bytes, colour: int = 2, rows: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + data + chunk(b"IEND", b"")
    )


def segment(kind: int, content: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content


def jpeg_with(*segments: bytes, **options: Any) -> bytes:
    data = encode(picture(), "JPEG", **options)
    return data[:2] + b"".join(segments) + data[2:]


def resized_jpeg(data: bytes, width: int, height: int) -> bytes:
    """A JPEG that claims another size."""
    place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) & 1)
        for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + size


def many_scans(size: int, scans: int) -> bytes:
    """A progressive JPEG that passes over its pixels again and again."""
    data = encode(Image.new("L", (size, size), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def lying_avif(size: int) -> bytes:
    """An AVIF whose boxes tell 100 x 100 pixels, and whose AV1 data has many more."""
    data = encode(Image.new("RGB", (size, size), (200, 30, 30)), "AVIF", speed=10)
    told = b"ispe\0\0\0\0" + struct.pack(">II", size, size)
    return data.replace(told, b"ispe\0\0\0\0" + struct.pack(">II", 100, 100))


def refused() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of files none of which may be taken for a picture."""
    zeros = zlib.compress(b"\0" * 50 * 2**20)
    yield "PNG of 144 megapixels", png(12_000, 12_000, rows=b"\0" * (12_000 * 36_001))
    yield "PNG of 2**31 columns", png(2**31 - 1, 1, rows=b"\0" * 100)
    yield "PNG of no rows", png(10, 0)
    yield "PNG of 49 megapixels that stop at once", png(7_000, 7_000, rows=b"\0" * 100)
    yield "PNG with filter 9", png(2, 2, rows=b"\t\0\0\0\0\0\0" * 2)
    yield "PNG with a wrong checksum", encode(picture(), "PNG").replace(b"IDATx", b"IDATy")
    yield "PNG of two heads", png(2, 2, chunk(b"IHDR", b"\0" * 13), rows=b"\0" * 14)
    yield "PNG of empty chunks", png(2, 2, chunk(b"teXt", b"") * 200_000, rows=b"\0" * 14)
    yield "PNG of empty data", png(2, 2, chunk(b"IDAT", b"") * 200_000, rows=b"\0" * 14)
    yield "PNG with a bomb as profile", png(2, 2, chunk(b"iCCP", b"a\0\0" + zeros), rows=b"\0" * 14)

    yield "JPEG of 60 kilopixels squared", resized_jpeg(encode(picture(), "JPEG"), 60_000, 60_000)
    yield "JPEG of no rows", resized_jpeg(encode(picture(), "JPEG"), 60, 0)
    yield "JPEG of 500 scans", many_scans(400, 500)
    yield "JPEG of 49 megapixels and 20 scans", many_scans(7_000, 20)
    yield "JPEG of a million segments", jpeg_with(segment(0xEF, b"") * 1_000_000)
    yield "JPEG with 20 MiB of nothing", jpeg_with(b"\0" * 20 * 2**20)
    yield "JPEG with 20 MiB of fill bytes", jpeg_with(b"\xff" * 20 * 2**20)
    yield "JPEG with arithmetic coding", encode(picture(), "JPEG").replace(b"\xff\xc0", b"\xff\xc9")
    yield "JPEG of two frames", jpeg_with(segment(0xC0, b"\x08\0\x09\0\x09\1\1\x11\0"))

    gif = encode(picture().quantize(), "GIF")
    head = gif[: 13 + (3 << (gif[10] & 7) + 1)]
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    yield "GIF of a million frames", head + frame * 1_000_000 + b";"
    yield (
        "GIF of 400 large frames",
        head[:6] + struct.pack("<HH", 5_000, 5_000) + head[10:] + (frame * 400) + b";",
    )
    yield "GIF of 4 gigapixels", head[:6] + b"\xff\xff\xff\xff" + head[10:] + frame + b";"
    yield "GIF with a frame of 4 gigapixels", head + b"," + b"\xff" * 8 + b"\0\x02\x02\x44\x01\0;"
    yield (
        "GIF of ten million blocks",
        head + b"!\xfe" + b"\x01a" * 10_000_000 + b"\0" + frame + b";",
    )
    yield "GIF of no frames", head + b";"

    still = encode(picture(), "WEBP", lossless=True)
    yield "WebP of 268 megapixels", riff(webp_canvas(16_384, 16_384), (b"VP8L", still[20:]))
    yield "WebP of 2**48 pixels", riff(webp_canvas(2**24, 2**24), (b"VP8L", still[20:]))
    yield "WebP of a million chunks", riff(*[(b"abcd", b"")] * 1_000_000)
    yield "WebP of 1,000 frames", animation("WEBP", 1_000, (2, 2))
    yield "WebP with a frame beyond its canvas", riff(webp_canvas(2, 2), (b"VP8L", still[20:]))

    yield "AVIF that lies about 144 megapixels", lying_avif(12_000)
    yield "AVIF of a million boxes", encode(picture(), "AVIF") + b"\0\0\0\x08free" * 1_000_000
    yield (
        "HEIC with 20 MiB of metadata",
        b"\0\0\0\x10ftypheic\0\0\0\0"
        + struct.pack(">I4s", 20 * 2**20 + 12, b"meta")
        + b"\0" * (20 * 2**20 + 4),
    )

    for name in FORMATS:
        whole = encode(picture(200, 200), name)
        yield f"{name} cut after 12 bytes", whole[:12]
        yield f"{name} cut in the middle", whole[: len(whole) // 2]
        yield f"{name} cut near its end", whole[:-40]

    yield "nothing", b""
    yield "GIF89a alone", b"GIF89a"
    yield "HTML that says GIF89a", b"GIF89a<script>alert(1)</script>" + b" " * 100
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "PDF", b"%PDF-1.7\n" + b" " * 100
    yield "ZIP", b"PK\x03\x04" + b"\0" * 100
    yield "BMP", encode(picture(), "BMP")
    yield "TIFF", encode(picture(), "TIFF")
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n"
    yield "an MP4", b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + b"\0" * 100
    yield "a JPEG's head on a PNG", b"\xff\xd8\xff\xe0" + encode(picture(), "PNG")[4:]
    yield "a PNG's head on a JPEG", b"\x89PNG\r\n\x1a\n" + encode(picture(), "JPEG")


def harmless() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of pictures whose bad parts can be left out."""
    text = zlib.compress(b"\0" * 50 * 2**20)
    row = b"\0" * 14
    yield "PNG with a text of 50 MiB", png(2, 2, chunk(b"zTXt", b"a\0\0" + text), rows=row)
    yield (
        "PNG with 500 such texts",
        png(2, 2, chunk(b"iTXt", b"a\0\x01\0\0\0" + text) * 500, rows=row),
    )
    yield "PNG with greedy Exif", png(2, 2, chunk(b"eXIf", GREEDY_EXIF), rows=row)
    yield "PNG whose data is a bomb", png(2, 2, rows=b"\0" * 100 * 2**20)
    yield (
        "JPEG with 700 parts of Exif",
        jpeg_with(segment(0xE1, b"Exif\0\0" + b"\0" * 65_000) * 700),
    )
    yield "JPEG with greedy Exif", jpeg_with(segment(0xE1, b"Exif\0\0" + GREEDY_EXIF))
    yield "JPEG with a broken profile", jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\1" + b"x" * 999))
    yield "AVIF with greedy Exif", encode(picture(), "AVIF", exif=b"Exif\0\0" + GREEDY_EXIF)
    yield "HEIC with greedy Exif", encode(picture(), "HEIC", exif=b"Exif\0\0" + GREEDY_EXIF)
    for name in FORMATS:
        image = encode(picture(), name)
        if name not in ("AVIF", "HEIC"):  # where bytes of no box are an error
            yield f"{name} with a ZIP behind it", image + SMUGGLED
            yield f"{name} with HTML behind it", image + b"<html>" + SMUGGLED
    yield "JPEG with HTML in a comment", jpeg_with(segment(0xFE, SMUGGLED))
    yield "GIF with HTML in a comment", animation("GIF", 3, comment=SMUGGLED)
    yield "PNG with HTML as text", png(2, 2, chunk(b"tEXt", b"a\0" + SMUGGLED), rows=row)


SMUGGLED = b"PK\x03\x04<script>alert('smuggled')</script>"


def mutations(name: str, count: int) -> Iterator[bytes]:
    """One picture, damaged in another way each time; the same ways in every run."""
    source = encode(picture(64, 48), name)
    if name in ("GIF", "WEBP"):
        source = animation(name, 4)
    chance = random.Random(name)
    for _ in range(count):
        data = bytearray(source)
        for _ in range(chance.choice((1, 1, 2, 5, 20))):
            # The head is where most of what can be broken lies.
            place = chance.randrange(min(len(data), chance.choice((40, 400, 10**9))))
            way = chance.randrange(5)
            if way == 0:
                data[place] ^= 1 << chance.randrange(8)
            elif way == 1:
                data[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            elif way == 2:
                del data[place : place + chance.randrange(1, 30)]
            elif way == 3:
                data[place:place] = chance.randbytes(chance.randrange(1, 30))
            else:
                data[place : place + 4] = struct.pack(">I", chance.choice((0, 2**31, 2**32 - 1)))
            if len(data) < 2:
                break
        yield bytes(data)

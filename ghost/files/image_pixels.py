"""Decoding, scaling and encoding with Pillow; `images` loads this module when it is first used.

Memory is what counts here: Pillow keeps 4 bytes for each pixel of a colour picture, so that one of
50 megapixels has 200 MB, and each copy as much again.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO

from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from ghost.errors import GhostError
from ghost.files.image_headers import Header, read_orientation
from ghost.files.image_pieces import PiecesReader
from ghost.files.image_values import (
    ImageInfo,
    ImageTooLarge,
    Limits,
    NotAnImage,
    OutOfMemory,
    Picture,
    Variant,
    check_limits,
)

# Our own limits are checked first; what passes them and alarms Pillow is an error all the same.
warnings.simplefilter("error", Image.DecompressionBombWarning)
# One thread for a picture: the processes that serve and work are as many as the processors.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# By name and not by Image.open: it would take a JPEG with a second picture inside for an MPO.
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}

# By the value of Exif's orientation: what turns the stored picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_VARIANT_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "image/avif": ("AVIF", {"quality": 60, "speed": 8}),
    "image/jpeg": ("JPEG", {"quality": 85}),
    "image/webp": ("WEBP", {"quality": 80}),
}


def inspect(file: BinaryIO, header: Header, limits: Limits) -> ImageInfo:
    """See `images.inspect`."""
    with _refusing(), _opened(file, header, limits) as (image, header):
        if header.format == "PNG" and not image.info.get("interlace"):
            _inflate(file, header, image)
        else:
            # An eighth of a JPEG costs a 64th of the memory, and its data is read all the same.
            image.draft("L", (1, 1))
            image.load()
        return header.info


def make_variant(
    file: BinaryIO, header: Header, variant: Variant, content_type: str, limits: Limits
) -> Picture:
    """See `images.make_variant`."""
    name, options = _VARIANT_OPTIONS[content_type]
    if variant.quality is not None:
        options = options | {"quality": variant.quality}
    with _refusing(), _opened(file, header, limits) as (opened, header):
        image = _scale(opened, header.orientation, variant)
    with _refusing():
        image = _turn(_to_srgb(image, opened.info.get("icc_profile")), header.orientation)
        if name == "JPEG":
            image = _flatten(image)
        content = _encode(image, name, options)
    return Picture(content, ImageInfo(name, content_type, *image.size))


def strip(file: BinaryIO, header: Header, limits: Limits) -> Picture:
    """See `images.strip`."""
    with _refusing(), _opened(file, header, limits) as (opened, header):
        if header.frames > 1:
            for number in range(header.frames):
                opened.seek(number)
                opened.load()
            return Picture(PiecesReader(file, header.pieces).read(), header.info)
        opened.load()
        options = _keep_options(opened, header)
        profile = opened.info.get("icc_profile")
        image = _turn(_to_srgb(opened, profile), header.orientation)
        if header.format == "JPEG" and image.mode != opened.mode:
            options = {"quality": 90}  # its tables are for other colours
        content = _encode(image, header.format, options)
    return Picture(content, header.info)


@contextmanager
def _refusing() -> Iterator[None]:
    """Make whatever a decoder says of a file an error that its sender understands."""
    try:
        yield
    except GhostError:
        raise
    except MemoryError as error:
        raise OutOfMemory from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge from error
    # Decoders meet hostile bytes: OSError, SyntaxError, ValueError, struct.error, IndexError,
    # zlib.error, EOFError, KeyError, OverflowError and RuntimeError have all been seen.
    except Exception as error:
        raise NotAnImage from error


@contextmanager
def _opened(
    file: BinaryIO, header: Header, limits: Limits
) -> Iterator[tuple[ImageFile.ImageFile, Header]]:
    """Open a picture with the decoder of its format, which reads the header only."""
    reader = PiecesReader(file, header.pieces)
    with _decoder(header.format)(reader) as image:
        # Where decoder and walk disagree, it is the decoder's that gets decoded.
        check_limits(image.width, image.height, header.frames, limits)
        header = replace(header, width=image.width, height=image.height)
        if header.format == "AVIF":  # Pillow makes Exif of how its boxes turn it
            exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
            header = replace(header, orientation=read_orientation(exif))
        yield image, header


def _decoder(name: str) -> Any:
    if name == "HEIC":
        if find_spec("pillow_heif") is None:
            raise NotAnImage("HEIC images are not supported here.")
        return import_module("pillow_heif.as_plugin").HeifImageFile
    return _DECODERS[name]


def _inflate(file: BinaryIO, header: Header, image: Image.Image) -> None:
    """Inflate the rows of a PNG piece by piece, and look at the filter of each.

    As much as Pillow would check, in 1 MiB instead of 200.

    :raises NotAnImage: they end too early, or have a filter that does not exist.
    """
    reader = PiecesReader(file, header.pieces)
    bits, colour = reader.read(26)[24:26]
    row_bytes = 1 + (image.width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] + 7) // 8
    left = row_bytes * image.height
    to_filter = 0  # bytes from here to the next row's first one
    inflater = zlib.decompressobj()
    for data in _read_idat(reader):
        while data and left > 0 and not inflater.eof:
            some = inflater.decompress(data, min(left, 2**20))
            data = inflater.unconsumed_tail
            if some[to_filter::row_bytes].translate(None, b"\0\1\2\3\4"):
                raise NotAnImage
            to_filter = (to_filter - len(some)) % row_bytes
            left -= len(some)
            if not some and not data:
                break
    if left > 0:
        raise NotAnImage("This image is cut off.")


def _read_idat(reader: PiecesReader) -> Iterator[bytes]:
    """The compressed data, in order, whose checksums are right."""
    reader.seek(8)
    while True:
        length, kind = int.from_bytes(reader.read(4), "big"), reader.read(4)
        checksum = zlib.crc32(kind)
        while length > 0:
            some = reader.read(min(length, 2**16))
            checksum = zlib.crc32(some, checksum)
            length -= len(some)
            if kind == b"IDAT":
                yield some
        if int.from_bytes(reader.read(4), "big") != checksum:
            raise NotAnImage
        if kind == b"IEND":
            return


def _scale(image: ImageFile.ImageFile, orientation: int, variant: Variant) -> Image.Image:
    """Decode a picture at the size of a variant, or at its own if that is smaller."""
    width, height = image.size
    wanted = (variant.width, variant.height)
    wanted_width, wanted_height = reversed(wanted) if orientation >= 5 else wanted
    # What is cut out of the picture, and how large that gets.
    if variant.fit == "cover":
        cut_width = min(width, height * wanted_width / wanted_height)
        cut_height = min(height, width * wanted_height / wanted_width)
    else:
        cut_width, cut_height = width, height
    factor = min(1, wanted_width / cut_width, wanted_height / cut_height)
    size = max(1, round(cut_width * factor)), max(1, round(cut_height * factor))

    # A JPEG is decoded at 1/2, 1/4 or 1/8, as long as that is no smaller than what is wanted.
    image.draft("RGB", (max(1, int(width * factor)), max(1, int(height * factor))))
    image.load()
    across, down = image.width / width, image.height / height
    left, top = (width - cut_width) / 2 * across, (height - cut_height) / 2 * down
    box = (
        left,
        top,
        min(image.width, left + cut_width * across),
        min(image.height, top + cut_height * down),
    )
    plain = _plain(image)
    return plain.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=2.0)


def _plain(image: Image.Image) -> Image.Image:
    """Give a picture a mode that can be scaled: L, LA, RGB, RGBA or CMYK."""
    if image.has_transparency_data:
        return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    if image.mode.startswith("I"):
        # 16 bits; converted as it is, all but the darkest would be white.
        return image.point(lambda value: value * (1 / 256)).convert("L")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a picture's colours to sRGB, by its profile if that is any good.

    Greys stay as they are.
    """
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        try:
            return _convert(image, profile)
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass  # a broken profile, or one for other colours
    return image.convert("RGB") if image.mode == "CMYK" else image


def _convert(image: Image.Image, profile: bytes) -> Image.Image:
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), outputMode=mode
    )
    return converted or image  # None would be the answer of one that works in place


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _flatten(image: Image.Image) -> Image.Image:
    """Put what is transparent on white."""
    if image.mode not in ("LA", "RGBA"):
        return image
    opaque = Image.new("RGB", image.size, "white")
    opaque.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return opaque


def _keep_options(image: ImageFile.ImageFile, header: Header) -> dict[str, Any]:
    """How to encode a picture again with as little loss as its format allows."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return {
            "qtables": image.quantization,
            "subsampling": JpegImagePlugin.get_sampling(image),
            "progressive": bool(image.info.get("progressive")),
        }
    if header.format == "WEBP":
        # Without loss, quality is how hard the encoder tries.
        quality = 50 if header.is_lossless else 90
        return {"lossless": header.is_lossless, "quality": quality, "method": 2}
    if header.format in ("PNG", "GIF"):
        # Of a photograph, level 4 takes half the time of Pillow's 6 and gives as few bytes.
        options: dict[str, Any] = {"compress_level": 4} if header.format == "PNG" else {}
        if "transparency" in image.info:
            options["transparency"] = image.info["transparency"]
        return options
    if header.format == "AVIF":
        return {"quality": 80, "speed": 10}
    if header.format == "HEIC":  # its default preset takes eight times as long
        return {"quality": 85, "enc_params": {"preset": "ultrafast"}}
    return {}


def _encode(image: Image.Image, name: str, options: dict[str, Any]) -> bytes:
    # Some encoders write what they find here: comments, profiles.
    image.info = {}
    target = BytesIO()
    if name == "HEIC":
        import_module("pillow_heif").from_pillow(image).save(target, **options)
        return target.getvalue()
    image.save(target, name, **options)
    return target.getvalue()

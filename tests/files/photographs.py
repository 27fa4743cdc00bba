"""Photographs as telephones make them, and what is looked for in what becomes of them."""

from __future__ import annotations

from io import BytesIO

import pillow_heif
from hostile import encode
from PIL import Image, ImageCms, ImageOps

CORNERS = {"red": (0, 0), "lime": (1, 0), "blue": (0, 1), "white": (1, 1)}
COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}


def open_picture(content: bytes) -> Image.Image:
    if content[4:12] == b"ftypheic":
        return pillow_heif.open_heif(BytesIO(content)).to_pillow()
    return Image.open(BytesIO(content))


def corners_of(image: Image.Image) -> dict[str, tuple[int, ...]]:
    """The colour in the middle of each quarter, by the name of the one that belongs there."""
    colours = image.convert("RGB")
    return {
        name: colours.getpixel(
            (round(image.width * (1 + 2 * x) / 4), round(image.height * (1 + 2 * y) / 4))
        )
        for name, (x, y) in CORNERS.items()
    }


def is_upright(image: Image.Image) -> bool:
    return all(
        abs(value - wanted) < 60
        for name, colour in corners_of(image).items()
        for value, wanted in zip(colour, COLOURS[name], strict=True)
    )


def photo(name: str, orientation: int = 1, size: tuple[int, int] = (240, 160)) -> bytes:
    """A photograph of four colours, stored turned, with all that a telephone adds."""
    upright = Image.new("RGB", size)
    for colour, (x, y) in CORNERS.items():
        half = (size[0] // 2, size[1] // 2)
        upright.paste(Image.new("RGB", half, COLOURS[colour]), (x * half[0], y * half[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)})
    # The turn that the orientation will take back.
    back = Image.Exif()
    back[0x0112] = {6: 8, 8: 6}.get(orientation, orientation)
    upright.info["exif"] = back.tobytes()
    stored = ImageOps.exif_transpose(upright)
    stored.info.clear()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">SecretPlace</x:xmpmeta>'
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {"exif": exif.tobytes(), "xmp": xmp, "icc_profile": profile}
    if name == "JPEG":
        options |= {"comment": b"SecretComment", "quality": 95}
    if name == "PNG":
        del options["xmp"]
    return encode(stored, name, **options)


def assert_bare(content: bytes) -> None:
    """Hold bytes and decoded information against what a photograph brings along."""
    for word in (b"Secret", b"xmpmeta", b"GPS", b"acsp", b"Exif\0\0MM", b"Exif\0\0II"):
        assert word not in content
    image = open_picture(content)
    assert not dict(image.getexif())
    assert not {"xmp", "comment", "icc_profile"} & {
        key for key, value in image.info.items() if value
    }

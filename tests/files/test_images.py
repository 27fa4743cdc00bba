"""What pictures are, their variants, and what is taken off them."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO

import pytest
from hostile import FORMATS, SMUGGLED, animation, encode, picture
from photographs import assert_bare, is_upright, open_picture, photo
from PIL import Image, ImageCms

from ghost.files.images import (
    VARIANT_TYPES,
    ImageInfo,
    ImageTooLarge,
    Limits,
    NotAnImage,
    Variant,
    choose_content_type,
    inspect,
    make_variant,
    strip,
)

pytestmark = pytest.mark.unit

LIMITS = Limits()
TURNED = [name for name in FORMATS if name != "GIF"]  # which has no orientation


@pytest.mark.parametrize("name", FORMATS)
def test_a_picture_is_known_by_its_content(name):
    info = inspect(BytesIO(encode(picture(60, 40), name)), LIMITS)

    assert info == ImageInfo(name, f"image/{name.lower()}", 60, 40, 1)


@pytest.mark.parametrize("name", ["GIF", "WEBP"])
def test_the_frames_of_an_animation_are_counted(name):
    assert inspect(BytesIO(animation(name, 7)), LIMITS).frames == 7


@pytest.mark.parametrize("name", TURNED)
def test_the_size_is_that_of_the_upright_picture(name):
    info = inspect(BytesIO(photo(name, 6)), LIMITS)

    assert (info.width, info.height) == (240, 160)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "limits",
    [Limits(max_bytes=100), Limits(max_pixels=500)],
    ids=["bytes", "pixels"],
)
def test_a_picture_beyond_a_limit_is_too_large(name, limits):
    file = BytesIO(encode(picture(60, 40), name))

    for use in (
        lambda: inspect(file, limits),
        lambda: strip(file, limits),
        lambda: make_variant(file, Variant("thumb", 8, 8), "image/jpeg", limits),
    ):
        with pytest.raises(ImageTooLarge):
            use()


@pytest.mark.parametrize("name", ["GIF", "WEBP"])
@pytest.mark.parametrize(
    "limits",
    [Limits(max_frames=4), Limits(max_frame_pixels=4 * 60 * 40)],
    ids=["frames", "frames x pixels"],
)
def test_an_animation_beyond_a_limit_is_too_large(name, limits):
    with pytest.raises(ImageTooLarge):
        inspect(BytesIO(animation(name, 5)), limits)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("content_type", VARIANT_TYPES)
@pytest.mark.parametrize("name", TURNED)
def test_a_variant_is_upright_and_bare(name, content_type, orientation):
    made = make_variant(
        BytesIO(photo(name, orientation)), Variant("small", 120, 120), content_type, LIMITS
    )

    image = open_picture(made.content)
    assert image.size == (120, 80) == (made.info.width, made.info.height)
    assert image.get_format_mimetype() == content_type == made.info.content_type
    assert is_upright(image)
    assert_bare(made.content)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", TURNED)
def test_a_stripped_picture_is_upright_and_bare(name, orientation):
    made = strip(BytesIO(photo(name, orientation)), LIMITS)

    assert is_upright(open_picture(made.content))
    assert_bare(made.content)
    assert made.info == inspect(BytesIO(made.content), LIMITS)
    assert made.info == ImageInfo(name, f"image/{name.lower()}", 240, 160, 1)


def test_a_stripped_jpeg_looks_the_same():
    source = encode(picture(240, 160), "JPEG", quality=90)

    made = strip(BytesIO(source), LIMITS).content

    before, after = open_picture(source), open_picture(made)
    assert after.quantization == before.quantization
    differences = zip(before.tobytes(), after.tobytes(), strict=True)
    assert max(abs(one - other) for one, other in differences) <= 4


@pytest.mark.parametrize("name", ["GIF", "WEBP"])
def test_a_stripped_animation_keeps_its_frames_and_times(name):
    extra = (
        {"comment": SMUGGLED} if name == "GIF" else {"xmp": SMUGGLED, "exif": b"II*\0" + SMUGGLED}
    )
    source = animation(name, 5, **extra)

    made = strip(BytesIO(source + SMUGGLED), LIMITS)

    assert SMUGGLED in source
    assert SMUGGLED not in made.content
    before, after = open_picture(source), open_picture(made.content)
    assert after.n_frames == made.info.frames == 5
    for number in range(5):
        before.seek(number)
        after.seek(number)
        assert after.convert("RGB").tobytes() == before.convert("RGB").tobytes()
        assert after.info["duration"] == before.info["duration"]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_smuggled_along_is_left_behind(name):
    if name in ("AVIF", "HEIC"):
        source = encode(picture(), name) + len(SMUGGLED + b"12345678").to_bytes(4, "big") + b"free"
    else:
        source = encode(picture(), name)
    file = BytesIO(source + SMUGGLED)

    assert SMUGGLED not in strip(file, LIMITS).content


@pytest.mark.parametrize(
    ("fit", "wanted", "size"),
    [
        ("inside", (100, 100), (100, 50)),
        ("inside", (1000, 20), (40, 20)),
        ("inside", (1000, 1000), (400, 200)),
        ("inside", (1, 1), (1, 1)),
        ("cover", (100, 100), (100, 100)),
        ("cover", (20, 180), (20, 180)),
        ("cover", (1000, 1000), (200, 200)),
        ("cover", (800, 100), (400, 50)),
    ],
)
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_a_variant_fits_and_is_never_enlarged(name, fit, wanted, size):
    file = BytesIO(encode(picture(400, 200), name))

    made = make_variant(file, Variant("some", *wanted, fit), "image/jpeg", LIMITS)

    assert (made.info.width, made.info.height) == size == open_picture(made.content).size


def test_covering_cuts_off_both_sides_evenly():
    image = Image.new("RGB", (300, 100), "blue")
    image.paste(Image.new("RGB", (100, 100), "red"), (100, 0))

    made = make_variant(
        BytesIO(encode(image, "PNG")), Variant("thumb", 50, 50, "cover"), "image/webp", LIMITS
    )

    small = open_picture(made.content).convert("RGB")
    for place in ((4, 25), (45, 25), (25, 4), (25, 45)):
        red, _, blue = small.getpixel(place)
        assert red > 200 > 60 > blue


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("content_type", VARIANT_TYPES)
def test_every_kind_of_colours_comes_out_right(mode, content_type):
    grey = Image.new("RGB", (64, 64), (180, 180, 180))
    image = Image.new("I;16", (64, 64), 180 * 257) if mode == "I;16" else grey.convert(mode)
    wanted = 255 if mode == "1" else 180  # dithered: looked at where white is likely
    if mode == "1":
        image = Image.new("1", (64, 64), 1)
    file = BytesIO(encode(image, "JPEG" if mode == "CMYK" else "PNG"))

    made = make_variant(file, Variant("small", 16, 16), content_type, LIMITS)

    red, green, blue = open_picture(made.content).convert("RGB").getpixel((8, 8))
    assert max(abs(red - wanted), abs(green - wanted), abs(blue - wanted)) < 6


def test_transparency_is_kept_but_in_a_jpeg_where_it_gets_white():
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    file = BytesIO(encode(image, "PNG"))
    variant = Variant("small", 16, 16)

    webp = make_variant(file, variant, "image/webp", LIMITS).content
    jpeg = make_variant(file, variant, "image/jpeg", LIMITS).content

    assert open_picture(webp).getpixel((8, 8))[3] == 0
    assert min(open_picture(jpeg).getpixel((8, 8))) > 250


@pytest.mark.parametrize("name", ["GIF", "PNG"])
def test_a_stripped_palette_keeps_what_is_transparent(name):
    image = picture(16, 16).quantize(8)
    place = image.getpixel((3, 3))
    file = BytesIO(encode(image, name, transparency=place))

    made = open_picture(strip(file, LIMITS).content).convert("RGBA")

    assert made.getpixel((3, 3))[3] == 0
    assert made.getextrema()[3] == (0, 255)


def test_colours_of_another_profile_are_converted():
    red = Image.new("RGB", (32, 32), (255, 0, 0))
    file = BytesIO(encode(red, "PNG", icc_profile=swapped_profile()))

    variant = make_variant(file, Variant("small", 16, 16), "image/webp", LIMITS)

    red, green, _ = open_picture(variant.content).convert("RGB").getpixel((8, 8))
    assert green > 200 > 60 > red


def swapped_profile() -> bytes:
    """The profile of sRGB with its red and its green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"~~~~").replace(b"gXYZ", b"rXYZ").replace(b"~~~~", b"gXYZ")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "image/avif"),
        ("image/webp,*/*", "image/webp"),
        ("IMAGE/WEBP", "image/webp"),
        ("image/avif;q=0.5, image/webp", "image/webp"),
        ("image/webp;q=0.5, image/jpeg", "image/jpeg"),
        ("image/webp;q=0, */*", "image/jpeg"),
        ("*/*", "image/jpeg"),
        ("image/*", "image/jpeg"),
        ("text/html", "image/jpeg"),
        ("", "image/jpeg"),
        (None, "image/jpeg"),
        (";;q=,,=", "image/jpeg"),
    ],
)
def test_the_type_of_a_variant_is_what_the_client_names(accept, chosen):
    assert choose_content_type(accept) == chosen


def test_the_type_of_a_variant_is_one_of_those_offered():
    accept = "image/avif,image/webp"

    assert choose_content_type(accept, ("image/webp", "image/jpeg")) == "image/webp"


def test_heic_needs_its_extra(monkeypatch):
    file = BytesIO(encode(picture(), "HEIC"))
    inspect(file, LIMITS)
    monkeypatch.setattr("ghost.files.image_pixels.find_spec", lambda name: None)

    with pytest.raises(NotAnImage, match="not supported here"):
        inspect(file, LIMITS)


def test_pillow_is_loaded_by_the_first_picture_only():
    code = "import sys; import ghost.files.images; sys.exit('PIL' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

"""What is said of pictures: limits, sizes, the two ways to refuse one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ghost.errors import PayloadTooLarge, ServiceUnavailable, UnsupportedMediaType


class NotAnImage(UnsupportedMediaType):
    """The bytes are no picture of an allowed format, or a damaged one."""

    message = "This is no image of a supported format, or it is damaged."


class ImageTooLarge(PayloadTooLarge):
    """A picture passes a limit; the message says which."""

    message = "This image is too large."


class OutOfMemory(ServiceUnavailable):
    """The machine had no memory for a picture, which says nothing about the picture."""

    message = "Images can't be worked on at the moment. Please try again shortly."


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one picture may ask of us; checked before anything is decoded.

    :param max_pixels: width x height; half of it for WebP and AVIF, which take more memory.
    :param max_frame_pixels: frames x width x height of an animation.
    """

    max_bytes: int = 50 * 2**20
    max_pixels: int = 50_000_000
    max_frames: int = 500
    max_frame_pixels: int = 200_000_000


@dataclass(frozen=True, slots=True)
class Variant:
    """A smaller copy, in pixels; a picture is never enlarged.

    :param fit: "inside" keeps the whole picture, within width and height; "cover" fills both, and
        cuts off evenly what sticks out.
    :param quality: 1 to 100 in the measure of the format; None is a good one for each.
    """

    name: str
    width: int
    height: int
    fit: Literal["cover", "inside"] = "inside"
    quality: int | None = None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a picture is.

    :param format: JPEG, PNG, GIF, WEBP, AVIF or HEIC.
    :param width: in pixels, as it is seen: upright.
    :param height: likewise.
    :param frames: how many will be shown; 1 for an animated PNG or AVIF, of which we show one.
    """

    format: str
    content_type: str
    width: int
    height: int
    frames: int = 1


@dataclass(frozen=True, slots=True)
class Picture:
    """The bytes of a picture that was made here, and what it is."""

    content: bytes
    info: ImageInfo


def check_limits(width: int, height: int, frames: int, limits: Limits) -> None:
    """Refuse a picture of too many pixels or frames.

    :raises ImageTooLarge: it passes a limit.
    :raises NotAnImage: it has no pixels.
    """
    pixels = width * height
    if pixels < 1:
        raise NotAnImage("This image has no pixels.")
    if pixels > limits.max_pixels:
        raise ImageTooLarge(
            f"An image may have {limits.max_pixels} pixels; this one has {width} x {height}."
        )
    check_frames(frames, limits)
    if frames > 1 and frames * pixels > limits.max_frame_pixels:
        raise ImageTooLarge(
            f"An animation may have {limits.max_frame_pixels} pixels in all of its frames; this "
            f"one has {frames} x {width} x {height}."
        )


def check_frames(frames: int, limits: Limits) -> None:
    if frames > limits.max_frames:
        raise ImageTooLarge(f"An animation may have {limits.max_frames} frames.")

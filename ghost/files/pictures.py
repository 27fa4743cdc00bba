"""Pictures on their way in: decoded once to the end, and freed of what they tell about people.

A small one is decoded here; a large one in a process of its own, with limits on memory and time,
one at a time on each machine, and few requests wait for it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO, Final, cast

from ghost.errors import ServiceUnavailable
from ghost.files import picture_process
from ghost.files.image_headers import read_header
from ghost.files.images import ImageInfo, ImageTooLarge, Limits, NotAnImage, inspect, strip
from ghost.files.storage.base import StorageUnavailable
from ghost.files.types import Content
from ghost.files.workshop import bench, desk, is_light, only_bench
from ghost.logging import logger

# How long an upload waits for those that came before.
BENCH_SECONDS: Final = 10.0
ONLY_BENCH_SECONDS: Final = 20.0
# How long the process of its own may take, and how much memory it may have.
PROCESS_SECONDS: Final = 60.0
PROGRAM: Final = "import sys; from ghost.files import picture_process as p; p.main(*sys.argv[1:])"
# What a decoder dies of that reads what it should not.
CRASHES: Final = frozenset(
    {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
)


class DecoderDown(ServiceUnavailable):
    """The process that decodes a picture was ended by something else than the picture."""

    message = "Images can't be worked on at the moment. Please try again shortly."


def settle(
    source: BinaryIO, content: Content, limits: Limits, stack: ExitStack, *, strips: bool
) -> tuple[Content, BinaryIO | None]:
    """Make sure that a picture is one, to its last byte, and take its metadata off.

    :param content: what its structure says that it is.
    :param stack: closes the file that is returned.
    :param strips: whether metadata is taken off.
    :returns: what it is in truth, and the file to store instead of it; None without `strips`.
    :raises NotAnImage, ImageTooLarge: it can't be taken.
    :raises WorkshopFull: too many others are being worked on.
    :raises OutOfMemory, DecoderDown, StorageUnavailable: the machine can't work on it now.
    """
    if is_light(content.content_type, content.width, content.height, content.frames):
        with bench(time.monotonic() + BENCH_SECONDS):
            if not strips:
                return _described(content, inspect(source, limits)), None
            picture = strip(source, limits)
        return _described(content, picture.info), BytesIO(picture.content)
    with desk():
        return _settle_large(source, content, limits, stack, strips=strips)


def _settle_large(
    source: BinaryIO, content: Content, limits: Limits, stack: ExitStack, *, strips: bool
) -> tuple[Content, BinaryIO | None]:
    if content.content_type == "image/png" and not _is_interlaced(source):
        # In little memory, and no process has to start to refuse a bomb.
        with bench(time.monotonic() + BENCH_SECONDS):
            info = inspect(source, limits)
        if not strips:
            return _described(content, info), None
    with _storing():
        target = stack.enter_context(TemporaryFile())  # noqa: SIM115
    with only_bench(time.monotonic() + ONLY_BENCH_SECONDS):
        _run(source, target, limits, task="strip" if strips else "inspect")
    target.seek(0)
    if not strips:
        width, height = map(int, target.read().split())
        return replace(content, width=width, height=height), None
    made = cast(BinaryIO, target)
    content = _described(content, read_header(made, limits).info)
    made.seek(0)
    return content, made


@contextmanager
def _storing() -> Iterator[None]:
    """Turn a system's error about a file or a process into ours."""
    try:
        yield
    except OSError as error:
        logger.bind(error=str(error)).error("an image can't be handed to a process of its own")
        raise StorageUnavailable from error


def _described(content: Content, info: ImageInfo) -> Content:
    return replace(content, width=info.width, height=info.height)


def _is_interlaced(png: BinaryIO) -> bool:
    png.seek(28)  # the last byte of its head. See the PNG specification, section 11.2.1.
    return png.read(1) != b"\0"


def _run(source: BinaryIO, target: IO[bytes], limits: Limits, *, task: str) -> None:
    """Run `picture_process` on a picture.

    It gets nothing of this process but the two files: no secrets, which a decoder might give away.
    Where it dies of its own limits or of what it read, the picture is refused; where anything else
    ends it, as a full disk or a kernel without memory does, that says nothing about the picture.

    :raises NotAnImage, ImageTooLarge: it can't be taken.
    :raises DecoderDown, StorageUnavailable: nobody knows whether it can.
    """
    numbers = (limits.max_bytes, limits.max_pixels, limits.max_frames, limits.max_frame_pixels)
    command = [sys.executable, "-P", "-c", PROGRAM, task, *map(str, numbers)]
    try:
        with _storing():
            done = subprocess.run(
                command,
                stdin=source.fileno(),  # which puts a copy in memory on the disk
                stdout=target,
                stderr=subprocess.DEVNULL,
                env={"PYTHONPATH": str(Path(picture_process.__file__).parents[2])},
                timeout=PROCESS_SECONDS,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise _too_slow() from error
    code = done.returncode
    if code == 0:
        return
    if code == picture_process.TOO_LARGE:
        raise ImageTooLarge
    if code == picture_process.NO_IMAGE:
        raise NotAnImage
    logger.bind(returncode=code).error("the process that decodes an image broke down")
    if code == -signal.SIGXCPU:
        raise _too_slow()
    if -code in CRASHES:
        raise NotAnImage
    raise DecoderDown


def _too_slow() -> ImageTooLarge:
    return ImageTooLarge("This image takes too long to decode.")

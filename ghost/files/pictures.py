"""Pictures on their way in: decoded once to the end, and freed of what they tell about people.

A small one is decoded here; a large one in a process of its own, with limits on memory and time,
one at a time on each machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO, Final, cast

from ghost.files import picture_process
from ghost.files.image_headers import read_header
from ghost.files.images import ImageInfo, ImageTooLarge, Limits, NotAnImage, inspect, strip
from ghost.files.types import Content
from ghost.files.workshop import bench, is_light, only_bench
from ghost.logging import logger

# How long an upload waits for those that came before.
BENCH_SECONDS: Final = 10.0
ONLY_BENCH_SECONDS: Final = 20.0
# How long the process of its own may take, and how much memory it may have.
PROCESS_SECONDS: Final = 60.0
PROGRAM: Final = "import sys; from ghost.files import picture_process as p; p.main(*sys.argv[1:])"


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
    """
    if is_light(content.content_type, content.width, content.height, content.frames):
        with bench(time.monotonic() + BENCH_SECONDS):
            if not strips:
                return _described(content, inspect(source, limits)), None
            picture = strip(source, limits)
        return _described(content, picture.info), BytesIO(picture.content)
    if content.content_type == "image/png" and not _is_interlaced(source):
        # In little memory, and no process has to start to refuse a bomb.
        with bench(time.monotonic() + BENCH_SECONDS):
            info = inspect(source, limits)
        if not strips:
            return _described(content, info), None
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


def _described(content: Content, info: ImageInfo) -> Content:
    return replace(content, width=info.width, height=info.height)


def _is_interlaced(png: BinaryIO) -> bool:
    png.seek(28)  # the last byte of its head. See the PNG specification, section 11.2.1.
    return png.read(1) != b"\0"


def _run(source: BinaryIO, target: IO[bytes], limits: Limits, *, task: str) -> None:
    """Run `picture_process` on a picture.

    It gets nothing of this process but the two files: no secrets, which a decoder might give away.
    """
    numbers = (limits.max_bytes, limits.max_pixels, limits.max_frames, limits.max_frame_pixels)
    command = [sys.executable, "-P", "-c", PROGRAM, task, *map(str, numbers)]
    try:
        done = subprocess.run(
            command,
            stdin=source.fileno(),
            stdout=target,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": str(Path(picture_process.__file__).parents[2])},
            timeout=PROCESS_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImageTooLarge("This image takes too long to decode.") from error
    match done.returncode:
        case 0:
            return
        case picture_process.TOO_LARGE:
            raise ImageTooLarge
        case picture_process.NO_IMAGE:
            raise NotAnImage
    logger.bind(returncode=done.returncode).error("the process that decodes an image broke down")
    raise NotAnImage

"""A process that decodes one picture: `inspect` or `strip`, from standard input to standard output.

Run by `ghost.files.pictures`. Standard input is a file that can seek; standard output gets the
stripped picture, or width and height with a space between.
"""

from __future__ import annotations

import resource
import sys
from typing import NoReturn

from ghost.files.images import ImageTooLarge, Limits, NotAnImage, OutOfMemory, inspect, strip

# How it ends, besides 0. All else says nothing about the picture: a full disk, a want of memory.
NO_IMAGE, TOO_LARGE = 3, 4

# Addresses, of which far from all are ever used. A HEIC of 50 megapixels takes 1.5 GiB.
MEMORY_BYTES = 4 * 2**30
PROCESSOR_SECONDS = 60
# At the second limit the kernel kills, as it does for want of memory: only the first one, SIGXCPU,
# can be told from that.
KILL_AFTER_SECONDS = 5


def run(task: str, limits: Limits) -> int:
    """Work on the picture; tells how to end."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    source.seek(0)
    try:
        if task == "strip":
            target.write(strip(source, limits).content)
        else:
            info = inspect(source, limits)
            target.write(f"{info.width} {info.height}".encode())
    except (ImageTooLarge, OutOfMemory, MemoryError):  # of the memory that we give it
        return TOO_LARGE
    except NotAnImage:
        return NO_IMAGE
    target.flush()
    return 0


def main(task: str, *numbers: str) -> NoReturn:
    """Work on the picture under limits, and end the process.

    :param numbers: those of `Limits`, in their order.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    seconds = PROCESSOR_SECONDS, PROCESSOR_SECONDS + KILL_AFTER_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(run(task, Limits(*map(int, numbers))))

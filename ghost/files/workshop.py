"""How much work on pictures goes on at once: pixels take memory, and time of the processor."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from ghost.config import current_config
from ghost.errors import ServiceUnavailable
from ghost.logging import logger

# Pictures that one process works on at once.
BENCHES: Final = 2
# Requests of one process that wait for a variant that others make: each takes a thread.
SEATS: Final = 2
# Requests of one process that bring a large picture: likewise.
DESKS: Final = 2
# A JPEG is decoded at a fraction of its size, and the others take more memory for each pixel.
DEARER: Final = 2
LOCK_FILE = "large-image.lock"
PAUSE_SECONDS = 0.1

_benches = threading.BoundedSemaphore(BENCHES)
_seats = threading.BoundedSemaphore(SEATS)
_desks = threading.BoundedSemaphore(DESKS)


def _renew() -> None:
    """In a forked child: threads of the parent may have been at work."""
    global _benches, _seats, _desks
    _benches = threading.BoundedSemaphore(BENCHES)
    _seats = threading.BoundedSemaphore(SEATS)
    _desks = threading.BoundedSemaphore(DESKS)


os.register_at_fork(after_in_child=_renew)


class WorkshopFull(ServiceUnavailable):
    """Too many pictures are being worked on."""

    message = "Too many images are being worked on. Please try again shortly."


def is_light(content_type: str, width: int | None, height: int | None, frames: int = 1) -> bool:
    """Tell whether a picture is small enough to be worked on while its request waits.

    :param width: in pixels; None for one whose size is not known.
    :param frames: how many of them are worked on.
    """
    pixels = (width or 0) * (height or 0) * frames
    weight = 1 if content_type == "image/jpeg" else DEARER
    return 0 < pixels * weight <= current_config().storage.max_inline_pixels


@contextmanager
def bench(deadline: float) -> Iterator[None]:
    """Wait for a place to work on a picture in this process.

    :param deadline: until when, by the monotonic clock.
    :raises WorkshopFull: there was none until then.
    """
    benches = _benches
    if not benches.acquire(timeout=max(0.0, deadline - time.monotonic())):
        raise WorkshopFull
    try:
        yield
    finally:
        benches.release()


def seat() -> AbstractContextManager[None]:
    """Take a seat among the few requests that wait for somebody else to make a variant.

    :raises WorkshopFull: on entering, all are taken.
    """
    return _at_once(_seats)


def desk() -> AbstractContextManager[None]:
    """Take a place among the few requests that bring a large picture, before any waiting begins.

    :raises WorkshopFull: on entering, all are taken.
    """
    return _at_once(_desks)


@contextmanager
def _at_once(places: threading.BoundedSemaphore) -> Iterator[None]:
    if not places.acquire(blocking=False):
        raise WorkshopFull
    try:
        yield
    finally:
        places.release()


@contextmanager
def only_bench(deadline: float) -> Iterator[None]:
    """Wait until no other process of this machine works on a large picture.

    :param deadline: until when, by the monotonic clock.
    :raises WorkshopFull: another one did until then.
    """
    folder = current_config().instance
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The kernel gives the lock back, however a process ends.
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        logger.bind(error=str(error)).error("the lock of large images can't be opened")
        raise WorkshopFull from error
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise WorkshopFull from None
            time.sleep(PAUSE_SECONDS)
        yield
    finally:
        os.close(handle)

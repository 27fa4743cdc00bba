"""A bound for several waits for a sender together, kept where bytes are read from a connection."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ends_at: ContextVar[float] = ContextVar("pace_ends_at", default=float("inf"))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Bound all waits of a block, in its own thread, where the server has our `ghost.unreader`."""
    token = _ends_at.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends_at.reset(token)


def seconds_left(now: float) -> float:
    """How long may still be waited, at a time of `time.monotonic`; below zero when it is over."""
    return _ends_at.get() - now

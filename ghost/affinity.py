"""Which processors a web process uses.

Only one thread of a process runs Python at a time. When its threads are spread over several
processors, each of them wakes another one whenever it gives the interpreter up, in vain more often
than not: the same requests then cost twice the processor time and come at half the rate. So where
there is a web process for each processor, each keeps to its own (see `ghost.server`), and only work
that needs no interpreter leaves it.

Linux only; elsewhere nothing happens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

# What the process might use before it was pinned; None as long as it is not.
_all: set[int] | None = None


def allowed_processors() -> list[int]:
    """The processors that this process may use, in order; none where the system can't say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def least_used(processors: Iterable[int], used: Iterable[int | None]) -> int:
    """Choose the processor that the fewest have, among equals the one of the oldest process.

    That one is the first to go, when there are to be fewer or a release is replaced.

    :param used: the processors of the others, the oldest process first.
    """
    others = list(used)

    def rank(processor: int) -> tuple[int, int]:
        return others.count(processor), others.index(processor) if processor in others else -1

    return min(processors, key=rank)


def pin(processor: int) -> None:
    """Keep this process, before it has threads, on one processor; a sandbox may not let it."""
    global _all
    before = os.sched_getaffinity(0)
    with suppress(OSError):
        os.sched_setaffinity(0, {processor})
        _all = before


@contextmanager
def on_any_processor() -> Iterator[None]:
    """Let the calling thread use every processor for a while.

    For work that takes long and gives the interpreter up, as bcrypt does.
    """
    if _all is None:
        yield
        return
    own = os.sched_getaffinity(0)  # of the thread, not of the process
    _set(_all)
    try:
        yield
    finally:
        _set(own)


def _set(processors: set[int]) -> None:
    """Choose the thread's processors; none of them may be ours any more, and then all stays."""
    with suppress(OSError):
        os.sched_setaffinity(0, processors)

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
    """Choose the processor that the fewest have, the first of these."""
    others = list(used)
    return min(processors, key=others.count)


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
    os.sched_setaffinity(0, _all)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)

"""Connections in even shares: a web worker that has more of them lets another one take the next.

Every worker is woken for a new connection, and the first one takes it: of a few connections that
last, as a proxy's do, one worker may get all. Where each keeps to a processor of its own (see
`ghost.affinity`) the other processors would have nothing to do.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterable
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

# Workers beyond take connections as they come.
PLACES = 256
_NOBODY = -1
# As long as a loop that has little to do takes to come round. Connections that last for one request
# come often, and must not pay much for it.
GIVE_WAY_SECONDS = 0.0005

# How many connections the worker of each place has. Shared by all processes that are forked from
# the one that imported this; each place is written by its worker alone.
_counts = memoryview(mmap.mmap(-1, 4 * PLACES)).cast("i")
for _place in range(PLACES):
    _counts[_place] = _NOBODY


def free_place(taken: Iterable[int | None]) -> int | None:
    """A place that no worker has, or None."""
    used = set(taken)
    return next((place for place in range(PLACES) if place not in used), None)


def leave(place: int | None) -> None:
    """Note that a place has no worker any more, for whom nobody has to wait."""
    if place is not None:
        _counts[place] = _NOBODY


class BalancedWorker(ThreadWorker):
    """gunicorn's worker with threads, for its share of the connections.

    :ivar place: where it counts them, given before the fork; None for a worker that does not.
    """

    place: int | None = None
    _connections = 0

    @property
    def nr_conns(self) -> int:
        """How many connections it has, by gunicorn's (27.0) own name."""
        return self._connections

    @nr_conns.setter
    def nr_conns(self, count: int) -> None:
        self._connections = count
        if self.place is not None:
            _counts[self.place] = count

    def init_process(self) -> None:
        """Begin, in the worker's own process."""
        self.nr_conns = 0
        super().init_process()

    def accept(self, listener: Any) -> None:
        """Take a new connection, unless somebody who has fewer does so in a moment."""
        if self.place is not None:
            # Of many an eighth more or less makes no difference.
            enough = self._connections - self._connections // 8
            if any(0 <= count < enough for count in _counts):
                time.sleep(GIVE_WAY_SECONDS)
        super().accept(listener)

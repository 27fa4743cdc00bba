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


def take_place(taken: Iterable[int | None]) -> int | None:
    """Give a new worker a place that nobody has, or None; nobody waits for workers that are gone.

    :param taken: the places of those that live.
    """
    used = set(taken)
    free = [place for place in range(PLACES) if place not in used]
    for place in free:
        _counts[place] = _NOBODY
    return free[0] if free else None


class BalancedWorker(ThreadWorker):
    """gunicorn's worker with threads, for its share of the connections.

    :ivar place: where it counts them, given before the fork; None for a worker that does not.
    """

    place: int | None = None
    _connections = 0
    _accepting = False

    @property
    def nr_conns(self) -> int:
        """How many connections it has, by gunicorn's (27.0) own name."""
        return self._connections

    @nr_conns.setter
    def nr_conns(self, count: int) -> None:
        self._connections = count
        self._publish()

    def set_accept_enabled(self, enabled: bool) -> None:
        """Begin to take connections, or stop: then nobody waits for this one to do so."""
        super().set_accept_enabled(enabled)
        self._publish()

    def accept(self, listener: Any) -> None:
        """Take a new connection, unless somebody who has fewer does so in a moment."""
        if self._gives_way():
            time.sleep(GIVE_WAY_SECONDS)
        super().accept(listener)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Take a connection back from its thread.

        gunicorn (27.0) counts one twice that was closed because its response broke.
        """
        before = self.nr_conns
        super().finish_request(conn, fs)
        self.nr_conns = max(self.nr_conns, before - 1)

    def _publish(self) -> None:
        if self.place is not None:
            _counts[self.place] = self._connections if self._accepting else _NOBODY

    def _gives_way(self) -> bool:
        if self.place is None or self.cfg.reuse_port:  # with that, nobody else can take it
            return False
        # Of many an eighth more or less makes no difference.
        enough = self._connections - self._connections // 8
        return any(0 <= count < enough for count in _counts)

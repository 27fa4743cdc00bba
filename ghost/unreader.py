"""How slowly a request may arrive: a thread that waits for its bytes serves nobody else.

gunicorn (27.0) waits for each of them as long as the connection is open.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import Any

from gunicorn.http.unreader import SocketUnreader

from ghost import pace

# A sender may be silent that long, once. What it sends wins it time again: a request takes no
# longer than this, and a second for each so many bytes.
PATIENCE_SECONDS = 30.0
BYTES_A_SECOND = 1024


class TooSlow(ConnectionResetError):
    """The sender is given up; for gunicorn a connection that was reset, which it does not log."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


class PacedUnreader(SocketUnreader):
    """Reads from a connection, and gives up who is too slow.

    Counted is the time that is spent waiting; while we are busy ourselves, patience comes back.
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        self._patience = PATIENCE_SECONDS
        self._counted_at = time.monotonic()

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Wait for the next bytes.

        :raises TooSlow: they do not come in time.
        """
        began_at = time.monotonic()
        patience = min(PATIENCE_SECONDS, self._patience + began_at - self._counted_at)
        usual = self.sock.gettimeout()
        limit = min(patience, pace.seconds_left(began_at))
        if limit <= 0:
            raise TooSlow
        self.sock.settimeout(limit if usual is None else min(limit, usual))
        data = b""
        try:
            data = super().chunk(size_hint)
        except TimeoutError as error:
            raise TooSlow from error
        finally:
            with suppress(OSError):  # it is closed
                self.sock.settimeout(usual)
            self._counted_at = time.monotonic()
            waited = self._counted_at - began_at
            self._patience = patience - waited + len(data) / BYTES_A_SECOND
        return data

"""What becomes of a body that nobody has read when the request is answered.

A little of it is read and dropped, so that the connection is good for the next request. Who is
sending much has the connection closed: gunicorn (27.0) would wait for it, and a sender that is slow
enough would keep a thread for hours.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator, get_content_length

from ghost.pace import within

if TYPE_CHECKING:
    from _typeshed.wsgi import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

# What is read before the answer, and how long that may take.
SKIPPED_BYTES, SKIP_SECONDS = 64 * 1024, 1.0
# What is read after it, before the connection is closed: who is still sending does not look for an
# answer yet, and would lose it.
LINGER_BYTES, LINGER_SECONDS = 16 * 2**20, 2.0
PIECE_BYTES = 2**18


class UnreadBodies:
    """Closes the connection behind an answer to a request of which much has not been read."""

    def __init__(self, application: WSGIApplication) -> None:
        self.application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        connection = environ.get("gunicorn.socket")
        length = get_content_length(environ)
        has_body = length or (length is None and "HTTP_TRANSFER_ENCODING" in environ)
        if connection is None or not has_body:
            return self.application(environ, start_response)
        body = environ["wsgi.input"] = Counted(environ["wsgi.input"], length)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            body.skip()
            if not body.is_over:
                _announce_close(start_response)
            return start_response(status, headers, *more)

        answer = self.application(environ, start)
        return answer if body.is_over else ClosingIterator(answer, lambda: _linger(connection))


class Counted:
    """A body that knows whether it has been read to its end.

    :ivar is_over: whether it has.
    :param length: as declared, in bytes; None for one in chunks.
    """

    def __init__(self, source: InputStream, length: int | None) -> None:
        self._source, self._length = source, length
        self._count = 0
        self._is_broken = False
        self.is_over = False

    def read(self, size: int = -1) -> bytes:
        """Read as many bytes, or all; fewer only at the end."""
        piece = self._counted(self._source.read, size)
        if size < 0 or len(piece) < size:
            self.is_over = True
        return piece

    def readline(self, size: int = -1) -> bytes:
        """Read up to the end of a line."""
        return self._counted(self._source.readline, size)

    def readlines(self, hint: int = -1) -> list[bytes]:
        """Read all lines."""
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def skip(self) -> None:
        """Read what is left, if it is little and is here in a moment."""
        is_much = self._length is not None and self._length - self._count > SKIPPED_BYTES
        if self.is_over or self._is_broken or is_much:
            return
        with suppress(Exception), within(SKIP_SECONDS):
            self.read(SKIPPED_BYTES)

    def _counted(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            piece = read(size)
        except Exception:
            self._is_broken = True
            raise
        self._count += len(piece)
        if self._count == self._length or not (piece or size == 0):
            self.is_over = True
        return piece


def _announce_close(start_response: StartResponse) -> None:
    """Have gunicorn say that the connection is closed; it leaves out headers that say so."""
    response = getattr(start_response, "__self__", None)
    if response is not None:
        response.force_close()


def _linger(connection: socket.socket) -> None:
    """Say that nothing more comes, and read on for a moment. See RFC 9112, section 9.6."""
    ends_at, left = time.monotonic() + LINGER_SECONDS, LINGER_BYTES
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while left > 0 and (seconds := ends_at - time.monotonic()) > 0:
            connection.settimeout(seconds)
            piece = connection.recv(PIECE_BYTES)
            if not piece:
                break
            left -= len(piece)
    with suppress(OSError):
        # gunicorn would linger too, in the one thread that all connections wait for.
        connection.shutdown(socket.SHUT_RDWR)

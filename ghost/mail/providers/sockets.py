"""Sockets that keep to a limit on each wait and to one on all of them together."""

from __future__ import annotations

import math
import socket
import ssl
import time
from pathlib import Path
from typing import Any

# A limit is for a piece of what is sent, so that a large mail may take longer than one of them.
PIECE_BYTES = 64 * 1024


class Limits:
    """A limit on each wait of a socket, and on all of them together.

    The time-out of a plain socket starts anew with every byte, so that a server which sends one
    now and then is never given up.
    """

    step_seconds = math.inf
    deadline = math.inf

    def set_limits(self, step_seconds: float, deadline: float) -> None:
        """Limit what follows.

        :param step_seconds: for each wait.
        :param deadline: of `time.monotonic()`, for all of them.
        """
        self.step_seconds = step_seconds
        self.deadline = deadline

    def keep_limits(self) -> None:
        left = min(self.step_seconds, self.deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("the mail server took too long")
        if left != self.gettimeout():  # type: ignore[attr-defined]  # setting it is a system call
            self.settimeout(left if left < math.inf else None)  # type: ignore[attr-defined]


class LimitedSocket(Limits, socket.socket):
    """A plain connection."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.keep_limits()
        return super().recv_into(*args, **kwargs)

    def sendall(self, data: Any, *args: Any) -> None:
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            self.keep_limits()
            super().sendall(view[start : start + PIECE_BYTES], *args)


class LimitedSSLSocket(Limits, ssl.SSLSocket):
    """A connection by TLS."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.keep_limits()
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:  # sendall calls it piece by piece
        self.keep_limits()
        return super().send(*args, **kwargs)


def connect(host: str, port: int, *, step_seconds: float, deadline: float) -> LimitedSocket:
    """Connect to the first address that answers, within the limits.

    socket.create_connection, which libraries use, allows the whole time-out to each address.

    :raises OSError: none answers in time.
    """
    failure: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        connecting = LimitedSocket(family, kind, protocol)
        connecting.set_limits(step_seconds, deadline)
        try:
            connecting.keep_limits()
            connecting.connect(address)
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connecting.close()
            failure = error
            continue
        return connecting
    raise failure or OSError(f"{host} has no address")


def tls_context(ca: Path | None = None) -> ssl.SSLContext:
    """Certificate and host name are checked; with `ca`, only its authorities are trusted."""
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = LimitedSSLSocket
    return context

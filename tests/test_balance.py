"""Connections go to the worker that has the fewest."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from selectors import DefaultSelector
from typing import Any

import pytest
from gunicorn.config import Config

from ghost import balance

pytestmark = pytest.mark.unit

Connect = Callable[[], None]


class Accepting(balance.BalancedWorker):
    """A worker that only takes connections."""

    def __init__(self, listener: socket.socket, place: int | None) -> None:
        log = logging.getLogger("test")
        super().__init__(0, os.getpid(), [listener], None, 30, Config(), log)
        self.poller = DefaultSelector()
        self.set_accept_enabled(True)
        self.place = place
        self.taken: list[Any] = []

    def enqueue_req(self, conn: Any) -> None:
        self.taken.append(conn)


def close(worker: Accepting) -> None:
    """End a worker as far as it has begun."""
    for conn in worker.taken:
        conn.close()
    worker.poller.close()
    balance.take_place([])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture
def connect(listener: socket.socket) -> Iterator[Connect]:
    made: list[socket.socket] = []
    yield lambda: made.append(socket.create_connection(listener.getsockname()))
    for one in made:
        one.close()


@pytest.fixture
def worker(listener: socket.socket) -> Iterator[Accepting]:
    yield (one := Accepting(listener, 0))
    close(one)


@pytest.fixture
def other(listener: socket.socket) -> Iterator[Accepting]:
    yield (one := Accepting(listener, 1))
    close(one)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch, other: Accepting, listener: socket.socket) -> list[float]:
    """How long was given way; meanwhile the other worker looks for a connection."""
    taken: list[float] = []

    def nap(seconds: float) -> None:
        taken.append(seconds)
        balance.BalancedWorker.__mro__[1].accept(other, listener)  # as one who has the fewest

    monkeypatch.setattr(balance.time, "sleep", nap)
    return taken


def test_who_has_more_lets_another_one_take_it(
    worker: Accepting,
    other: Accepting,
    listener: socket.socket,
    connect: Connect,
    naps: list[float],
) -> None:
    worker.nr_conns, other.nr_conns = 1, 0
    connect()

    worker.accept(listener)

    assert naps == [balance.GIVE_WAY_SECONDS]
    assert (worker.nr_conns, other.nr_conns) == (1, 1)


def test_who_has_more_takes_it_when_nobody_comes(
    worker: Accepting, other: Accepting, listener: socket.socket, connect: Connect
) -> None:
    other.nr_conns, worker.nr_conns = 0, 3
    connect()

    worker.accept(listener)

    assert worker.nr_conns == 4


@pytest.mark.parametrize(
    ("mine", "theirs"), [(0, 0), (1, 1), (1, 2), (8, 7), (64, 56)], ids=lambda count: str(count)
)
def test_who_has_about_as_many_takes_it_at_once(
    worker: Accepting, other: Accepting, listener: socket.socket, connect: Connect,
    naps: list[float], mine: int, theirs: int,
) -> None:  # fmt: skip
    worker.nr_conns, other.nr_conns = mine, theirs
    connect()

    worker.accept(listener)

    assert naps == []
    assert worker.nr_conns == mine + 1


@pytest.mark.parametrize("end", ["it stops", "it was killed"])
def test_nobody_waits_for_a_worker_that_takes_none(
    worker: Accepting, other: Accepting, listener: socket.socket, connect: Connect,
    naps: list[float], end: str,
) -> None:  # fmt: skip
    worker.nr_conns, other.nr_conns = 5, 0
    if end == "it stops":
        other.set_accept_enabled(False)
        other.nr_conns = 0
    else:
        assert balance.take_place([worker.place]) == other.place
    connect()

    worker.accept(listener)

    assert naps == []


def test_a_worker_that_begins_is_waited_for_when_it_takes_connections(
    worker: Accepting,
    other: Accepting,
    listener: socket.socket,
    connect: Connect,
    naps: list[float],
) -> None:
    other.set_accept_enabled(False)
    worker.nr_conns = 5
    other.set_accept_enabled(True)
    connect()

    worker.accept(listener)

    assert len(naps) == 1


def test_nobody_waits_where_each_has_a_listener_of_its_own(
    worker: Accepting,
    other: Accepting,
    listener: socket.socket,
    connect: Connect,
    naps: list[float],
) -> None:
    worker.nr_conns, other.nr_conns = 5, 0
    worker.cfg.set("reuse_port", True)
    connect()

    worker.accept(listener)

    assert naps == []


def test_a_connection_that_its_response_broke_is_counted_once(
    worker: Accepting, listener: socket.socket, connect: Connect
) -> None:
    connect()
    connect()
    worker.accept(listener)
    worker.accept(listener)
    broken: Future[bool] = Future()
    broken.set_result(False)
    conn = worker.taken[0]
    conn.sock.close()

    worker.finish_request(conn, broken)

    assert worker.nr_conns == 1


def test_a_worker_without_a_place_takes_what_comes(
    other: Accepting, listener: socket.socket, connect: Connect, naps: list[float]
) -> None:
    other.nr_conns = 0
    worker = Accepting(listener, None)
    worker.nr_conns = 5
    connect()

    worker.accept(listener)

    assert (naps, worker.nr_conns) == ([], 6)
    close(worker)


def test_a_place_is_given_once_and_there_are_only_so_many() -> None:
    assert balance.take_place([]) == 0
    assert balance.take_place([None, 0, 2]) == 1
    assert balance.take_place(range(balance.PLACES)) is None

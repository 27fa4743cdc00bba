"""A worker with processes that stay: each runs one job after the other, and none waits for a fork.

The parent runs no job. It keeps the leases of those that run, kills the process of one that overran
or is not ours any more, settles what a dead process left behind, and fills its place.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import orjson
from flask import Flask
from redis import Redis
from redis.exceptions import RedisError
from rq.queue import Queue as RQQueue
from rq.suspension import is_suspended
from rq.worker import WorkerStatus

from ghost.config import current_config
from ghost.jobs import child, runner
from ghost.jobs.child import Orders, be_child
from ghost.jobs.models import FINISHED
from ghost.jobs.process import describe_end, make_ready_to_fork
from ghost.jobs.runner import Claim
from ghost.jobs.signals import job_finished
from ghost.jobs.worker import LEASE_LOST, POLL_SECONDS, STOPPED, GhostWorker, overrun
from ghost.logging import job_id_var, logger, request_id_var

# An idle child speaks each second; one that starts is given as long.
SILENCE_SECONDS = 60.0
# A place whose child did not come so far as to say that it is ready is filled again after so long.
FAILED_START_SECONDS = 1.0
NAP_SECONDS = 0.02
READ_BYTES = 65536
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class PoolWorker(GhostWorker):
    """A worker that runs several ledger jobs at a time, in processes that are used again.

    :param processes: how many jobs at a time; None for `jobs.processes`.
    :param command: what starts a child as a program, to be followed by its orders as words; None
        to fork it.
    """

    def __init__(
        self,
        queues: str | RQQueue | Iterable[str | RQQueue],
        name: str | None = None,
        connection: Redis | None = None,
        prepare_for_work: bool = True,
        application: Flask | None = None,
        *,
        processes: int | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        super().__init__(queues, name, connection, prepare_for_work, application)
        self._wanted = (
            processes or self.find_application().extensions["ghost"].config.jobs.processes
        )
        self._command = command
        self._slots: list[_Slot] = []
        # Not epoll, whose state a forked child would share.
        self._selector = selectors.PollSelector()
        self._start_at = 0.0
        self._done = 0

    # --- The loop ---------------------------------------------------------------------------------

    def _loop(
        self, app: Flask, burst: bool, max_jobs: int | None, max_idle_seconds: int | None
    ) -> int:
        if max_jobs is not None or max_idle_seconds is not None:
            raise ValueError("a pool stops when it is told to; only GhostWorker counts")
        try:
            if burst:
                self._burst(app)
            else:
                self._serve(app, self._wanted, burst=False)
        finally:
            self._leases.stop()
            for slot in self._slots:  # none, unless this process itself has failed
                slot.kill_group()
        return self._done

    def _burst(self, app: Flask) -> None:
        """Run children until each found nothing to do and there is nothing left to send.

        :raises RedisError: Redis is away.
        """
        self._sweep_now()
        while not (self._stop_requested or is_suspended(self.connection)):
            self._serve(app, self._wanted, burst=True)
            # The sweep may also have sent something when the last child had looked already.
            if not self._sweep_now() and not self._waiting():
                return

    def _waiting(self) -> int:
        """How many entries wait in Redis that may be taken."""
        return sum(queue.count for queue in self.queues if queue.name not in self._paused)

    def _serve(self, app: Flask, wanted: int, *, burst: bool) -> None:
        """Keep children in so many places until told to stop, or until each found nothing to do."""
        while True:
            if self._stop_requested:
                wanted = 0
                self._tell_children_to_stop()
            while len(self._slots) < wanted and time.monotonic() >= self._start_at:
                self._slots.append(self._start(app, burst))
            if not self._slots and not wanted:
                return
            self._state = self._current_state()
            self._tick()
            self._listen()
            for slot in self._slots.copy():
                self._look_after(slot)
                if self._see_to_end(slot) and slot.is_empty:
                    wanted -= 1

    def _current_state(self) -> str:
        is_busy = any(slot.running for slot in self._slots)
        return WorkerStatus.BUSY if is_busy else WorkerStatus.IDLE

    # --- Starting children ------------------------------------------------------------------------

    def _start(self, app: Flask, burst: bool) -> _Slot:
        self._leases.stop()  # the thread may hold a lock, or a connection
        make_ready_to_fork()
        receiver, sender = os.pipe()
        settings = current_config().jobs
        orders = Orders(self.queue_names(), sender, os.getpid(), burst, settings.recycle_after)
        try:
            # Until it has handlers of its own, a signal would run ours in the child.
            with _held_back(_SIGNALS):
                if self._command is not None:
                    pid = _spawn(self._command, orders)
                else:
                    pid = self._fork(app, orders, receiver)
        finally:
            os.close(sender)
        slot = _Slot(pid, receiver)
        slot.open(self._selector)
        self._leases.start()
        return slot

    def _fork(self, app: Flask, orders: Orders, receiver: int) -> int:
        pid = os.fork()
        if pid == 0:
            with suppress(OSError):
                os.close(receiver)
                for slot in self._slots:
                    slot.close_files()
            self._is_horse = True
            be_child(app, self.connection, orders)
        with suppress(OSError):  # the child does it too: whoever comes first
            os.setpgid(pid, pid)
        return pid

    # --- Listening to them ------------------------------------------------------------------------

    def _listen(self) -> None:
        """Read what the children say, or wait for a second until one says something."""
        if not self._selector.select(POLL_SECONDS):
            return
        # Nothing of it is urgent, and to wake up twice for each job takes time from the jobs.
        time.sleep(NAP_SECONDS)
        for key, _ in self._selector.select(0):
            self._listen_to(key.data)

    def _listen_to(self, slot: _Slot) -> None:
        for words in slot.read(self._selector):
            self._hear(slot, *words)

    def _hear(self, slot: _Slot, kind: str, *details: Any) -> None:
        slot.heard_at = time.monotonic()
        if kind == child.REDIS:
            self._hear_of_redis(slot, *details)
            return
        if slot.lacks_redis:
            slot.lacks_redis = False
            self._note_redis(None)
        if kind == child.READY:
            slot.is_ready = True
        elif kind == child.EMPTY:
            slot.is_empty = True
        elif kind == child.BEGIN:
            words, began = details
            attempt = child.read_attempt(words)
            slot.begin(attempt, began, self.grace_seconds)
            self._leases.add(attempt, began)
        elif kind == child.END and slot.running is not None:
            outcome, seconds = details
            self._count(slot.running, outcome, seconds)
            slot.running, slot.outcome = None, outcome

    def _hear_of_redis(self, slot: _Slot, text: str) -> None:
        slot.lacks_redis = True
        if "WRONGTYPE" in text:
            self._remove_wrong_keys()
        if self._redis_problem is None:
            self._note_redis(RedisError(text))

    def _count(self, attempt: Claim, outcome: str, seconds: float) -> None:
        self._leases.remove(attempt)
        self._done += 1
        if job_finished.receivers:
            with _ids_of(attempt):
                runner.tell_finished(attempt, outcome, seconds)

    # --- Watching over them -----------------------------------------------------------------------

    def _look_after(self, slot: _Slot) -> None:
        """Kill a child that may not go on."""
        if slot.reason is not None:
            return
        now = time.monotonic()
        if self._has_to_stop_now():
            slot.kill(STOPPED)
        elif slot.running is None:
            if now - slot.heard_at >= SILENCE_SECONDS:
                self._kill(slot, "it did not respond")
        elif now >= slot.deadline:
            self._kill(slot, overrun(slot.running))
        elif self._leases.has_lost(slot.running):
            self._kill(slot, LEASE_LOST)

    def _kill(self, slot: _Slot, reason: str) -> None:
        """Kill a child for what it runs, unless it has gone on to another job meanwhile."""
        meant = slot.running
        self._listen_to(slot)
        if slot.running is meant:
            slot.kill(reason)

    def _see_to_end(self, slot: _Slot) -> bool:
        """Clear the place of a child that has ended; False when it has not."""
        pid, status = os.waitpid(slot.pid, os.WNOHANG)
        if not pid:
            return False
        self._listen_to(slot)
        if slot.running is not None or slot.outcome != FINISHED:
            slot.kill_group()  # what an unfinished job started does not outlive it
        slot.close(self._selector)
        self._slots.remove(slot)
        if slot.running is not None:
            began = slot.deadline - slot.running.timeout_seconds - self.grace_seconds
            is_meant = slot.reason is None or slot.running is slot.killed_for
            reason = slot.reason if is_meant else STOPPED  # else it had only just begun
            with _ids_of(slot.running):
                outcome = self._settle(slot.running, reason or describe_end(status))
            self._count(slot.running, outcome, time.monotonic() - began)
        elif status:
            logger.bind(pid=slot.pid, reason=slot.reason or describe_end(status)).warning(
                "A process of the worker ended between two jobs."
            )
        if not slot.is_ready:
            self._start_at = time.monotonic() + FAILED_START_SECONDS
        return True

    # --- Stopping ---------------------------------------------------------------------------------

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Have the children take no more; what runs is finished first."""
        super().request_stop(signum, frame)
        self._tell_children_to_stop()

    def _tell_children_to_stop(self) -> None:
        for slot in self._slots:
            with suppress(ProcessLookupError):
                os.kill(slot.pid, signal.SIGTERM)


class _Slot:
    """A place of the pool: the process in it, and what that one runs."""

    def __init__(self, pid: int, receiver: int) -> None:
        self.pid = pid
        self.is_ready = False
        self.is_empty = False
        self.lacks_redis = False
        self.heard_at = time.monotonic()
        self.running: Claim | None = None
        self.outcome: str | None = None  # of the last job
        self.deadline = 0.0
        self.reason: str | None = None  # why it was killed, and for which attempt
        self.killed_for: Claim | None = None
        self._receiver = receiver
        self._pidfd: int | None = None
        self._unread = b""

    def open(self, selector: selectors.BaseSelector) -> None:
        """Have a selector tell of what the process says, and of its end."""
        os.set_blocking(self._receiver, False)
        selector.register(self._receiver, selectors.EVENT_READ, self)
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):  # an old kernel, a sandbox: then its end is seen a little later
                self._pidfd = os.pidfd_open(self.pid)
                selector.register(self._pidfd, selectors.EVENT_READ, self)

    def read(self, selector: selectors.BaseSelector) -> Iterator[list[Any]]:
        """Go through the lines that have come."""
        with suppress(BlockingIOError):
            while data := os.read(self._receiver, READ_BYTES):
                *lines, self._unread = (self._unread + data).split(b"\n")
                yield from map(orjson.loads, lines)
            with suppress(KeyError):  # the other end is closed: there is no more to wait for
                selector.unregister(self._receiver)

    def begin(self, attempt: Claim, began: float, grace_seconds: float) -> None:
        """Note what the process runs, and by when that has to be over."""
        self.running, self.outcome = attempt, None
        self.deadline = began + attempt.timeout_seconds + grace_seconds

    def kill(self, reason: str) -> None:
        """Kill the process and those that it started."""
        self.reason, self.killed_for = reason, self.running
        self.kill_group()

    def kill_group(self) -> None:
        """Kill what is left of the process and those that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self, selector: selectors.BaseSelector) -> None:
        """Forget the process."""
        for file in (self._receiver, self._pidfd):
            with suppress(KeyError, ValueError):
                selector.unregister(file)  # type: ignore[arg-type]
        self.close_files()

    def close_files(self) -> None:
        """Close this process's ends of what connects it with the child."""
        os.close(self._receiver)
        if self._pidfd is not None:
            os.close(self._pidfd)


def _spawn(command: Sequence[str], orders: Orders) -> int:
    words = [*command, write_orders(orders)]
    os.set_inheritable(orders.pipe, True)
    return os.posix_spawn(words[0], words, os.environ, setpgroup=0)


def write_orders(orders: Orders) -> str:
    """Return a child's orders as a word of a command line."""
    return orjson.dumps(orders).decode()


def read_orders(word: str) -> Orders:
    """Read what `write_orders` wrote."""
    return Orders(**orjson.loads(word))


@contextmanager
def _held_back(signals: Sequence[int]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ids_of(attempt: Claim) -> Iterator[None]:
    """Put a job's ids into the log lines of the block."""
    tokens = (request_id_var.set(attempt.request_id), job_id_var.set(str(attempt.job_id)))
    try:
        yield
    finally:
        request_id_var.reset(tokens[0])
        job_id_var.reset(tokens[1])

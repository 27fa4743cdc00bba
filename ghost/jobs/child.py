"""A process of the pool: it takes jobs from Redis and runs them, one after the other.

It tells its parent by a pipe what it runs, and the parent does the rest: it keeps the leases, and
ends the process when a job overruns. So nothing here waits for the parent.
"""

from __future__ import annotations

import contextvars
import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from types import FrameType
from typing import Any, Final
from uuid import UUID

import orjson
from flask import Flask
from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import DequeueTimeout
from rq.job import Job as RQJob
from rq.queue import Queue as RQQueue
from rq.suspension import is_suspended
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from sqlalchemy.exc import SQLAlchemyError

from ghost.jobs import runner
from ghost.jobs.context import note_stop
from ghost.jobs.entries import GhostQueue
from ghost.jobs.models import FINISHED
from ghost.jobs.process import adopt_orphans, end_with
from ghost.jobs.queues import paused_queues
from ghost.jobs.runner import Claim
from ghost.jobs.transport import parse_rq_id
from ghost.jobs.worker import POLL_SECONDS
from ghost.logging import logger

# What a child says, each a line of JSON: a list of one of these and its details.
READY: Final = "ready"  # the application is there
IDLE: Final = "idle"  # no job came in the last second
EMPTY: Final = "empty"  # no job is left, and it was not to wait for one: it ends
BEGIN: Final = "begin"  # an attempt, without its arguments, and when it began
END: Final = "end"  # the outcome, and the seconds that it took
REDIS: Final = "redis"  # Redis can't be used: the error's text

SUSPENSION_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Orders:
    """What a child is told when it starts.

    :param pipe: the file descriptor by which it talks to its parent.
    :param parent: the parent's process id; the child ends with it.
    :param burst: whether it ends when there is nothing left to do.
    :param recycle_after: how many jobs it runs before it ends.
    """

    queues: Sequence[str]
    pipe: int
    parent: int
    burst: bool
    recycle_after: int


def be_child(app: Flask, connection: Redis, orders: Orders) -> None:
    """Run jobs as ordered, and end this process, whatever happens.

    :param connection: the way to Redis; one that the parent opened is not used.
    """
    code = 1
    try:
        with suppress(OSError):  # it was started as the leader of its group
            os.setpgid(0, 0)
        end_with(orders.parent)
        adopt_orphans()
        # What came from the parent stays: the collector would only make copies of its pages.
        gc.freeze()
        random.seed()
        with app.app_context():
            queues = [GhostQueue(name, connection=connection) for name in orders.queues]
            Child(app, connection, queues, orders).serve()
        code = 0
    except BaseException:
        with suppress(BaseException):
            logger.exception("A process of the worker failed.")
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class Child:
    """The loop of one process of the pool."""

    def __init__(
        self, app: Flask, connection: Redis, queues: Sequence[RQQueue], orders: Orders
    ) -> None:
        self._app = app
        self._connection = connection
        self._queues = queues
        self._open_queues = list(queues)
        self._orders = orders
        self._folder = os.open(".", os.O_RDONLY)
        self._is_stopped = False
        self._is_spoiled = False
        self._is_suspended = False
        self._suspension_at = 0.0

    def serve(self) -> None:
        """Run jobs until told to stop, until it is time for a new process, or until none is left.

        Redis or the database going away doesn't end it, unless there is a burst to be done.
        """
        self._take_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        self._tell(READY)
        done = 0
        while not self._is_stopped and not self._is_spoiled and done < self._orders.recycle_after:
            try:
                found = self._next()
            except (RedisError, OSError) as error:
                self._tell(REDIS, str(error))
                if self._orders.burst:
                    self._tell(EMPTY)
                    return
                time.sleep(POLL_SECONDS)
                continue
            if found is not None:
                self._see_to(*found)
                done += 1
            elif self._orders.burst:
                self._tell(EMPTY)
                return
            else:
                self._tell(IDLE)

    def _take_signals(self) -> None:
        # Whoever stops the service may signal all its processes; Ctrl-C is the parent's.
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self._is_stopped = True
        note_stop()

    def _tell(self, *words: Any) -> None:
        line = orjson.dumps(words) + b"\n"
        while line:  # a signal may come in the middle of a long one
            line = line[os.write(self._orders.pipe, line) :]

    # --- Redis ------------------------------------------------------------------------------------

    def _next(self) -> tuple[RQJob, RQQueue] | None:
        """Return the next entry, or None when none came within a second."""
        if self._may_not_take():
            if not self._orders.burst:
                time.sleep(POLL_SECONDS)
            return None
        try:
            return GhostQueue.dequeue_any(
                self._open_queues,
                None if self._orders.burst else POLL_SECONDS,
                connection=self._connection,
            )
        except DequeueTimeout:
            return None

    def _may_not_take(self) -> bool:
        """Tell whether all work is suspended or paused; what is known may be a second old."""
        if time.monotonic() - self._suspension_at >= SUSPENSION_SECONDS:
            self._suspension_at = time.monotonic()
            self._is_suspended = is_suspended(self._connection)
            with suppress(SQLAlchemyError):  # away: what was paused stays so, until a claim fails
                paused = paused_queues()
                self._open_queues = [queue for queue in self._queues if queue.name not in paused]
        return self._is_suspended or not self._open_queues

    def _put_back(self, job: RQJob, queue: RQQueue) -> None:
        # Where this fails, the sweep finds the job in the ledger.
        with suppress(RedisError, OSError):
            self._connection.lpush(queue.key, job.id)

    def _forget(self, job: RQJob) -> None:
        with suppress(RedisError, OSError):
            self._connection.delete(job.key)

    # --- One job ----------------------------------------------------------------------------------

    def _see_to(self, job: RQJob, queue: RQQueue) -> None:
        """Claim the row that an entry names, run it, and tell the parent of it."""
        if self._is_stopped:  # it came during the last wait
            self._put_back(job, queue)
            return
        parsed = parse_rq_id(job.id)
        try:
            attempt = runner.claim(*parsed) if parsed is not None else None
        except SQLAlchemyError as error:
            logger.bind(job=job.id, error=str(error)).warning(
                "The database is away; the job is put back on its queue."
            )
            self._put_back(job, queue)
            time.sleep(POLL_SECONDS)
            return
        if attempt is not None:
            self._run(attempt)
        self._forget(job)

    def _run(self, attempt: Claim) -> None:
        threads = threading.active_count()
        began = time.monotonic()
        self._tell(BEGIN, replace(attempt, args={}), began)
        # In a context of its own: what a job sets in variables goes with it.
        outcome = contextvars.copy_context().run(
            runner.execute, self._app, attempt, lambda: _time_limit(attempt)
        )
        self._tell(END, outcome, time.monotonic() - began)
        self._tidy_up()
        # Programs that were started: after a failure the parent kills them, with this process;
        # else they go on, and are not there to be killed for the failure of another job. A thread
        # can't be killed but with its process.
        has_left_a_thread = outcome != FINISHED and threading.active_count() > threads
        self._is_spoiled = has_left_a_thread or _has_children()

    def _tidy_up(self) -> None:
        """Undo what a job may have changed and is cheap to put right."""
        signal.alarm(0)
        self._take_signals()
        os.fchdir(self._folder)


def _time_limit(attempt: Claim) -> Any:
    return UnixSignalDeathPenalty(
        attempt.timeout_seconds, JobTimeoutException, job_id=str(attempt.job_id)
    )


def _has_children() -> bool:
    """Tell whether a process runs that this one, or one of its own, has started."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass  # it has ended, and nobody waited for it
        return True
    return False


def read_attempt(words: dict[str, Any]) -> Claim:
    """Return the attempt of a child that said that it begins."""
    created_by = words["created_by"]
    return Claim(
        **{
            **words,
            "job_id": UUID(words["job_id"]),
            "created_by": UUID(created_by) if created_by is not None else None,
            "started_at": datetime.fromisoformat(words["started_at"]),
        }
    )

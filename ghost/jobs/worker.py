"""RQ's worker, made to trust nothing in Redis.

RQ's own obeys commands from a channel and whatever an entry says of how it is to be run. Here an
entry is the id of a ledger row, and everything else comes from the database.
"""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, ClassVar
from uuid import UUID

from flask import Flask
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from rq import worker_registration
from rq.exceptions import DequeueTimeout
from rq.job import Job as RQJob
from rq.queue import Queue as RQQueue
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.timeouts import JobTimeoutException
from rq.utils import now as rq_now
from rq.worker import DequeueStrategy, Worker, WorkerStatus
from sqlalchemy.exc import SQLAlchemyError

from ghost.config import current_config
from ghost.jobs import runner
from ghost.jobs.context import note_stop
from ghost.jobs.entries import GhostJob, GhostQueue
from ghost.jobs.leases import LeaseKeeper
from ghost.jobs.models import FAILED, FINISHED, RETRYING
from ghost.jobs.process import ChildProcess, describe_end, end_with, make_ready_to_fork
from ghost.jobs.queues import paused_queues
from ghost.jobs.runner import Claim
from ghost.jobs.sweep import Sweeper, give_back, make_sweeper, settle_killed
from ghost.jobs.transport import parse_rq_id
from ghost.logging import job_id_var, logger, request_id_var

POLL_SECONDS = 1
REDIS_WAIT_SECONDS = 5.0
REGISTRATION_SECONDS = 45
# What a job gets beyond its time limit, to end by the exception that it is sent, before its
# process and those that it started are killed.
GRACE_SECONDS = 5.0

# Why a job's process was killed.
STOPPED = "the worker was stopped"
LEASE_LOST = "the job's lease was lost"

# How a work horse says what became of its job. Not 0 and not 1: a job that ends its process by
# os._exit(0), or an interpreter that fails, must not look like one that was written down.
_EXIT_CODES = {FINISHED: 100, RETRYING: 101, FAILED: 102, runner.LOST: 103}
_OUTCOMES = {code: outcome for outcome, code in _EXIT_CODES.items()}


class GhostWorker(Worker):
    """A worker that runs ledger jobs, each in a process of its own.

    It registers itself where RQ's worker does, and takes RQ's command line; serializer, job and
    queue class, exception handlers and the like are not to be chosen.

    :param application: None to have `find_application` called when the work begins.
    """

    job_class = GhostJob
    queue_class = GhostQueue
    grace_seconds: ClassVar[float] = GRACE_SECONDS

    def __init__(
        self,
        queues: str | RQQueue | Iterable[str | RQQueue],
        name: str | None = None,
        connection: Redis | None = None,
        prepare_for_work: bool = True,
        application: Flask | None = None,
        **_options: Any,
    ) -> None:
        each = [queues] if isinstance(queues, str | RQQueue) else list(queues)
        if connection is None:
            connection = next(queue for queue in each if isinstance(queue, RQQueue)).connection
        connection.set_retry(Retry(NoBackoff(), 0))
        kwargs = connection.connection_pool.connection_kwargs
        kwargs["socket_connect_timeout"] = kwargs["socket_timeout"] = REDIS_WAIT_SECONDS
        connection.connection_pool.disconnect()
        self._redis_problem: str | None = None
        super().__init__(
            [queue if isinstance(queue, str) else queue.name for queue in each],
            name=name,
            connection=connection,
            worker_ttl=REGISTRATION_SECONDS,
            job_class=GhostJob,
            queue_class=GhostQueue,
            serializer=JSONSerializer,
            prepare_for_work=prepare_for_work,
        )
        self._application = application
        self._leases: LeaseKeeper  # made when the work begins, as the sweeper is
        self._sweeper: Sweeper
        self._registered_at = 0.0
        self._paused: set[str] = set()
        self._paused_at = 0.0
        self._is_told_to_kill = False
        self._stop_requested_at = 0.0

    @property
    def dequeue_timeout(self) -> int:
        return POLL_SECONDS

    @property
    def connection_timeout(self) -> int:
        return int(REDIS_WAIT_SECONDS)

    def find_application(self) -> Flask:
        """Return the application whose jobs are run."""
        if self._application is None:
            raise RuntimeError("GhostWorker(..., application=app) needs an application")
        return self._application

    # --- The loop ---------------------------------------------------------------------------------

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = "",
        log_format: str = "",
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Run jobs until told to stop; with `burst` until there are none.

        Redis or the database going away doesn't end it. Delayed jobs and repetitions are sent by
        the sweep, with or without `with_scheduler`.

        :returns: whether it ran any job.
        """
        app = self.find_application()
        self._dequeue_strategy = dequeue_strategy
        self._install_signal_handlers()
        with app.app_context():
            self._leases = LeaseKeeper(app)
            self._sweeper = make_sweeper(f"{self.hostname}:{self.pid}:{self.name}")
            names = self.queue_names()
            logger.bind(worker=self.name, pid=os.getpid(), queues=names).info("Worker started.")
            try:
                done = self._loop(app, burst, max_jobs, max_idle_time)
            finally:
                self.teardown()
        return done > 0

    def _loop(
        self, app: Flask, burst: bool, max_jobs: int | None, max_idle_seconds: int | None
    ) -> int:
        done = 0
        idle_since = time.monotonic()
        if burst:
            self._sweep_now()
        while not self._stop_requested:
            self._tick()
            try:
                found = self._next(burst)
            except (RedisError, OSError) as error:
                if burst:
                    raise
                self._wait_for_redis(error)
                continue
            self._note_redis(None)
            if found is not None:
                self.reorder_queues(reference_queue=found[1])
                try:
                    self.execute_job(*found)
                except Exception:
                    # Whatever it was, the sweep settles the job, and the next one may fare better.
                    logger.exception("The worker could not see to a job.")
                    time.sleep(POLL_SECONDS)
                done += 1
                idle_since = time.monotonic()
                if max_jobs is not None and done >= max_jobs:
                    break
            elif burst:
                if not self._sweep_now():
                    break
            elif time.monotonic() - idle_since >= (max_idle_seconds or math.inf):
                break
        return done

    def _next(self, burst: bool) -> tuple[RQJob, RQQueue] | None:
        """Return the next entry, or None when none came within a second."""
        if is_suspended(self.connection):
            if burst:
                self._stop_requested = True
            else:
                time.sleep(POLL_SECONDS)
            return None
        open_queues = [queue for queue in self._ordered_queues if queue.name not in self._paused]
        if not open_queues:
            if not burst:
                time.sleep(POLL_SECONDS)
            return None
        try:
            found = self.queue_class.dequeue_any(
                open_queues, None if burst else POLL_SECONDS, connection=self.connection
            )
        except DequeueTimeout:
            return None
        if found is not None and self._stop_requested:  # it came during the last wait
            self._put_back(*found)
            return None
        return found

    def _tick(self) -> None:
        """Do what is due beside the jobs: sign of life, paused queues, sweep."""
        if time.monotonic() - self._registered_at >= runner.HEARTBEAT_SECONDS:
            self.heartbeat()
        if time.monotonic() - self._paused_at >= POLL_SECONDS:
            self._paused_at = time.monotonic()
            with suppress(SQLAlchemyError):  # the sweep says that the database is away
                self._paused = paused_queues()
        self._sweeper.tick()

    def _sweep_now(self) -> int:
        return self._sweeper.sweep(grace_seconds=0)

    # --- Redis, which may be away -----------------------------------------------------------------

    def _wait_for_redis(self, error: Exception) -> None:
        if isinstance(error, ResponseError) and "WRONGTYPE" in str(error):
            self._remove_wrong_keys()
        self._note_redis(error)
        time.sleep(POLL_SECONDS)

    def _note_redis(self, error: Exception | None) -> None:
        """Log when Redis goes away and when it is back, not in between."""
        problem = type(error).__name__ if error is not None else None
        if problem == self._redis_problem:
            return
        self._redis_problem = problem
        if error is None:
            self._registered_at = 0.0
            logger.bind(worker=self.name).info("Redis is back; the worker goes on.")
        else:
            logger.bind(worker=self.name, error=str(error)).warning(
                "Redis can't be used; the worker goes on trying."
            )

    def _remove_wrong_keys(self) -> None:
        """Remove what stands where a queue should be and is none; the ledger has the jobs."""
        with suppress(RedisError, OSError):
            for queue in self.queues:
                if self.connection.type(queue.key) not in (b"list", b"none", "list", "none"):
                    self.connection.delete(queue.key)
                    logger.bind(queue=queue.name).warning(
                        "A key that is no queue stood in a queue's place; it was deleted."
                    )

    def _tell_redis(self, act: Callable[[], Any]) -> None:
        """Tell Redis what only its readers need; the work goes on without it."""
        try:
            act()
        except ResponseError as error:  # a key of another kind, no memory left
            logger.bind(worker=self.name, error=str(error)).debug("Redis refused a command.")
        except (RedisError, OSError) as error:
            self._note_redis(error)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Register this worker, again and again: after FLUSHALL it is counted at once."""

        def register() -> None:
            with self.connection.pipeline(transaction=False) as pipe:
                worker_registration.register(self, pipe)
                pipe.hset(self.key, mapping={**self.serialize(), "state": self.get_state()})
                pipe.expire(self.key, REGISTRATION_SECONDS)
                pipe.execute()
            for queue in self.queues:
                worker_registration.clean_worker_registry(queue)

        self.last_heartbeat = rq_now()
        self.birth_date = self.birth_date or self.last_heartbeat
        self._registered_at = time.monotonic()
        self._tell_redis(register)

    def set_state(self, state: str, pipeline: Any = None) -> None:
        self._state = state
        self._tell_redis(lambda: self.connection.hset(self.key, "state", state))

    def teardown(self) -> None:
        """Say goodbye, to who is there to hear it."""
        if self.is_horse:
            return
        self._sweeper.release()
        self._tell_redis(self.register_death)
        logger.bind(worker=self.name).info("Worker stopped.")

    # --- One job ----------------------------------------------------------------------------------

    def execute_job(self, job: RQJob, queue: RQQueue) -> None:
        """Claim the row that an entry names, run it in a child process, see to its end."""
        parsed = parse_rq_id(job.id)
        attempt = self._claim(*parsed, job, queue) if parsed is not None else None
        if attempt is None:
            self._forget(job)
            return
        tokens = (request_id_var.set(attempt.request_id), job_id_var.set(str(attempt.job_id)))
        self.set_state(WorkerStatus.BUSY)
        started = time.monotonic()
        try:
            outcome = self._run_in_child(attempt)
            runner.tell_finished(attempt, outcome, time.monotonic() - started)
        finally:
            self._state = WorkerStatus.IDLE
            self._forget(job, state=WorkerStatus.IDLE)
            request_id_var.reset(tokens[0])
            job_id_var.reset(tokens[1])

    def _claim(self, job_id: UUID, number: int, job: RQJob, queue: RQQueue) -> Claim | None:
        try:
            return runner.claim(job_id, number)
        except SQLAlchemyError as error:
            logger.bind(job=str(job_id), error=str(error)).warning(
                "The database is away; the job is put back on its queue."
            )
            self._put_back(job, queue)
            time.sleep(POLL_SECONDS)
            return None

    def _put_back(self, job: RQJob, queue: RQQueue) -> None:
        # Where this fails, the sweep finds the job in the ledger.
        self._tell_redis(lambda: self.connection.lpush(queue.key, job.id))

    def _forget(self, job: RQJob, state: str | None = None) -> None:
        def delete() -> None:
            with self.connection.pipeline(transaction=False) as pipe:
                pipe.delete(job.key)
                if state is not None:
                    pipe.hset(self.key, "state", state)
                pipe.execute()

        self._tell_redis(delete)

    def _run_in_child(self, attempt: Claim) -> str:
        make_ready_to_fork()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_the_child(attempt, parent)
        with suppress(OSError):  # the child does it too: whoever comes first
            os.setpgid(pid, pid)
        self._horse_pid = pid
        try:
            status, reason = self._watch(attempt, pid)
        finally:
            self._horse_pid = 0
        outcome = _OUTCOMES.get(os.waitstatus_to_exitcode(status))
        if outcome is not None:
            return outcome
        return self._settle(attempt, reason or describe_end(status))

    def _settle(self, attempt: Claim, reason: str) -> str:
        """Write down what becomes of an attempt whose process is gone."""
        try:
            return give_back(attempt) if reason == STOPPED else settle_killed(attempt, reason)
        except SQLAlchemyError as error:
            logger.bind(error=str(error)).warning(
                "The end of a job could not be written down; its lease will end."
            )
            return runner.LOST

    def _be_the_child(self, attempt: Claim, parent: int) -> None:
        """Run the job and end this process, whatever happens."""
        code = 1
        try:
            os.setpgid(0, 0)
            end_with(parent)
            self._is_horse = True
            random.seed()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # Whoever stops the service sends SIGTERM to all its processes: the parent decides, and
            # the job may.
            # A handler, not SIG_IGN, which the programs that a job starts would inherit.
            signal.signal(signal.SIGTERM, hear_of_stop)
            app = self.find_application()
            outcome = runner.execute(app, attempt, lambda: self._time_limit(attempt))
            code = _EXIT_CODES[outcome]
        except BaseException:
            with suppress(BaseException):
                logger.exception("The process of a job failed.")
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _time_limit(self, attempt: Claim) -> Any:
        return self.death_penalty_class(
            attempt.timeout_seconds, JobTimeoutException, job_id=str(attempt.job_id)
        )

    def _watch(self, attempt: Claim, pid: int) -> tuple[int, str | None]:
        """Wait for the child, keep its lease, and kill it when it overruns or is not ours any more.

        :returns: the status that `wait` gives, and why it was killed.
        """
        reason: str | None = None
        began = time.monotonic()
        deadline = began + attempt.timeout_seconds + self.grace_seconds
        with self._keeping(attempt, began), ChildProcess(pid) as child:
            while (status := child.wait(POLL_SECONDS)) is None:
                if self._has_to_stop_now():
                    reason = STOPPED
                elif time.monotonic() >= deadline:
                    reason = overrun(attempt)
                elif self._leases.has_lost(attempt):
                    reason = LEASE_LOST
                if reason is not None:
                    child.kill_group()
                else:
                    self._tick()
            if _OUTCOMES.get(os.waitstatus_to_exitcode(status)) != FINISHED:
                child.kill_group()  # what an unfinished job started does not outlive it
        return status, reason

    @contextmanager
    def _keeping(self, attempt: Claim, began: float) -> Iterator[None]:
        self._leases.add(attempt, began)
        self._leases.start()
        try:
            yield
        finally:
            self._leases.stop()
            self._leases.remove(attempt)

    # --- Stopping ---------------------------------------------------------------------------------

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Take no more; the running job is finished first."""
        self._stop_requested = True
        signal.signal(signal.SIGINT, self.request_force_stop)
        signal.signal(signal.SIGTERM, self.request_force_stop)
        self._stop_requested_at = time.monotonic()

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Give the running job back, and stop."""
        # A service manager and a terminal may both signal, the one right after the other.
        if time.monotonic() - self._stop_requested_at >= 1.0:
            self._is_told_to_kill = True

    def _has_to_stop_now(self) -> bool:
        """Tell whether what still runs is not waited for any longer."""
        if not self._stop_requested:
            return False
        seconds = time.monotonic() - self._stop_requested_at
        return self._is_told_to_kill or seconds >= current_config().jobs.stop_timeout

    # --- Nothing of these: they would act on what Redis says --------------------------------------

    def subscribe(self) -> None:
        """Open no command channel: whoever can publish could stop workers and kill jobs."""

    def unsubscribe(self) -> None:
        """There is no channel."""

    def run_maintenance_tasks(self) -> None:
        """Leave RQ's registries alone: the sweep keeps the books."""


def overrun(attempt: Claim) -> str:
    """Say of an attempt that it was killed for its time."""
    return f"the job overran its {attempt.timeout_seconds} s and was killed"


def hear_of_stop(_signum: int, _frame: FrameType | None) -> None:
    """Let the job know of a signal, and do nothing else about it."""
    note_stop()

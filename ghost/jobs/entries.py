"""What stands on RQ's queues, read without believing any of it but an id.

RQ itself imports functions, callbacks and exception handlers by the dotted names it finds in Redis,
unpickles, and calls webhooks. An entry of Ghost names a row of the ledger, and the rest comes from
there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from redis import Redis
from rq.job import Job as RQJob
from rq.queue import Queue as RQQueue
from rq.serializers import JSONSerializer

from ghost.jobs.transport import parse_rq_id
from ghost.logging import logger


class _Sparing:
    """Lets some lines through in each minute, so that nobody can fill the log by filling Redis."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._since = 0.0
        self._count = 0

    def may_log(self) -> bool:
        """Count one more line, and tell whether it may be written."""
        if time.monotonic() - self._since >= 60:
            if self._count > self._limit:
                logger.bind(count=self._count - self._limit).warning(
                    "More foreign entries were dropped in that minute, without a line for each."
                )
            self._since, self._count = time.monotonic(), 0
        self._count += 1
        return self._count <= self._limit


_foreign_entries = _Sparing(limit=100)


class Refused(RuntimeError):
    """RQ was about to run something by what Redis says. See `ghost.jobs.entries`."""


class GhostJob(RQJob):
    """An entry as RQ knows it, of which nothing but the id is believed.

    For RQ's own tools (`rq info`) it has a queue and a time; data, callbacks, webhooks, results,
    retries, dependencies and limits that somebody wrote into its hash are not read at all.
    """

    def __init__(
        self, id: str | None = None, connection: Redis | None = None, serializer: Any = None
    ) -> None:
        super().__init__(id, connection, JSONSerializer)
        self._func_name, self._instance, self._args, self._kwargs = "ghost.jobs.run", None, (), {}

    def restore(self, raw_data: Any) -> None:
        """Take over the queue's name; leave everything else."""
        origin = raw_data.get(b"origin", b"")
        self.origin = origin.decode("utf-8", "replace")[:100]

    @property
    def func(self) -> Any:
        raise Refused("a job of Ghost is run by Ghost's worker: flask worker")

    def perform(self) -> Any:
        raise Refused("a job of Ghost is run by Ghost's worker: flask worker")


class GhostQueue(RQQueue):
    """RQ's queue, read without believing what is in it."""

    job_class = GhostJob

    @classmethod
    def dequeue_any(
        cls,
        queues: Iterable[RQQueue],
        timeout: int | None,
        connection: Redis,
        job_class: type[RQJob] | None = None,
        serializer: Any = None,
        death_penalty_class: Any = None,
    ) -> tuple[RQJob, RQQueue] | None:
        """Take the next entry that is one of ours; drop the others, each with a log line.

        :param timeout: seconds to wait for one, None not to wait.
        :returns: None when there is none and it was not to wait.
        :raises DequeueTimeout: none came in time.
        """
        by_key = {queue.key: queue for queue in queues}
        while True:
            found = cls.lpop(list(by_key), timeout, connection=connection)
            if found is None:
                return None
            key, entry = (_text(value) for value in found)
            if parse_rq_id(entry) is None:
                if _foreign_entries.may_log():
                    logger.bind(queue=by_key[key].name, entry=entry[:100]).warning(
                        "An entry that Ghost did not write was dropped from a queue."
                    )
                continue
            job = GhostJob(entry, connection=connection)
            job.origin = by_key[key].name
            return job, by_key[key]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

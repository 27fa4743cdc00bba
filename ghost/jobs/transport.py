"""Redis as the carrier: what is written into RQ's queues, and how long anybody waits for it.

An entry carries the id of a ledger row and nothing else. Everything about a job is read from the
database, so that whoever can write to Redis can at most start a waiting job a little early.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ghost.logging import logger
from ghost.models import utcnow

TIMEOUT_SECONDS = 1.0
PAUSE_SECONDS = 3.0
# The hash of an entry is for RQ's own tools; what runs a job doesn't read it. It goes by itself
# when Redis was away in the moment it should have been deleted.
HASH_SECONDS = 24 * 3600
FUNCTION = "ghost.jobs.run"
# RQ's own names, written here again: importing RQ makes every start of a web process slower by a
# tenth. A test compares them.
QUEUES_KEY, WORKERS_KEY = "rq:queues", "rq:workers"
PAGE = 10_000

_ENTRY = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Entry:
    """A job on its way to RQ: the attempt is the one to come, 1 for the first."""

    job_id: UUID
    queue: str
    attempt: int

    @property
    def rq_id(self) -> str:
        return f"{self.job_id.hex}-{self.attempt}"


def parse_rq_id(rq_id: str) -> tuple[UUID, int] | None:
    """Return the ledger id and the attempt of an entry, or None when it isn't one of ours."""
    found = _ENTRY.fullmatch(rq_id)
    return (UUID(found[1]), int(found[2])) if found else None


class Transport:
    """The connection of one process to RQ's Redis, with bounded waits.

    After a failure the next attempts fail at once for three seconds, and then one goes first to
    try: requests don't queue up behind a Redis that is away.

    :param url: None when there is none; then nothing is ever sent.
    """

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._client: Redis | None = None
        self._lock = threading.Lock()
        self._is_down = False
        self._paused_until = 0.0

    @property
    def client(self) -> Redis:
        """The Redis client; it opens no connection before its first command."""
        if self._url is None:
            raise RuntimeError("Jobs are carried by Redis: set REDIS_URL (redis://host:6379/0).")
        if self._client is None:
            self._client = Redis.from_url(
                self._url,
                socket_connect_timeout=TIMEOUT_SECONDS,
                socket_timeout=TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        return self._client

    def push(self, entries: Sequence[Entry]) -> bool:
        """Put entries on their queues; False when Redis is away, then none counts as sent."""
        return self.deliver(entries) is not None

    def deliver(self, entries: Sequence[Entry]) -> list[Entry] | None:
        """Put entries on their queues, and see whether workers took them at once.

        :returns: those that wait for a worker; None when Redis is away, then none counts as sent.
        """
        if self._url is None or not self._may_try():
            return None
        at = utcnow().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        by_queue: dict[str, list[str]] = {}
        pipeline = self.client.pipeline(transaction=False)
        for entry in entries:
            by_queue.setdefault(entry.queue, []).append(entry.rq_id)
            key = _job_key(entry)
            pipeline.hset(key, mapping=_hash(entry, at))
            pipeline.expire(key, HASH_SECONDS)
        for queue, rq_ids in by_queue.items():
            pipeline.sadd(QUEUES_KEY, _queue_key(queue))
            pipeline.rpush(_queue_key(queue), *rq_ids)
        # A worker that was waiting has its entry by then.
        for queue in by_queue:
            pipeline.llen(_queue_key(queue))
        try:
            replies = pipeline.execute()
        except (RedisError, OSError) as error:
            self._note_failure(error)
            return None
        self._note_success()
        lengths = zip(by_queue, replies[-len(by_queue) :], strict=True)
        crowded = {queue for queue, length in lengths if length}
        return [entry for entry in entries if entry.queue in crowded]

    def waiting(self, queue: str) -> set[str]:
        """Return the RQ ids of all entries on a queue.

        :raises RedisError: Redis is away.
        """
        found: set[str] = set()
        start = 0
        while page := cast(
            list[bytes], self.client.lrange(_queue_key(queue), start, start + PAGE - 1)
        ):
            found.update(item.decode("ascii", "replace") for item in page)
            # A page overlaps the one before it: the head of the queue is taken off meanwhile, and
            # what moved forward over the seam would be missed.
            start += PAGE - PAGE // 10
            if len(page) < PAGE:
                break
        return found

    def live_workers(self) -> int:
        """Count the workers that gave a sign of life within their time.

        :raises RedisError: Redis is away.
        """
        keys = self.client.smembers(WORKERS_KEY)
        return int(self.client.exists(*keys)) if keys else 0

    def workers_by_queue(self) -> dict[str, int]:
        """Count, for each queue, the workers that gave a sign of life within their time.

        :raises RedisError: Redis is away.
        """
        pipeline = self.client.pipeline(transaction=False)
        for key in cast(set[bytes], self.client.smembers(WORKERS_KEY)):
            pipeline.hget(key, "queues")
        found = [names.decode("ascii", "replace") for names in pipeline.execute() if names]
        return dict(Counter(name for names in found for name in names.split(",")))

    def _may_try(self) -> bool:
        if not self._is_down:
            return True
        with self._lock:
            if time.monotonic() < self._paused_until:
                return False
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            return True

    def _note_failure(self, error: Exception) -> None:
        with self._lock:
            was_down, self._is_down = self._is_down, True
            self._paused_until = time.monotonic() + PAUSE_SECONDS
        if not was_down:
            logger.bind(error=str(error)).warning(
                "Redis is away: jobs wait in the database until it is back."
            )

    def _note_success(self) -> None:
        if self._is_down:
            with self._lock:
                self._is_down = False
            logger.info("Redis is back: jobs are handed over again.")


def _queue_key(queue: str) -> str:
    return f"rq:queue:{queue}"


def _job_key(entry: Entry) -> str:
    return f"rq:job:{entry.rq_id}"


def _hash(entry: Entry, at: str) -> Mapping[Any, Any]:
    return {
        "data": json.dumps([FUNCTION, None, [str(entry.job_id)], {}]),
        "origin": entry.queue,
        "status": "queued",
        "created_at": at,
        "enqueued_at": at,
    }

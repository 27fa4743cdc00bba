"""Redis as the carrier."""

from __future__ import annotations

from uuid import UUID

from rq.job import Job as RQJob
from rq.queue import Queue as RQQueue
from rq.worker_registration import REDIS_WORKER_KEYS

from ghost.jobs import transport
from ghost.jobs.transport import Entry


def test_the_names_in_redis_are_those_of_rq() -> None:
    entry = Entry(UUID(int=7), "high", 1)

    assert RQQueue.redis_queues_keys == transport.QUEUES_KEY
    assert transport.WORKERS_KEY == REDIS_WORKER_KEYS
    assert transport._queue_key("high") == RQQueue.redis_queue_namespace_prefix + "high"
    assert transport._job_key(entry) == RQJob.key_for(entry.rq_id)

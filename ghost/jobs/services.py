"""What the API asks of the job machinery beyond a single job."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from redis.exceptions import RedisError

from ghost.access import Caller
from ghost.database import db
from ghost.errors import Forbidden, ValidationFailed
from ghost.jobs import outbox, queues, registry
from ghost.jobs.control import SameJobWaits
from ghost.jobs.models import Job

RETRY_LIMIT = 1000


def start(caller: Caller, name: str, args: dict[str, Any], run_at: datetime | None) -> Job:
    """Enqueue a function that callers of the API may start.

    :raises ValidationFailed: there is no such function, or the arguments don't fit it.
    :raises Forbidden: the caller may not start it.
    :raises SameJobWaits: it must be unique, and somebody else's waits or runs.
    """
    function = _find_public(name)
    if not caller.can(function.permission or "jobs:write"):
        raise Forbidden
    try:
        arguments = function.arguments.load(args)
        if run_at is None:
            job_id = function.enqueue(**arguments)
        else:
            job_id = function.enqueue_at(run_at, **arguments)
    except (TypeError, ValueError) as error:
        raise ValidationFailed(details={"json": {"args": [str(error)]}}) from error
    job = db.session.get_one(Job, job_id)
    if job.created_by != caller.id and not caller.can("jobs:read"):
        # Unique, and somebody else's: nothing of it is theirs to know but that it is there.
        raise SameJobWaits
    return job


def _find_public(name: str) -> registry.JobFunction[..., object]:
    try:
        function = registry.find(name)
    except registry.UnknownJob:
        function = None
    if function is None or not function.public:
        raise ValidationFailed(
            details={"json": {"name": ["There is no job of this name to be started here."]}}
        )
    return function


def list_queues() -> list[dict[str, Any]]:
    """Return the state of every queue, with the number of workers that listen to it."""
    try:
        workers = outbox.transport().workers_by_queue()
    except (RedisError, OSError, RuntimeError):
        workers = None
    return [
        {**asdict(queue), "workers": None if workers is None else workers.get(queue.name, 0)}
        for queue in queues.list_queues()
    ]

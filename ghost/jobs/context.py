"""The job that is running."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID

from werkzeug.local import LocalProxy


@dataclass(frozen=True, slots=True)
class RunningJob:
    """What a job function can know about its run.

    `id` stays the same when the job is repeated; `attempt` counts from 1.
    """

    id: UUID
    name: str
    queue: str
    attempt: int
    max_attempts: int
    created_by: UUID | None
    request_id: str | None


running_job_var: ContextVar[RunningJob] = ContextVar("ghost_running_job")

current_job: RunningJob = LocalProxy(  # type: ignore[assignment]
    running_job_var,
    unbound_message=(
        "No job is running here: current_job works inside a function that a worker runs,"
        " not where it is called as a plain function."
    ),
)

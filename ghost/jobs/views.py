"""Jobs and queues, over HTTP."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import url_for

from ghost.access import current_user, login_required, permissions_required
from ghost.api import APIResponse, Blueprint
from ghost.database import db
from ghost.errors import Conflict, Forbidden, NotFound
from ghost.jobs import control, queues, services
from ghost.jobs.models import Job
from ghost.jobs.schemas import JobSchema, NewJob, QueueSchema, Retried, RetryMany, StartedJob

bp = Blueprint("jobs", __name__, url_prefix="/jobs", description="Background jobs and queues.")


def _whose() -> UUID | None:
    """Whose jobs the caller may see and change: their own, or everybody's (None)."""
    return None if current_user.can("jobs:read") else current_user.id


@bp.get("/")
@login_required
@bp.paginated(
    JobSchema,
    sort=("created_at", "run_at", "finished_at"),
    filter=("status", "queue", "name"),
)
def list_jobs() -> sa.Select[Any]:
    """List jobs, the newest first.

    With the permission `jobs:read` everybody's, else the ones that one enqueued.
    """
    return control.list_jobs(_whose())


@bp.post("/")
@login_required
@bp.errors(Forbidden, Conflict)
@bp.arguments(NewJob)
@bp.response(202, StartedJob)
def start_job(data: dict[str, Any]) -> APIResponse:
    """Start a job.

    Only functions that are declared public can be started. Needs the permission `jobs:write`, or
    the one that the function names.
    """
    job = services.start(current_user, **data)
    db.session.commit()
    return APIResponse(job, headers={"Location": url_for("jobs.get_job", job_id=job.id)})


@bp.get("/queues")
@permissions_required("jobs:read")
@bp.response(200, QueueSchema(many=True))
def list_queues() -> list[dict[str, Any]]:
    """List the queues, the most urgent first.

    `workers` is null while Redis, where workers register, is away.
    """
    return services.list_queues()


@bp.post("/queues/<name>/pause")
@permissions_required("jobs:write")
@bp.errors(NotFound)
@bp.response(200)
def pause_queue(name: str) -> APIResponse:
    """Have workers take no more jobs of a queue.

    What runs is finished, and what is enqueued waits.
    """
    queues.pause(name)
    db.session.commit()
    return APIResponse(message="The queue is paused.")


@bp.post("/queues/<name>/resume")
@permissions_required("jobs:write")
@bp.errors(NotFound)
@bp.response(200)
def resume_queue(name: str) -> APIResponse:
    """Let workers take jobs of a queue again."""
    queues.resume(name)
    db.session.commit()
    return APIResponse(message="The queue goes on.")


@bp.post("/retry")
@permissions_required("jobs:write")
@bp.arguments(RetryMany)
@bp.response(200, Retried)
def retry_jobs(data: dict[str, Any]) -> dict[str, int]:
    """Try all failed, or all canceled, jobs again, of a function or a queue if one is named.

    At most 1,000 of them in one call, the oldest first: call again while `retried` is not 0. Of
    jobs that must be unique one of each is tried, unless its like waits or runs. Without the
    permission `jobs:read` only the ones that one enqueued.
    """
    found = control.find_failed(**data, owner_id=_whose(), limit=services.RETRY_LIMIT)
    return {"retried": sum(1 for _ in control.retry_many(found))}


@bp.get("/<uuid:job_id>")
@login_required
@bp.errors(NotFound)
@bp.response(200, JobSchema)
def get_job(job_id: UUID) -> Job:
    """Get one job, with its attempts so far.

    One's own, or with the permission `jobs:read` anybody's.
    """
    return control.get_job(job_id, _whose())


@bp.post("/<uuid:job_id>/cancel")
@permissions_required("jobs:write")
@bp.errors(NotFound, Conflict)
@bp.response(200, JobSchema)
def cancel_job(job_id: UUID) -> Job:
    """Cancel a job.

    One that waits never starts; one that runs is stopped within some seconds, and what it wrote is
    rolled back. One that is over is a conflict (409). Without the permission `jobs:read` only one's
    own.
    """
    job = control.cancel(job_id, _whose())
    db.session.commit()
    return job


@bp.post("/<uuid:job_id>/retry")
@permissions_required("jobs:write")
@bp.errors(NotFound, Conflict)
@bp.response(200, JobSchema)
def retry_job(job_id: UUID) -> Job:
    """Try a failed or canceled job again, now.

    It gets as many attempts as a new one. One of another status is a conflict (409), and so is one
    that must be unique while its like waits or runs. Without the permission `jobs:read` only one's
    own.
    """
    job = control.retry(job_id, _whose())
    db.session.commit()
    return job

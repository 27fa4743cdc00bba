"""Schedules, over HTTP."""

from __future__ import annotations

from typing import Any

from flask import url_for

from ghost.access import permissions_required
from ghost.api import APIResponse, Blueprint
from ghost.database import db
from ghost.errors import Conflict, NotFound
from ghost.jobs import control
from ghost.jobs import schedule_services as services
from ghost.jobs.registry import UnknownJob
from ghost.jobs.schedule_services import ScheduleState
from ghost.jobs.schemas import ScheduleChange, ScheduleSchema, StartedJob

bp = Blueprint(
    "schedules", __name__, url_prefix="/jobs/schedules", description="Jobs on the clock."
)


@bp.get("/")
@permissions_required("jobs:read")
@bp.response(200, ScheduleSchema(many=True))
def list_schedules() -> list[ScheduleState]:
    """List the schedules, by name, each with its last and next due time."""
    return services.list_schedules()


@bp.post("/<name>/run")
@permissions_required("jobs:write")
@bp.errors(NotFound, Conflict)
@bp.response(202, StartedJob)
def run_schedule(name: str) -> APIResponse:
    """Start a schedule's job once, now; its due times stay as they are.

    A schedule whose function this release does not have is a conflict (409).
    """
    try:
        job_id = services.run_now(name)
    except (UnknownJob, TypeError) as error:
        raise Conflict(str(error)) from error
    db.session.commit()
    headers = {"Location": url_for("jobs.get_job", job_id=job_id)}
    return APIResponse(control.get_job(job_id), headers=headers)


@bp.patch("/<name>")
@permissions_required("jobs:write")
@bp.errors(NotFound)
@bp.arguments(ScheduleChange)
@bp.response(200, ScheduleSchema)
def update_schedule(data: dict[str, Any], name: str) -> ScheduleState:
    """Enable or disable a schedule.

    What was due while it was disabled is not run.
    """
    services.set_enabled(name, data["enabled"])
    db.session.commit()
    return next(state for state in services.list_schedules() if state.name == name)

"""What the API takes and gives of jobs and queues."""

from __future__ import annotations

from marshmallow import fields, validate

from ghost.fields import UUID, Boolean, DateTime, Integer, Text
from ghost.jobs.models import AGAIN, STATUSES
from ghost.schemas import Schema

OUTCOMES = ("finished", "failed", "killed", "released", "canceled")


class AttemptSchema(Schema):
    """One attempt that is over."""

    attempt = Integer(required=True)
    started_at = fields.String(required=True, metadata={"format": "date-time"})
    finished_at = fields.String(required=True, metadata={"format": "date-time"})
    outcome = fields.String(required=True, validate=validate.OneOf(OUTCOMES))
    error = fields.String(required=True, allow_none=True)


class JobSchema(Schema):
    """One run of a registered function."""

    id = UUID(required=True)
    name = fields.String(required=True)
    queue = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    progress = Integer(
        required=True,
        allow_none=True,
        metadata={"description": "A percentage; null while nothing was reported."},
    )
    progress_message = fields.String(required=True, allow_none=True)
    result = fields.Raw(required=True, allow_none=True, metadata={"description": "Any JSON."})
    error = fields.String(required=True, allow_none=True)
    attempts = Integer(required=True)
    max_attempts = Integer(required=True)
    run_at = DateTime(required=True)
    created_at = DateTime(required=True)
    started_at = DateTime(required=True, allow_none=True)
    finished_at = DateTime(required=True, allow_none=True)
    created_by = UUID(required=True, allow_none=True)
    request_id = fields.String(required=True, allow_none=True)
    history = fields.List(fields.Nested(AttemptSchema), required=True)


class NewJob(Schema):
    """A job to start."""

    name = Text(required=True, min_length=1, max_length=200)
    args = fields.Dict(keys=fields.String(), load_default=dict)
    run_at = DateTime(load_default=None, metadata={"description": "Null for at once."})


class StartedJob(Schema):
    """A job that was accepted."""

    id = UUID(required=True)
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))


class RetryMany(Schema):
    """Which jobs to try again."""

    status = Text(required=True, validate=validate.OneOf(AGAIN))
    name = Text(min_length=1, max_length=200)
    queue = Text(min_length=1, max_length=50)


class Retried(Schema):
    """How many jobs are tried again."""

    retried = Integer(required=True)


class QueueSchema(Schema):
    """A queue: `depth` is what is due and waits, `oldest` since when the first of it."""

    name = fields.String(required=True)
    depth = Integer(required=True)
    oldest = DateTime(required=True, allow_none=True)
    running = Integer(required=True)
    workers = Integer(required=True, allow_none=True)
    paused = Boolean(required=True)


class ScheduleSchema(Schema):
    """A job on the clock."""

    name = fields.String(required=True)
    job = fields.String(required=True)
    args = fields.Dict(required=True)
    timing = fields.String(
        required=True, metadata={"description": "`cron 0 3 * * *`, or `every 300` in seconds."}
    )
    timezone = fields.String(required=True)
    missed = fields.String(required=True, validate=validate.OneOf(["once", "skip"]))
    source = fields.String(required=True, validate=validate.OneOf(["code", "config"]))
    enabled = Boolean(required=True)
    last_due_at = DateTime(required=True, allow_none=True)
    next_due_at = DateTime(
        required=True, allow_none=True, metadata={"description": "Null while it is disabled."}
    )


class ScheduleChange(Schema):
    """What an operator changes of a schedule."""

    enabled = Boolean(required=True)

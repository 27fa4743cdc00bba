"""What operators do with jobs: look at them, cancel them, try them again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from ghost.database import db, lock_row
from ghost.errors import Conflict, NotFound
from ghost.jobs import outbox, registry
from ghost.jobs.models import AGAIN, CANCELED, FAILED, QUEUED, SCHEDULED, STARTED, Job
from ghost.jobs.runner import LEASE_SECONDS, attempt_entry
from ghost.jobs.signals import job_canceled
from ghost.jobs.transport import Entry
from ghost.logging import logger
from ghost.models import utcnow

BATCH = 500


class SameJobWaits(Conflict):
    message = "A job that must be unique waits or runs already."


def get_job(job_id: UUID, owner_id: UUID | None = None) -> Job:
    """Return one job.

    :param owner_id: only if this account enqueued it; None for anybody's.
    :raises NotFound: there is none.
    """
    job = db.session.get(Job, job_id)
    if job is None or (owner_id is not None and job.created_by != owner_id):
        raise NotFound
    return job


def _lock_job(job_id: UUID, owner_id: UUID | None) -> Job:
    statement = list_jobs(owner_id).where(Job.id == job_id)
    job: Job | None = db.session.scalar(
        lock_row(statement).execution_options(populate_existing=True)
    )
    if job is None:
        raise NotFound
    return job


def cancel(job_id: UUID, owner_id: UUID | None = None) -> Job:
    """End a job: one that waits never starts, one that runs is stopped and rolled back.

    Its worker notices with its next heartbeat, within some seconds; whatever the function does
    until then, its transaction is not committed.

    :param owner_id: only if this account enqueued it; None for anybody's.
    :raises NotFound: there is none.
    :raises Conflict: it is over already.
    """
    job = _lock_job(job_id, owner_id)
    if job.finished_at is not None:
        raise Conflict(f"This job is {job.status} already.")
    now = utcnow()
    if job.status == STARTED and job.started_at is not None:
        entry = attempt_entry(job.attempts, job.started_at, now, CANCELED, None)
        job.history = [*job.history, entry]
    job.status, job.finished_at, job.lease_until = CANCELED, now, None
    db.session.flush()
    logger.bind(event="job_canceled", job=job.name, canceled_job_id=str(job.id)).warning(
        "a job was canceled"
    )
    job_canceled.send(
        current_app._get_current_object(),  # type: ignore[attr-defined]
        job_id=job.id,
        name=job.name,
    )
    return job


def retry(job_id: UUID, owner_id: UUID | None = None) -> Job:
    """Try a failed or canceled job again, now, as often as a new one.

    One that was canceled while it ran waits until its lease would have ended.

    :param owner_id: only if this account enqueued it; None for anybody's.
    :raises NotFound: there is none.
    :raises Conflict: it is neither failed nor canceled.
    :raises SameJobWaits: it is unique, and its like waits or runs.
    """
    job = _lock_job(job_id, owner_id)
    if job.status not in AGAIN:
        raise Conflict(f"This job is {job.status}; only failed and canceled ones are tried again.")
    try:
        with db.session.begin_nested():
            _give_another_try(job, utcnow())
    except IntegrityError as error:
        raise SameJobWaits from error
    if job.status == QUEUED:
        outbox.send_after_commit(Entry(job.id, job.queue, job.attempts + 1))
    return job


def _give_another_try(job: Job, now: datetime) -> None:
    job.status, job.run_at = QUEUED, now
    if job.finished_at is not None and _was_stopped(job):
        # Its process may run still: not before the lease would have ended.
        job.run_at = max(now, job.finished_at + timedelta(seconds=LEASE_SECONDS))
        job.status = SCHEDULED if job.run_at > now else QUEUED
    job.finished_at = job.sent_at = job.error = None
    job.max_attempts = job.attempts + _attempts_of(job.name)
    job.kills = 0


def _was_stopped(job: Job) -> bool:
    """Tell whether a job was canceled while it ran."""
    return bool(job.history) and job.history[-1]["outcome"] == CANCELED


def _attempts_of(name: str) -> int:
    try:
        return registry.find(name).attempts
    except registry.UnknownJob:  # it fails again, and says why
        return 1


def find_failed(
    *,
    status: str = FAILED,
    name: str | None = None,
    queue: str | None = None,
    owner_id: UUID | None = None,
    limit: int | None = None,
) -> list[UUID]:
    """Return the ids of the jobs that a retry of many is about, the oldest first.

    Of those that must be unique one of each, and none whose like waits or runs.

    :param owner_id: only those that this account enqueued; None for everybody's.
    """
    like, earlier = aliased(Job), aliased(Job)
    is_there = sa.exists().where(like.unique_key == Job.unique_key, like.finished_at.is_(None))
    is_second = sa.exists().where(
        earlier.unique_key == Job.unique_key, earlier.status == status, earlier.id < Job.id
    )
    statement = sa.select(Job.id).where(
        Job.status == status,
        sa.or_(Job.unique_key.is_(None), sa.not_(sa.or_(is_there, is_second))),
    )
    if name is not None:
        statement = statement.where(Job.name == name)
    if queue is not None:
        statement = statement.where(Job.queue == queue)
    if owner_id is not None:
        statement = statement.where(Job.created_by == owner_id)
    return list(db.session.scalars(statement.order_by(Job.id).limit(limit)))


def retry_many(job_ids: list[UUID]) -> Iterator[UUID]:
    """Try jobs again, a commit for every 500 of them; those that can't be are left out.

    :returns: the ids, as they are done.
    """
    for start in range(0, len(job_ids), BATCH):
        for job_id in job_ids[start : start + BATCH]:
            try:
                retry(job_id)
            except (Conflict, NotFound):  # somebody else was faster, or its like waits
                continue
            yield job_id
        db.session.commit()


def count_by_status() -> dict[str, dict[str, int]]:
    """Count jobs: name -> status -> how many."""
    rows = db.session.execute(
        sa.select(Job.name, Job.status, sa.func.count()).group_by(Job.name, Job.status)
    )
    counts: dict[str, dict[str, int]] = {}
    for name, status, count in rows:
        counts.setdefault(name, {})[status] = count
    return counts


def list_jobs(owner_id: UUID | None = None) -> sa.Select[tuple[Any]]:
    """Select jobs.

    :param owner_id: those that this account enqueued; None for everybody's.
    """
    statement = sa.select(Job)
    return statement if owner_id is None else statement.where(Job.created_by == owner_id)

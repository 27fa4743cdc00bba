"""Background work that loses nothing: the ledger in the database, RQ to carry it."""

from ghost.jobs.context import current_job
from ghost.jobs.registry import JobFunction, job
from ghost.jobs.retries import Permanent, RetryLater
from ghost.jobs.schedules import cron, every
from ghost.jobs.signals import job_failed, job_finished

__all__ = [
    "JobFunction",
    "Permanent",
    "RetryLater",
    "cron",
    "current_job",
    "every",
    "job",
    "job_failed",
    "job_finished",
]

"""The job that is running."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.local import LocalProxy

from ghost.database import db
from ghost.jobs.ledger import jobs, ledger
from ghost.jobs.models import STARTED
from ghost.logging import logger, redact_text, request_id_var, user_id_var
from ghost.redaction import storable

# A loop may report each of its steps; not each is written.
REPORT_SECONDS = 0.25
MESSAGE_LENGTH = 200

# Of this process; a plain variable, since a signal handler sets it.
_is_stopping = False


def note_stop() -> None:
    """Let the job that runs in this process know that its worker stops."""
    global _is_stopping
    _is_stopping = True


_report = (
    sa.update(jobs)
    .where(
        jobs.c.id == sa.bindparam("key"),
        jobs.c.attempts == sa.bindparam("number"),
        jobs.c.status == STARTED,
    )
    .values(progress=sa.bindparam("percent"), progress_message=sa.bindparam("text"))
)


@dataclass(slots=True)
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
    _reported_at: float = field(default=0.0, repr=False)

    @property
    def is_to_stop(self) -> bool:
        """Whether the worker stops: a long job enqueues what is left of its work, and returns.

        One that does not is run to its end, or given back after `jobs.stop_timeout`.
        """
        return _is_stopping

    def progress(self, percent: float, message: str = "") -> None:
        """Tell how far the job is, for `GET /jobs/{id}`; a database that is away fails nothing.

        Seen at once on PostgreSQL; on SQLite, where a job that has written keeps everybody else
        from writing, with its commit. Of several reports in a quarter of a second the first is
        kept, and 100 % always.

        :param percent: from 0 to 100.
        :param message: a few words, of which 200 characters are kept, without secrets.
        :raises ValueError: the percentage is none.
        """
        if not 0 <= percent <= 100:
            raise ValueError("progress is a percentage, from 0 to 100")
        now = time.monotonic()
        if percent < 100 and now - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = now
        values = {
            "key": self.id,
            "number": self.attempt,
            "percent": round(percent),
            "text": storable(redact_text(message))[:MESSAGE_LENGTH] or None,
        }
        if db.engine.dialect.name == "sqlite" and db.session().in_transaction():
            db.session.connection().execute(_report, values)
            return
        try:
            with ledger() as connection:
                connection.execute(_report, values)
        except SQLAlchemyError as error:
            logger.bind(error=str(error)).warning("A job's progress could not be written.")


running_job_var: ContextVar[RunningJob] = ContextVar("ghost_running_job")

current_job: RunningJob = LocalProxy(  # type: ignore[assignment]
    running_job_var,
    unbound_message=(
        "No job is running here: current_job works inside a function that a worker runs,"
        " not where it is called as a plain function."
    ),
)


def origin() -> tuple[UUID | None, str | None]:
    """Who wants what happens here, and by which request: the caller, or the running job's."""
    parent = running_job_var.get(None)
    if parent is not None:
        return parent.created_by, request_id_var.get()
    user_id = user_id_var.get()
    return UUID(user_id) if user_id else None, request_id_var.get()

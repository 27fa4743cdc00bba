"""Running a job: claim its row, call the function in its own transaction, write what came of it.

Who claims a row owns the attempt until its lease ends. Every later statement names the attempt,
so that a worker which was thought dead changes nothing any more when it comes back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from flask import Flask, current_app

from ghost.config import current_config
from ghost.database import db
from ghost.jobs import registry
from ghost.jobs.context import RunningJob, running_job_var
from ghost.jobs.ledger import is_waiting, jobs, ledger, without_waiting
from ghost.jobs.models import CANCELED, FAILED, FINISHED, QUEUED, RETRYING, STARTED
from ghost.jobs.retries import Permanent, after_failure
from ghost.jobs.signals import job_failed, job_finished
from ghost.logging import job_id_var, logger, redact_text, request_id_var, user_id_var
from ghost.models import utcnow
from ghost.prepared import PreparedWrite
from ghost.redaction import redact_json, storable
from ghost.responses import dumps

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
# The clocks of two machines may differ by this much without a job being thought early.
SKEW_SECONDS = 5.0
ERROR_LIMIT = 2000
HISTORY_ERROR_LIMIT = 500
RESULT_LIMIT_BYTES = 64 * 1024

RELEASED = "released"
"""The outcome of an attempt that a stopping worker gave back: it doesn't count."""
LOST = "lost"
"""The outcome of an attempt that lost its lease: another one counts, and nothing was written."""

CLAIMED: tuple[sa.ColumnElement[Any], ...] = (
    jobs.c.id,
    jobs.c.name,
    jobs.c.queue,
    jobs.c.args,
    jobs.c.attempts,
    jobs.c.max_attempts,
    jobs.c.timeout_seconds,
    jobs.c.created_by,
    jobs.c.request_id,
    jobs.c.kills,
    jobs.c.history,
    jobs.c.started_at,
)
_claim_it = (
    sa.update(jobs)
    .where(
        jobs.c.id == sa.bindparam("key"),
        jobs.c.attempts == sa.bindparam("before"),
        is_waiting,
        sa.or_(jobs.c.status == QUEUED, jobs.c.run_at <= sa.bindparam("latest")),
    )
    .values(
        status=STARTED,
        attempts=jobs.c.attempts + 1,
        started_at=sa.bindparam("now"),
        updated_at=sa.bindparam("now"),
        sent_at=sa.func.coalesce(jobs.c.sent_at, sa.bindparam("now", type_=jobs.c.sent_at.type)),
        lease_until=sa.bindparam("until"),
        progress=None,
        progress_message=None,
    )
    .returning(*CLAIMED)
)
_claim = PreparedWrite(_claim_it)
# A claim that a crash of the server loses is made again, and only one of the two can finish.
_postgresql_claim = PreparedWrite(_claim_it.where(without_waiting))
_mine = sa.update(jobs).where(
    jobs.c.id == sa.bindparam("key"),
    jobs.c.attempts == sa.bindparam("attempt"),
    jobs.c.status == STARTED,
)
_mine_overdue = _mine.where(jobs.c.lease_until < sa.bindparam("ended_before"))
_finish = _mine.values(
    status=FINISHED,
    finished_at=sa.bindparam("now"),
    updated_at=sa.bindparam("now"),
    lease_until=None,
    error=None,
    result=sa.bindparam("returned", type_=jobs.c.result.type),
    history=sa.bindparam("past", type_=jobs.c.history.type),
)
_finish_alone = PreparedWrite(_finish)
# The number of the attempt stays used, since it is what tells this attempt's statements from the
# next one's: the job gets one more instead.
_release = _mine.values(
    status=QUEUED,
    max_attempts=jobs.c.max_attempts + 1,
    run_at=sa.bindparam("now"),
    sent_at=None,
    lease_until=None,
    history=sa.bindparam("past", type_=jobs.c.history.type),
)
_failure: dict[str, Any] = {
    "lease_until": None,
    "error": sa.bindparam("text"),
    "kills": sa.bindparam("killed"),
    "history": sa.bindparam("past", type_=jobs.c.history.type),
}
_repetition: dict[str, Any] = {
    **_failure,
    "status": RETRYING,
    "run_at": sa.bindparam("again_at"),
    "sent_at": None,
}
_end: dict[str, Any] = {**_failure, "status": FAILED, "finished_at": sa.bindparam("now")}


class LeaseLost(Exception):
    """The attempt is no longer this process's: its lease ended and another one may run."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at one job, owned by who made it."""

    job_id: UUID
    name: str
    queue: str
    args: dict[str, Any]
    attempt: int
    max_attempts: int
    timeout_seconds: int
    created_by: UUID | None
    request_id: str | None
    kills: int
    history: list[dict[str, Any]]
    started_at: datetime

    def history_with(
        self, outcome: str, now: datetime, error: str | None = None
    ) -> list[dict[str, Any]]:
        """The attempts so far and this one, as the ledger keeps them."""
        return [
            *self.history,
            attempt_entry(self.attempt, self.started_at, now, outcome, error),
        ]

    @property
    def key(self) -> dict[str, Any]:
        """The parameters by which a statement finds this attempt and no other."""
        return {"key": self.job_id, "attempt": self.attempt}


def attempt_entry(
    attempt: int, started_at: datetime, finished_at: datetime, outcome: str, error: str | None
) -> dict[str, Any]:
    """One entry of a job's history; `outcome` is finished, failed, killed or canceled."""
    return {
        "attempt": attempt,
        "started_at": _rfc3339(started_at),
        "finished_at": _rfc3339(finished_at),
        "outcome": outcome,
        "error": error and error[:HISTORY_ERROR_LIMIT],
    }


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def claim(job_id: UUID, attempt: int) -> Claim | None:
    """Take a waiting job for one attempt; None when it is not there to be taken.

    :param attempt: the number of the attempt to make, 1 for the first.
    """
    now = utcnow()
    with ledger() as connection:
        statement = _postgresql_claim if connection.dialect.name == "postgresql" else _claim
        row = statement.first(
            connection,
            {
                "key": job_id,
                "before": attempt - 1,
                "latest": _later(now, SKEW_SECONDS),
                "now": now,
                "until": _later(now, LEASE_SECONDS),
            },
        )
    return Claim(*row) if row is not None else None


def renew(attempts: Sequence[Claim]) -> set[tuple[UUID, int]]:
    """Keep attempts for another lease, with one statement.

    :returns: job and number of those that are still ours.
    """
    keys = (jobs.c.id, jobs.c.attempts)
    mine = sa.tuple_(*keys).in_([(attempt.job_id, attempt.attempt) for attempt in attempts])
    statement = sa.update(jobs).where(mine, jobs.c.status == STARTED).returning(*keys)
    with ledger() as connection:
        rows = connection.execute(statement.values(lease_until=_later(utcnow(), LEASE_SECONDS)))
        return {(row.id, row.attempts) for row in rows}


def canceled_of(job_ids: Sequence[UUID]) -> set[UUID]:
    """Return those of some jobs that somebody canceled."""
    if not job_ids:
        return set()
    statement = sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.status == CANCELED)
    with ledger() as connection:
        return set(connection.scalars(statement))


def release(attempt: Claim) -> bool:
    """Let another worker make the attempt anew, at once; False when it is no longer ours.

    Only for an attempt whose process has ended.
    """
    now = utcnow()
    values = {**attempt.key, "now": now, "past": attempt.history_with(RELEASED, now)}
    with ledger() as connection:
        return bool(connection.execute(_release, values).rowcount)


def execute(
    app: Flask, attempt: Claim, time_limit: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> str:
    """Run a claimed job in an application context and a transaction of its own.

    What the function wrote and the mark that it finished are one commit.

    :param time_limit: a context manager around the function that raises when its time is over.
    :returns: the outcome, "finished", "retrying", "failed" or "lost".
    """
    running = RunningJob(
        attempt.job_id,
        attempt.name,
        attempt.queue,
        attempt.attempt,
        attempt.max_attempts,
        attempt.created_by,
        attempt.request_id,
    )
    variables: list[tuple[Any, Any]] = [
        (running_job_var, running),
        (job_id_var, str(attempt.job_id)),
        (request_id_var, attempt.request_id),
        (user_id_var, None),
    ]
    tokens = [(variable, variable.set(value)) for variable, value in variables]
    log = logger.bind(job=attempt.name, attempt=attempt.attempt)
    started = time.monotonic()
    try:
        with app.app_context():
            try:
                log.info("Job started.")
                _call(attempt, time_limit)
            except LeaseLost:
                db.session.rollback()
                log.warning("The job's lease ended before the job; its work was rolled back.")
                return LOST
            except (Exception, SystemExit) as error:
                return _give_up(attempt, error)
            log.bind(duration_ms=round((time.monotonic() - started) * 1000, 1)).info(
                "Job finished."
            )
            return FINISHED
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def _call(attempt: Claim, time_limit: Callable[[], AbstractContextManager[Any]]) -> None:
    function = registry.find(attempt.name)
    try:
        arguments = function.arguments.load(attempt.args)
    except TypeError as error:
        raise Permanent(str(error)) from error
    with time_limit():
        returned = function.function(**arguments)
        db.session.flush()
    _commit(attempt, returned)


def _commit(attempt: Claim, returned: object) -> None:
    """Mark the attempt as finished, in the same transaction as the function's work.

    :raises LeaseLost: it is not ours any more; nothing is committed.
    """
    now = utcnow()
    values = {
        **attempt.key,
        "now": now,
        "returned": _kept(returned),
        "past": attempt.history_with(FINISHED, now),
    }
    if not db.session().in_transaction():  # it left no work here: the mark is all there is
        with ledger() as connection:
            if not _finish_alone.count(connection, values):
                raise LeaseLost
        return
    if not db.session.connection().execute(_finish, values).rowcount:
        raise LeaseLost
    db.session.commit()


def _kept(returned: object) -> Any:
    """What the ledger keeps of a function's return value: JSON, without secrets, of bounded size.

    One that is too long, or no JSON, is not kept: the work is done, and this no reason to undo it.
    """
    if returned is None:
        return None
    try:
        data = dumps(returned)
    except TypeError as error:  # half a character, an integer beyond 64 bits
        logger.bind(reason=str(error)).warning("A job's result is no JSON; it is not kept.")
        return None
    if len(data) > RESULT_LIMIT_BYTES:
        logger.bind(size=len(data)).warning("A job's result is longer than 64 KiB; it is not kept.")
        return None
    return redact_json(orjson.loads(data))


def _give_up(attempt: Claim, error: BaseException) -> str:
    """Undo the attempt's work and write down that it failed."""
    try:
        db.session.rollback()
    except Exception as second:  # the connection is gone, and with it the transaction
        logger.bind(error=str(second)).warning("The rollback after a failed job failed.")
        db.session.remove()
    return settle(attempt, error, describe(error))


def settle(
    attempt: Claim,
    error: BaseException | None,
    text: str,
    *,
    lease_ended_before: datetime | None = None,
) -> str:
    """Write down that an attempt failed, and decide whether there is another one.

    :param error: what was raised; None when the process was killed.
    :param text: what the ledger keeps.
    :param lease_ended_before: only if the lease did: it may have been renewed in this moment.
    :returns: the outcome, "retrying", "failed" or "lost".
    """
    defaults = current_config().jobs
    try:
        base = registry.find(attempt.name).backoff_seconds
    except registry.UnknownJob:
        base = None
    now = utcnow()
    kills = attempt.kills + (error is None)
    verdict = after_failure(
        error,
        attempt=attempt.attempt,
        max_attempts=attempt.max_attempts,
        kills=kills,
        max_kills=defaults.max_kills,
        base=defaults.backoff if base is None else base,
        cap=defaults.backoff_max,
        now=now,
        random=random.random,
    )
    if error is None and verdict.status == FAILED and attempt.attempt < attempt.max_attempts:
        text = f"{text}; put aside after {kills} attempts that ended with their process"
    past = attempt.history_with("killed" if error is None else "failed", now, text)
    values = {**attempt.key, "text": text, "killed": kills, "past": past}
    if verdict.run_at is not None:
        changes, values["again_at"] = _repetition, verdict.run_at
    else:
        changes, values["now"] = _end, now
    statement = _mine
    if lease_ended_before is not None:
        statement, values["ended_before"] = _mine_overdue, lease_ended_before
    with ledger() as connection:
        is_written = connection.execute(statement.values(**changes), values).rowcount
    log = logger.bind(job=attempt.name, attempt=attempt.attempt, reason=text).opt(exception=error)
    if not is_written:
        log.warning("The job's attempt failed after its lease had ended; it is not counted.")
        return LOST
    if verdict.run_at is not None:
        log.bind(run_at=verdict.run_at).warning("Job failed; it will be tried again.")
        return RETRYING
    log.error("Job failed for good.")
    _tell(job_failed, job_id=attempt.job_id, name=attempt.name, error=text)
    return FAILED


def tell_finished(attempt: Claim, outcome: str, seconds: float) -> None:
    """Send the signal for an attempt that is over."""
    _tell(job_finished, name=attempt.name, queue=attempt.queue, outcome=outcome, seconds=seconds)


def _tell(signal: Any, **values: Any) -> None:
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    try:
        with app.app_context():  # a session of its own, closed at the end
            signal.send(app, **values)
    except Exception:  # somebody else's receiver; the outcome stands
        logger.exception("A receiver of a job signal failed.")


def run(job_id: UUID, attempt: int) -> str | None:
    """Claim and run one job in this process; None when it was not there to be taken."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    taken = claim(job_id, attempt)
    if taken is None:
        return None
    started = time.monotonic()
    outcome = execute(app, taken)
    tell_finished(taken, outcome, time.monotonic() - started)
    return outcome


def run_waiting(*, limit: int = 1000) -> list[tuple[str, str]]:
    """Run every job that is due in this process, those that they enqueue included.

    For tests: no Redis, no worker, no time limit; retries that are due later are left.

    :returns: name and outcome of each, in order.
    :raises RuntimeError: there is no end to them.
    """
    done: list[tuple[str, str]] = []
    while len(done) < limit:
        with ledger() as connection:
            row = connection.execute(
                sa.select(jobs.c.id, jobs.c.name, jobs.c.attempts)
                .where(is_waiting, jobs.c.run_at <= utcnow())
                .order_by(jobs.c.run_at, jobs.c.id)
                .limit(1)
            ).first()
        if row is None:
            return done
        outcome = run(row.id, row.attempts + 1)
        if outcome is not None:
            done.append((row.name, outcome))
    raise RuntimeError(f"{limit} jobs were run, and there are still more")


def describe(error: BaseException) -> str:
    """Return what the ledger keeps of an exception: its type and text, redacted and bounded."""
    try:
        text = str(error)
        if isinstance(error, sa.exc.StatementError):
            # Below the first line, PostgreSQL quotes the statement and its values. They are in the
            # log; whoever may read a job need not see them.
            text = str(error.orig or error.args[0]).partition("\n")[0]
    except Exception:  # an exception that can't print itself
        text = "<unprintable>"
    kind = type(error)
    title = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    text = storable(redact_text(f"{title}: {text}" if text else title))
    return text if len(text) <= ERROR_LIMIT else f"{text[: ERROR_LIMIT - 3]}..."


def _later(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)

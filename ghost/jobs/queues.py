"""Queues as operators see them: how much waits, for how long, and which are paused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ghost.config import current_config
from ghost.database import db, dialect_insert
from ghost.errors import NotFound
from ghost.jobs.ledger import is_waiting, jobs, ledger
from ghost.jobs.models import STARTED, PausedQueue
from ghost.logging import logger
from ghost.models import utcnow

_paused: Any = PausedQueue.__table__


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue: `depth` counts what is due and waits, `oldest` is since when the first of it."""

    name: str
    depth: int
    oldest: datetime | None
    running: int
    paused: bool


def list_queues() -> list[QueueState]:
    """Return the state of every configured queue, the most urgent first."""
    now = utcnow()
    with ledger() as connection:
        waiting = {
            row.queue: row
            for row in connection.execute(
                sa.select(
                    jobs.c.queue,
                    sa.func.count().label("depth"),
                    sa.func.min(jobs.c.run_at, type_=jobs.c.run_at.type).label("oldest"),
                )
                .where(is_waiting, jobs.c.finished_at.is_(None), jobs.c.run_at <= now)
                .group_by(jobs.c.queue)
            )
        }
        started = connection.execute(
            sa.select(jobs.c.queue, sa.func.count())
            .where(jobs.c.lease_until.is_not(None), jobs.c.status == STARTED)
            .group_by(jobs.c.queue)
        )
        running: dict[str, int] = {queue: count for queue, count in started}  # noqa: C416
    paused = paused_queues()
    return [
        QueueState(
            name,
            depth=waiting[name].depth if name in waiting else 0,
            oldest=waiting[name].oldest if name in waiting else None,
            running=running.get(name, 0),
            paused=name in paused,
        )
        for name in current_config().jobs.queues
    ]


def paused_queues() -> set[str]:
    """Return the names of the queues of which no worker takes jobs."""
    with ledger() as connection:
        return set(connection.scalars(sa.select(_paused.c.name)))


def pause(name: str) -> None:
    """Have workers take no more jobs of a queue; what runs is finished, what is enqueued waits.

    :raises NotFound: there is no such queue.
    """
    _require(name)
    insert = dialect_insert(_paused).values(name=name, paused_at=utcnow())
    db.session.execute(insert.on_conflict_do_nothing(index_elements=["name"]))
    logger.bind(event="queue_paused", queue=name).warning("a queue was paused")


def resume(name: str) -> None:
    """Let workers take jobs of a queue again.

    :raises NotFound: there is no such queue.
    """
    _require(name)
    db.session.execute(sa.delete(_paused).where(_paused.c.name == name))
    logger.bind(event="queue_resumed", queue=name).warning("a queue goes on")


def _require(name: str) -> None:
    if name not in current_config().jobs.queues:
        raise NotFound("There is no such queue.")

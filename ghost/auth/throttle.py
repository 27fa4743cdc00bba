"""Counts of what must not happen too often to one account: wrong passwords, mails on demand."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ghost.auth.models import Throttle
from ghost.database import dialect_insert
from ghost.errors import RateLimited
from ghost.models import utcnow
from ghost.prepared import PreparedRead

_table = Throttle.__table__
_CURRENT = PreparedRead(
    sa.select(_table.c.count, _table.c.expires_at).where(
        _table.c.key == sa.bindparam("key"), _table.c.expires_at > sa.bindparam("now")
    )
)


class Throttled(RateLimited):
    """Too many failures on one account; says when the next try is welcome."""

    message = "Too many failed attempts. Please wait, or reset your password."

    def __init__(self, limit: int, expires_at: datetime) -> None:
        seconds = max(1, round((expires_at - utcnow()).total_seconds()))
        super().__init__(
            headers={
                "Retry-After": str(seconds),
                "X-RateLimit-Limit": str(limit),
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(int(expires_at.timestamp())),
            }
        )


def key_of(subject: str, name: str) -> str:
    """The key of a count: a hash, so that the table tells no addresses.

    :param subject: what is counted.
    :param name: an account's id, or the name of an account that does not exist.
    """
    return hashlib.sha256(f"{subject}\0{name}".encode()).hexdigest()


def check(key: str, limit: int) -> None:
    """Refuse what happened too often already.

    :raises Throttled: the limit is reached.
    """
    row = _CURRENT.first({"key": key, "now": utcnow()})
    if row is not None:
        failures, expires_at = row
        if failures >= limit:
            raise Throttled(limit, expires_at)


def is_below(key: sa.BindParameter[str], limit: sa.BindParameter[int]) -> sa.ColumnElement[bool]:
    """The same as a condition of a statement that has a parameter `now`."""
    return sa.not_(
        sa.exists().where(
            _table.c.key == key, _table.c.count >= limit, _table.c.expires_at > sa.bindparam("now")
        )
    )


def count(connection: Connection, key: str, window_seconds: int) -> tuple[int, datetime]:
    """Count once more, in one statement.

    A window starts with its first count and ends as a whole; the sweep deletes it later.

    :returns: the count with this one, and the end of the window.
    """
    now = utcnow()
    is_over = _table.c.expires_at <= now
    end = now + timedelta(seconds=window_seconds)
    statement = dialect_insert(_table).values(key=key, count=1, expires_at=end)
    total, expires_at = connection.execute(
        statement.on_conflict_do_update(
            index_elements=["key"],
            set_={
                "count": sa.case((is_over, 1), else_=_table.c.count + 1),
                "expires_at": sa.case((is_over, end), else_=_table.c.expires_at),
            },
        ).returning(_table.c.count, _table.c.expires_at)
    ).one()
    return total, expires_at


def forget(connection: Connection, key: str) -> None:
    """Start from zero."""
    connection.execute(sa.delete(_table).where(_table.c.key == key))

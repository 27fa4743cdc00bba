"""What the jobs' sweep does for the rooms: rows worth nothing are deleted, lost ends tied up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa

IsOver = Callable[[datetime], sa.ColumnElement[bool]]
Repair = Callable[[sa.Connection, datetime, int], int]

repairs: list[Repair] = []
_declared: dict[str, tuple[sa.Table, IsOver]] = {}


def delete_when(model: Any, is_over: IsOver) -> None:
    """Have the rows of a model deleted some minutes after a condition has come true.

    :param is_over: gives the condition for the time that it is passed; put an index on its column.
    """
    table: sa.Table = model.__table__
    _declared[table.name] = (table, is_over)


def deletions(now: datetime, limit: int) -> Iterator[sa.Delete]:
    """One statement for each declared table, to be repeated while it deletes that many rows."""
    for table, is_over in _declared.values():
        key = sa.tuple_(*table.primary_key)
        # A row that somebody has locked is changing: it is left to the next time.
        old = (
            sa.select(*table.primary_key)
            .where(is_over(now))
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        yield sa.delete(table).where(key.in_(old))


def repair_with(function: Repair) -> Repair:
    """Have a function called about once a minute: it mends what a process left that was killed.

    It is called with a connection in autocommit, the time, and how many rows it changes at most;
    it returns how many it did, and is called again while it was that many.
    """
    repairs.append(function)
    return function

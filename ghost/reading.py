"""Reading a row together with the caller who asks for it: one round trip instead of two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from flask import current_app, g

from ghost import access
from ghost.errors import Unauthorized
from ghost.prepared import PreparedRead


class ReadWithCaller:
    """A select of one row as `PreparedRead`, that can bring the caller of the request along.

    For the hottest reads. Nobody is refused here: `ghost.access.authenticate` does that as ever,
    and asks the database again only where no caller has come along.

    :param statement: its first column is never NULL.
    """

    def __init__(self, statement: sa.Select[Any]) -> None:
        self._statement = statement
        self._width = len(statement.selected_columns)
        self._alone = PreparedRead(statement)
        self._with_caller: dict[sa.Select[Any], PreparedRead] = {}  # by what reads callers

    def first(self, values: Mapping[str, Any], *, brings_caller: bool) -> Any:
        """Return the first row, by position and by name, or None.

        :param values: the statement's parameters; they have other names than the caller's.
        :raises sqlalchemy.exc.DBAPIError: as any other statement.
        """
        loader = current_app.extensions["ghost"].loader
        if not brings_caller or "caller" in g:
            return self._alone.first(values)
        try:
            caller_values = loader.values()
        except Unauthorized:
            return self._alone.first(values)
        row = self._both(loader.statement).first({**values, **caller_values})
        if row[self._width] is not None:
            access.remember(loader.caller_of(row[self._width :]))
        return row if row[0] is not None else None

    def _both(self, callers: sa.Select[Any]) -> PreparedRead:
        """What reads both: always one row, so that what is there can't be told by the time."""
        read = self._with_caller.get(callers)
        if read is None:
            mine, caller = self._statement.subquery("wanted"), callers.subquery("caller")
            one = sa.select(sa.literal_column("1")).subquery("one")
            either = one.outerjoin(mine, sa.true()).outerjoin(caller, sa.true())
            read = PreparedRead(sa.select(*mine.c, *caller.c).select_from(either))
            self._with_caller[callers] = read
        return read

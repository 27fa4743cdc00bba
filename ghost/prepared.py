"""Reads that nearly every request makes, kept ready by PostgreSQL on each connection.

Planning the query for session, account and rights costs the server four times what running it does,
and SQLAlchemy's execution costs this process as much again. So such a query is prepared once for
each connection, and then only named. Everything else is as ever: the pool, the limits on every
wait, the errors. It is an ordinary Core statement on SQLite, where neither costs much, and where
somebody watches the statements by `database.echo` or the event `before_cursor_execute`, as tracers
do, since SQLAlchemy shows only its own.
"""

from __future__ import annotations

import hashlib
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg2
import sqlalchemy as sa
from psycopg2 import errorcodes
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Engine

from ghost.database import db, db_manager, reading

_STALE = (
    errorcodes.INVALID_SQL_STATEMENT_NAME,  # the connection has lost it: DISCARD ALL
    errorcodes.DUPLICATE_PREPARED_STATEMENT,  # it is there, and was not noted
    errorcodes.FEATURE_NOT_SUPPORTED,  # a migration has changed a column that the plan returns
)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What prepares a statement, what executes it, and how its rows are named."""

    name: str
    prepare: str
    execute: str
    parameters: tuple[str, ...]
    fixed: Mapping[str, Any]  # the values of parameters that stand in the statement itself
    row: Any
    convert: tuple[tuple[int, Callable[[Any], Any]], ...]  # what psycopg2 does not return as it is


class PreparedRead:
    """A select of one row that is prepared where that helps; read in autocommit, no transaction.

    :param statement: whose parameters have values that psycopg2 sends as they are.
    """

    def __init__(self, statement: sa.Select[Any]) -> None:
        self._statement = statement

    def first(self, values: Mapping[str, Any]) -> Any:
        """Return the first row, by position and by name as any row of SQLAlchemy's, or None.

        :raises sqlalchemy.exc.DBAPIError: as any other statement.
        """
        engine = reading(db.engine)
        is_watched = engine.echo or engine.dispatch.before_cursor_execute
        if engine.dialect.name != "postgresql" or is_watched:
            with db_manager.connection() as connection:
                return connection.execute(self._statement, values).first()
        return self._read(engine, values)

    @cached_property
    def _plan(self) -> _Plan:
        """Compiled when it is first needed: an application on SQLite never needs it."""
        numbered = postgresql.dialect(paramstyle="numeric_dollar")
        compiled: Any = self._statement.compile(dialect=numbered)
        names = tuple(compiled.positiontup or ())
        name = f"ghost_{hashlib.sha256(compiled.string.encode()).hexdigest()[:16]}"
        marks = f" ({', '.join(['%s'] * len(names))})" if names else ""
        return _Plan(
            name=name,
            prepare=f"PREPARE {name} AS {compiled.string}",
            execute=f"EXECUTE {name}{marks}",
            parameters=names,
            fixed=compiled.params,
            row=namedtuple("Row", self._statement.selected_columns.keys(), rename=True),
            convert=tuple(_converters(self._statement, db.engine.dialect)),
        )

    def _read(self, engine: Engine, values: Mapping[str, Any]) -> Any:
        plan = self._plan
        sent = [values[key] if key in values else plan.fixed[key] for key in plan.parameters]
        with engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            try:
                raw.autocommit = True
                with raw.cursor() as cursor:
                    try:
                        _execute(raw, cursor, plan, sent)
                    except psycopg2.Error as error:
                        if error.pgcode not in _STALE:
                            raise
                        cursor.execute("DEALLOCATE ALL")
                        raw.prepared.clear()
                        _execute(raw, cursor, plan, sent)
                    found = cursor.fetchone()
            except psycopg2.Error as error:
                # SQLAlchemy's own way of telling errors: it knows which connections are lost, and
                # tells the listeners of `handle_error`. It has no public name.
                connection._handle_dbapi_exception(error, plan.execute, sent, None, None)
                raise
            except (ValueError, OverflowError) as error:  # a value that psycopg2 can't send
                raise sa.exc.DataError(plan.execute, None, error, hide_parameters=True) from error
        if found is None:
            return None
        row = list(found)
        for place, convert in plan.convert:
            row[place] = convert(row[place])
        return plan.row._make(row)


def _converters(
    statement: sa.Select[Any], dialect: sa.Dialect
) -> Iterator[tuple[int, Callable[[Any], Any]]]:
    """Go through the columns whose type does something to what the driver returns."""
    for place, column in enumerate(statement.selected_columns):
        convert = column.type.dialect_impl(dialect).result_processor(dialect, None)
        if convert is not None:
            yield place, convert


def _execute(raw: Any, cursor: Any, plan: _Plan, sent: Sequence[Any]) -> None:
    if plan.name not in raw.prepared:
        cursor.execute(plan.prepare)
        raw.prepared.add(plan.name)
    cursor.execute(plan.execute, sent)

"""What nearly every request or job asks, kept ready by PostgreSQL on each connection.

Planning the query for session, account and rights costs the server four times what running it does,
and SQLAlchemy's execution costs this process as much again. So such a statement is prepared once
for each connection, and then only named. Everything else is as ever: the pool, the limits on every
wait, the errors. On SQLite, where planning costs little, an update goes to the driver as text that
is made once, and a read is an ordinary Core statement. So is everything where somebody watches the
statements by `database.echo` or the event `before_cursor_execute`, as tracers do, since SQLAlchemy
shows only its own.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg2
import sqlalchemy as sa
from psycopg2 import errorcodes
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Engine

from ghost.database import db, db_manager, reading

T = TypeVar("T")

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
    # What psycopg2 does not send and return as it is.
    bind: Mapping[str, Callable[[Any], Any]]
    row: Any
    convert: tuple[tuple[int, Callable[[Any], Any]], ...]


class _Prepared:
    """A statement that is prepared where that helps."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._plans: dict[str, _Plan] = {}  # by the kind of database

    @property
    def _plan(self) -> _Plan:
        """Compiled when it is first needed."""
        dialect = db.engine.dialect
        plan = self._plans.get(dialect.name)
        if plan is None:
            plan = self._plans[dialect.name] = self._make_plan(dialect)
        return plan

    def _make_plan(self, dialect: sa.Dialect) -> _Plan:
        is_prepared = dialect.name == "postgresql"
        numbered = postgresql.dialect(paramstyle="numeric_dollar")
        compiled: Any = self._statement.compile(dialect=numbered if is_prepared else dialect)
        names = tuple(compiled.positiontup or ())
        name = f"ghost_{hashlib.sha256(compiled.string.encode()).hexdigest()[:16]}"
        marks = f" ({', '.join(['%s'] * len(names))})" if names else ""
        columns = self._statement.exported_columns
        return _Plan(
            name=name,
            prepare=f"PREPARE {name} AS {compiled.string}",
            execute=f"EXECUTE {name}{marks}" if is_prepared else compiled.string,
            parameters=names,
            fixed=compiled.params,
            bind=dict(_binders(compiled, dialect)),
            row=namedtuple("Row", columns.keys(), rename=True),
            convert=tuple(_converters(columns, dialect)),
        )

    def _run(
        self, connection: Connection, values: Mapping[str, Any], read: Callable[[Any], T]
    ) -> T:
        """Execute as a transaction of its own.

        :param read: takes what is wanted from the cursor.
        """
        plan = self._plan
        raw: Any = connection.connection.dbapi_connection
        sent: list[Any] = []
        try:
            sent.extend(_values(plan, values))
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
                return read(cursor)
        except psycopg2.Error as error:
            # SQLAlchemy's own way of telling errors: it knows which connections are lost, and
            # tells the listeners of `handle_error`. It has no public name.
            connection._handle_dbapi_exception(error, plan.execute, sent, None, None)
            raise
        except (ValueError, OverflowError) as error:  # a value that psycopg2 can't send
            raise sa.exc.DataError(plan.execute, None, error, hide_parameters=True) from error

    def _run_as_text(
        self, connection: Connection, values: Mapping[str, Any], read: Callable[[Any], T]
    ) -> T:
        """Execute on SQLite, as a transaction of its own; the driver keeps the plan.

        :param read: takes what is wanted from the cursor.
        """
        plan = self._plan
        raw: Any = connection.connection.dbapi_connection
        sent: list[Any] = []
        try:
            sent.extend(_values(plan, values))
            cursor = raw.execute(plan.execute, sent)
            try:
                return read(cursor)
            finally:
                cursor.close()  # before that nothing is committed
        except sqlite3.Error as error:
            connection._handle_dbapi_exception(error, plan.execute, sent, None, None)
            raise
        except (ValueError, OverflowError) as error:  # a value that the driver can't send
            raise sa.exc.DataError(plan.execute, None, error, hide_parameters=True) from error

    def _row(self, cursor: Any) -> Any:
        found = cursor.fetchone()
        if found is None:
            return None
        row = list(found)
        plan = self._plan
        for place, convert in plan.convert:
            row[place] = convert(row[place])
        return plan.row._make(row)


class PreparedRead(_Prepared):
    """A select of one row that is prepared where that helps; read in autocommit, no transaction."""

    def __init__(self, statement: sa.Select[Any]) -> None:
        super().__init__(statement)

    def first(self, values: Mapping[str, Any]) -> Any:
        """Return the first row, by position and by name as any row of SQLAlchemy's, or None.

        :raises sqlalchemy.exc.DBAPIError: as any other statement.
        """
        engine = reading(db.engine)
        if not _is_prepared_on(engine):
            with db_manager.connection() as connection:
                return connection.execute(self._statement, values).first()
        with engine.connect() as connection:
            return self._run(connection, values, self._row)


class PreparedWrite(_Prepared):
    """An update of one row that is prepared where that helps; each a transaction of its own.

    Every value stands in the statement or is given to it: `onupdate` functions are not called.

    :param statement: an update, or a select of what the updates in its WITH return (PostgreSQL).
    """

    def __init__(self, statement: sa.Update | sa.Select[Any]) -> None:
        super().__init__(statement)

    def first(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Return what it returns of the first row that it changed, or None.

        :param connection: in autocommit, from `db_manager.connection()`.
        """
        if _is_watched(connection.engine):
            return connection.execute(self._statement, values).first()
        return self._run_on(connection, values, self._row)

    def count(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Return how many rows it changed."""
        if _is_watched(connection.engine):
            return int(connection.execute(self._statement, values).rowcount)
        return self._run_on(connection, values, lambda cursor: int(cursor.rowcount))

    def _run_on(
        self, connection: Connection, values: Mapping[str, Any], read: Callable[[Any], T]
    ) -> T:
        run = self._run if connection.dialect.name == "postgresql" else self._run_as_text
        return run(connection, values, read)


def _is_prepared_on(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql" and not _is_watched(engine)


def _is_watched(engine: Engine) -> bool:
    return bool(engine.echo or engine.dispatch.before_cursor_execute)


def _values(plan: _Plan, values: Mapping[str, Any]) -> Iterator[Any]:
    for key in plan.parameters:
        value = values[key] if key in values else plan.fixed[key]
        yield plan.bind[key](value) if key in plan.bind else value


def _binders(compiled: Any, dialect: sa.Dialect) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Go through the parameters whose type does something to what is sent."""
    for key, parameter in compiled.binds.items():
        bind = parameter.type.dialect_impl(dialect).bind_processor(dialect)
        if bind is not None:
            yield key, bind


def _converters(
    columns: Iterable[Any], dialect: sa.Dialect
) -> Iterator[tuple[int, Callable[[Any], Any]]]:
    """Go through the columns whose type does something to what the driver returns."""
    for place, column in enumerate(columns):
        convert = column.type.dialect_impl(dialect).result_processor(dialect, None)
        if convert is not None:
            yield place, convert


def _execute(raw: Any, cursor: Any, plan: _Plan, sent: Sequence[Any]) -> None:
    if plan.name not in raw.prepared:
        cursor.execute(plan.prepare)
        raw.prepared.add(plan.name)
    cursor.execute(plan.execute, sent)

"""The one database: engines, sessions inside and outside requests, limits on every wait.

On SQLite a transaction begins with BEGIN IMMEDIATE, because Python's default (begin at the first
write) loses updates silently. Requests that only read begin none at all, on either database.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

import psycopg2
import psycopg2.extensions
import sqlalchemy as sa
from flask import Flask, current_app, has_app_context, has_request_context, request
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session as FlaskSession
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, ORMExecuteState, scoped_session
from sqlalchemy.pool import ConnectionPoolEntry, NullPool
from sqlalchemy.types import TypeDecorator

from ghost.config import Config, current_config

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CONNECT_SECONDS = 2.0
PING_SECONDS = 1.0
PING_AFTER_IDLE_SECONDS = 1.0
# After a failed connection attempt others fail at once for this long, so that requests don't queue
# behind a database that is away; the first one after it tries again.
PAUSE_AFTER_FAILURE_SECONDS = 0.5
SQLITE_BUSY_SECONDS = 4.0
# The client gives the server this much longer than its own statement_timeout.
GRACE_SECONDS = 0.5

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC on every database; a naive one is refused."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone can't be stored")
        return value.astimezone(UTC)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        if dialect.name == "postgresql":  # aware already: the connection's time zone is UTC
            return None
        parse = self.impl_instance.result_processor(dialect, coltype)

        def aware(value: Any) -> datetime | None:
            value = parse(value) if parse else value
            return value.replace(tzinfo=UTC) if value is not None else None

        return aware


class Base(DeclarativeBase):
    """The base of every model, Ghost's and the application's: one metadata, named constraints."""

    metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)


class ReadOnlyRequest(RuntimeError):
    """A view of GET or HEAD tried to write: safe methods change nothing.

    Move the write, the enqueueing of a job too, to a POST.
    """


class Session(FlaskSession):
    """Flask-SQLAlchemy's session, read-only while a safe request is answered."""

    def __init__(self, db: SQLAlchemy, **options: Any) -> None:
        super().__init__(db, **options)
        in_request = has_request_context()
        self.readonly = in_request and request.method in SAFE_METHODS
        # Whoever owns the transaction commits it: the view, or the job's wrapper.
        self.info["owned"] = in_request

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        bind = super().get_bind(*args, **options)
        return reading(bind) if self.readonly and isinstance(bind, Engine) else bind


@event.listens_for(Session, "before_flush")
def _refuse_flush(session: Session, _context: Any, _instances: Any) -> None:
    if session.readonly and (session.new or session.dirty or session.deleted):
        raise ReadOnlyRequest(ReadOnlyRequest.__doc__)
    if session.get_bind().dialect.name == "sqlite":
        for row in (*session.new, *session.dirty):
            _refuse_misfits(row)


def _refuse_misfits(row: Any) -> None:
    """Refuse what PostgreSQL would refuse, so that both databases give the same answer.

    :raises sqlalchemy.exc.DataError: a value is too long, too large, or holds a NUL.
    """
    state = sa.inspect(row)
    for attribute in state.mapper.column_attrs:
        value = state.dict.get(attribute.key)
        if value is not None and not _fits(value, attribute.columns[0].type):
            misfit = ValueError(f"a value does not fit {attribute.columns[0]}")
            raise sa.exc.DataError(None, None, misfit, hide_parameters=True)


def _fits(value: Any, kind: sa.types.TypeEngine[Any]) -> bool:
    if isinstance(value, str):
        length = kind.length if isinstance(kind, sa.String) else None
        return "\0" not in value and (length is None or len(value) <= length)
    if isinstance(value, int) and isinstance(kind, sa.Integer):
        small, big = isinstance(kind, sa.SmallInteger), isinstance(kind, sa.BigInteger)
        limit = 2 ** (15 if small else 63 if big else 31)
        return -limit <= value < limit
    if isinstance(value, Decimal) and isinstance(kind, sa.Numeric) and kind.precision is not None:
        return abs(value) < Decimal(10) ** (kind.precision - (kind.scale or 0))
    return True


@event.listens_for(Session, "do_orm_execute")
def _refuse_statement(state: ORMExecuteState) -> None:
    if not getattr(state.session, "readonly", False):
        return
    writes = state.is_insert or state.is_update or state.is_delete
    if not (writes or state.is_select):  # text, DDL
        writes = not _READS.match(str(state.statement))
    if writes:
        raise ReadOnlyRequest(ReadOnlyRequest.__doc__)


_READS = re.compile(r"\s*(?:select|values|with|table|show|explain|pragma)\b", re.IGNORECASE)


db = SQLAlchemy(
    model_class=Base,
    session_options={"class_": Session, "expire_on_commit": False},
    disable_autonaming=True,
)
db.Model.registry.update_type_annotation_map({datetime: UTCDateTime})  # type: ignore[attr-defined]

_reading: WeakKeyDictionary[Engine, Engine] = WeakKeyDictionary()
_guarded: WeakSet[Engine] = WeakSet()


def reading(engine: Engine) -> Engine:
    """The same engine and pool for reads: no BEGIN, so no lock on SQLite and no round trip."""
    twin = _reading.get(engine)
    if twin is None:
        twin = _reading[engine] = engine.execution_options(readonly=True)
    return twin


class DatabaseManager:
    """The session API for code outside a request: scripts, threads, commands."""

    def __init__(self) -> None:
        self._app: Flask | None = None

    def init_app(self, app: Flask) -> None:
        """Remember the application for callers that have no context."""
        self._app = app

    @contextmanager
    def session(self) -> Iterator[scoped_session[FlaskSession]]:
        """Open `db.session`, commit at the end, roll back on an exception.

        Inside a request or a job it is that one's session, and that one commits; so does the
        outermost block when blocks are nested.
        """
        with ExitStack() as stack:
            if not has_app_context():
                if self._app is None:
                    raise RuntimeError("Call ghost.create_app() before db_manager.session().")
                stack.enter_context(self._app.app_context())
            info = db.session().info
            if info.get("owned"):
                yield db.session
                return
            info["owned"] = True
            try:
                yield db.session
                db.session.commit()
            except BaseException:
                db.session.rollback()
                raise
            finally:
                info["owned"] = False

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """An autocommit connection beside the session: for reads that must hold no transaction."""
        with reading(db.engine).connect() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A short transaction of its own beside the session, committed at the end of the block."""
        with db.engine.begin() as connection:
            yield connection

    def ping(self) -> None:
        """Ask the database for a sign of life.

        :raises sqlalchemy.exc.SQLAlchemyError: it is away, or hangs.
        """
        with self.connection() as connection:
            connection.execute(sa.text("SELECT 1"))


db_manager = DatabaseManager()


@contextmanager
def writing_session() -> Iterator[scoped_session[FlaskSession]]:
    """Make `db.session` anew, able to write although the request is a safe one.

    For what a client can't tell from nothing, such as having something made that is then kept. The
    block commits; objects of the session before and of this one are detached afterwards.
    """
    db.session.remove()
    cast(Session, db.session()).readonly = False
    try:
        yield db.session
    finally:
        db.session.remove()


def engine_options(config: Config) -> dict[str, Any]:
    """Options for `create_engine`: the pool, and no parameters in error texts."""
    settings = config.database
    options: dict[str, Any] = {"hide_parameters": True, "pool_recycle": settings.pool_recycle}
    if ":memory:" not in settings.url:
        options |= {
            "pool_size": settings.pool_size,
            "max_overflow": settings.max_overflow,
            "pool_timeout": settings.pool_timeout,
        }
    return options


def init_app(app: Flask, config: Config) -> None:
    """Bind the database to the application; nothing is opened."""
    app.config.update(
        SQLALCHEMY_DATABASE_URI=config.database.url,
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(config),
        SQLALCHEMY_ECHO=config.database.echo,
    )
    db.init_app(app)
    db_manager.init_app(app)
    with app.app_context():
        for engine in db.engines.values():
            guard(engine, config)


def migration_engine() -> Engine:
    """An engine for `flask db`: one connection, and no limit on a statement's time."""
    engine = sa.create_engine(db.engine.url, poolclass=NullPool)
    guard(engine, current_config(), limited=False)
    return engine


def guard(engine: Engine, config: Config, *, limited: bool = True) -> None:
    """Give an engine its transaction rules, its limits, and safety over fork."""
    _guarded.add(engine)
    event.listen(engine, "handle_error", _blame_the_value)
    if engine.dialect.name == "sqlite":
        _guard_sqlite(engine)
    else:
        _guard_postgresql(engine, config, limited)


def _blame_the_value(context: ExceptionContext) -> BaseException | None:
    """Turn Python's own errors, that drivers raise for values they can't send, into a DataError.

    A NUL for PostgreSQL, half a character, an integer beyond 64 bits for SQLite.
    """
    original = context.original_exception
    if context.sqlalchemy_exception is None and isinstance(original, ValueError | OverflowError):
        return sa.exc.DataError(context.statement, None, original, hide_parameters=True)
    return None


# --- SQLite ---------------------------------------------------------------------------------------


def _guard_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "do_connect")
    def make_folder(_dialect: Any, _record: Any, args: list[Any], _options: Any) -> None:
        # With the file, when it is first opened: create_app() itself writes nothing.
        if args and args[0] and ":memory:" not in args[0]:
            Path(args[0]).parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(engine, "connect")
    def pragmas(connection: Any, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # we begin transactions ourselves
        for pragma in (
            f"busy_timeout={int(SQLITE_BUSY_SECONDS * 1000)}",
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
        ):
            connection.execute("PRAGMA " + pragma)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("readonly"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")


# --- PostgreSQL -----------------------------------------------------------------------------------


class DatabaseHangs(psycopg2.OperationalError):
    """No answer within the limit."""


class _Connection(psycopg2.extensions.connection):
    """A connection that knows how long one answer may take; until it is open, the connecting."""

    wait_seconds: float | None = CONNECT_SECONDS
    server_seconds: float | None = None  # the time per statement that the server knows of

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.prepared: set[str] = set()  # see ghost.prepared


def _wait(connection: Any) -> None:
    """Wait for PostgreSQL, but not longer than the connection allows.

    A server that hangs is noticed by none of libpq's timeouts on a local connection. psycopg2
    calls this for every wait of the process (`set_wait_callback`); the price is that COPY needs a
    connection of its own, see docs/database.md.
    """
    state = connection.poll()
    if state == psycopg2.extensions.POLL_OK:
        return
    seconds = getattr(connection, "wait_seconds", None)
    deadline = None if seconds is None else time.monotonic() + seconds
    poller = select.poll()
    while state != psycopg2.extensions.POLL_OK:
        mask = select.POLLIN if state == psycopg2.extensions.POLL_READ else select.POLLOUT
        poller.register(connection.fileno(), mask)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poller.poll(left):
            # psycopg2 then closes the connection itself; closing it here would wait for ourselves.
            raise DatabaseHangs(f"the database did not answer within {seconds:g} s")
        state = connection.poll()


def _guard_postgresql(engine: Engine, config: Config, limited: bool) -> None:
    psycopg2.extensions.set_wait_callback(_wait)
    settings = config.database
    paused_until = 0.0

    def limit() -> float | None:
        """Seconds that a statement may take: few in a request, more in a job, any in `flask db`."""
        if not limited:
            return None
        return (
            settings.statement_timeout if has_request_context() else settings.job_statement_timeout
        )

    @event.listens_for(engine, "do_connect")
    def connect(
        dialect: Any, _record: ConnectionPoolEntry, args: list[Any], options: dict[str, Any]
    ) -> DBAPIConnection:
        nonlocal paused_until
        if time.monotonic() < paused_until:
            raise psycopg2.OperationalError("the database was away a moment ago")
        seconds = limit()
        wanted = {"timezone": "UTC", **_server_limits(seconds)}
        words = [options.get("options", ""), *(f"-c {key}={wanted[key]}" for key in wanted)]
        options = options | {
            "connection_factory": _Connection,
            "options": " ".join(words).strip(),
        }
        try:
            connection: Any = dialect.connect(*args, **options)
        except psycopg2.OperationalError:
            paused_until = time.monotonic() + PAUSE_AFTER_FAILURE_SECONDS
            raise
        connection.server_seconds = seconds
        return cast(DBAPIConnection, connection)

    @event.listens_for(engine, "handle_error")
    def pause(context: ExceptionContext) -> None:
        nonlocal paused_until
        if isinstance(context.original_exception, DatabaseHangs):
            paused_until = time.monotonic() + PAUSE_AFTER_FAILURE_SECONDS

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # An attribute of psycopg2's; SQLAlchemy's isolation level would cost two round trips.
        options = connection.get_execution_options()
        if "isolation_level" not in options:
            raw: Any = connection.connection.dbapi_connection
            raw.autocommit = options.get("readonly", False)

    @event.listens_for(engine, "checkout")
    def prepare(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        """Pre-ping after an idle moment, with little patience; then wait as this caller may."""
        idle_since = record.info.get("idle_since")
        if (
            settings.pool_pre_ping
            and idle_since is not None
            and time.monotonic() - idle_since > PING_AFTER_IDLE_SECONDS
        ):
            _ask(connection, "SELECT 1")
        seconds = limit()
        if connection.server_seconds != seconds:  # a job had it before, or a thread of a probe
            limits = _server_limits(seconds)
            _ask(connection, "; ".join(f"SET {key} = {limits[key]}" for key in limits))
            connection.server_seconds = seconds
        connection.wait_seconds = None if seconds is None else seconds + GRACE_SECONDS

    @event.listens_for(engine, "checkin")
    def note(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()


def _server_limits(seconds: float | None) -> dict[str, int]:
    """The server's own limits, in milliseconds, that go with the time a statement may take."""
    if seconds is None:
        return {}
    milliseconds = int(seconds * 1000)
    return {
        "statement_timeout": milliseconds,
        "lock_timeout": min(milliseconds, 10_000) * 3 // 4,
        "idle_in_transaction_session_timeout": max(milliseconds, 60_000),
    }


def _ask(connection: Any, statement: str) -> None:
    """Send a short statement to a pooled connection, outside of any transaction.

    :raises sqlalchemy.exc.DisconnectionError: no answer; the pool opens another connection.
    """
    connection.wait_seconds = PING_SECONDS
    usual = connection.autocommit
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.autocommit = usual
    except psycopg2.Error as error:
        raise sa.exc.DisconnectionError("the database went away") from error


def _forget_connections() -> None:
    """In a forked child: leave the parent's connections alone, open own ones."""
    for engine in list(_guarded):
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)


def lock_row(statement: sa.Select[Any]) -> sa.Select[Any]:
    """Lock what a statement selects until the transaction ends.

    On SQLite the whole transaction is exclusive already (BEGIN IMMEDIATE).
    """
    return statement.with_for_update()


class joined(sa.sql.functions.GenericFunction[str]):
    """Aggregate texts, with a comma between; None for no rows.

    SQLAlchemy's `aggregate_strings` renders its separator anew at every execution.
    """

    type = sa.Text()
    inherit_cache = True


@compiles(joined, "postgresql")
def _string_agg(element: joined, compiler: Any, **options: Any) -> str:
    return f"string_agg({compiler.process(element.clauses, **options)}, ',')"


@compiles(joined, "sqlite")
def _group_concat(element: joined, compiler: Any, **options: Any) -> str:
    return f"group_concat({compiler.process(element.clauses, **options)}, ',')"


def dialect_insert(table: Any) -> Any:
    """INSERT with ON CONFLICT for the database at hand."""
    if current_app and db.engine.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


__all__ = [
    "Base",
    "Mapped",
    "ReadOnlyRequest",
    "Session",
    "UTCDateTime",
    "db",
    "db_manager",
    "dialect_insert",
    "guard",
    "init_app",
    "joined",
    "lock_row",
    "migration_engine",
    "reading",
    "writing_session",
]

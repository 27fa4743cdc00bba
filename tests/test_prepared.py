"""Statements that are prepared on each connection: the same answers and errors as any other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from lab import Parent, create_tables
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from ghost.database import db, db_manager
from ghost.prepared import PreparedRead, PreparedWrite
from ghost.testing.servers import PostgreSQL

pytestmark = [pytest.mark.lab, pytest.mark.integration]

NAMED = PreparedRead(
    sa.select(Parent.id, Parent.name, Parent.name.label("again"), sa.literal(7).label("seven"))
    .where(Parent.name == sa.bindparam("name"), Parent.name != "nobody's")
    .order_by(Parent.name)
)

_rename = (
    sa.update(Parent)
    .where(Parent.name == sa.bindparam("before"))
    .values(name=sa.bindparam("after"))
)
RENAMING = PreparedWrite(_rename)
RENAMED = PreparedWrite(_rename.returning(Parent.id, Parent.name))


@pytest.fixture
def ready(app: Flask) -> Iterator[None]:
    """One row, and an open context."""
    with app.app_context():
        with db_manager.session() as session:
            session.add(Parent(name="ada"))
        yield


def prepared() -> list[str]:
    """What is prepared on the one connection of the pool that is in use."""
    with db_manager.connection() as connection:
        names = connection.scalars(sa.text("SELECT name FROM pg_prepared_statements"))
        return [name for name in names if name.startswith("ghost_")]


def do(statement: str) -> None:
    """Say something to the connection that the pool gives to the next reader, too."""
    with db_manager.connection() as connection:
        connection.exec_driver_sql(statement)


def test_a_row_has_names_and_positions(ready: None) -> None:
    row = NAMED.first({"name": "ada"})

    assert isinstance(row.id, UUID)
    assert (row.name, row.again, row.seven) == tuple(row[1:]) == ("ada", "ada", 7)
    assert NAMED.first({"name": "bob"}) is None


@pytest.mark.parametrize("name", ["it's; --", "%s %(name)s", "\\", "é\u2028"])
def test_a_value_is_only_ever_a_value(app: Flask, name: str) -> None:
    with app.app_context():
        with db_manager.session() as session:
            session.add(Parent(name=name))

        assert NAMED.first({"name": name}).name == name


def test_a_value_that_no_database_takes_is_a_data_error(ready: None) -> None:
    with pytest.raises(sa.exc.DataError):
        NAMED.first({"name": "\ud800"})

    assert NAMED.first({"name": "ada"}) is not None


def test_a_write_tells_how_many_rows_it_changed(ready: None) -> None:
    with db_manager.connection() as connection:
        assert RENAMING.count(connection, {"before": "ada", "after": "eve"}) == 1
        assert RENAMING.count(connection, {"before": "ada", "after": "eve"}) == 0

    assert NAMED.first({"name": "eve"}) is not None


def test_a_write_returns_its_row(ready: None) -> None:
    with db_manager.connection() as connection:
        row = RENAMED.first(connection, {"before": "ada", "after": "eve"})

        assert isinstance(row.id, UUID)
        assert row.name == "eve"
        assert RENAMED.first(connection, {"before": "ada", "after": "eve"}) is None


@pytest.mark.only_on("postgresql")
def test_a_write_is_made_once_when_its_connection_had_lost_it(ready: None) -> None:
    with db_manager.connection() as connection:
        RENAMING.count(connection, {"before": "nobody", "after": "nobody"})
        connection.exec_driver_sql("DEALLOCATE ALL")

        assert RENAMING.count(connection, {"before": "ada", "after": "eve"}) == 1


@pytest.mark.only_on("postgresql")
def test_a_connection_prepares_once(ready: None) -> None:
    db.engine.dispose()  # the next connection is a new one

    for _ in range(8):  # the sixth may get another plan
        assert NAMED.first({"name": "ada"}).name == "ada"

    assert len(prepared()) == 1


@pytest.mark.only_on("postgresql")
def test_no_transaction_stays_open(ready: None) -> None:
    found: list[int] = []

    def look(raw: Any, _record: Any) -> None:
        found.append(raw.info.transaction_status)

    sa.event.listen(db.engine, "checkin", look)
    try:
        NAMED.first({"name": "ada"})
    finally:
        sa.event.remove(db.engine, "checkin", look)

    assert found == [TRANSACTION_STATUS_IDLE]


@pytest.mark.only_on("postgresql")
@pytest.mark.parametrize("words", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_a_connection_that_lost_it_prepares_again(ready: None, words: str) -> None:
    NAMED.first({"name": "ada"})
    do(words)

    assert NAMED.first({"name": "ada"}).name == "ada"
    assert len(prepared()) == 1


@pytest.mark.only_on("postgresql")
def test_a_connection_that_has_it_unnoted_prepares_again(ready: None) -> None:
    NAMED.first({"name": "ada"})
    with db_manager.connection() as connection:
        raw: Any = connection.connection.dbapi_connection
        raw.prepared.clear()

    assert NAMED.first({"name": "ada"}).name == "ada"
    assert NAMED.first({"name": "ada"}).name == "ada"


@pytest.mark.only_on("postgresql")
def test_a_migration_may_change_what_it_returns(ready: None) -> None:
    NAMED.first({"name": "ada"})
    do("ALTER TABLE lab_parents ALTER COLUMN name TYPE text")
    try:
        assert NAMED.first({"name": "ada"}).name == "ada"
    finally:
        do("ALTER TABLE lab_parents ALTER COLUMN name TYPE varchar(20)")


@pytest.mark.only_on("postgresql")
def test_who_watches_statements_sees_them(ready: None) -> None:
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    NAMED.first({"name": "ada"})
    sa.event.listen(db.engine, "before_cursor_execute", note)
    try:
        row = NAMED.first({"name": "ada"})
    finally:
        sa.event.remove(db.engine, "before_cursor_execute", note)

    assert row.name == "ada"
    assert len(sent) == 1
    assert sent[0].startswith("SELECT")


@pytest.mark.only_on("postgresql")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_a_server_that_is_gone_is_an_operational_error_in_time(
    app: Flask, make_app: Callable[[Mapping[str, Any]], Flask], number: signal.Signals
) -> None:
    server = PostgreSQL()
    try:
        other = make_app({"database": {"url": server.url(), "statement_timeout": 1}})
        create_tables(other)
        server.execute("CHECKPOINT")  # the tables outlive the kill
        with other.test_request_context():
            assert NAMED.first({"name": "ada"}) is None
            with db_manager.connection() as connection:
                pid = connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0
            os.kill(pid, number)
            started = time.monotonic()
            with pytest.raises(sa.exc.OperationalError) as caught:
                NAMED.first({"name": "ada"})
            assert time.monotonic() - started < 3
            assert caught.value.connection_invalidated
            if number == signal.SIGSTOP:
                os.kill(pid, signal.SIGCONT)

            deadline = time.monotonic() + 5
            while True:
                try:
                    assert NAMED.first({"name": "ada"}) is None
                    break
                except sa.exc.OperationalError:  # it starts again after the kill
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            db.engine.dispose()
    finally:
        server.close()

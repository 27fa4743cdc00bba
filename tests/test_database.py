"""The database: transactions, sessions, limits on every wait, and what happens when it is away."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from lab import Parent, Thing, create_tables
from test_http import is_error

from ghost.database import db, db_manager, dialect_insert, joined, reading
from ghost.testing.servers import PostgreSQL

pytestmark = [pytest.mark.lab, pytest.mark.integration]

LAB = "/api/v1/lab"
PATIENCE = 5.0  # seconds until an answer, and until it is well again
Make = Callable[[Mapping[str, Any]], Flask]


def count(app: Flask, model: type[Any] = Parent) -> int:
    with app.app_context(), db_manager.connection() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(model)) or 0


def engine_of(app: Flask) -> sa.Engine:
    """The engine, without a context that would stay open around the client's requests."""
    with app.app_context():
        return db.engine


# --- db_manager.session() -------------------------------------------------------------------------


def test_outside_a_context_a_session_commits_at_its_end(app: Flask) -> None:
    with db_manager.session() as session:
        session.add(Parent(name="a"))
        assert count(app) == 0

    assert count(app) == 1


def test_an_exception_rolls_the_session_back(app: Flask) -> None:
    with pytest.raises(RuntimeError), db_manager.session() as session:  # noqa: PT012
        session.add(Parent(name="a"))
        session.flush()
        raise RuntimeError

    assert count(app) == 0


def test_nested_blocks_are_one_transaction_of_the_outermost(app: Flask) -> None:
    with db_manager.session() as outer:
        with db_manager.session() as inner:
            inner.add(Parent(name="a"))
            assert inner() is outer()
        assert count(app) == 0
    assert count(app) == 1

    with pytest.raises(RuntimeError), db_manager.session() as outer:  # noqa: PT012
        with db_manager.session() as inner:
            inner.add(Parent(name="b"))
        raise RuntimeError
    assert count(app) == 1


def test_blocks_one_after_the_other_in_one_context_commit_each(app: Flask) -> None:
    with app.app_context():
        with db_manager.session() as session:
            session.add(Parent(name="a"))
        assert count(app) == 1
        with pytest.raises(sa.exc.IntegrityError), db_manager.session() as session:
            session.add(Parent(name="a"))
        with db_manager.session() as session:
            session.add(Parent(name="b"))

    assert count(app) == 2


def test_inside_a_request_the_view_commits(app: Flask) -> None:
    with app.test_request_context("/", method="POST"):
        with db_manager.session() as session:
            session.add(Parent(name="a"))
            assert session() is db.session()
        assert count(app) == 0
        db.session.commit()
    assert count(app) == 1


def test_threads_have_sessions_of_their_own(app: Flask) -> None:
    def add(number: int) -> int:
        with db_manager.session() as session:
            session.add(Parent(name=f"p{number}"))
            return id(session())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(20)))

    assert count(app) == 20


def test_a_transaction_beside_the_session_is_its_own(app: Flask) -> None:
    with app.test_request_context("/", method="GET"):
        with db_manager.transaction() as connection:
            connection.execute(sa.insert(Parent).values(id=uuid4(), name="a"))
        with pytest.raises(RuntimeError), db_manager.transaction() as connection:  # noqa: PT012
            connection.execute(sa.insert(Parent).values(id=uuid4(), name="b"))
            raise RuntimeError

    assert count(app) == 1


def test_a_sign_of_life(app: Flask) -> None:
    with app.app_context():
        db_manager.ping()


# --- Requests that read ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["orm", "insert", "update", "text", "ddl", "manager"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_safe_request_can_not_write(
    app: Flask, client: FlaskClient, how: str, method: str
) -> None:
    with db_manager.session() as session:
        session.add(Parent(name="kept"))

    response = client.open(f"{LAB}/writes/{how}", method=method)

    assert response.status_code == 500
    assert count(app) == 1


@pytest.mark.parametrize(
    "statement",
    ["SELECT 1", "  select 1", "\nWITH a AS (SELECT 1) SELECT * FROM a", "VALUES (1)"],
)
def test_a_safe_request_may_read_by_text(app: Flask, statement: str) -> None:
    with app.test_request_context("/", method="GET"):
        assert db.session.execute(sa.text(statement)).all()


def test_reading_holds_no_transaction(app: Flask) -> None:
    with app.test_request_context("/", method="GET"):
        db.session.scalars(sa.select(Thing)).all()
        raw: Any = db.session.connection().connection.dbapi_connection
        in_transaction = raw.in_transaction if hasattr(raw, "in_transaction") else raw.status != 1
        assert not in_transaction


@pytest.mark.only_on("sqlite")
def test_reads_answer_at_once_while_a_writer_holds_the_lock(
    app: Flask, client: FlaskClient, app_settings: Mapping[str, Any]
) -> None:
    client.post(f"{LAB}/things", json={"name": "a"})
    writer = sqlite3.connect(app_settings["database"]["url"].removeprefix("sqlite:///"))
    writer.isolation_level = None
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE lab_things SET name = 'b'")
    try:
        started = time.monotonic()
        response = client.get(f"{LAB}/things")
        assert time.monotonic() - started < 1

        assert [item["name"] for item in response.json["data"]] == ["a"]
        started = time.monotonic()
        refused = client.post(f"{LAB}/things", json={"name": "c"})
        assert is_error(refused, 503, "service_unavailable")
        assert refused.headers["Retry-After"]
        assert time.monotonic() - started < PATIENCE
    finally:
        writer.execute("ROLLBACK")
        writer.close()
    assert client.post(f"{LAB}/things", json={"name": "c"}).status_code == 201


@pytest.mark.only_on("sqlite")
def test_sqlite_keeps_foreign_keys_and_a_write_ahead_log(session: Any) -> None:
    pragmas = {
        name: session.execute(sa.text(f"PRAGMA {name}")).scalar()
        for name in ("foreign_keys", "journal_mode", "busy_timeout")
    }

    assert pragmas == {"foreign_keys": 1, "journal_mode": "wal", "busy_timeout": 4000}


def limits_here() -> dict[str, Any]:
    names = ("statement_timeout", "lock_timeout", "TimeZone")
    with db_manager.connection() as connection:
        return {name: connection.scalar(sa.text(f"SHOW {name}")) for name in names}


@pytest.mark.only_on("postgresql")
def test_the_server_limits_statements_and_locks_as_the_caller_may_wait(app: Flask) -> None:
    engine_of(app).dispose()
    in_request = {"statement_timeout": "4s", "lock_timeout": "3s", "TimeZone": "UTC"}
    in_job = {"statement_timeout": "5min", "lock_timeout": "7500ms", "TimeZone": "UTC"}

    for _ in range(2):  # one connection, in turns
        with app.test_request_context("/"):
            assert limits_here() == in_request
        with app.app_context():
            assert limits_here() == in_job


# --- Many at once ---------------------------------------------------------------------------------


def test_no_increment_is_lost_between_reading_and_writing(app: Flask, client: FlaskClient) -> None:
    thing = client.post(f"{LAB}/things", json={"name": "a"}).json["data"]
    url = f"{LAB}/things/{thing['id']}"

    def increment(_thread: int) -> list[int]:
        own = app.test_client()
        return [own.post(f"{url}/increment").status_code for _ in range(30)]

    with ThreadPoolExecutor(8) as threads:
        answers = [status for found in threads.map(increment, range(8)) for status in found]

    assert set(answers) <= {200, 503}
    assert client.get(url).json["data"]["count"] == answers.count(200)
    assert answers.count(200) == 240


def test_of_many_that_take_one_name_one_gets_it(app: Flask) -> None:
    def take(_thread: int) -> int:
        return app.test_client().post(f"{LAB}/parents", json={"name": "a"}).status_code

    with ThreadPoolExecutor(8) as threads:
        answers = sorted(threads.map(take, range(8)))

    assert answers == [201] + [409] * 7
    assert count(app) == 1


def test_a_request_gives_its_connection_back(app: Flask, client: FlaskClient) -> None:
    for path in ("things", "boom", "sql", "writes/orm", "conflict"):
        client.get(f"{LAB}/{path}")
        client.post(f"{LAB}/parents", json={"name": "a"})

    with app.app_context():
        pool: Any = db.engine.pool
        assert pool.checkedout() == 0


def test_a_pool_without_a_free_connection_is_503(app: Flask, make_app: Make) -> None:
    tight = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}
    other = make_app({"database": tight})
    engine = engine_of(other)
    with engine.connect():
        response = other.test_client().get(f"{LAB}/things")
    assert is_error(response, 503, "service_unavailable")
    assert other.test_client().get(f"{LAB}/things").status_code == 200
    engine.dispose()


@contextmanager
def child(work: Callable[[], bytes]) -> Iterator[bytes]:
    """What a forked child found out."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, work())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            yield pipe.read()
    finally:
        os.waitpid(pid, 0)


@pytest.mark.only_on("postgresql")
def test_a_forked_child_opens_connections_of_its_own(app: Flask) -> None:
    def server_process() -> bytes:
        with app.app_context(), db_manager.connection() as connection:
            return str(connection.scalar(sa.text("SELECT pg_backend_pid()"))).encode()

    engine_of(app).dispose()
    before = server_process()
    assert server_process() == before  # the pool's one connection, idle

    with child(server_process) as found:
        assert found
        assert found != before
    assert server_process() == before  # and the child's end did not close it


@pytest.mark.only_on("sqlite")
def test_a_forked_child_reads_the_same_file(app: Flask, client: FlaskClient) -> None:
    client.post(f"{LAB}/parents", json={"name": "a"})

    with child(lambda: str(count(app)).encode()) as found:
        assert found == b"1"


# --- Small things ---------------------------------------------------------------------------------


def test_values_are_joined_with_commas(session: Any) -> None:
    assert session.scalar(sa.select(joined(Parent.name))) is None
    session.add_all([Parent(name="a"), Parent(name="b")])
    session.flush()

    assert sorted(session.scalar(sa.select(joined(Parent.name))).split(",")) == ["a", "b"]


def test_an_insert_may_do_nothing_on_conflict(session: Any) -> None:
    for _ in range(2):
        insert = dialect_insert(Parent.__table__).values(id=uuid4(), name="a")
        session.execute(insert.on_conflict_do_nothing(index_elements=["name"]))

    assert session.scalar(sa.select(sa.func.count(Parent.id))) == 1


def test_the_engine_for_reads_is_made_once(app: Flask) -> None:
    with app.app_context():
        assert reading(db.engine) is reading(db.engine)


def test_every_constraint_has_a_name() -> None:
    unnamed = [
        constraint
        for table in db.metadata.tables.values()
        for constraint in table.constraints
        if not constraint.name
    ]

    assert unnamed == []


# --- PostgreSQL busy ------------------------------------------------------------------------------


@contextmanager
def stopwatch(seconds: float = PATIENCE) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def is_away(response: Any) -> bool:
    return is_error(response, 503, "service_unavailable") and "Retry-After" in response.headers


@pytest.mark.only_on("postgresql")
def test_a_statement_that_takes_too_long_is_503(client: FlaskClient) -> None:
    with stopwatch():
        assert is_away(client.get(f"{LAB}/sleep"))
    assert client.get(f"{LAB}/things").status_code == 200


@pytest.mark.only_on("postgresql")
def test_a_row_that_somebody_locked_is_503(app: Flask, client: FlaskClient) -> None:
    thing = client.post(f"{LAB}/things", json={"name": "a"}).json["data"]
    url = f"{LAB}/things/{thing['id']}/increment"
    with engine_of(app).connect() as connection:
        connection.execute(sa.select(Thing.id).with_for_update())
        with stopwatch():
            assert is_away(client.post(url))
        with stopwatch(1):
            assert client.get(f"{LAB}/things").status_code == 200
    assert client.post(url).status_code == 200


@pytest.mark.only_on("postgresql")
def test_a_deadlock_is_503_for_one_and_the_other_goes_on(app: Flask, client: FlaskClient) -> None:
    names = ("a", "b")
    keys = [client.post(f"{LAB}/things", json={"name": n}).json["data"]["id"] for n in names]
    with engine_of(app).connect() as connection:
        connection.execute(sa.select(Thing.id).where(Thing.id == keys[0]).with_for_update())
        answers = []

        def want_both() -> None:
            with app.test_request_context("/", method="POST"):
                try:
                    for key in reversed(keys):
                        db.session.execute(
                            sa.select(Thing.id).where(Thing.id == key).with_for_update()
                        )
                except sa.exc.OperationalError as error:
                    answers.append(app.make_response(app.handle_user_exception(error)))

        thread = threading.Thread(target=want_both)
        thread.start()
        time.sleep(0.3)
        try:
            connection.execute(sa.select(Thing.id).where(Thing.id == keys[1]).with_for_update())
        except sa.exc.OperationalError as error:
            with app.test_request_context("/"):
                answers.append(app.make_response(app.handle_user_exception(error)))
        connection.rollback()
        thread.join(10)

    assert [answer.status_code for answer in answers] == [503]


# --- PostgreSQL away ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgreSQL]:
    """A server that may be hurt: the tests beside have another."""
    server = PostgreSQL()
    yield server
    server.close()


@pytest.fixture
def hurt(own_server: PostgreSQL, app: Flask, make_app: Make) -> Iterator[Flask]:
    """An application on the server that is going to be hurt."""
    other = make_app({"database": {"url": own_server.url()}})
    create_tables(other)
    own_server.execute("CHECKPOINT")  # it does not write its log at once
    yield other
    with other.app_context():
        db.engine.dispose()


def recovers(client: FlaskClient) -> None:
    """Assert that the application is well again soon."""
    deadline = time.monotonic() + PATIENCE
    while client.get(f"{LAB}/things").status_code != 200:
        assert time.monotonic() < deadline, "it did not recover"
        time.sleep(0.1)
    name = uuid4().hex[:20]
    assert client.post(f"{LAB}/parents", json={"name": name}).status_code == 201


def backends(server: PostgreSQL) -> list[int]:
    """The processes that serve connections, but the one that is asked here."""
    found = server.execute(
        "SELECT pid FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return [int(pid) for pid in found.split()]


@pytest.mark.only_on("postgresql")
@pytest.mark.slow
def test_killed_server_processes_are_a_503_at_most_and_soon_forgotten(
    own_server: PostgreSQL, hurt: Flask
) -> None:
    client = hurt.test_client()
    recovers(client)
    for method, path in (("GET", "things"), ("POST", "parents")):
        for pid in backends(own_server):
            os.kill(pid, signal.SIGKILL)
        with stopwatch():
            response = client.open(f"{LAB}/{path}", method=method, json={"name": uuid4().hex[:20]})
        assert response.status_code in (200, 201) or is_away(response)
        recovers(client)


@pytest.mark.only_on("postgresql")
@pytest.mark.slow
def test_connections_that_an_operator_ended_are_noticed(
    own_server: PostgreSQL, hurt: Flask
) -> None:
    client = hurt.test_client()
    recovers(client)
    own_server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )

    response = client.get(f"{LAB}/things")

    assert response.status_code == 200 or is_away(response)
    recovers(client)


@pytest.mark.only_on("postgresql")
@pytest.mark.slow
def test_a_server_that_is_stopped_is_a_503_until_it_is_back(
    own_server: PostgreSQL, hurt: Flask
) -> None:
    client = hurt.test_client()
    recovers(client)
    own_server.stop()
    try:
        for method in ("GET", "POST"):
            with stopwatch():
                path = "things" if method == "GET" else "parents"
                response = client.open(f"{LAB}/{path}", method=method, json={"name": "x"})
            assert is_away(response)
            assert not [
                word for word in ("127.0.0.1", "psycopg", "SELECT") if word in response.text
            ]
        with stopwatch(1):
            assert client.get(f"{LAB}/hello").status_code == 200
    finally:
        own_server.start()
    recovers(client)


@pytest.mark.only_on("postgresql")
@pytest.mark.slow
@pytest.mark.parametrize("idle", [0.0, 1.5], ids=["busy before", "idle before"])
def test_a_server_that_hangs_is_a_503_until_it_goes_on(
    own_server: PostgreSQL, hurt: Flask, idle: float
) -> None:
    client = hurt.test_client()
    recovers(client)
    time.sleep(idle)
    own_server.pause()
    try:
        for method, path in (("GET", "things"), ("POST", "parents"), ("GET", "things")):
            with stopwatch():
                response = client.open(f"{LAB}/{path}", method=method, json={"name": "x"})
            assert is_away(response)
        with stopwatch(1):
            assert client.get(f"{LAB}/hello").status_code == 200
    finally:
        own_server.resume()
    recovers(client)


@pytest.mark.only_on("postgresql")
@pytest.mark.slow
def test_many_requests_to_a_server_that_hangs_are_all_answered_in_time(
    own_server: PostgreSQL, hurt: Flask
) -> None:
    recovers(hurt.test_client())
    own_server.pause()
    try:

        def ask(_thread: int) -> tuple[int, float]:
            started = time.monotonic()
            status = hurt.test_client().get(f"{LAB}/things").status_code
            return status, time.monotonic() - started

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(ask, range(8)))
    finally:
        own_server.resume()

    assert {status for status, _ in answers} == {503}
    assert max(seconds for _, seconds in answers) < PATIENCE
    recovers(hurt.test_client())


@pytest.mark.only_on("postgresql")
@pytest.mark.slow
def test_a_server_that_hangs_in_the_middle_of_a_request_is_a_503(
    own_server: PostgreSQL, hurt: Flask
) -> None:
    client = hurt.test_client()
    recovers(client)
    pause = threading.Timer(1.0, own_server.pause)
    pause.start()
    try:
        with stopwatch(PATIENCE + 1):  # the statement's own 4 s, half a second's grace
            assert is_away(client.get(f"{LAB}/sleep"))
    finally:
        pause.join()
        own_server.resume()
    recovers(client)

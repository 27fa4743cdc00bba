"""Errors: each in its place of the table, in the envelope, and nothing of our inside in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.orm.exc import StaleDataError
from test_http import PRODUCTION, is_error
from werkzeug.routing import RequestRedirect

from ghost import errors
from ghost.database import db
from ghost.errors import GhostError, is_unavailable

pytestmark = pytest.mark.lab

LAB = "/api/v1/lab"
Make = Callable[[Mapping[str, Any]], Flask]

TABLE = {
    errors.BadRequest: (400, "bad_request"),
    errors.Unauthorized: (401, "unauthorized"),
    errors.TokenInvalid: (401, "token_invalid"),
    errors.TokenExpired: (401, "token_expired"),
    errors.TokenRevoked: (401, "token_revoked"),
    errors.Forbidden: (403, "forbidden"),
    errors.AccountDisabled: (403, "account_disabled"),
    errors.EmailNotVerified: (403, "email_not_verified"),
    errors.NotFound: (404, "not_found"),
    errors.MethodNotAllowed: (405, "method_not_allowed"),
    errors.Conflict: (409, "conflict"),
    errors.TokenUsed: (410, "token_used"),
    errors.PreconditionFailed: (412, "precondition_failed"),
    errors.PayloadTooLarge: (413, "payload_too_large"),
    errors.UnsupportedMediaType: (415, "unsupported_media_type"),
    errors.ValidationFailed: (422, "validation_error"),
    errors.PreconditionRequired: (428, "precondition_required"),
    errors.RateLimited: (429, "rate_limited"),
    errors.InternalError: (500, "internal_error"),
    errors.ServiceUnavailable: (503, "service_unavailable"),
}


@pytest.fixture
def answer(app: Flask) -> Callable[[Exception], Any]:
    """Let the application answer a request in which an error is raised."""

    def answer(error: Exception, **headers: str) -> Any:
        with app.test_request_context("/", headers={"X-Request-ID": "mine", **headers}):
            app.preprocess_request()
            response = app.make_response(app.handle_user_exception(error))
            response.headers["X-Request-ID"] = "mine"
            return response

    return answer


@pytest.mark.parametrize(("cls", "expected"), TABLE.items(), ids=lambda value: str(value))
def test_every_error_of_ghost_has_its_status_and_code(
    answer: Callable[..., Any], cls: type[GhostError], expected: tuple[int, str]
) -> None:
    response = answer(cls())

    assert is_error(response, *expected)
    assert response.json["message"] == cls.message
    assert response.json["error"]["details"] is None
    assert ("WWW-Authenticate" in response.headers) is (expected[0] == 401)
    assert ("Retry-After" in response.headers) is (expected[0] == 503)


def test_an_error_tells_its_message_details_and_headers(answer: Callable[..., Any]) -> None:
    error = errors.Forbidden("Not today.", details={"why": ["rain"]}, headers={"X-Lab": "1"})

    response = answer(error)

    assert response.json["message"] == "Not today."
    assert response.json["error"]["details"] == {"why": ["rain"]}
    assert response.headers["X-Lab"] == "1"


def test_a_conflict_names_its_field(client: FlaskClient) -> None:
    response = client.get(f"{LAB}/conflict")

    assert is_error(response, 409, "conflict")
    assert response.json["error"]["details"] == {"json": {"name": ["Taken."]}}


def test_every_status_that_flask_can_abort_with_is_an_envelope(client: FlaskClient) -> None:
    codes = {status: code for cls, (status, code) in TABLE.items() if cls.__base__ is GhostError}

    for status in (*range(400, 419), *range(421, 425), 428, 429, 431, 451, *range(500, 506)):
        response = client.get(f"{LAB}/abort/{status}")
        if response.status_code == 500:  # abort() knows no such status
            continue
        expected = codes.get(status, "bad_request" if status < 500 else "internal_error")
        assert is_error(response, status, expected), status
    assert client.get(f"{LAB}/abort/503").headers["Retry-After"] == "5"
    assert client.get(f"{LAB}/abort/401").headers["WWW-Authenticate"] == "Bearer"


# --- Nothing of our inside ------------------------------------------------------------------------


LEAKS = ("Traceback", "RuntimeError", "SELECT", "secret", "/etc/passwd", "ghost/", ".py", "lab_")


@pytest.mark.parametrize("env", ["testing", "production"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", f"{LAB}/boom"), ("POST", f"{LAB}/boom"), ("GET", "/plain/boom"),
     ("GET", f"{LAB}/sql"), ("GET", f"{LAB}/nonsense")],
)  # fmt: skip
def test_an_unexpected_error_is_500_and_tells_nothing(
    app: Flask, make_app: Make, env: str, method: str, path: str
) -> None:
    client = (app if env == "testing" else make_app(PRODUCTION)).test_client()

    response = client.open(path, method=method, headers={"Host": "localhost"})

    assert is_error(response, 500, "internal_error")
    assert response.json["error"]["details"] is None
    assert not [word for word in LEAKS if word in response.text]


def test_an_unexpected_error_is_logged_with_its_stack(
    client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.get(f"{LAB}/boom", headers={"X-Request-ID": "look-for-me"})

    logged = capsys.readouterr().out
    assert "unexpected RuntimeError" in logged
    assert "Traceback" in logged
    assert "lab.py" in logged
    assert "look-for-me" in logged


def test_only_development_with_debug_names_the_exception(app: Flask, make_app: Make) -> None:
    other = make_app({"app": {"env": "development"}})
    other.debug = True

    response = other.test_client().get(f"{LAB}/boom")

    assert is_error(response, 500, "internal_error")
    assert "RuntimeError" in response.json["error"]["details"]["exception"]


def test_a_developer_may_have_exceptions_raised(app: Flask, make_app: Make) -> None:
    other = make_app({})
    other.config["PROPAGATE_EXCEPTIONS"] = True

    with pytest.raises(RuntimeError, match="secret"):
        other.test_client().get(f"{LAB}/boom")


def test_a_redirect_is_no_error(answer: Callable[..., Any]) -> None:
    response = answer(RequestRedirect("/elsewhere"))

    assert (response.status_code, response.headers["Location"]) == (308, "/elsewhere")


def test_a_failing_hook_of_the_application_is_a_500_too(app: Flask, make_app: Make) -> None:
    other = make_app({})
    other.testing = False  # as it is when it is served

    @other.after_request
    def fail(response: Any) -> Any:
        raise RuntimeError("SELECT secret")

    response = other.test_client().get(f"{LAB}/hello")

    assert is_error(response, 500, "internal_error")
    assert "secret" not in response.text


# --- The database's errors ------------------------------------------------------------------------


def test_a_taken_value_is_a_conflict_that_names_the_field(client: FlaskClient) -> None:
    assert client.post(f"{LAB}/parents", json={"name": "one"}).status_code == 201

    response = client.post(f"{LAB}/parents", json={"name": "one"})

    assert is_error(response, 409, "conflict")
    assert list(response.json["error"]["details"]["json"]) == ["name"]


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        ({"shelf": "a", "place": 1}, {"shelf": "a", "place": 1}, "place"),
        ({"label": "Straße, rot."}, {"label": "Straße, rot."}, "label"),
        ({"label": "UPPER"}, {"label": "upper"}, "label"),
        ({"label": "x)=(y"}, {"label": "x)=(y"}, "label"),
    ],
)
def test_the_field_is_the_same_on_every_database(
    client: FlaskClient, first: dict[str, Any], second: dict[str, Any], field: str
) -> None:
    assert client.post(f"{LAB}/things", json=first).status_code == 201

    response = client.post(f"{LAB}/things", json=second)

    assert is_error(response, 409, "conflict")
    assert response.json["error"]["details"] == {"json": {field: ["This is already taken."]}}


def test_a_taken_key_names_the_key(app: Flask, answer: Callable[..., Any]) -> None:
    statement = sa.text("INSERT INTO lab_parents (id, name) VALUES (:id, :name)")
    rows = [{"id": "0" * 32, "name": name} for name in "xy"]

    with app.app_context(), pytest.raises(sa.exc.IntegrityError) as caught:
        db.session.execute(statement, rows)

    assert answer(caught.value).json["error"]["details"]["json"].keys() == {"id"}


@pytest.mark.parametrize(
    "values",
    [{"parent_id": "01900000-0000-7000-8000-000000000000"}, {"count": -1}],
    ids=["foreign key", "check"],
)
def test_a_row_that_another_constraint_refuses_is_a_conflict_without_a_field(
    client: FlaskClient, values: dict[str, Any]
) -> None:
    response = client.post(f"{LAB}/things", json=values)

    assert is_error(response, 409, "conflict")
    assert response.json["error"]["details"] is None
    assert response.json["message"] == "This is at odds with other data."


@pytest.mark.parametrize(
    "values",
    [
        {"name": "a" * 21},
        {"name": "🎈" * 21},
        {"place": 2**31},
        {"place": -(2**31) - 1},
        {"count": 2**63 - 1},
        {"price": "123456789.00"},
        {"price": "100000000"},
    ],
    ids=str,
)
def test_a_value_that_the_column_can_not_hold_is_422_on_every_database(
    client: FlaskClient, values: dict[str, Any]
) -> None:
    created = client.post(f"{LAB}/things", json={"name": "a"}).json["data"]

    for response in (
        client.post(f"{LAB}/things", json=values),
        client.patch(f"{LAB}/things/{created['id']}", json=values),
    ):
        assert is_error(response, 422, "validation_error")
        assert response.json["message"] == "A value does not fit."
    assert client.get(f"{LAB}/things/{created['id']}").json["data"] == created


@pytest.mark.parametrize(
    "values",
    [
        {"name": "🎈" * 20},
        {"place": 2**31 - 1},
        {"place": -(2**31)},
        {"big": 2**63 - 1},
        {"price": "99999999.99"},
        {"text": "a" * 9999},
    ],
    ids=lambda values: str(values)[:30],
)
def test_a_value_that_just_fits_is_kept(client: FlaskClient, values: dict[str, Any]) -> None:
    assert client.post(f"{LAB}/things", json=values).status_code == 201


def test_a_nul_that_no_schema_refused_is_422_on_postgresql_and_no_500_anywhere(
    app: Flask, client: FlaskClient
) -> None:
    response = client.post(f"{LAB}/raw-things", json={"free": "a\0b"})

    with app.app_context():
        expected = 422 if db.engine.dialect.name == "postgresql" else 201
    assert response.status_code == expected


def unsendable(engine: sa.Engine) -> Any:
    return 2**70 if engine.dialect.name == "sqlite" else "a\0b"


def test_a_value_that_the_driver_can_not_send_is_a_data_error(
    app: Flask, answer: Callable[..., Any]
) -> None:
    statement = sa.text("INSERT INTO lab_parents (id, name) VALUES (:id, :name)")

    with app.app_context(), pytest.raises(sa.exc.DataError) as caught:
        db.session.execute(statement, {"id": "0" * 32, "name": unsendable(db.engine)})

    assert is_error(answer(caught.value), 422, "validation_error")


def test_a_stale_row_is_412_with_if_match_and_409_without(answer: Callable[..., Any]) -> None:
    without = answer(StaleDataError("0 rows matched"))
    with_header = answer(StaleDataError("0 rows matched"), **{"If-Match": '"1"'})

    assert is_error(without, 409, "conflict")
    assert is_error(with_header, 412, "precondition_failed")


def test_redis_away_is_503(answer: Callable[..., Any]) -> None:
    response = answer(RedisConnectionError("Error 111 connecting to 10.0.0.7:6379"))

    assert is_error(response, 503, "service_unavailable")
    assert response.headers["Retry-After"] == "5"
    assert b"10.0.0.7" not in response.data


class CodedError(psycopg2.OperationalError):
    """psycopg2 sets the code in C; a class of one's own can say it."""

    pgcode = "54000"


def sqlite_error(cls: type[sqlite3.Error], code: int, text: str) -> sqlite3.Error:
    error = cls(text)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("cls", "original", "expected"),
    [
        (sa.exc.OperationalError, psycopg2.errors.LockNotAvailable("lock timeout"), True),
        (sa.exc.OperationalError, psycopg2.errors.QueryCanceled("statement timeout"), True),
        (sa.exc.OperationalError, psycopg2.errors.DeadlockDetected("deadlock"), True),
        (sa.exc.OperationalError, psycopg2.errors.SerializationFailure("again"), True),
        (sa.exc.OperationalError, psycopg2.errors.AdminShutdown("terminating"), True),
        (sa.exc.OperationalError, psycopg2.errors.TooManyConnections("sorry"), True),
        (sa.exc.OperationalError, psycopg2.errors.DiskFull("no space"), True),
        (sa.exc.OperationalError, psycopg2.OperationalError("connection refused"), True),
        (sa.exc.InterfaceError, psycopg2.InterfaceError("connection already closed"), True),
        (sa.exc.OperationalError, CodedError("index row too large"), False),
        (sa.exc.ProgrammingError, psycopg2.errors.UndefinedTable("no table"), False),
        (sa.exc.InternalError, psycopg2.errors.InFailedSqlTransaction("aborted"), False),
        (
            sa.exc.OperationalError,
            sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_BUSY, "database is locked"),
            True,
        ),
        (
            sa.exc.OperationalError,
            sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_WRITE, "disk I/O error"),
            True,
        ),
        (
            sa.exc.DatabaseError,
            sqlite_error(sqlite3.DatabaseError, sqlite3.SQLITE_NOTADB, "file is not a database"),
            True,
        ),
        (
            sa.exc.OperationalError,
            sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_ERROR, "no such table: x"),
            False,
        ),
        (
            sa.exc.OperationalError,
            sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_ERROR, 'near "x": syntax error'),
            False,
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_away_and_busy_are_told_from_errors_of_ours(
    answer: Callable[..., Any],
    cls: type[sa.exc.DBAPIError],
    original: Exception,
    expected: bool,
) -> None:
    error = cls("SELECT secret", None, original)

    assert is_unavailable(error) is expected
    response = answer(error)
    if expected:
        assert is_error(response, 503, "service_unavailable")
        assert response.headers["Retry-After"] == "5"
    else:
        assert response.status_code in (422, 500)
    assert b"secret" not in response.data


def test_a_full_pool_is_503(answer: Callable[..., Any]) -> None:
    assert is_error(answer(sa.exc.TimeoutError("QueuePool limit")), 503, "service_unavailable")


def test_a_value_too_long_for_an_index_is_422(answer: Callable[..., Any]) -> None:
    error = sa.exc.OperationalError("INSERT", None, CodedError("index row size 3000"))

    assert is_error(answer(error), 422, "validation_error")


def test_a_deadlock_in_a_view_is_503(client: FlaskClient) -> None:
    assert is_error(client.get(f"{LAB}/deadlock"), 503, "service_unavailable")

"""pytest fixtures for Ghost and for the applications built on it; docs/testing.md lists them.

pytest imports this module in every run of the environment, also in projects that have nothing to
do with Ghost. So everything heavy waits inside the fixtures: this is the one place in the package
where imports stand in functions.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy.orm import scoped_session

    from ghost.testing.applications import Applications, Factory
    from ghost.testing.background import Jobs, Mailbox
    from ghost.testing.clients import Client
    from ghost.testing.databases import TestDatabase
    from ghost.testing.factories import UserFactory
    from ghost.testing.servers import PostgreSQL, Redis
    from ghost.testing.smtp import SMTPServer


def _find_root(start: Path) -> Path | None:
    """The nearest folder with a wsgi.py that has to do with Ghost."""
    for folder in (start, *start.parents):
        wsgi = folder / "wsgi.py"
        if wsgi.is_file() and "ghost" in wsgi.read_text(encoding="utf-8", errors="replace"):
            return folder
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Let tests import what stands beside wsgi.py, as `flask` does."""
    root = _find_root(config.rootpath)
    if root and str(root) not in sys.path:
        sys.path.insert(0, str(root))


def _database_name() -> str:
    name = os.environ.get("GHOST_TEST_DATABASE") or "sqlite"
    if name not in ("sqlite", "postgresql"):
        raise pytest.UsageError(f"GHOST_TEST_DATABASE is {name!r}: expected sqlite or postgresql")
    return name


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which database this run tests with."""
    return f"ghost: tests on {_database_name()}" if _find_root(config.rootpath) else None


def _unavailable(reason: object) -> NoReturn:
    """Skip, for a developer who has not everything; in CI nothing is skipped unnoticed."""
    if os.environ.get("CI", "").lower() in ("true", "1", "yes"):
        pytest.fail(str(reason), pytrace=False)
    pytest.skip(str(reason))


# --- Servers --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A PostgreSQL server of this run: `.url(database)`, `.create_database()`, `.pause()`..."""
    from ghost.testing.servers import PostgreSQL, ServerUnavailable

    try:
        server = PostgreSQL()
    except ServerUnavailable as error:
        _unavailable(error)
    yield server
    server.close()


@pytest.fixture(scope="session")
def _redis() -> Iterator[Redis]:
    from ghost.testing.servers import Redis, ServerUnavailable

    try:
        server = Redis()
    except ServerUnavailable as error:
        _unavailable(error)
    yield server
    server.close()


@pytest.fixture
def redis_server(_redis: Redis) -> Redis:
    """A Redis server with nothing in it: `.url`, `.flush()`, `.pause()`..."""
    _redis.flush()
    return _redis


@pytest.fixture(scope="session")
def _smtp() -> Iterator[SMTPServer]:
    try:
        from ghost.testing.smtp import SMTPServer
    except ModuleNotFoundError as error:
        _unavailable(f"no SMTP server: {error} (pip install aiosmtpd)")
    server = SMTPServer()
    yield server
    server.close()


@pytest.fixture
def smtp_server(_smtp: SMTPServer) -> SMTPServer:
    """An SMTP server that keeps what it gets: `.url`, `.messages`, `.wait(count)`."""
    _smtp.clear()
    return _smtp


# --- The application ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _database(request: pytest.FixtureRequest) -> Iterator[TestDatabase]:
    from ghost.testing.databases import PostgreSQLDatabase, SQLiteDatabase
    from ghost.testing.servers import scratch_folder

    if _database_name() == "postgresql":
        yield PostgreSQLDatabase(request.getfixturevalue("postgres"))
        return
    with scratch_folder() as folder:
        yield SQLiteDatabase(folder)


@pytest.fixture(scope="session")
def _applications() -> Applications:
    from ghost.testing.applications import Applications

    return Applications()


@pytest.fixture(scope="session")
def _default_factory(pytestconfig: pytest.Config) -> Factory:
    from ghost.testing.applications import default_factory

    return default_factory(_find_root(pytestconfig.rootpath) or pytestconfig.rootpath)


@pytest.fixture(scope="session")
def _uploads() -> Iterator[Path]:
    from ghost.testing.servers import scratch_folder

    with scratch_folder() as folder:
        yield folder / "uploads"


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    """Settings for the application under test; override it for a module or a folder."""
    return {}


@pytest.fixture
def app_factory(_default_factory: Factory) -> Factory:
    """What builds the application, from settings; override it for one that wsgi.py has not got.

    An application is built again when this returns another function: return one of a module.
    """
    return _default_factory


@pytest.fixture
def app_settings(
    app_config: Mapping[str, Any], _database: TestDatabase, _uploads: Path
) -> Mapping[str, Any]:
    """All settings that the application under test gets: the plug-in's, then `app_config`."""
    from ghost.testing.applications import DEFAULTS, merged

    places = {"database": {"url": _database.url}, "storage": {"url": f"file://{_uploads}"}}
    return merged(DEFAULTS, places, app_config)


@pytest.fixture
def app(
    app_factory: Factory,
    app_settings: Mapping[str, Any],
    _applications: Applications,
    _database: TestDatabase,
    _uploads: Path,
) -> Flask:
    """The application, its database migrated and otherwise empty, and no files.

    It is built once for the tests that share its settings.
    """
    application = _applications.get(app_factory, app_settings)
    if app_settings["database"]["url"] == _database.url:
        _database.restore(application)
    shutil.rmtree(_uploads, ignore_errors=True)
    application.extensions.pop("ghost.mail.outbox", None)
    limiter = application.extensions["ghost"].limiter
    if limiter is not None and limiter.enabled:
        limiter.reset()
    return application


@pytest.fixture
def make_app(
    app_factory: Factory, app_settings: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], Flask]]:
    """Build another application of its own: `make_app({"ratelimit": {"enabled": True}})`.

    It has the test's database, if nothing else is said; ask for `app` too when that must be there.
    """
    from ghost.testing.applications import build, close, merged

    made: list[Flask] = []

    def make(config: Mapping[str, Any]) -> Flask:
        made.append(build(app_factory, merged(app_settings, config)))
        return made[-1]

    yield make
    for application in made:
        close(application)


@pytest.fixture
def app_environ(app_settings: Mapping[str, Any], pytestconfig: pytest.Config) -> dict[str, str]:
    """The environment for a child process (`flask`, `rq worker`) with the test's settings."""
    from ghost.testing.applications import environ_for

    return environ_for(app_settings, _find_root(pytestconfig.rootpath))


@pytest.fixture
def empty_database(_database: TestDatabase) -> Callable[[], str]:
    """Make a database without tables, of the kind this run tests with, and get its URL."""
    return _database.create_empty


@pytest.fixture
def session(app: Flask) -> Iterator[scoped_session[Any]]:
    """The database session, in an open application context: for tests of services."""
    from ghost.database import db

    with app.app_context():
        yield db.session


@pytest.fixture
def client(app: Flask) -> Client:
    """A test client: `client.get(url)`, `client.as_user(user).post(url, json={...})`."""
    from ghost.testing.clients import Client

    return Client(app, app.response_class)


@pytest.fixture
def make_user(app: Flask) -> UserFactory:
    """Make an account: `make_user(email=..., roles=["ADMIN"], permissions=["orders:read"])`."""
    from ghost.testing.factories import UserFactory

    return UserFactory(app)


@pytest.fixture
def jobs(app: Flask, app_environ: dict[str, str]) -> Jobs:
    """Jobs that wait: `jobs.names()`, `jobs.run_all()` as a worker would, `jobs.work()` by one."""
    from ghost.testing.background import Jobs

    return Jobs(app, app_environ)


@pytest.fixture
def mailbox(app: Flask) -> Mailbox:
    """Mails that were sent: `mailbox.to("ada@example.org").subject`."""
    from ghost.testing.background import Mailbox

    return Mailbox(app)

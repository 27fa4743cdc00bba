"""The pytest plug-in: what it promises to an application's tests."""

from __future__ import annotations

import os
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flask
import pytest
import sqlalchemy as sa
from flask import Flask
from redis import Redis as RedisClient
from redis.exceptions import RedisError

from ghost import db, db_manager, get_config, job, testing
from ghost.app import create_app
from ghost.testing import applications, servers
from ghost.testing.background import Jobs, Mailbox
from ghost.testing.clients import Client
from ghost.testing.databases import TestDatabase
from ghost.testing.factories import UserFactory
from ghost.testing.servers import PostgreSQL, Redis
from ghost.testing.smtp import SMTPServer
from ghost.users.mails import send_verification
from ghost.users.models import User

pytestmark = pytest.mark.integration

ME = "/api/v1/auth/me"


@job(name="tests.remember")
def remember(name: str) -> None:
    db.session.execute(sa.update(User).values(full_name=name))


@job(name="tests.break_down", max_attempts=1)
def break_down() -> None:
    raise RuntimeError("on purpose")


# --- The database ---------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", ["first", "second"])
def test_each_test_begins_with_what_migrations_make(
    session: Any, make_user: UserFactory, turn: str
) -> None:
    roles = session.scalars(sa.text("SELECT count(*) FROM roles")).one()
    users = session.scalars(sa.text("SELECT count(*) FROM users")).one()

    make_user(email="ada@example.org", permissions=["users:read"])
    session.execute(sa.text("DELETE FROM role_permissions WHERE role_name = 'ADMIN'"))
    session.execute(sa.text(f"CREATE TABLE left_by_{turn} (id INTEGER)"))
    session.commit()

    assert roles == 3
    assert users == 0
    grants = session.scalars(sa.text("SELECT count(*) FROM role_permissions"))
    assert grants.one() == 1


@pytest.mark.parametrize("turn", ["first", "second"])
def test_no_table_of_an_earlier_test_is_left(session: Any, turn: str) -> None:
    session.execute(sa.text("CREATE TABLE left_over (id INTEGER)"))
    session.commit()


def test_a_transaction_that_a_test_left_open_does_not_block_the_next(
    app: Flask,
    _database: TestDatabase,  # noqa: PT019
) -> None:
    with app.app_context():
        forgotten = db.engine.connect()
        forgotten.execute(sa.text("DELETE FROM roles WHERE name = 'nobody'"))

        _database.restore(app)

        with db.engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM roles")) == 3
        forgotten.invalidate()
        forgotten.close()


def test_another_database_begins_empty(empty_database: Callable[[], str]) -> None:
    first, second = empty_database(), empty_database()
    engine = sa.create_engine(first.replace("postgresql://", "postgresql+psycopg2://"))

    assert first != second
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


# --- The application ------------------------------------------------------------------------------


def test_one_application_serves_the_tests_that_share_its_settings(
    _applications: applications.Applications,  # noqa: PT019
    app_factory: applications.Factory,
    app_settings: Mapping[str, Any],
    app: Flask,
) -> None:
    other = applications.merged(app_settings, {"app": {"name": "Other"}})

    assert _applications.get(app_factory, dict(app_settings)) is app
    changed = _applications.get(app_factory, other)
    assert changed is not app
    assert get_config().app.name == "Other"
    again = _applications.get(app_factory, dict(app_settings))
    with db_manager.session():
        assert flask.current_app == again


class TestOverrides:
    @pytest.fixture
    def app_config(self) -> Mapping[str, Any]:
        return {"app": {"name": "Shop"}, "shop": {"currency": "EUR"}}

    def test_app_config_reaches_the_application(self, app: Flask) -> None:
        config = app.extensions["ghost"].config

        assert config.app.name == "Shop"
        assert config["shop"]["currency"] == "EUR"
        assert config.auth.bcrypt_rounds == 4

    def test_make_app_stands_on_them(self, make_app: Callable[[Mapping[str, Any]], Flask]) -> None:
        config = make_app({"app": {"public_url": "https://x.example"}}).extensions["ghost"].config

        assert (config.app.name, config.app.public_url) == ("Shop", "https://x.example")


def test_the_developers_environment_does_not_reach_the_test(
    monkeypatch: pytest.MonkeyPatch, app_settings: Mapping[str, Any]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://live.example/shop")
    monkeypatch.setenv("GHOST_ENV", "production")
    monkeypatch.setenv("GHOST_DATABASE__URL", "postgresql://live.example/shop")

    environ = applications.environ_for(app_settings)

    assert environ["DATABASE_URL"] == app_settings["database"]["url"]
    assert environ["GHOST_ENV"] == "testing"
    assert "live.example" not in str(environ)


def test_an_application_that_names_its_own_database_is_refused(
    app_settings: Mapping[str, Any], tmp_path: Path
) -> None:
    wsgi = tmp_path / "wsgi.py"
    wsgi.write_text(
        "from ghost import create_app\n"
        "app = create_app({'database': {'url': 'sqlite:///live.db'}})\n"
    )

    with pytest.raises(RuntimeError, match="its own database"):
        applications.build(applications.from_wsgi(wsgi), app_settings)


def test_a_wsgi_file_without_an_application_is_named(
    app_settings: Mapping[str, Any], tmp_path: Path
) -> None:
    wsgi = tmp_path / "wsgi.py"
    wsgi.write_text("import ghost\n")

    with pytest.raises(RuntimeError, match="makes no `app`"):
        applications.from_wsgi(wsgi)(app_settings)


def test_without_a_wsgi_file_ghost_itself_is_under_test(tmp_path: Path) -> None:
    assert applications.default_factory(tmp_path) is create_app


# --- People, jobs, mail ---------------------------------------------------------------------------


def test_as_user_calls_in_the_name_of_the_user(client: Client, make_user: UserFactory) -> None:
    ada, bob = make_user(), make_user()

    both = [client.as_user(ada), client.as_user(bob)]

    assert [one.get(ME).json["data"]["email"] for one in both] == [ada.email, bob.email]
    assert client.get(ME).status_code == 401


def test_a_user_has_the_permissions_that_were_asked_for(
    client: Client, make_user: UserFactory
) -> None:
    reader, other = make_user(permissions=["users:read"]), make_user()

    assert client.as_user(reader).get("/api/v1/users/").status_code == 200
    assert client.as_user(other).get("/api/v1/users/").status_code == 403


def test_a_password_is_one_that_logs_in(client: Client, make_user: UserFactory) -> None:
    make_user(email="Ada@Example.org", password="correct horse battery")

    answer = client.post(
        "/api/v1/auth/login",
        json={"email": "ada@example.org", "password": "correct horse battery"},
    )

    assert answer.status_code == 200, answer.text


def test_a_user_belongs_to_the_open_session(session: Any, make_user: UserFactory) -> None:
    ada = make_user(username="ada", is_active=False)

    assert ada in session
    assert not session.get(User, ada.id).is_active


def test_a_detached_user_can_be_read(make_user: UserFactory) -> None:
    ada = make_user(roles=["ADMIN"], full_name="Ada Lovelace")

    assert (ada.full_name, ada.roles) == ("Ada Lovelace", ["ADMIN"])
    assert ada.created_at.tzinfo is not None


def test_an_unknown_column_of_a_user_is_refused(make_user: UserFactory) -> None:
    with pytest.raises(TypeError, match="shoe_size"):
        make_user(shoe_size=44)


def test_jobs_wait_for_the_commit(session: Any, make_user: UserFactory, jobs: Jobs) -> None:
    ada = make_user()
    remember.enqueue("Ada Lovelace")

    assert jobs.names() == []
    session.commit()
    assert jobs.names() == ["tests.remember"]
    assert jobs.run_all() == [("tests.remember", "finished")]
    assert jobs.names() == []
    session.refresh(ada)
    assert ada.full_name == "Ada Lovelace"


def test_a_job_that_fails_fails_the_test(session: Any, jobs: Jobs) -> None:
    break_down.enqueue()
    session.commit()

    with pytest.raises(AssertionError, match=r"tests\.break_down failed: .*on purpose"):
        jobs.run_all()


class TestRealWorker:
    @pytest.fixture
    def app_config(self, redis_server: Redis) -> Mapping[str, Any]:
        return {"redis": {"url": redis_server.url}}

    @pytest.mark.slow
    def test_a_real_worker_runs_what_waits(
        self, session: Any, make_user: UserFactory, jobs: Jobs
    ) -> None:
        send_verification(make_user(is_verified=False))
        session.commit()

        jobs.work()

        assert jobs.names() == []


def test_without_a_redis_the_real_worker_says_so(session: Any, jobs: Jobs) -> None:
    with pytest.raises(AssertionError, match="REDIS_URL"):
        jobs.work()


def test_a_job_may_fail_when_that_is_what_is_tested(session: Any, jobs: Jobs) -> None:
    break_down.enqueue()
    session.commit()

    assert jobs.run_all(may_fail=True) == [("tests.break_down", "failed")]


def test_the_mailbox_has_what_jobs_sent(client: Client, jobs: Jobs, mailbox: Mailbox) -> None:
    body = {"email": "ada@example.org", "password": "correct horse battery"}
    assert client.post("/api/v1/auth/register", json=body).status_code == 201
    assert len(mailbox) == 0

    jobs.run_all()

    assert mailbox.to("Ada@example.org") is mailbox.messages[-1]
    assert [message.recipients for message in mailbox] == [("ada@example.org",)]
    with pytest.raises(AssertionError, match=r"no mail to bob.*ada@example\.org"):
        mailbox.to("bob@example.org")
    mailbox.clear()
    assert len(mailbox) == 0


def test_the_mailbox_of_the_next_test_is_empty(app: Flask, mailbox: Mailbox) -> None:
    assert mailbox.messages == []


# --- Servers --------------------------------------------------------------------------------------


def test_redis_is_real_and_empty(redis_server: Redis) -> None:
    with RedisClient.from_url(redis_server.url) as redis:
        assert redis.dbsize() == 0
        redis.set("left", "over")


def test_redis_is_empty_again(redis_server: Redis) -> None:
    with RedisClient.from_url(redis_server.url) as redis:
        assert redis.dbsize() == 0


def test_a_server_can_be_paused_killed_and_started_again() -> None:
    server = servers.Redis()
    try:
        with RedisClient.from_url(server.url, socket_timeout=0.2) as redis:
            server.pause()
            with pytest.raises(RedisError):
                redis.ping()
            server.resume()
            assert redis.ping()

            server.kill()
            with pytest.raises(RedisError):
                redis.ping()
            server.start()
            assert redis.ping()
    finally:
        server.close()
    assert not server.folder.exists()


def test_postgresql_keeps_its_data_over_stop_and_start(
    postgres: PostgreSQL, request: pytest.FixtureRequest
) -> None:
    server = servers.PostgreSQL()
    try:
        server.create_database("shop")
        server.execute("CREATE TABLE orders AS SELECT 42 AS id", "shop")
        server.stop()
        server.start()

        assert server.execute("SELECT id FROM orders", "shop") == "42"
        with pytest.raises(RuntimeError, match="no_such_table"):
            server.execute("SELECT * FROM no_such_table", "shop")
    finally:
        server.close()
    assert not server.folder.exists()


OWNER = """\
import time

from ghost.testing import servers

server = servers.Redis()
with servers.scratch_folder() as folder:
    print(server.pid, server.folder, folder, flush=True)
    time.sleep(60)
"""


def test_a_server_ends_with_the_process_that_started_it() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, *folders = owner.stdout.readline().split()

    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()

    deadline = time.monotonic() + 10
    while any(Path(folder).exists() for folder in folders):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(servers.Redis):
        def command(self) -> list[str]:
            return [self.binary, "--no-such-option", "1"]

    with pytest.raises(servers.ServerUnavailable, match=r"did not start:\n(.|\n)*no-such-option"):
        Broken()


def test_a_server_that_is_missing_skips_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no server"):
        testing._unavailable("no server")

    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no server"):
        testing._unavailable("no server")


def test_an_unknown_database_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOST_TEST_DATABASE", "mysql")

    with pytest.raises(pytest.UsageError, match="sqlite or postgresql"):
        testing._database_name()


def test_the_smtp_server_keeps_what_it_gets(smtp_server: SMTPServer) -> None:
    text = "From: a@example.org\r\nTo: b@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    with smtplib.SMTP("127.0.0.1", smtp_server.port) as smtp:
        smtp.sendmail("a@example.org", ["b@example.org"], text + "\r\nHallo\r\n")

    [mail] = smtp_server.wait()
    assert (mail.sender, mail.recipients) == ("a@example.org", ("b@example.org",))
    assert (mail.to, mail.subject, mail.text.strip()) == ("b@example.org", "Grüße", "Hallo")
    assert mail.html is None
    with pytest.raises(TimeoutError, match="1 of 2 mails"):
        smtp_server.wait(2, seconds=0.05)


# --- In an application ----------------------------------------------------------------------------


def test_the_plug_in_costs_other_projects_nothing() -> None:
    heavy = "sorted({'flask', 'sqlalchemy', 'redis', 'psycopg2'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, ghost.testing; print({heavy})"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.strip() == "[]"


SHOP = {
    "orders/__init__.py": "",
    "orders/models.py": """\
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ghost import Model, TimestampMixin


class Order(TimestampMixin, Model):
    __tablename__ = "orders"

    owner_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id"), index=True)
    status: Mapped[str] = mapped_column(sa.String(20), default="new")
    total: Mapped[Decimal] = mapped_column(sa.Numeric(12, 2))
""",
    "orders/jobs.py": """\
from uuid import UUID

from ghost import db, job

from orders.models import Order


@job(queue="high")
def ship(order_id: UUID) -> None:
    db.session.get(Order, order_id).status = "shipped"
""",
    "orders/views.py": """\
from decimal import Decimal

import sqlalchemy as sa
from marshmallow import fields

from ghost import Blueprint, Schema, current_user, db, login_required, permissions_required

from orders.jobs import ship
from orders.models import Order


class OrderSchema(Schema):
    id = fields.UUID(dump_only=True)
    status = fields.String(dump_only=True)
    total = fields.Decimal(places=2, as_string=True, required=True)


bp = Blueprint("orders", __name__, url_prefix="/orders", description="What customers bought",
               permissions={"orders:read": "See all orders"})


@bp.post("/")
@login_required
@bp.arguments(OrderSchema)
@bp.response(201, OrderSchema)
def place(data):
    \"\"\"Place an order.\"\"\"
    order = Order(owner_id=current_user.id, status="new", **data)
    db.session.add(order)
    db.session.flush()
    ship.enqueue(order.id)
    db.session.commit()
    return order


@bp.get("/<uuid:order_id>")
@permissions_required("orders:read")
@bp.response(200, OrderSchema)
def show(order_id):
    \"\"\"Show an order.\"\"\"
    return db.session.get(Order, order_id)
""",
    "tests/test_orders.py": """\
from orders.models import Order


def test_a_placed_order_is_shipped(client, make_user, jobs):
    ada = make_user()

    response = client.as_user(ada).post("/api/v1/orders/", json={"total": "9.90"})

    assert response.status_code == 201
    assert jobs.names() == ["orders.ship"]
    jobs.run_all()
    clerk = make_user(permissions=["orders:read"])
    order = client.as_user(clerk).get(f"/api/v1/orders/{response.json['data']['id']}")
    assert order.json["data"]["status"] == "shipped"


def test_orders_are_gone_in_the_next_test(session):
    assert session.query(Order).count() == 0
""",
}
REGISTERED = {
    "in wsgi.py": {
        "wsgi.py": "from ghost import create_app\nfrom orders.views import bp\n\n"
        "app = create_app(blueprints=[bp])\n"
    },
    "in config.yaml": {
        "wsgi.py": "from ghost import create_app\n\napp = create_app()\n",
        "config.yaml": 'blueprints: ["orders.views:bp"]\n',
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("files", REGISTERED.values(), ids=list(REGISTERED))
def test_an_application_is_tested_without_a_conftest(
    files: dict[str, str], tmp_path: Path, app_environ: dict[str, str],
    empty_database: Callable[[], str],
) -> None:  # fmt: skip
    for name, text in {**SHOP, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    environ = {
        **app_environ,
        "DATABASE_URL": empty_database(),
        "GHOST_ROOT": str(tmp_path),
        "GHOST_TEST_DATABASE": testing._database_name(),
    }

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("flask", "db", "migrate", "-m", "Orders")
    assert "2 passed" in run("pytest", "-q", "-p", "no:cacheprovider", "tests/test_orders.py")

"""Probes: what they say, to whom, and how soon whatever hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis as RedisClient
from rq import Worker

from ghost.database import db
from ghost.health.views import is_from_loopback
from ghost.jobs.models import SCHEDULER_LEASES, Job, Lease, PausedQueue, Schedule
from ghost.models import utcnow
from ghost.testing.servers import PostgreSQL, Redis

Make = Callable[[Mapping[str, Any]], Flask]

TOKEN = "cc0f5b7ff2d94e8cb4a8a4f1d1c7e6b2"
PRODUCTION = {
    "app": {
        "env": "production",
        "secret_key": "7c1fd0e2b9a8463f5e6d7c8b9a0f1e2d",
        "public_url": "https://api.example.org",
        "trusted_hosts": ["localhost"],
    },
    "auth": {"jwt_secret_key": "0f9e8d7c6b5a49382716f5e4d3c2b1a0", "bcrypt_rounds": 12},
    "database": {"allow_sqlite": True},
    "health": {"token": TOKEN},
    "mail": {"url": "smtps://someone:secret@mail.example.org"},
    "redis": {"url": "redis://127.0.0.1:1/0"},
}
STRANGER = {"REMOTE_ADDR": "192.0.2.7"}


@pytest.fixture
def app_config(redis_server: Redis) -> Mapping[str, Any]:
    return {"redis": {"url": redis_server.url}}


@pytest.fixture
def production(app: Flask, make_app: Make) -> Flask:
    """The application as in production, with the test's database."""
    return make_app(PRODUCTION)


@pytest.fixture
def worker(redis_server: Redis) -> Iterator[Worker]:
    """A worker that has registered and serves every queue."""
    connection = RedisClient.from_url(redis_server.url)
    made = Worker(["high", "default", "low"], connection=connection)
    made.register_birth()
    yield made
    connection.close()


def test_a_live_process_says_so_in_the_envelope(client: FlaskClient) -> None:
    response = client.get("/health/live")

    assert response.status_code == 200
    assert response.json is not None
    assert response.json["data"] == {"status": "ok"}
    assert response.json["meta"]["request_id"] == response.headers["X-Request-ID"]


def test_a_ready_instance_names_each_check(client: FlaskClient) -> None:
    response = client.get("/health/ready")

    assert response.status_code == 200
    assert response.json is not None
    checks = response.json["data"]["checks"]
    assert {name: check["status"] for name, check in checks.items()} == {
        "database": "ok",
        "schema": "ok",
        "redis": "ok",
    }


def test_health_tells_version_uptime_and_every_check(client: FlaskClient, worker: Worker) -> None:
    response = client.get("/health")

    assert response.status_code == 200
    assert response.json is not None
    data = response.json["data"]
    assert data["status"] == "ok"
    assert data["version"]
    assert data["uptime_s"] >= 0
    assert set(data["checks"]) == {
        "database", "schema", "redis", "workers", "schedulers", "storage", "mail",
    }  # fmt: skip
    assert all(check["latency_ms"] >= 0 for check in data["checks"].values())
    assert data["checks"]["workers"]["count"] == 1


def test_a_worker_whose_heartbeats_have_ended_does_not_count(
    client: FlaskClient, worker: Worker
) -> None:
    worker.connection.delete(worker.key)  # as Redis does when the key's time is over

    data = client.get("/health").json["data"]  # type: ignore[index]

    assert data["status"] == "degraded"
    assert data["checks"]["workers"]["status"] == "down"
    assert data["checks"]["workers"]["count"] == 0


def test_a_queue_that_nobody_serves_is_named(client: FlaskClient, redis_server: Redis) -> None:
    connection = RedisClient.from_url(redis_server.url)
    Worker(["high"], connection=connection).register_birth()

    check = client.get("/health").json["data"]["checks"]["workers"]  # type: ignore[index]

    assert check["status"] == "degraded"
    assert check["message"] == "no worker serves default, low"


def check_of(client: FlaskClient, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/health").json["data"]["checks"][name]  # type: ignore[index]
    return found


def add_job(app: Flask, queue: str, due_seconds_ago: float, **values: Any) -> None:
    """Add a job that waits on a queue, due so long ago."""
    with app.app_context():
        db.session.add(
            Job(
                name="users.tidy", queue=queue, args={}, max_attempts=1, timeout_seconds=1,
                run_at=utcnow() - timedelta(seconds=due_seconds_ago), **values,
            )
        )  # fmt: skip
        db.session.commit()


def test_a_queue_whose_oldest_job_waits_too_long_is_named_with_its_wait(
    app: Flask, client: FlaskClient, worker: Worker
) -> None:
    add_job(app, "low", 400)
    add_job(app, "low", 20)
    add_job(app, "default", 290)

    check = check_of(client, "workers")

    assert check["status"] == "degraded"
    assert check["message"] == "jobs wait too long in low (400 s)"


def test_jobs_that_run_are_over_or_wait_in_a_paused_queue_do_not_wait_too_long(
    app: Flask, client: FlaskClient, worker: Worker
) -> None:
    add_job(app, "default", 400, status="started", lease_until=utcnow() + timedelta(seconds=30))
    add_job(app, "default", 400, status="finished", finished_at=utcnow())
    add_job(app, "low", 400)
    with app.app_context():
        db.session.add(PausedQueue(name="low", paused_at=utcnow()))
        db.session.commit()

    assert check_of(client, "workers")["status"] == "ok"


def add_schedule(app: Flask, *, enabled: bool) -> None:
    with app.app_context():
        db.session.add(
            Schedule(
                name="nightly", job="users.tidy", args={}, timing="every 60", timezone="UTC",
                missed="once", source="code", enabled=enabled, handled_until=utcnow(),
            )
        )  # fmt: skip
        db.session.commit()


def add_scheduler(app: Flask, lease_seconds: float) -> None:
    with app.app_context():
        until = utcnow() + timedelta(seconds=lease_seconds)
        db.session.add(Lease(name=f"{SCHEDULER_LEASES}{lease_seconds}", holder="h:1", until=until))
        db.session.commit()


def test_schedules_without_a_live_scheduler_are_degraded(app: Flask, client: FlaskClient) -> None:
    add_schedule(app, enabled=True)
    add_scheduler(app, -1)

    check = check_of(client, "schedulers")

    assert check["status"] == "degraded"
    assert (check["message"], check["count"]) == ("no scheduler is running", 0)


def test_a_scheduler_that_has_not_started_yet_is_missed_where_schedules_are_declared(
    app: Flask, make_app: Make
) -> None:
    schedules = {"nightly": {"job": "users.tidy", "every": 60}}
    client = make_app({"jobs": {"schedules": schedules}}).test_client()

    assert check_of(client, "schedulers")["status"] == "degraded"


def test_live_schedulers_are_counted(app: Flask, client: FlaskClient) -> None:
    add_schedule(app, enabled=True)
    add_scheduler(app, 10)
    add_scheduler(app, 20)

    check = check_of(client, "schedulers")

    assert (check["status"], check["count"]) == ("ok", 2)


def test_no_scheduler_is_needed_without_enabled_schedules(app: Flask, client: FlaskClient) -> None:
    add_schedule(app, enabled=False)

    assert check_of(client, "schedulers")["status"] == "ok"


def test_an_instance_without_redis_is_degraded_and_ready(app: Flask, make_app: Make) -> None:
    client = make_app({"redis": {"url": "redis://127.0.0.1:1/0"}}).test_client()

    ready, health = client.get("/health/ready"), client.get("/health")

    assert (ready.status_code, health.status_code) == (200, 200)
    assert ready.json["data"]["checks"]["redis"]["status"] == "down"  # type: ignore[index]
    assert health.json["data"]["status"] == "degraded"  # type: ignore[index]


def change_version(app: Flask, statement: str) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(sa.text(statement))


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
def test_a_schema_behind_the_code_is_down(app: Flask, client: FlaskClient, path: str) -> None:
    change_version(app, "DELETE FROM alembic_version")

    response = client.get(path)

    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.json is not None
    assert response.json["success"] is False
    assert response.json["error"]["code"] == "service_unavailable"
    assert response.json["data"]["status"] == "down"
    assert response.json["data"]["checks"]["schema"]["status"] == "down"
    assert response.json["data"]["checks"]["database"]["status"] == "ok"


def test_a_schema_ahead_of_the_code_is_ready_with_a_warning(
    app: Flask, client: FlaskClient
) -> None:
    change_version(app, "UPDATE alembic_version SET version_num = 'ffffffffffff'")

    response = client.get("/health/ready")

    assert response.status_code == 200
    check = response.json["data"]["checks"]["schema"]  # type: ignore[index]
    assert check["status"] == "degraded"
    assert "ahead" in check["message"]


def test_a_lost_database_is_down_and_the_process_alive(make_app: Make) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    client = make_app_with_database(make_app, url).test_client()

    assert client.get("/health/ready").status_code == 503
    assert client.get("/health").json["data"]["status"] == "down"  # type: ignore[index]
    assert client.get("/health/live").status_code == 200


def make_app_with_database(make_app: Make, url: str, **more: Any) -> Flask:
    return make_app({"database": {"url": url}, **more})


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.monotonic()
    return call(), time.monotonic() - started


@pytest.mark.integration
@pytest.mark.slow
def test_a_database_that_hangs_is_told_within_two_seconds_and_its_return_soon(
    postgres: PostgreSQL, make_app: Make
) -> None:
    app = make_app_with_database(make_app, postgres.create_database())
    assert statuses(app, "/health")["database"] == "ok"

    postgres.pause()
    try:
        before = threading.active_count()
        for path in ("/health", "/health/ready", "/metrics", "/health/live") * 3:
            _, seconds = timed(lambda path=path: app.test_client().get(path))
            assert seconds < 2
        assert statuses(app, "/health")["database"] == "down"
        # One thread for each of database, schema and the count of jobs, and the few given up.
        assert threading.active_count() - before <= 9
    finally:
        postgres.resume()

    deadline = time.monotonic() + 5
    while statuses(app, "/health")["database"] != "ok":
        assert time.monotonic() < deadline, "did not notice the return"
        time.sleep(0.1)


def statuses(app: Flask, path: str) -> dict[str, str]:
    response = app.test_client().get(path)
    assert response.json is not None
    return {name: check["status"] for name, check in response.json["data"]["checks"].items()}


@pytest.mark.integration
@pytest.mark.slow
def test_a_redis_that_hangs_is_told_within_two_seconds_and_its_return_soon(
    app: Flask, redis_server: Redis
) -> None:
    redis_server.pause()
    try:
        for path in ("/health", "/health/ready"):
            response, seconds = timed(lambda path=path: app.test_client().get(path))
            assert seconds < 2
            assert response.status_code == 200
            assert response.json["data"]["checks"]["redis"]["status"] == "down"
    finally:
        redis_server.resume()

    deadline = time.monotonic() + 5
    while statuses(app, "/health")["redis"] != "ok":
        assert time.monotonic() < deadline, "did not notice the return"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_crowd_of_probes_shares_one_check_that_hangs(app: Flask, redis_server: Redis) -> None:
    answers: list[tuple[Any, float]] = []

    def ask() -> None:
        answers.append(timed(lambda: app.test_client().get("/health/ready")))

    redis_server.pause()
    try:
        crowd = [threading.Thread(target=ask) for _ in range(30)]
        for thread in crowd:
            thread.start()
        time.sleep(0.5)
        checking = [t for t in threading.enumerate() if t.name == "ghost-health-redis"]
        for thread in crowd:
            thread.join(10)
    finally:
        redis_server.resume()

    assert len(checking) == 1
    assert len(answers) == 30
    assert max(seconds for _, seconds in answers) < 2.5  # 30 threads on a busy machine


def test_in_production_a_stranger_sees_the_status_only(production: Flask) -> None:
    client = production.test_client()

    health = client.get("/health", environ_base=STRANGER)
    ready = client.get("/health/ready", environ_base=STRANGER)
    metrics = client.get("/metrics", environ_base=STRANGER)

    assert health.json["data"] == {"status": "degraded"}  # type: ignore[index]
    checks = ready.json["data"]["checks"]  # type: ignore[index]
    assert all(set(check) == {"status"} for check in checks.values())
    assert metrics.status_code == 401
    assert metrics.json["error"]["code"] == "unauthorized"  # type: ignore[index]


@pytest.mark.parametrize(
    ("header", "is_shown"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer {TOKEN}", True),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN}x", False),
        (f"Basic {TOKEN}", False),
        ("Bearer ", False),
        ("Bearer \u00e9", False),
        ("", False),
    ],
)
def test_in_production_the_token_opens_the_details(
    production: Flask, header: str, is_shown: bool
) -> None:
    client = production.test_client()
    headers = {"Authorization": header}

    health = client.get("/health", environ_base=STRANGER, headers=headers)
    metrics = client.get("/metrics", environ_base=STRANGER, headers=headers)

    assert ("checks" in health.json["data"]) is is_shown  # type: ignore[index]
    assert metrics.status_code == (200 if is_shown else 401)


def test_in_production_without_a_token_no_token_opens_anything(app: Flask, make_app: Make) -> None:
    client = make_app(PRODUCTION | {"health": {"token": None}}).test_client()

    for header in ("Bearer None", "Bearer ", "Bearer"):
        response = client.get("/metrics", environ_base=STRANGER, headers={"Authorization": header})
        assert response.status_code == 401


def test_in_production_a_caller_on_this_machine_sees_everything(production: Flask) -> None:
    client = production.test_client()

    health = client.get("/health", environ_base={"REMOTE_ADDR": "127.0.0.1"})

    assert "checks" in health.json["data"]  # type: ignore[index]
    assert client.get("/metrics", environ_base={"REMOTE_ADDR": "::1"}).status_code == 200


@pytest.mark.parametrize(
    ("trusted_proxies", "forwarded_for", "is_shown"),
    [
        (0, "127.0.0.1", False),  # a proxy on this machine that nobody configured
        (1, "192.0.2.7", False),
        (1, "127.0.0.1, 192.0.2.7", False),  # forged by the caller
        (2, "192.0.2.7", False),  # one of the two is missing
        (2, "127.0.0.1", False),
        (1, None, True),  # past the proxy, from this machine
    ],
)
def test_in_production_a_header_makes_nobody_local(
    app: Flask,
    make_app: Make,
    trusted_proxies: int,
    forwarded_for: str | None,
    is_shown: bool,
) -> None:
    settings = PRODUCTION | {"app": PRODUCTION["app"] | {"trusted_proxies": trusted_proxies}}
    client = make_app(settings).test_client()
    headers = {} if forwarded_for is None else {"X-Forwarded-For": forwarded_for}

    response = client.get("/health", environ_base={"REMOTE_ADDR": "127.0.0.1"}, headers=headers)

    assert ("checks" in response.json["data"]) is is_shown  # type: ignore[index]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, True),
        ({"REMOTE_ADDR": "127.8.8.8"}, True),
        ({"REMOTE_ADDR": "::1"}, True),
        ({"REMOTE_ADDR": "::ffff:127.0.0.1"}, True),
        ({"REMOTE_ADDR": "192.0.2.7"}, False),
        ({"REMOTE_ADDR": "::ffff:192.0.2.7"}, False),
        ({"REMOTE_ADDR": ""}, False),
        ({"REMOTE_ADDR": "unix:"}, False),
        ({}, False),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_FORWARDED": "for=127.0.0.1"}, False),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_REAL_IP": "127.0.0.1"}, False),
    ],
)
@pytest.mark.unit
def test_loopback_is_told_by_the_connection(environ: dict[str, str], expected: bool) -> None:
    assert is_from_loopback(environ) is expected


def test_probes_know_no_rate_limit(app: Flask, make_app: Make) -> None:
    client = make_app({"ratelimit": {"enabled": True, "default": "2/minute"}}).test_client()

    for path in ("/health/live", "/health/ready", "/health", "/metrics") * 2:
        assert client.get(path).status_code == 200

"""Rate limits: who is counted, what refusals say, and Redis away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis as RedisClient
from test_http import is_error

from ghost.ratelimit import source
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory
from ghost.testing.servers import Redis

pytestmark = [pytest.mark.lab, pytest.mark.integration]

LAB = "/api/v1/lab"
HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
Make = Callable[[Mapping[str, Any]], Flask]


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {"ratelimit": {"enabled": True, "default": "5/minute"}}


def get(
    client: FlaskClient, path: str = "hello", address: str = "192.0.2.1", **options: Any
) -> Any:
    return client.get(f"{LAB}/{path}", environ_overrides={"REMOTE_ADDR": address}, **options)


def statuses(client: FlaskClient, count: int, *arguments: Any, **options: Any) -> list[int]:
    return [get(client, *arguments, **options).status_code for _ in range(count)]


# --- Counting -------------------------------------------------------------------------------------


def test_the_default_limit_counts_each_route_and_address(client: FlaskClient) -> None:
    assert statuses(client, 6) == [200] * 5 + [429]
    assert get(client, address="192.0.2.2").status_code == 200
    assert get(client, "things").status_code == 200


def test_a_refusal_says_when_to_come_again(client: FlaskClient) -> None:
    statuses(client, 5)

    response = get(client)

    assert is_error(response, 429, "rate_limited")
    assert response.headers["X-RateLimit-Limit"] == "5"
    assert response.headers["X-RateLimit-Remaining"] == "0"
    assert 1 <= int(response.headers["Retry-After"]) <= 61
    reset = int(response.headers["X-RateLimit-Reset"]) - time.time()
    assert -1 <= reset <= 61
    for name in (*HEADERS, "Retry-After"):
        assert len(response.headers.getlist(name)) == 1
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_an_answer_counts_down_and_asks_nobody_to_wait(client: FlaskClient) -> None:
    first, second = get(client), get(client)

    assert [r.headers["X-RateLimit-Remaining"] for r in (first, second)] == ["4", "3"]
    assert "Retry-After" not in first.headers


def test_a_503_keeps_its_own_retry_after(client: FlaskClient) -> None:
    response = get(client, "busy")

    assert is_error(response, 503, "service_unavailable")
    assert response.headers.getlist("Retry-After") == ["17"]


def test_a_route_may_have_a_limit_of_its_own(client: FlaskClient) -> None:
    assert statuses(client, 3, "limited") == [200, 200, 429]
    assert get(client, "limited", address="192.0.2.2").status_code == 200


@pytest.mark.parametrize(
    "path", [f"{LAB}/unlimited", "/health/live", "/health/ready", "/openapi.json", "/docs"]
)
def test_probes_and_pages_are_never_refused(client: FlaskClient, path: str) -> None:
    answers = [client.get(path) for _ in range(8)]

    assert {answer.status_code for answer in answers} == {200}


def test_asking_for_options_costs_nothing(client: FlaskClient) -> None:
    for _ in range(8):
        assert client.options(f"{LAB}/hello").status_code == 200
        preflight = {"Origin": "https://a.org", "Access-Control-Request-Method": "GET"}
        assert client.options(f"{LAB}/hello", headers=preflight).status_code == 200

    assert client.get(f"{LAB}/hello").status_code == 200


def test_head_counts_as_get_does(client: FlaskClient) -> None:
    answers = [client.head(f"{LAB}/hello").status_code for _ in range(6)]

    assert answers == [200] * 5 + [429]


def test_errors_count_too(client: FlaskClient) -> None:
    assert statuses(client, 6, "boom") == [500] * 5 + [429]


def test_a_slash_at_the_end_is_no_way_around(client: FlaskClient) -> None:
    statuses(client, 5)

    assert get(client, "hello/").status_code == 429


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.9", "192.0.2.9", True),
        ("::ffff:192.0.2.9", "::ffff:192.0.2.10", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_an_ipv6_network_counts_as_one_source(
    client: FlaskClient, first: str, second: str, same: bool
) -> None:
    assert statuses(client, 5, address=first) == [200] * 5

    assert get(client, address=second).status_code == (429 if same else 200)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::"),
        ("unix:", "unix:"),
        ("", "unknown"),
    ],
)
def test_the_source_of_a_request(app: Flask, address: str, expected: str) -> None:
    with app.test_request_context("/", environ_overrides={"REMOTE_ADDR": address}):
        assert source() == expected


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Client-IP"])
def test_no_header_makes_another_source(client: FlaskClient, name: str) -> None:
    answers = [
        get(client, headers={name: f"for=192.0.2.{number}"}).status_code for number in range(6)
    ]

    assert answers == [200] * 5 + [429]


def test_a_caller_is_counted_wherever_they_are(client: Client, make_user: UserFactory) -> None:
    ada, bob = client.as_user(make_user()), client.as_user(make_user())

    assert [get(ada, address=f"192.0.2.{n}").status_code for n in range(6)] == [200] * 5 + [429]
    assert get(bob, address="192.0.2.1").status_code == 200


def test_a_forged_token_counts_for_the_address(client: FlaskClient) -> None:
    answers = [
        get(client, headers={"Authorization": f"Bearer forged.{number}.x"}).status_code
        for number in range(6)
    ]

    assert answers == [200] * 5 + [429]


def test_limits_can_be_switched_off(app: Flask, make_app: Make) -> None:
    other = make_app({"ratelimit": {"enabled": False}}).test_client()

    assert statuses(other, 10, "limited") == [200] * 10
    assert not [name for name in HEADERS if name in get(other).headers]


# --- Two applications -----------------------------------------------------------------------------


def test_two_applications_share_no_counters_limits_routes_or_settings(
    app: Flask, make_app: Make
) -> None:
    first = make_app({"app": {"name": "First"}})
    second = make_app({"app": {"name": "Second"}, "ratelimit": {"default": "2/minute"}})

    assert statuses(first.test_client(), 5) == [200] * 5
    assert statuses(second.test_client(), 3) == [200, 200, 429]
    assert get(first.test_client()).status_code == 429
    assert statuses(app.test_client(), 5) == [200] * 5
    titles = [
        other.test_client().get("/openapi.json").json["info"]["title"] for other in (first, second)
    ]
    assert titles == ["First", "Second"]
    assert first.extensions["ghost"].api is not second.extensions["ghost"].api
    assert first.extensions["ghost"].limiter is not second.extensions["ghost"].limiter


# --- Redis ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Redis]:
    """A server that may be hurt."""
    server = Redis()
    yield server
    server.close()


@pytest.fixture
def on_redis(own_redis: Redis, app: Flask, make_app: Make) -> Flask:
    own_redis.flush()
    return make_app({"redis": {"url": own_redis.url}})


def test_processes_count_together_on_redis(
    own_redis: Redis, on_redis: Flask, make_app: Make
) -> None:
    twin = make_app({"redis": {"url": own_redis.url}})

    assert statuses(on_redis.test_client(), 3) == [200] * 3
    assert statuses(twin.test_client(), 3) == [200, 200, 429]


def test_without_redis_each_process_counts_in_memory(own_redis: Redis, on_redis: Flask) -> None:
    client = on_redis.test_client()
    assert statuses(client, 3) == [200] * 3
    own_redis.stop()
    try:
        started = time.monotonic()
        answers = [get(client) for _ in range(6)]
        assert time.monotonic() - started < 5
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert answers[0].headers["X-RateLimit-Limit"] == "5"
        assert is_error(answers[-1], 429, "rate_limited")
    finally:
        own_redis.start()


def test_a_redis_that_was_never_there_is_no_500(app: Flask, make_app: Make) -> None:
    client = make_app({"redis": {"url": "redis://127.0.0.1:1/0"}}).test_client()
    started = time.monotonic()

    assert statuses(client, 6) == [200] * 5 + [429]
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_redis_that_hangs_makes_nobody_wait_long(own_redis: Redis, on_redis: Flask) -> None:
    client = on_redis.test_client()
    assert get(client).status_code == 200
    own_redis.pause()
    try:
        waits = []
        for _ in range(6):
            started = time.monotonic()
            assert get(client).status_code in (200, 429)
            waits.append(time.monotonic() - started)
    finally:
        own_redis.resume()

    assert max(waits) < 3
    assert sum(waits) < 6


@pytest.mark.slow
def test_redis_counts_again_when_it_is_back(own_redis: Redis, on_redis: Flask) -> None:
    client = on_redis.test_client()
    own_redis.stop()
    try:
        assert get(client).status_code == 200
    finally:
        own_redis.start()
    deadline = time.monotonic() + 10
    while not keys(own_redis):
        assert time.monotonic() < deadline, "it still counts in memory"
        get(client, address=f"198.51.100.{int(time.monotonic() * 10) % 250}")
        time.sleep(0.2)


def keys(server: Redis) -> list[bytes]:
    with RedisClient.from_url(server.url) as connection:
        return list(connection.scan_iter("*ghost*"))

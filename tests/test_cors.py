"""CORS: exact origins, on every answer, with Vary; everybody else gets nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from ghost.config import ConfigError

pytestmark = pytest.mark.lab

LAB = "/api/v1/lab"
ORIGINS = [
    "https://app.example.com",
    "http://localhost:3000",
    "http://[::1]:3000",
    "https://a.b-c.example:8443",
]
STRANGERS = [
    "https://app.example.com.evil.org",
    "https://evil.org",
    "https://app-example.com",
    "https://appxexample.com",
    "https://app.example.comx",
    "https://xapp.example.com",
    "http://app.example.com",
    "https://app.example.com:443",
    "https://app.example.com:8443",
    "https://app.example.com/",
    "https://app.example.com@evil.org",
    "https://APP.example.com",
    "https://app.example.com\t",
    "https://app.example.com, https://evil.org",
    "https://app.example.com https://evil.org",
    "http://localhost:30000",
    "http://localhost",
    "http://1:3000",
    "http://::3000",
    "http://[::1]:30001",
    "https://a.bXc.example:8443",
    "null",
    "*",
    ".*",
    "",
    "file://",
    "\xff",
]
Make = Callable[[Mapping[str, Any]], Flask]


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {"cors": {"origins": ORIGINS}}


def cors_headers(response: Any) -> dict[str, str]:
    return {
        name: value for name, value in response.headers if name.startswith("Access-Control-Allow")
    }


def vary(response: Any) -> set[str]:
    return {word.strip() for value in response.headers.getlist("Vary") for word in value.split(",")}


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_configured_origin_is_allowed_with_credentials(client: FlaskClient, origin: str) -> None:
    response = client.get(f"{LAB}/hello", headers={"Origin": origin})

    assert cors_headers(response) == {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
    }
    exposed = response.headers["Access-Control-Expose-Headers"]
    for name in ("ETag", "X-Request-ID", "Retry-After", "X-RateLimit-Remaining", "Location"):
        assert name in exposed
    assert "Origin" in vary(response)


@pytest.mark.parametrize("origin", STRANGERS)
def test_every_other_origin_gets_nothing(client: FlaskClient, origin: str) -> None:
    for method in ("GET", "OPTIONS"):
        response = client.open(
            f"{LAB}/hello",
            method=method,
            headers={"Origin": origin, "Access-Control-Request-Method": "GET"},
        )

        assert response.status_code == 200
        assert cors_headers(response) == {}
        assert "Origin" in vary(response)


def test_without_an_origin_there_is_nothing_but_vary(client: FlaskClient) -> None:
    response = client.get(f"{LAB}/hello")

    assert cors_headers(response) == {}
    assert "Origin" in vary(response)


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("POST", f"{LAB}/hello", {}, 405),
        ("GET", f"{LAB}/me", {}, 401),
        ("POST", f"{LAB}/echo", {"data": b"{", "content_type": "application/json"}, 400),
        ("POST", f"{LAB}/echo", {"json": {"free": "a" * 2**20}}, 413),
        ("POST", f"{LAB}/echo", {"data": b"x"}, 415),
        ("GET", f"{LAB}/hello?x=1", {}, 422),
        ("GET", f"{LAB}/boom", {}, 500),
        ("GET", "/plain/boom", {}, 500),
        ("GET", f"{LAB}/busy", {}, 503),
        ("GET", f"{LAB}/conflict", {}, 409),
        ("DELETE", f"{LAB}/nothing", {}, 204),
        ("GET", "/plain/json", {}, 200),
        ("GET", "/health/live", {}, 200),
        ("GET", "/openapi.json", {}, 200),
    ],
)
def test_every_answer_has_the_headers_once(
    client: FlaskClient, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    headers = {"Origin": ORIGINS[0]}

    response = client.open(path, method=method, headers=headers, **options)

    assert response.status_code == status
    assert response.headers.getlist("Access-Control-Allow-Origin") == [ORIGINS[0]]
    assert response.headers.getlist("Access-Control-Allow-Credentials") == ["true"]
    assert "Origin" in vary(response)


def test_a_304_and_a_429_have_them_too(app: Flask, make_app: Make) -> None:
    client = make_app({"ratelimit": {"enabled": True, "default": "2/minute"}}).test_client()
    headers = {"Origin": ORIGINS[0], "If-None-Match": '"3"'}

    answers = [client.get(f"{LAB}/versioned", headers=headers) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [304, 304, 429]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGINS[0]


def test_an_error_after_the_view_has_them_too(app: Flask, make_app: Make) -> None:
    other = make_app({})
    other.testing = False

    @other.after_request
    def fail(response: Any) -> Any:
        raise RuntimeError

    response = other.test_client().get(f"{LAB}/hello", headers={"Origin": ORIGINS[0]})

    assert response.status_code == 500
    assert response.headers["Access-Control-Allow-Origin"] == ORIGINS[0]


@pytest.mark.parametrize("path", [f"{LAB}/echo", f"{LAB}/me"])
def test_a_preflight_names_methods_and_headers_and_runs_no_view(
    client: FlaskClient, path: str
) -> None:
    response = client.options(
        path,
        headers={
            "Origin": ORIGINS[0],
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "authorization, content-type, idempotency-key",
        },
    )

    assert response.status_code == 200
    assert response.data == b""
    assert response.headers["Access-Control-Allow-Origin"] == ORIGINS[0]
    assert "PATCH" in response.headers["Access-Control-Allow-Methods"]
    allowed = response.headers["Access-Control-Allow-Headers"].lower()
    assert all(name in allowed for name in ("authorization", "content-type", "idempotency-key"))
    assert response.headers["Access-Control-Max-Age"] == "600"


def test_without_configured_origins_nobody_gets_headers(app: Flask, make_app: Make) -> None:
    client = make_app({"cors": {"origins": []}}).test_client()

    for origin in (*ORIGINS, *STRANGERS):
        assert cors_headers(client.get(f"{LAB}/hello", headers={"Origin": origin})) == {}


@pytest.mark.parametrize("origin", ["*", "https://*.example.com", "https://a.example/path", ".*"])
def test_an_origin_that_is_none_stops_the_start_in_production(
    app: Flask, make_app: Make, origin: str
) -> None:
    with pytest.raises(ConfigError):
        make_app({"app": {"env": "production"}, "cors": {"origins": [origin]}})

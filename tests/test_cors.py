"""Which web sites may call the API from a browser: those of `cors.origins`, to the letter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

pytestmark = pytest.mark.lab

LAB = "/api/v1/lab"
ORIGINS = ["https://app.example.com", "http://localhost:3000"]
PREFLIGHT = {
    "Access-Control-Request-Method": "PATCH",
    "Access-Control-Request-Headers": "authorization, content-type",
}


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {"cors": {"origins": ORIGINS}}


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{LAB}/hello", 200),
        ("GET", f"{LAB}/me", 401),
        ("GET", "/nowhere", 404),
        ("POST", f"{LAB}/hello", 405),
        ("POST", f"{LAB}/echo", 415),
        ("GET", f"{LAB}/boom", 500),
        ("GET", f"{LAB}/busy", 503),
    ],
)
def test_a_named_origin_reads_every_answer_errors_too(
    client: FlaskClient, origin: str, method: str, path: str, status: int
) -> None:
    response = client.open(path, method=method, headers={"Origin": origin})

    assert response.status_code == status
    assert response.headers.getlist("Access-Control-Allow-Origin") == [origin]
    assert "X-Request-ID" in response.headers["Access-Control-Expose-Headers"]
    assert response.headers.getlist("Vary") == ["Origin"]


def test_a_preflight_of_a_named_origin_is_answered(client: FlaskClient) -> None:
    response = client.options(f"{LAB}/versioned", headers={"Origin": ORIGINS[0], **PREFLIGHT})

    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == ORIGINS[0]
    assert "PATCH" in response.headers["Access-Control-Allow-Methods"]
    allowed = response.headers["Access-Control-Allow-Headers"].lower()
    assert {name.strip() for name in allowed.split(",")} >= {"authorization", "content-type"}


def test_a_preflight_is_neither_counted_nor_refused(
    app: Flask, make_app: Callable[[Mapping[str, Any]], Flask]
) -> None:
    client = make_app({"ratelimit": {"enabled": True, "default": "2/minute"}}).test_client()

    def preflight() -> int:
        headers = {"Origin": ORIGINS[0], **PREFLIGHT}
        return client.options(f"{LAB}/hello", headers=headers).status_code

    before = [preflight() for _ in range(3)]
    calls = [client.get(f"{LAB}/hello").status_code for _ in range(3)]
    after = preflight()

    assert (before, calls, after) == ([200] * 3, [200, 200, 429], 200)


HOSTILE = [
    "https://evil.example",
    "https://appxexample.com",
    "https://app.example.com.evil.example",
    "https://evil.example/https://app.example.com",
    "https://evil-app.example.com",
    "https://sub.app.example.com",
    "https://app.example.com:8443",
    "http://app.example.com",
    "https://APP.example.com",
    "https://app.example.com/",
    "http://localhost:30001",
    "http://localhost",
    "null",
    "*",
    ".*",
    "",
]


@pytest.mark.parametrize("origin", HOSTILE)
def test_no_other_origin_reads_anything(client: FlaskClient, origin: str) -> None:
    answers = [
        client.get(f"{LAB}/hello", headers={"Origin": origin}),
        client.get("/nowhere", headers={"Origin": origin}),
        client.get(f"{LAB}/boom", headers={"Origin": origin}),
        client.options(f"{LAB}/versioned", headers={"Origin": origin, **PREFLIGHT}),
    ]

    for response in answers:
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("origin", [ORIGINS[0], "https://evil.example", None])
@pytest.mark.parametrize("path", [f"{LAB}/hello", "/openapi.json", "/docs/static/redoc.css"])
def test_a_cache_keeps_the_answers_of_origins_apart(
    client: FlaskClient, origin: str | None, path: str
) -> None:
    response = client.get(path, headers={"Origin": origin} if origin else {})

    assert "origin" in response.headers.get("Vary", "").lower()


def test_without_configured_origins_no_site_reads_anything(
    app: Flask, make_app: Callable[[Mapping[str, Any]], Flask]
) -> None:
    client = make_app({"cors": {"origins": []}}).test_client()

    for origin in (*ORIGINS, *HOSTILE):
        response = client.get(f"{LAB}/hello", headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in response.headers

"""Every route that Ghost serves: which are open to anybody, and that all others want a log-in."""

from __future__ import annotations

import re

from flask import Flask
from flask.testing import FlaskClient

from ghost.access import contract_of

# Whoever adds a line here opens a door to the internet.
PUBLIC = {
    ("POST", "/api/v1/auth/register"),
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/refresh"),  # with a refresh token
    ("POST", "/api/v1/auth/forgot-password"),
    ("POST", "/api/v1/auth/reset-password"),
    ("POST", "/api/v1/auth/verify-email"),
    ("POST", "/api/v1/auth/resend-verification"),
    ("POST", "/api/v1/mail/webhooks/sendgrid"),  # what is signed alone counts
    ("POST", "/api/v1/mail/webhooks/ses"),
    ("GET", "/api/v1/files/<>/content"),  # public files, and signed URLs
    ("GET", "/api/v1/files/<>/images/<>"),  # likewise
    ("GET", "/account/verify-email"),
    ("GET", "/account/reset-password"),
    ("GET", "/account/static/<>"),
    ("GET", "/docs"),
    ("GET", "/docs/static/<>"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
}
SAMPLES = {"uuid": "01900000-0000-7000-8000-000000000000", "": "SAMPLE"}


def routes(app: Flask) -> set[tuple[str, str]]:
    """Method and path of every route, with `<>` for what varies."""
    return {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def unnamed(path: str) -> str:
    return re.sub(r"<[^>]*>", "<>", path)


def sample(path: str) -> str:
    """A path with something in the place of what varies."""
    return re.sub(r"<(?:(\w+):)?\w+>", lambda found: SAMPLES.get(found[1] or "", "x"), path)


def test_the_open_routes_are_these_and_no_others(app: Flask) -> None:
    declared = {
        (method, unnamed(rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if (access := contract_of(app.view_functions[rule.endpoint]).access) is None
        or access.public
    }

    assert declared == PUBLIC


def test_every_other_route_is_401_for_a_stranger_whatever_is_sent(
    app: Flask, client: FlaskClient
) -> None:
    closed = {
        (method, path) for method, path in routes(app) if (method, unnamed(path)) not in PUBLIC
    }
    assert len(closed) >= 18

    for method, path in sorted(closed):
        for options in (
            {"json": {}},
            {"json": {"email": "a@example.org", "is_verified": True, "roles": ["ADMIN"]}},
            {"headers": {"Authorization": "Bearer x"}, "json": {}},
            {"headers": {"Authorization": "Basic YTpi", "If-Match": '"1"'}, "json": {}},
            {"headers": {"Idempotency-Key": "a"}, "json": {}},
            {"data": b"{", "content_type": "application/json"},
            {"data": b"x", "content_type": "text/plain"},
        ):
            response = client.open(sample(path), method=method, **options)
            assert response.status_code == 401, (method, path, options, response.text)
            assert response.json["error"]["code"] in ("unauthorized", "token_invalid")
            assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_stranger_learns_nothing_by_the_query_either(app: Flask, client: FlaskClient) -> None:
    for method, path in sorted(routes(app)):
        if (method, unnamed(path)) not in PUBLIC:
            response = client.open(f"{sample(path)}?unknown=1&per_page=x", method=method)
            assert response.status_code == 401, (method, path)

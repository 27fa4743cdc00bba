"""The documentation's pages: complete, from our own files only, under a strict policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

import ghost.docs

ASSETS = Path(ghost.docs.__file__).parent / "static"
PAGES = ["/docs", "/redoc"]


def test_the_document_is_openapi_3_1_and_knows_the_routes(client: FlaskClient) -> None:
    response = client.get("/openapi.json")

    assert response.content_type == "application/json"
    document = response.get_json()
    assert document["openapi"] == "3.1.0"
    assert "/health/ready" in document["paths"]
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert "success" not in document


def test_the_document_is_sent_once_to_who_has_it(client: FlaskClient) -> None:
    first = client.get("/openapi.json")

    again = client.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    other = client.get("/openapi.json", headers={"If-None-Match": '"other"'})

    assert (again.status_code, again.data) == (304, b"")
    assert other.data == first.data
    assert first.headers["Cache-Control"] == "no-cache"


def test_two_applications_have_a_document_each(
    client: FlaskClient, make_app: Callable[[Mapping[str, Any]], Flask]
) -> None:
    other = make_app({"app": {"name": "Shop"}}).test_client()

    assert other.get("/openapi.json").get_json()["info"]["title"] == "Shop"
    assert client.get("/openapi.json").get_json()["info"]["title"] != "Shop"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_nothing_but_our_own_files(client: FlaskClient, path: str) -> None:
    page = client.get(path)
    addresses = re.findall(r'(?:src|href|data-document)="([^"]*)"', page.text)

    assert page.status_code == 200
    assert page.content_type.startswith("text/html")
    assert len(addresses) >= 5
    for address in addresses:
        assert address.startswith("/")
        assert not address.startswith("//")
        with client.get(address) as response:
            assert response.status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_script_or_style_in_itself(client: FlaskClient, path: str) -> None:
    text = client.get(path).text

    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
    assert "<style" not in text
    assert not re.search(r'\son\w+="|style="|javascript:', text)


def policy(client: FlaskClient, path: str) -> dict[str, str]:
    rules = client.get(path).headers["Content-Security-Policy"].split(";")
    return {name: value for name, _, value in (rule.strip().partition(" ") for rule in rules)}


def test_swagger_ui_runs_under_a_strict_policy(client: FlaskClient) -> None:
    found = policy(client, "/docs")

    assert found["default-src"] == "'self'"
    assert found["frame-ancestors"] == "'none'"
    assert not {"script-src", "style-src", "connect-src"} & set(found)
    assert "unsafe" not in str(found)


def test_redoc_may_do_no_more_than_it_needs(client: FlaskClient) -> None:
    found = policy(client, "/redoc")

    assert found["default-src"] == "'self'"
    assert found["style-src"] == "'self' 'unsafe-inline'"
    assert found["worker-src"] == "blob:"
    assert not {"script-src", "connect-src"} & set(found)


def test_other_answers_keep_the_policy_that_allows_nothing(client: FlaskClient) -> None:
    for path in ("/openapi.json", "/health/live", "/docs/static/redoc.css"):
        with client.get(path) as response:
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_the_name_of_the_application_is_text(
    app: Flask, make_app: Callable[[Mapping[str, Any]], Flask]
) -> None:
    client = make_app({"app": {"name": "<b>Shop</b>"}}).test_client()

    assert "<title>&lt;b&gt;Shop&lt;/b&gt; API</title>" in client.get("/docs").text


def test_assets_may_be_kept_by_browsers(client: FlaskClient) -> None:
    with client.get("/docs/static/swagger-ui/swagger-ui.css") as first:
        headers = {"If-None-Match": first.headers["ETag"]}
        assert first.headers["Cache-Control"] == "public, max-age=86400"

    again = client.get("/docs/static/swagger-ui/swagger-ui.css", headers=headers)

    assert again.status_code == 304


@pytest.mark.parametrize(
    "name", ["nothing.js", "../views.py", "..%2fviews.py", "%2e%2e/views.py", "/etc/passwd"]
)
def test_nothing_but_assets_is_sent(client: FlaskClient, name: str) -> None:
    response = client.get(f"/docs/static/{name}")

    assert response.status_code == 404
    assert response.json is not None
    assert response.json["error"]["code"] == "not_found"


def test_a_token_survives_a_reload_and_no_other_host_is_asked() -> None:
    script = (ASSETS / "swagger-ui-start.js").read_text()

    assert "persistAuthorization: true" in script
    assert "validatorUrl: null" in script


@pytest.mark.parametrize("name", ["swagger-ui/swagger-ui-bundle.js", "redoc/redoc.standalone.js"])
def test_a_vendored_script_has_its_licence_and_no_source_map(name: str) -> None:
    path = ASSETS / name

    assert (path.parent / "LICENSE").is_file()
    assert path.with_name(path.name + ".LICENSE.txt").is_file()
    assert not list(path.parent.glob("*.map"))
    last_line = path.read_text(encoding="utf-8").rstrip().rsplit("\n", 1)[-1]
    assert not last_line.startswith("//# sourceMappingURL")


def test_redoc_shows_no_picture_from_another_host() -> None:
    assert "cdn.redoc" not in (ASSETS / "redoc/redoc.standalone.js").read_text(encoding="utf-8")


def test_the_pages_are_there_in_every_environment_and_under_no_limit(
    app: Flask, make_app: Callable[[Mapping[str, Any]], Flask]
) -> None:
    client = make_app({"ratelimit": {"enabled": True, "default": "2/minute"}}).test_client()

    for path in ("/docs", "/redoc", "/openapi.json") * 2:
        assert client.get(path).status_code == 200

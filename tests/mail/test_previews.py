"""Which templates there are, and what they look like: by the API and on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask

from ghost.mail.previews import TemplateInfo, list_templates, preview, sample_of
from ghost.mail.rendering import SECURITY_TEMPLATES, UnknownTemplate
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

Configured = Callable[..., Flask]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
URL = "/api/v1/mail/templates"


@pytest.fixture
def sender(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user(roles=["ADMIN"]))


def test_templates_are_listed_with_what_they_need(configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "shipped.subject.txt").write_text("{{ number }}")
    (folder / "shipped.de.txt").write_text("{{ customer.name }}{% set x = 1 %}{{ x }}")
    (folder / "shipped.html").write_text("{% extends '_layout.html' %}{{ inline_image('a.png') }}")
    (folder / "no-subject.txt").write_text("x")
    configured(templates="mails")

    found = {one.name: one for one in list_templates()}

    assert found["shipped"] == TemplateInfo(
        "shipped", ("de",), "application", ("customer", "number"), is_security=False
    )
    assert found["verify-email"].variables == ("code", "expires", "link")
    assert set(found) == {"shipped", *SECURITY_TEMPLATES}
    assert all(found[name].is_security for name in SECURITY_TEMPLATES)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"Gr\xfc\xdfe", "The file 'shipped.txt' is no text in UTF-8."),
        (b"{{ number", "shipped.txt, line 1: "),
        (b"{{ " + b"(" * 2000 + b"1" + b")" * 2000 + b" }}", "RecursionError"),
    ],
)
def test_a_broken_template_is_marked_and_the_others_are_listed(
    configured: Configured, tmp_path: Path, content: bytes, problem: str
) -> None:
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "shipped.subject.txt").write_text("{{ number }}")
    (folder / "shipped.txt").write_bytes(content)
    configured(templates="mails")

    found = {one.name: one for one in list_templates()}

    assert problem in (found["shipped"].problem or "")
    assert found["shipped"].variables == ("number",)
    assert set(found) == {"shipped", *SECURITY_TEMPLATES}
    assert not any(found[name].problem for name in SECURITY_TEMPLATES)


def test_only_locales_that_would_be_found_are_listed(
    configured: Configured, tmp_path: Path
) -> None:
    folder = tmp_path / "mails"
    folder.mkdir()
    for locale in ("", ".de", ".de-AT", ".fr_CA", ".FR", ".zh-Hant", ".es-419"):
        (folder / f"shipped{locale}.subject.txt").write_text(f"Shipped{locale}")
    (folder / "shipped.txt").write_text("Hello.\n")
    configured(templates="mails")

    locales = next(one.locales for one in list_templates() if one.name == "shipped")

    assert locales == ("de", "de-AT", "es-419", "zh-Hant")
    for locale in locales:
        assert preview("shipped", {}, locale=locale).subject == f"Shipped.{locale}"


def test_a_folder_of_a_files_name_is_no_file(configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "mails/shipped.txt").mkdir(parents=True)
    (tmp_path / "mails/shipped.subject.txt").write_text("Shipped")
    configured(templates="mails")

    assert "shipped" in {one.name for one in list_templates()}
    with pytest.raises(UnknownTemplate):
        preview("shipped", {})


@pytest.mark.parametrize("name", sorted(SECURITY_TEMPLATES))
def test_each_of_ghosts_templates_has_sample_data(configured: Configured, name: str) -> None:
    configured()

    rendered = preview(name, sample_of(name))

    assert "Ada Lovelace" in rendered.text


def test_a_preview_has_its_images_in_it(configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "logo.png").write_bytes(PNG)
    (folder / "shipped.subject.txt").write_text("Shipped")
    (folder / "shipped.html").write_text("<img src=\"{{ inline_image('logo.png') }}\">")
    configured(templates="mails")

    html = preview("shipped", {}).html or ""

    assert html.startswith('<img src="data:image/png;base64,iVBOR')
    assert "cid:" not in html


@pytest.mark.parametrize("content", ["[1]", "{", "\xff"])
def test_sample_data_that_is_no_object_is_an_error(
    configured: Configured, tmp_path: Path, content: str
) -> None:
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "shipped.sample.json").write_text(content, encoding="latin-1")
    configured(templates="mails")

    with pytest.raises(ValueError, match="shipped"):
        sample_of("shipped")


def test_the_api_lists_templates(sender: Client) -> None:
    response = sender.get(URL)

    assert response.status_code == 200
    assert [one["name"] for one in response.get_json()["data"]] == sorted(SECURITY_TEMPLATES)


def test_the_api_shows_a_preview(sender: Client) -> None:
    context = {"link": "https://a.example/<b>", "expires": "1 hour"}

    response = sender.post(f"{URL}/reset-password/preview", json={"context": context})

    data = response.get_json()["data"]
    assert response.status_code == 200
    assert data["subject"] == "Reset your Ghost password"
    assert "\nhttps://a.example/<b>\n" in data["text"]
    assert "https://a.example/&lt;b&gt;" in data["html"]


def test_a_missing_variable_is_named(sender: Client) -> None:
    response = sender.post(f"{URL}/reset-password/preview", json={"context": {"expires": "1 h"}})

    assert response.status_code == 422
    assert response.get_json()["error"]["details"] == {
        "json": {"context": ["'link' is undefined."]}
    }


@pytest.mark.parametrize("context", [{"full_name": 5}, {"full_name": ["x"]}, {"link": None}])
def test_a_context_of_another_kind_is_no_server_error(
    sender: Client, context: dict[str, object]
) -> None:
    response = sender.post(f"{URL}/reset-password/preview", json={"context": context})

    assert response.status_code == 422


def test_data_is_never_a_template(sender: Client) -> None:
    context = {"full_name": "{{ 7*7 }}", "link": "{% raise %}", "expires": "{{ config }}"}

    response = sender.post(f"{URL}/reset-password/preview", json={"context": context})

    assert "Hello {{ 7*7 }}," in response.get_json()["data"]["text"]


@pytest.mark.parametrize("name", ["nothing", "_layout", "..%2fsecret", "verify-email.html"])
def test_an_unknown_template_is_not_found(sender: Client, name: str) -> None:
    assert sender.post(f"{URL}/{name}/preview", json={}).status_code == 404


def test_previews_need_the_permission_to_send(client: Client, make_user: UserFactory) -> None:
    user = client.as_user(make_user())

    assert user.get(URL).status_code == 403
    assert user.post(f"{URL}/reset-password/preview", json={}).status_code == 403


def test_the_command_prints_a_preview(app: Flask, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"link": "https://x.example", "expires": "1 hour"}))
    run = app.test_cli_runner().invoke

    sample = run(args=["mail", "preview", "verify-email"])
    own = run(args=["mail", "preview", "reset-password", "--context", str(data), "--html"])
    unknown = run(args=["mail", "preview", "nothing"])
    locale = run(args=["mail", "preview", "verify-email", "--locale", "../x"])

    assert sample.output.startswith("Subject: Confirm your e-mail address for Ghost\n\nHello Ada")
    assert own.output.startswith("<!DOCTYPE html>")
    assert 'href="https://x.example"' in own.output
    assert (unknown.exit_code, unknown.output) == (
        1,
        "Error: There is no mail template 'nothing'.\n",
    )
    assert locale.exit_code == 2

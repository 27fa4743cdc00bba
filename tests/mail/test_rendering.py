"""Mail templates: Ghost's own, an application's, and what hostile values do to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from jinja2 import TemplateNotFound, UndefinedError

from ghost.mail import InvalidMessage, Message, Rendered, duration, render
from ghost.mail.rendering import greeting_name

pytestmark = pytest.mark.unit

Configured = Callable[..., Flask]

LINK = "https://app.example.com/account/verify-email#token=abc&x=1"
CONTEXTS: dict[str, dict[str, Any]] = {
    "verify-email": {"link": LINK, "code": "482913", "expires": "1 day"},
    "reset-password": {"link": LINK, "expires": "1 hour"},
    "invitation": {"link": LINK, "expires": "7 days"},
    "password-changed": {},
    "email-changed": {},
}


@pytest.mark.parametrize("template", CONTEXTS)
def test_each_mail_has_a_subject_a_text_and_an_html(configured: Configured, template: str) -> None:
    configured(app_settings={"name": "Acme & Söhne"})
    context = CONTEXTS[template] | {"full_name": "Ada Lovelace"}

    rendered = render(template, context)

    assert "Acme & Söhne" in rendered.subject
    assert rendered.text.startswith("Hello Ada Lovelace,\n\n")
    assert rendered.text.endswith("\n-- \nAcme & Söhne\n")
    assert rendered.html is not None
    assert "Hello Ada Lovelace," in rendered.html
    assert "Acme &amp; Söhne" in rendered.html
    assert "Acme & Söhne" not in rendered.html
    for value in CONTEXTS[template].values():
        assert value in rendered.text
        assert value.replace("&", "&amp;") in rendered.html
    if "link" in context:
        assert f"\n{LINK}\n" in rendered.text
        assert f'href="{LINK.replace("&", "&amp;")}"' in rendered.html
    Message("ada@example.org", rendered.subject, rendered.text, rendered.html)


@pytest.mark.parametrize("template", CONTEXTS)
@pytest.mark.parametrize("context", [{}, {"full_name": None}], ids=["left out", "none"])
def test_a_name_is_not_needed(
    configured: Configured, template: str, context: dict[str, Any]
) -> None:
    configured()

    rendered = render(template, CONTEXTS[template] | context)

    assert rendered.text.startswith("Hello,\n")
    assert rendered.html is not None
    assert "Hello," in rendered.html
    assert "None" not in rendered.text + rendered.html


@pytest.mark.parametrize("template", CONTEXTS)
@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "Ada & <b>Bob</b>",
        "{{ 7*7 }}",
        "{% include 'secret' %}",
        "{{ config.secret_key }}",
        "{# comment",
        "${7*7} %s {0}",
    ],
)
def test_a_hostile_name_is_only_a_name(configured: Configured, template: str, name: str) -> None:
    configured()

    rendered = render(template, CONTEXTS[template] | {"full_name": name})

    assert rendered.html is not None
    greeted = greeting_name(name) is not None
    assert (f"Hello {name}," in rendered.text) == greeted
    for tag in ("<script", "<img", "<b>"):
        assert tag not in rendered.html
    assert "49" not in rendered.subject + rendered.text + rendered.html


def test_hostile_text_in_every_variable_is_escaped(configured: Configured) -> None:
    configured()
    hostile = '"><script>alert(1)</script>{{ 7*7 }}'

    rendered = render("verify-email", dict.fromkeys(["link", "code", "expires"], hostile))

    assert rendered.html is not None
    assert "<script" not in rendered.html
    assert "{{ 7*7 }}" in rendered.html
    assert hostile in rendered.text


@pytest.mark.parametrize(
    ("name", "greeted"),
    [
        ("Ada Lovelace", "Ada Lovelace"),
        ("  Ada \n Lovelace ", "Ada Lovelace"),
        ("Ada M. King, Jr.", "Ada M. King, Jr."),
        ("埃达·洛芙莱斯", "埃达·洛芙莱斯"),
        ("O'Brien-Smith", "O'Brien-Smith"),
        (None, None),
        ("", None),
        (" ", None),
        ("You won! https://evil.example", None),
        ("evil.example", None),
        ("WWW evil", "WWW evil"),
        ("www.evil", None),
        ("eve@evil", None),
        ("evil/now", None),
        ("x" * 61, None),
    ],
)
def test_a_name_that_could_carry_an_advertisement_is_left_out(
    name: str | None, greeted: str | None
) -> None:
    assert greeting_name(name) == greeted


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3600, "1 hour"),
        (7200, "2 hours"),
        (5400, "90 minutes"),
        (900, "15 minutes"),
        (86400, "1 day"),
        (604800, "7 days"),
        (90000, "25 hours"),
        (60, "1 minute"),
        (5, "a minute or two"),
    ],
)
def test_a_duration_is_said_in_words(seconds: int, words: str) -> None:
    assert duration(seconds) == words


# --- An application's own templates ---------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mails"
    made.mkdir()
    return made


def test_an_applications_file_of_the_same_name_wins(configured: Configured, folder: Path) -> None:
    (folder / "reset-password.subject.txt").write_text("New password for {{ app_name }}\n")
    (folder / "_layout.html").write_text("<main>{% block body %}{% endblock %}</main>")
    (folder / "reset-password.html").write_text(
        '{% extends "_layout.html" %}{% block body %}<a href="{{ link }}">Go</a>{% endblock %}'
    )
    configured(templates="mails")

    rendered = render("reset-password", CONTEXTS["reset-password"])

    assert rendered.subject == "New password for Ghost"
    assert rendered.html == f'<main><a href="{LINK.replace("&", "&amp;")}">Go</a></main>'
    assert "asked to reset your password" in rendered.text


def test_an_application_adds_mails_of_its_own(configured: Configured, folder: Path) -> None:
    (folder / "shipped.subject.txt").write_text("Order {{ number }} is on its way\n")
    (folder / "shipped.txt").write_text("It will be there soon.\n")
    configured(templates="mails")

    assert render("shipped", {"number": 7}) == Rendered(
        "Order 7 is on its way", "It will be there soon.\n"
    )


def test_a_locale_falls_back_to_its_language_and_then_to_none(
    configured: Configured, folder: Path
) -> None:
    (folder / "password-changed.de.subject.txt").write_text("Passwort geändert")
    (folder / "password-changed.de-AT.txt").write_text("Servus!\n")
    configured(templates="mails")

    rendered = render("password-changed", {}, locale="de_AT")
    other = render("password-changed", {}, locale="fr")

    assert (rendered.subject, rendered.text) == ("Passwort geändert", "Servus!\n")
    assert rendered.html is not None
    assert other.subject == "Your Ghost password was changed"


def test_a_value_with_a_line_break_in_a_subject_is_refused_by_the_message(
    configured: Configured, folder: Path
) -> None:
    (folder / "shipped.subject.txt").write_text("For {{ name }}\n")
    (folder / "shipped.txt").write_text("Hello.\n")
    configured(templates="mails")

    rendered = render("shipped", {"name": "Ada\r\nBcc: eve@example.org"})

    with pytest.raises(InvalidMessage):
        Message("ada@example.org", rendered.subject, rendered.text)


@pytest.mark.parametrize(
    "template", ["nothing", "../secret", "a/b", "_layout", "", "verify-email.html"]
)
def test_there_is_no_mail_of_another_name(configured: Configured, template: str) -> None:
    configured()

    with pytest.raises(TemplateNotFound):
        render(template, {})


def test_a_missing_variable_is_an_error_not_a_gap(configured: Configured) -> None:
    configured()

    with pytest.raises(UndefinedError, match="link"):
        render("reset-password", {"expires": "1 hour"})


def test_an_html_file_that_extends_a_missing_one_is_an_error(
    configured: Configured, folder: Path
) -> None:
    (folder / "reset-password.html").write_text('{% extends "lost.html" %}')
    configured(templates="mails")

    with pytest.raises(TemplateNotFound, match="lost"):
        render("reset-password", CONTEXTS["reset-password"])

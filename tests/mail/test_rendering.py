"""Mail templates: Ghost's own, an application's, and what hostile values do to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.exc import OperationalError

from ghost.mail import InvalidMessage, Message, Rendered, duration, render
from ghost.mail.rendering import TemplateFailed, UnknownTemplate, greeting_name

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


@pytest.mark.parametrize("locale", ["de-AT", "de-at", "de_AT", "DE_at", "De-aT"])
def test_a_locale_is_found_in_any_case(configured: Configured, folder: Path, locale: str) -> None:
    (folder / "shipped.subject.txt").write_text("Shipped")
    (folder / "shipped.de-AT.txt").write_text("Servus!\n")
    configured(templates="mails")

    assert render("shipped", {}, locale=locale).text == "Servus!\n"


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ("shipped.txt shipped.html", "shipped.txt"),
        ("shipped.txt shipped.de.html", "shipped.de.html"),
        ("shipped.de.txt shipped.de.html", "shipped.de.txt"),
        ("shipped.de.txt shipped.de-AT.html", "shipped.de-AT.html"),
        ("shipped.de-AT.txt shipped.de.html", "shipped.de-AT.txt"),
        ("shipped.de.txt shipped.html", "shipped.de.txt"),
    ],
)
def test_a_text_is_not_in_another_language_than_the_html(
    configured: Configured, folder: Path, files: str, text: str
) -> None:
    (folder / "shipped.subject.txt").write_text("Shipped")
    for file in files.split():
        (folder / file).write_text(file)
    configured(templates="mails")

    assert render("shipped", {}, locale="de-AT").text.strip() == text


def test_a_subjects_own_line_ends_and_blanks_are_left_out(
    configured: Configured, folder: Path
) -> None:
    (folder / "shipped.subject.txt").write_text(
        "\n{% if number == 1 %}\n  One order \n{% else %}\n{{ number }} orders\n{% endif %}\n\n"
    )
    (folder / "shipped.txt").write_text("Hello.\n")
    configured(templates="mails")

    subjects = [render("shipped", {"number": number}).subject for number in (1, 2)]

    assert subjects == ["One order", "2 orders"]


@pytest.mark.parametrize("name", ["Ada\n", "\nAda", "Ada\n \n", "Ada\r\n"])
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_values_line_end_stays_in_the_subject(
    configured: Configured, folder: Path, name: str, end: str
) -> None:
    (folder / "shipped.subject.txt").write_text("{{ name }}" + end)
    (folder / "shipped.txt").write_text("Hello.\n")
    configured(templates="mails")

    assert render("shipped", {"name": name}).subject == name


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

    with pytest.raises(UnknownTemplate):
        render(template, {})


def test_a_missing_variable_is_an_error_not_a_gap(configured: Configured) -> None:
    configured()

    with pytest.raises(TemplateFailed, match="link"):
        render("reset-password", {"expires": "1 hour"})


def test_an_html_file_that_extends_a_missing_one_is_an_error(
    configured: Configured, folder: Path
) -> None:
    (folder / "reset-password.html").write_text('{% extends "lost.html" %}')
    configured(templates="mails")

    with pytest.raises(TemplateFailed, match="lost"):
        render("reset-password", CONTEXTS["reset-password"])


def test_a_text_is_made_from_the_html_where_there_is_none(
    configured: Configured, folder: Path
) -> None:
    (folder / "shipped.subject.txt").write_text("Shipped")
    (folder / "shipped.html").write_text('<p>See <a href="{{ link }}">where it is</a></p>')
    configured(templates="mails")

    rendered = render("shipped", {"link": LINK})

    assert rendered.text == f"See where it is ({LINK})\n"


def test_a_template_without_a_body_is_unknown(configured: Configured, folder: Path) -> None:
    (folder / "shipped.subject.txt").write_text("Shipped")
    configured(templates="mails")

    with pytest.raises(UnknownTemplate, match="neither"):
        render("shipped", {})


def test_style_is_moved_to_the_elements_and_media_rules_stay(
    configured: Configured, folder: Path
) -> None:
    (folder / "shipped.subject.txt").write_text("Shipped")
    (folder / "shipped.html").write_text(
        "<style>p { color: red } @media print { p { color: blue } }</style><p>{{ name }}</p>"
    )
    configured(templates="mails")

    html = render("shipped", {"name": "<b>&</b>"}).html or ""

    assert '<p style="color: red;">&lt;b&gt;&amp;&lt;/b&gt;</p>' in html
    assert "@media print" in html


def test_inlining_loads_nothing(configured: Configured, folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "secret.css"
    sheet.write_text("p { color: purple }")
    (folder / "shipped.subject.txt").write_text("Shipped")
    (folder / "shipped.html").write_text(
        f'<link rel="stylesheet" href="{sheet}"><link rel="stylesheet" href="file://{sheet}">'
        "<style>b { color: red }</style><p>Hello</p>"
    )
    configured(templates="mails")

    assert "purple" not in (render("shipped", {}).html or "")


def test_elements_nested_too_deeply_are_an_error_and_no_crash(
    configured: Configured, folder: Path
) -> None:
    (folder / "shipped.subject.txt").write_text("Shipped")
    (folder / "shipped.html").write_text(
        "<style>b { color: red }</style>{% for _ in range(50000) %}<div>{% endfor %}"
    )
    configured(templates="mails")

    with pytest.raises(TemplateFailed, match="nested"):
        render("shipped", {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ thing.__init__.__globals__ }}",
        "{{ thing | attr('__class__') }}",
        "{{ 1 / 0 }}",
        "{{ thing + 1 }}",
        "{{ thing.missing }}",
        "{{ thing",
        "{{ 'x' * 3000000 }}",
        "{% for _ in range(1000000) %}{% endfor %}",
        "{{ '-' * number }}",
        "{{ number * ['-'] }}",
        "{{ number ** number }}",
        "{{ 2 ** number }}",
        "{{ 'x' ~ 10 ** 5000 }}",
        "{% set all = namespace(text='x' * 1000) %}"
        "{% for _ in range(99) %}{% set all.text = all.text + all.text %}{% endfor %}",
        "{% for key in table %}{% set _ = table.clear() %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% for _ in 'x' %}" * 25 + "{% endfor %}" * 25,
        "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}",
        "{{ 'x'.ljust(10 ** 20) }}",
    ],
    ids=lambda source: source[:40],
)
def test_a_mistake_or_a_trick_is_one_kind_of_error(
    configured: Configured, folder: Path, source: str
) -> None:
    (folder / "shipped.subject.txt").write_text("Shipped")
    (folder / "shipped.txt").write_text(source)
    configured(templates="mails")

    with pytest.raises(TemplateFailed) as caught:
        render("shipped", {"thing": object(), "number": 10**9, "table": {"a": 1, "b": 2}})

    assert list(caught.value.details or {}) == ["json"]


def test_numbers_and_texts_of_usual_sizes_are_multiplied(
    configured: Configured, folder: Path
) -> None:
    (folder / "shipped.subject.txt").write_text("Shipped")
    (folder / "shipped.txt").write_text(
        "{{ 3 * 4 + 2 ** 3 * 1.5 }} {{ '-' * 3 + 'x' }} {{ 2**-1 }}"
    )
    configured(templates="mails")

    assert render("shipped", {}).text == "24.0 ---x 0.5"


def test_the_database_is_not_the_templates_fault(configured: Configured, folder: Path) -> None:
    class Order:
        @property
        def number(self) -> int:
            raise OperationalError("SELECT", {}, Exception("it is away"))

    (folder / "shipped.subject.txt").write_text("Order {{ order.number }}")
    (folder / "shipped.txt").write_text("Hello.\n")
    configured(templates="mails")

    with pytest.raises(OperationalError):
        render("shipped", {"order": Order()})


@pytest.mark.parametrize("file", ["shipped.subject.txt", "shipped.txt", "shipped.html", "part.txt"])
@pytest.mark.parametrize("is_unreadable", [False, True], ids=["not UTF-8", "unreadable"])
def test_a_file_that_is_no_text_is_an_error_that_names_it(
    configured: Configured,
    folder: Path,
    file: str,
    is_unreadable: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "shipped.subject.txt").write_text("Shipped")
    (folder / "shipped.txt").write_text("{% include 'part.txt' %}")
    (folder / "shipped.html").write_text("<p>Hello")
    (folder / "part.txt").write_text("Hello")
    if is_unreadable:
        # Root reads whatever a file's mode is.
        def refuse(path: str, *rest: Any, **named: Any) -> Any:
            if path.endswith(f"/{file}"):
                raise PermissionError(13, "Permission denied")
            return Path(path).open(*rest, **named)

        monkeypatch.setattr("jinja2.loaders.open", refuse, raising=False)
    else:
        (folder / file).write_bytes(b"Gr\xfc\xdfe")
    configured(templates="mails")

    with pytest.raises(TemplateFailed, match=file):
        render("shipped", {})


# --- Images ---------------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def _with_image(folder: Path, *names: str) -> None:
    (folder / "shipped.subject.txt").write_text("Shipped")
    shown = "".join(f"<img src=\"{{{{ inline_image('{name}') }}}}\">" for name in names)
    (folder / "shipped.html").write_text(shown)


def test_an_image_travels_once_however_often_it_is_shown(
    configured: Configured, folder: Path
) -> None:
    (folder / "logo.png").write_bytes(PNG)
    _with_image(folder, "logo.png", "logo.png")
    configured(templates="mails")

    rendered = render("shipped", {})

    [image] = rendered.images
    assert (image.filename, image.content, image.content_type) == ("logo.png", PNG, "image/png")
    assert (rendered.html or "").count(f'src="cid:{image.content_id}"') == 2


@pytest.mark.parametrize(
    "name",
    [
        "../logo.png", "/etc/passwd", "a/../../logo.png", "logo.svg", "none.png", "fake.png",
        "large.png", ".hidden.png", "link.png", "",
    ],
)  # fmt: skip
def test_an_image_is_a_small_picture_of_the_folder(
    configured: Configured, folder: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "logo.png").write_bytes(PNG)
    (folder / "fake.png").write_bytes(b"<svg>")
    (folder / "large.png").write_bytes(PNG + bytes(1024 * 1024))
    (folder / ".hidden.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "logo.png")
    _with_image(folder, name)
    configured(templates="mails")

    with pytest.raises(TemplateFailed, match="image"):
        render("shipped", {})

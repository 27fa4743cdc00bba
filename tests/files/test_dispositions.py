"""How browsers are told to treat a file."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from ghost.files.dispositions import content_disposition, content_type_header, may_be_shown

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("report.txt", 'attachment; filename="report.txt"'),
        ("my report.txt", 'attachment; filename="my report.txt"'),
        ('a "b".txt', "attachment; filename=\"a _b_.txt\"; filename*=UTF-8''a%20%22b%22.txt"),
        ("a\\b.txt", "attachment; filename=\"a_b.txt\"; filename*=UTF-8''a%5Cb.txt"),
        ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
        (
            "..／..／.bashrc",  # noqa: RUF001
            'attachment; filename=".._.._.bashrc"; '
            "filename*=UTF-8''..%EF%BC%8F..%EF%BC%8F.bashrc",
        ),
        (
            "evil．html",  # noqa: RUF001
            "attachment; filename=\"evil_html\"; filename*=UTF-8''evil%EF%BC%8Ehtml",
        ),
        ("a/b.txt", "attachment; filename=\"a_b.txt\"; filename*=UTF-8''a%2Fb.txt"),
        ("a;b.txt", 'attachment; filename="a;b.txt"'),
        ("café.txt", "attachment; filename=\"cafe.txt\"; filename*=UTF-8''caf%C3%A9.txt"),
        ("報告.txt", "attachment; filename=\"__.txt\"; filename*=UTF-8''%E5%A0%B1%E5%91%8A.txt"),
        ("😀'*.txt", "attachment; filename=\"_'*.txt\"; filename*=UTF-8''%F0%9F%98%80%27%2A.txt"),
        (
            "a\r\nSet-Cookie: b.txt",
            'attachment; filename="a__Set-Cookie: b.txt"; '
            "filename*=UTF-8''a%0D%0ASet-Cookie%3A%20b.txt",
        ),
    ],
)
def test_a_name_is_written_by_rfc_6266(filename: str, expected: str) -> None:
    written = content_disposition(filename, is_shown=False)

    assert written == expected
    assert written.isascii()
    if "''" in written:
        assert unquote(written.partition("''")[2]) == filename


def test_half_a_character_in_a_name_is_no_error() -> None:
    assert content_disposition("a\ud800.txt", is_shown=True).startswith("inline; ")


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("image/png", True),
        ("video/mp4", True),
        ("text/plain", True),
        ("text/html", False),
        ("image/svg+xml", False),
        ("application/xhtml+xml", False),
        ("text/xml", False),
        ("text/javascript", False),
        ("application/pdf", False),
        ("application/octet-stream", False),
        ("text/plain; charset=x", False),
    ],
)
def test_only_what_runs_nothing_is_shown(content_type: str, expected: bool) -> None:
    assert may_be_shown(content_type) is expected


def test_texts_say_that_they_are_utf_8() -> None:
    assert content_type_header("text/csv") == "text/csv; charset=utf-8"
    assert content_type_header("image/png") == "image/png"

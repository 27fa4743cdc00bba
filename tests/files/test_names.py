"""What a file is called: of whatever name a label is made."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost.files.names import clean_filename, extension_of

pytestmark = pytest.mark.unit

LABELS = {
    "report.pdf": "report.pdf",
    "../../etc/passwd": "passwd",
    "..\\..\\windows\\win.ini": "win.ini",
    "/etc/shadow": "shadow",
    "C:\\fakepath\\photo.jpg": "photo.jpg",
    "a/b/": "file",
    "..": "file",
    ".": "file",
    "": "file",
    "   ": "file",
    "\0": "file",
    "...": "file",
    ".htaccess": ".htaccess",
    "evil.txt\0.png": "evil.txt.png",
    "a\r\nSet-Cookie: b=c.txt": "aSet-Cookie: b=c.txt",
    "a\tb\u2028c.txt": "abc.txt",
    "invoice\u202efdp.exe": "invoicefdp.exe",
    "\u2066a\u2069\u200b\ufeff.txt": "a.txt",
    "cafe\u0301.txt": "caf\u00e9.txt",
    "a\ud800b.txt": "ab.txt",
    "  a   b .txt  ": "a b .txt",
    "trailing.txt. . ": "trailing.txt",
    "日本語.txt": "日本語.txt",
    "x" * 300 + ".txt": "x" * 251 + ".txt",
    "x" * 300: "x" * 255,
    "x." + "y" * 300: ("x." + "y" * 300)[:255],
}


@pytest.mark.parametrize("name", LABELS, ids=ascii)
def test_a_label_is_made_of_a_name(name: str) -> None:
    assert clean_filename(name) == LABELS[name]


@given(st.text(max_size=400))
def test_every_label_is_short_visible_and_no_path(name: str) -> None:
    label = clean_filename(name)

    assert 1 <= len(label) <= 255
    assert not set(label) & set("/\\\0\r\n")
    assert label.strip(".") == label.strip(".").strip()
    assert not {unicodedata.category(c) for c in label} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert label.encode()
    assert clean_filename(label) == label


@pytest.mark.parametrize(
    ("label", "extension"),
    [
        ("a.txt", "txt"),
        ("a.TXT", "txt"),
        ("a.tar.gz", "gz"),
        ("a", ""),
        (".bashrc", ""),
        ("a.", ""),
        ("a.b c", ""),
        ("a.é", ""),
    ],
)
def test_an_extension_is_what_follows_the_last_dot(label: str, extension: str) -> None:
    assert extension_of(label) == extension

"""Strict fields."""

from __future__ import annotations

import pytest

from ghost.fields import canonical_email


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("Ada@Example.ORG", "ada@example.org"),
        ("ada@b\u00fccher.example", "ada@xn--bcher-kva.example"),
        ("\uff41da@example.org", "ada@example.org"),
        ("ada@example.test", "ada@example.test"),
    ],
    ids=["case", "domain in ASCII", "full width", "a reserved name"],
)
def test_an_address_has_one_form(written: str, stored: str) -> None:
    assert canonical_email(written) == stored
    assert canonical_email(stored) == stored


@pytest.mark.parametrize(
    "written",
    [
        "victim\uff20x.com\uff0ca@evil.example",
        "a\uff20b@evil.example",
        "\uff02a@x.example",
        "x\uff1cy\uff1e@evil.example",
        "\uff0ea@x.example",
        "j\u00f6rg@example.org",
        "stra\u00dfe@example.org",
        '"a b"@example.org',
        "a@[127.0.0.1]",
        "a" * 65 + "@example.org",
        "ada",
        "",
    ],
)
def test_what_is_no_plain_address_after_normalisation_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="email"):
        canonical_email(written)

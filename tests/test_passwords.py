"""Passwords: what is refused, and what bcrypt gets to see."""

from __future__ import annotations

import statistics
import time
import unicodedata
from collections.abc import Iterator

import bcrypt
import pytest

from ghost import passwords
from ghost.config import Config, set_config
from ghost.errors import ValidationFailed
from ghost.passwords import hash_password, validate_password, verify_password

pytestmark = pytest.mark.unit


def use(rounds: int) -> None:
    set_config(Config.load({"app": {"env": "testing"}, "auth": {"bcrypt_rounds": rounds}}))


@pytest.fixture(autouse=True)
def _cheap() -> Iterator[None]:
    use(4)
    yield
    use(4)


@pytest.mark.parametrize(
    "password",
    [
        "12345678x9",
        "a" * 128,
        "  spaces around  ",
        "длинный пароль",
        "🦄🦄🦄🦄🦄🦄🦄🦄",
        "tab\tand\nline end",
        "ada has a long dog",
    ],
)
def test_a_password_of_any_composition_is_taken(password: str) -> None:
    validate_password(password, "ada@example.org", "ada", "Ada Lovelace")


@pytest.mark.parametrize(
    ("password", "mistake"),
    [
        ("seven77", "at least 8"),
        ("🦄" * 7, "at least 8"),
        ("a" * 129, "at most 128"),
        ("nul\0character", "valid text"),
        ("half a \ud83e unicorn", "valid text"),
        ("password1", "tried first"),
        ("PassWord1", "tried first"),
        ("QWERTYUIOP", "tried first"),
        ("ghost2024!", "too close"),
        ("GhostGhost", "too close"),
        ("Ada.Lovelace-1815", "too close"),
        ("lovelace", "too close"),
        ("ada@example.org", "too close"),
        ("countess99", "too close"),
    ],
)
def test_a_bad_password_is_refused_with_its_reason(password: str, mistake: str) -> None:
    with pytest.raises(ValidationFailed) as refusal:
        validate_password(
            password, "ada@example.org", "countess", "Ada Lovelace", field="new_password"
        )

    assert mistake in " ".join(refusal.value.details["json"]["new_password"])


def test_the_bundled_list_has_the_commonest_ten_thousand() -> None:
    lines = passwords._COMMON.read_text(encoding="utf-8").splitlines()

    assert len(lines) >= 10_000
    assert lines[0] == "123456"


def test_characters_are_counted_after_normalisation() -> None:
    decomposed = unicodedata.normalize("NFD", "é" * 128)
    assert len(decomposed) == 256

    validate_password(decomposed)
    with pytest.raises(ValidationFailed):
        validate_password(unicodedata.normalize("NFD", "é" * 7))


def test_a_password_is_the_same_however_the_keyboard_composes_it() -> None:
    stored = hash_password(unicodedata.normalize("NFC", "Zoë crème brûlée"))

    assert verify_password(unicodedata.normalize("NFD", "Zoë crème brûlée"), stored)


@pytest.mark.parametrize(
    ("password", "other"),
    [
        ("x" * 72 + "a", "x" * 72 + "b"),
        ("é" * 127 + "a", "é" * 127 + "b"),
        ("correct horse", "correct horse "),
        ("correct horse", "Correct horse"),
        ("squared ² two", "squared 2 two"),
    ],
    ids=["beyond 72 bytes", "the last of 128", "trailing space", "case", "compatibility"],
)
def test_every_character_counts(password: str, other: str) -> None:
    stored = hash_password(password)

    assert verify_password(password, stored)
    assert not verify_password(other, stored)


@pytest.mark.parametrize("length", [0, 128, 4096])
def test_no_length_makes_checking_raise(length: int) -> None:
    assert not verify_password("x" * length, hash_password("something else"))


@pytest.mark.parametrize(
    "stored", [None, "", "plain", "$2b$12$short", "$2b$99$" + "a" * 53, "$1$" + "a" * 57, "é" * 60]
)
def test_a_malformed_hash_is_a_wrong_password(stored: str | None) -> None:
    assert not verify_password("anything at all", stored)


def test_hashes_have_the_configured_cost_and_a_salt() -> None:
    first, second = hash_password("the same words"), hash_password("the same words")

    assert first != second
    assert passwords.cost_of(first) == 4


def test_the_stand_in_for_a_missing_hash_is_one_that_bcrypt_works_on() -> None:
    assert passwords.cost_of(passwords._dummy(11).decode()) == 11
    assert not bcrypt.checkpw(b"x", passwords._dummy(4))


@pytest.mark.slow
def test_checking_takes_as_long_for_no_hash_a_broken_one_and_a_cheaper_one() -> None:
    use(6)
    cheaper = hash_password("right password")
    use(9)
    kinds = {
        "wrong": hash_password("right password"),
        "none": None,
        "broken": "$2b$09$broken",
        "cheaper": cheaper,
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}

    for _ in range(30):
        for name, stored in kinds.items():
            started = time.thread_time()
            assert not verify_password("wrong password", stored)
            seconds[name].append(time.thread_time() - started)

    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print({name: f"{median * 1000:.2f} ms" for name, median in medians.items()})
    for name, median in medians.items():
        assert median == pytest.approx(medians["wrong"], rel=0.03), name

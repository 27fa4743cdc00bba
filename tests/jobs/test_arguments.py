from __future__ import annotations

import enum
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pytest

from ghost.jobs.arguments import Arguments

pytestmark = pytest.mark.unit

KEY = UUID("01902f2c-0000-7000-8000-000000000001")
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


TRAVELLERS = [
    (str, "Ada"),
    (str, ""),
    (int, -5),
    (float, 0.1),
    (bool, True),
    (UUID, KEY),
    (datetime, NOON),
    (date, date(2026, 2, 28)),
    (Decimal, Decimal("9.90")),
    (Colour, Colour.RED),
    (Level, Level.HIGH),
    (UUID | None, KEY),
    (UUID | None, None),
    (str | UUID, KEY),
    (date | datetime, NOON),
    (date | datetime, date(2026, 1, 2)),
    (list[UUID], [KEY, KEY]),
    (dict[str, Decimal], {"total": Decimal("1.00")}),
    (dict[str, list[date | None]], {"days": [date(2026, 1, 2), None]}),
    (list, [1, "two", None, {"three": 4.5}]),
    (dict, {"a": [True]}),
    (Any, {"a": [1, None, "x", 2.5, False]}),
    (Literal["html", "text", 1], "text"),
]


@pytest.mark.parametrize(("annotation", "value"), TRAVELLERS, ids=str)
def test_a_value_comes_out_as_it_went_in(annotation, value):
    def function(value):
        pass

    function.__annotations__["value"] = annotation
    arguments = Arguments(function)

    travelled = json.loads(json.dumps(arguments.dump((value,), {})))
    arrived = arguments.load(travelled)["value"]

    assert arrived == value
    assert type(arrived) is type(value)


def test_a_time_arrives_as_the_same_moment():
    def function(at: datetime) -> None:
        pass

    berlin = datetime(2026, 1, 2, 13, tzinfo=timezone(timedelta(hours=1)))

    arguments = Arguments(function)

    assert arguments.dump((berlin,), {}) == {"at": "2026-01-02T12:00:00+00:00"}
    assert arguments.load(arguments.dump((berlin,), {})) == {"at": NOON}


REFUSED = [
    (str, 5, "must be a str"),
    (str, "a\0b", "without NUL"),
    (str, "\ud800", "lone surrogates"),
    (int, "5", "must be an int"),
    (int, True, "must be an int"),
    (int, 2**60, "53 bits"),
    (float, float("nan"), "finite float"),
    (float, float("inf"), "finite float"),
    (bool, 1, "must be a bool"),
    (bool, "yes", "must be a bool"),
    (UUID, str(KEY), "must be a UUID"),
    (datetime, datetime(2026, 1, 2), "aware datetime"),  # noqa: DTZ001
    (date, NOON, "must be a date"),
    (Decimal, 9.9, "finite Decimal"),
    (Decimal, Decimal("NaN"), "finite Decimal"),
    (Colour, "red", "member of Colour"),
    (UUID | None, "x", "a UUID or None"),
    (list[UUID], [KEY, "x"], "must be a UUID"),
    (list[UUID], (KEY,), "must be a list"),
    (dict[str, int], {1: 1}, "must be a str"),
    (Literal["html"], "text", "one of 'html'"),
    (Any, object(), "needs an annotation"),
    (Any, {"at": NOON}, "needs an annotation"),
    (Any, {"text": "a\0b"}, "without NUL"),
]


@pytest.mark.parametrize(("annotation", "value", "words"), REFUSED, ids=str)
def test_a_value_of_another_kind_is_refused_when_enqueued(annotation, value, words):
    def function(value):
        pass

    function.__annotations__["value"] = annotation

    with pytest.raises(TypeError, match=words):
        Arguments(function).dump((value,), {})


def test_arguments_are_bound_as_python_would():
    def function(one: int, two: int = 2, *, three: int = 3) -> None:
        pass

    arguments = Arguments(function)

    assert arguments.dump((1,), {}) == {"one": 1}
    assert arguments.dump((1,), {"three": 5}) == {"one": 1, "three": 5}
    with pytest.raises(TypeError, match="missing a required argument: 'one'"):
        arguments.dump((), {})
    with pytest.raises(TypeError, match="too many positional"):
        arguments.dump((1, 2, 3), {})


def test_arguments_of_more_than_64_kib_are_refused():
    def function(text: str) -> None:
        pass

    with pytest.raises(ValueError, match="64 KiB at most"):
        Arguments(function).dump(("x" * 70_000,), {})


def test_arguments_nested_without_end_are_refused():
    def function(value):
        pass

    nested: list[Any] = []
    nested.append(nested)

    with pytest.raises(TypeError, match="levels deep"):
        Arguments(function).dump((nested,), {})


def test_a_row_of_an_older_version_of_the_function_is_refused_with_words():
    def function(one: UUID, two: int) -> None:
        pass

    arguments = Arguments(function)

    with pytest.raises(TypeError, match="missing a required argument: 'two'"):
        arguments.load({"one": str(KEY)})
    with pytest.raises(TypeError, match="'one' must be a UUID"):
        arguments.load({"one": 5, "two": 5})


@pytest.mark.parametrize(
    "annotation", [object, set, tuple[int, int], dict[int, str], bytes], ids=str
)
def test_an_annotation_that_json_has_no_place_for_is_refused(annotation):
    def function(value):
        pass

    function.__annotations__["value"] = annotation

    with pytest.raises(TypeError, match="can't travel as JSON"):
        Arguments(function).annotations  # noqa: B018


def test_star_arguments_are_refused():
    def function(*values: int) -> None:
        pass

    with pytest.raises(TypeError, match="can't take"):
        Arguments(function)


def test_an_annotation_that_is_not_imported_is_explained():
    def function(value: Missing) -> None:  # noqa: F821
        pass

    with pytest.raises(TypeError, match="TYPE_CHECKING"):
        Arguments(function).annotations  # noqa: B018

"""Dumpers: the same JSON as marshmallow's own dump, whatever the schema and the values."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, ClassVar
from uuid import UUID

import marshmallow as ma
import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import Item, Thing
from marshmallow import fields as plain

from ghost import fields
from ghost.database import db
from ghost.responses import dumps
from ghost.schemas import PageQuery, Schema, dumper
from ghost.users.schemas import RoleSchema, UserSchema


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Shout(plain.Field):
    """A field of an application, which looks at the object too."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **_options: Any) -> Any:
        other = obj.get("text") if isinstance(obj, dict) else getattr(obj, "text", None)
        return f"{value}!{other}"


class Leaf(Schema):
    text = fields.Text(allow_none=True)
    number = fields.Integer(allow_none=True)


class Tree(Leaf):
    leaf = fields.Nested(Leaf, allow_none=True)
    leaves = fields.List(fields.Nested(Leaf), allow_none=True)
    many = plain.Nested(Leaf, many=True, allow_none=True)
    few = plain.Nested(Leaf(only=("text",)), allow_none=True)
    child = plain.Nested(lambda: Tree(), allow_none=True)


texts = st.none() | st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
moments = st.datetimes(
    min_value=datetime(2, 1, 1),  # noqa: DTZ001
    max_value=datetime(9998, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), UTC]),
)
numbers = st.integers(-(2**63), 2**63 - 1)
decimals = st.decimals(
    allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9
)
floats = st.floats(allow_nan=False, allow_infinity=False)

# A field, and values that its column, or a query, may give.
KINDS: dict[str, tuple[Callable[..., plain.Field], st.SearchStrategy[Any]]] = {
    "text": (fields.Text, texts | numbers | st.uuids()),
    "string": (plain.String, texts | st.booleans()),
    "integer": (fields.Integer, st.none() | numbers | st.integers(0, 9).map(Decimal)),
    "whole": (plain.Integer, st.none() | numbers | st.booleans()),
    "as_string": (lambda: plain.Integer(as_string=True), st.none() | numbers),
    "float": (fields.Float, st.none() | floats | st.integers(-(2**53), 2**53) | decimals),
    "decimal": (fields.Decimal, st.none() | decimals),
    "places": (lambda: fields.Decimal(places=1), st.none() | decimals),
    "boolean": (fields.Boolean, st.none() | st.booleans()),
    "uuid": (fields.UUID, st.none() | st.uuids()),
    "moment": (fields.DateTime, st.none() | moments),
    "stock_moment": (plain.DateTime, st.none() | moments),
    "timestamp": (lambda: plain.DateTime(format="timestamp"), moments),
    "rfc": (lambda: plain.DateTime(format="rfc"), moments),
    "day": (fields.Date, st.none() | st.dates()),
    "time": (plain.Time, st.none() | st.times()),
    "email": (fields.Email, texts),
    "url": (fields.Url, texts),
    "enum": (lambda: plain.Enum(Colour), st.none() | st.sampled_from(Colour)),
    "raw": (plain.Raw, st.none() | texts | numbers | st.lists(numbers, max_size=3)),
    "mapping": (plain.Dict, st.none() | st.dictionaries(st.text("ab", max_size=2), numbers)),
    "typed_mapping": (
        lambda: plain.Dict(plain.String(), plain.Integer()),
        st.none() | st.dictionaries(st.text("ab", max_size=2), st.integers(0, 9).map(Decimal)),
    ),
    "texts": (
        lambda: fields.List(fields.Text()),
        st.none() | st.lists(texts | numbers, max_size=3),
    ),
    "tuple": (lambda: fields.List(fields.Integer()), st.lists(numbers, max_size=3).map(tuple)),
    "days": (lambda: fields.List(fields.Date()), st.lists(st.none() | st.dates(), max_size=3)),
    "moments": (lambda: fields.List(fields.DateTime()), st.lists(moments, max_size=3)),
    "lists": (
        lambda: fields.List(fields.List(fields.UUID())),
        st.lists(st.lists(st.uuids(), max_size=2), max_size=2),
    ),
    "shout": (Shout, texts),
}  # fmt: skip


@st.composite
def schemas_and_objects(draw: st.DrawFn) -> tuple[ma.Schema, list[Any]]:
    """A schema of two fields and more, and objects for it: some as dicts, some incomplete."""
    names = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=6, unique=True))
    shape = {name: KINDS[name][0]() for name in names}
    if draw(st.booleans()):
        shape["renamed"] = fields.Text(data_key="reNamed", attribute="text", dump_only=True)
    schema = type("Made", (Schema,), shape)()
    objects = []
    for _ in range(draw(st.integers(1, 3))):
        values = {name: draw(KINDS[name][1]) for name in names}
        values.setdefault("text", draw(texts))
        if draw(st.integers(0, 9)) == 0:
            del values[draw(st.sampled_from(sorted(values)))]
        objects.append(values if draw(st.booleans()) else SimpleNamespace(**values))
    return schema, objects


def as_json(value: Any) -> Any:
    return orjson.loads(dumps(value))


def by_marshmallow(schema: ma.Schema, value: Any) -> Any:
    """marshmallow's dump; a decimal is written as text, which is what JSON gets anyway."""
    return as_json(schema.dump(value))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(schemas_and_objects())
def test_a_dumper_writes_the_json_that_marshmallow_writes(
    made: tuple[ma.Schema, list[Any]],
) -> None:
    schema, objects = made
    dump = dumper(schema)

    for value in (*objects, *objects):  # the second time from what it knows
        expected = by_marshmallow(schema, value)
        found = as_json(dump(value))
        assert found == expected
        assert list(found) == list(expected)


trees = st.recursive(
    st.none(),
    lambda children: st.builds(
        lambda **values: values,
        text=texts,
        number=st.none() | numbers,
        leaf=st.none() | st.fixed_dictionaries({"text": texts, "number": numbers}),
        leaves=st.none() | st.lists(st.fixed_dictionaries({"text": texts}), max_size=2),
        many=st.none() | st.lists(st.fixed_dictionaries({"number": numbers}), max_size=2),
        few=st.none() | st.fixed_dictionaries({"text": texts, "number": numbers}),
        child=children,
    ),
    max_leaves=4,
)


@settings(max_examples=100)
@given(trees.filter(lambda tree: tree is not None))
def test_nested_schemas_are_dumped_alike_also_those_that_nest_themselves(tree: Any) -> None:
    assert as_json(dumper(Tree())(tree)) == by_marshmallow(Tree(), tree)


def test_hooks_defaults_computed_fields_and_own_access_are_marshmallows() -> None:
    class Hooked(Leaf):
        @ma.post_dump
        def add(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
            return data | {"more": 1}

    class Defaulted(Leaf):
        other = fields.Text(dump_default="x")

    class Computed(Leaf):
        twice = plain.Function(lambda value: value["number"] * 2)
        constant = plain.Constant("c")

    class Reading(Leaf):
        def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
            return f"{attr} of {obj['text']}" if attr == "text" else 1

    class Deep(Leaf):
        deep = fields.Text(attribute="inner.text")

    class Plucked(Leaf):
        inner = plain.Pluck(Leaf, "text")

    class Hidden(Leaf):
        secret = fields.Secret()

    value = {"text": "a", "number": 2, "inner": {"text": "b"}, "secret": "s"}
    for cls in (Hooked, Defaulted, Computed, Reading, Deep, Plucked, Hidden):
        assert as_json(dumper(cls())(value)) == by_marshmallow(cls(), value), cls
    assert "secret" not in dumper(Hidden())(value)


def test_only_and_exclude_are_kept() -> None:
    value = {"text": "a", "number": 1}

    assert dumper(Tree(only=("text", "number")))(value) == value
    assert dumper(Leaf(exclude=("number",)))(value) == {"text": "a"}


def test_a_schema_of_one_field_is_dumped() -> None:
    assert dumper(Leaf(only=("text",)))(SimpleNamespace(text="a")) == {"text": "a"}


def test_ever_new_types_do_not_fill_the_memory() -> None:
    class Pair(Schema):
        left = plain.Raw()
        right = plain.Raw()

    dump = dumper(Pair())
    for number in range(1500):
        value = type(f"T{number}", (), {})()
        assert dump({"left": value, "right": 1})["left"] is value
    plans = next(
        cell.cell_contents
        for cell in dump.__closure__ or ()
        if isinstance(cell.cell_contents, dict)
    )
    assert len(plans) <= 501


@pytest.mark.lab
def test_models_and_rows_are_dumped_alike(app: Flask) -> None:
    with app.test_request_context("/", method="POST"):
        db.session.add(
            Thing(name="a", count=3, price=Decimal("1.50"), happened_at=datetime.now(UTC))
        )
        db.session.commit()
        names = list(Item().dump_fields)
        thing = db.session.scalars(sa.select(Thing)).one()
        row = db.session.execute(sa.select(*(getattr(Thing, name) for name in names))).one()
        total = db.session.execute(
            sa.select(sa.literal("sum").label("text"), sa.func.sum(Thing.count).label("number"))
        ).one()

        expected = by_marshmallow(Item(), thing)
        assert as_json(dumper(Item())(thing)) == expected
        assert as_json(dumper(Item())(row)) == expected
        assert expected["count"] == 3
        assert as_json(dumper(Leaf())(total)) == {"text": "sum", "number": 3}


@pytest.mark.parametrize("schema", [UserSchema, RoleSchema, PageQuery])
def test_the_schemas_of_ghost_refuse_what_they_do_not_know(schema: type[ma.Schema]) -> None:
    with pytest.raises(ma.ValidationError) as caught:
        schema().load({"surprise": 1})

    assert caught.value.normalized_messages()["surprise"] == ["Unknown field."]


# --- Strict fields --------------------------------------------------------------------------------


class Strict(Schema):
    text = fields.Text(max_length=5)
    lines = fields.Text(multiline=True)
    full = fields.Text(blank=False)
    integer = fields.Integer()
    float = fields.Float()
    decimal = fields.Decimal()
    cents = fields.Decimal(places=2)
    boolean = fields.Boolean()
    uuid = fields.UUID()
    moment = fields.DateTime()
    day = fields.Date()
    email = fields.Email()
    url = fields.Url()
    secret = fields.Secret(max_length=20)
    texts = fields.List(fields.Text())
    nested = fields.Nested(Leaf)


JSON_VALUES: dict[str, Any] = {
    "text": "a",
    "number text": "5",
    "yes": "yes",
    "true text": "true",
    "empty": "",
    "integer": 5,
    "one": 1,
    "zero": 0,
    "negative": -1,
    "big": 2**64,
    "float": 5.5,
    "whole float": 5.0,
    "true": True,
    "false": False,
    "null": None,
    "array": [],
    "array of text": ["a"],
    "array of number": [1],
    "object": {},
    "odd object": {"a": 1},
}
WELCOME = {
    "text": {"text", "number text", "yes", "true text", "empty"},
    "lines": {"text", "number text", "yes", "true text", "empty"},
    "full": {"text", "number text", "yes", "true text"},
    "integer": {"integer", "one", "zero", "negative"},
    "float": {"integer", "one", "zero", "negative", "big", "float", "whole float"},
    "decimal": {"number text"},
    "cents": {"number text"},
    "boolean": {"true", "false"},
    "uuid": set(),
    "moment": set(),
    "day": set(),
    "email": set(),
    "url": set(),
    "secret": {"text", "number text", "yes", "true text", "empty"},
    "texts": {"array", "array of text"},
    "nested": {"object"},
}


@pytest.mark.parametrize("field", sorted(WELCOME))
def test_a_field_takes_the_json_type_that_it_names_and_no_other(field: str) -> None:
    taken = set()
    for name, value in JSON_VALUES.items():
        try:
            Strict().load({field: value})
        except ma.ValidationError:
            continue
        taken.add(name)

    assert taken == WELCOME[field]


BAD: list[tuple[str, Any]] = [
    ("text", "a\0"), ("text", "a\n"), ("text", "\x1b"), ("text", "\x7f"), ("text", "\x85"),
    ("text", "\u2028"), ("text", "\u2029"), ("text", "\ud800"), ("text", "aaaaaa"),
    ("lines", "a\0"), ("lines", "\x0b"), ("lines", "\ud800"), ("full", ""), ("full", " \u00a0"),
    ("integer", 2**63), ("integer", -(2**63) - 1), ("float", float("nan")), ("float", float("inf")),
    ("decimal", "1e5"), ("decimal", "NaN"), ("decimal", "Infinity"), ("decimal", "\uff11"),
    ("decimal", " 1"), ("decimal", "1\n"), ("decimal", "1_0"), ("decimal", "1" * 19),
    ("decimal", "."), ("decimal", ""), ("decimal", "1e999999"), ("cents", "1.001"),
    ("uuid", "0" * 32), ("uuid", "{01900000-0000-7000-8000-00000000000}"), ("uuid", "x" * 36),
    ("uuid", "0190000-00000-7000-8000-000000000000"), ("uuid", "urn:uuid:" + "0" * 27),
    ("moment", "2026-01-02"), ("moment", "2026-01-02T03:04:05"), ("moment", "2026-01-02T03Z"),
    ("moment", "2026-01-02 03:04:05Z"), ("moment", "2026-W01-1T00:00:00Z"),
    ("moment", "20260102T030405Z"), ("moment", "2026-13-01T00:00:00Z"),
    ("moment", "\u0662026-01-02T03:04:05Z"),
    ("moment", "2026-01-02T24:00:01Z"), ("moment", "2026-01-02T03:04:05+25:00"),
    ("moment", "0001-01-01T00:00:00+23:59"), ("moment", "9999-12-31T23:59:59-23:59"),
    ("moment", "2026-01-02T03:04:05Z\n"), ("moment", "2026-01-02T03:04:05.Z"),
    ("day", "2026-W01-1"), ("day", "20260102"), ("day", "2026-02-30"), ("day", "2026-1-2"),
    ("day", "2026-01-02T00:00:00Z"), ("email", "a"), ("email", "a@"), ("email", "@b.org"),
    ("email", "a@b@c.org"), ("email", "a b@c.org"), ("email", "a@b.org\n"), ("email", "a\0@b.org"),
    ("email", "a@b.org, c@d.org"), ("email", "A <a@b.org>"),
    ("email", "a@" + "b" * 250 + ".org"), ("email", "a@" + "e\u0301." * 200 + "org"),
    ("email", "a@" + "b." * 100_000 + "org"),
    ("url", "ftp://a.org"), ("url", "//a.org"), ("url", "http://"), ("url", "http://[::1"),
    ("url", "javascript:alert(1)"), ("url", "a.org"), ("url", "http://a.org/\n"),
    ("secret", "a\0"), ("secret", "\udfff"), ("secret", "a" * 21),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD, ids=lambda value: repr(value)[:40])
def test_a_value_that_a_database_or_a_reader_would_choke_on_is_refused(
    field: str, value: Any
) -> None:
    with pytest.raises(ma.ValidationError) as caught:
        Strict().load({field: value})

    assert list(caught.value.normalized_messages()) == [field]


GOOD: list[tuple[str, Any, Any]] = [
    ("text", "Zoë 🎈", "Zoë 🎈"),
    ("text", " a\u00a0b", " a\u00a0b"),
    ("lines", "a\tb\r\nc", "a\tb\r\nc"),
    ("integer", 2**63 - 1, 2**63 - 1),
    ("decimal", "-12.50", Decimal("-12.50")),
    ("decimal", "9" * 18, Decimal("9" * 18)),
    ("cents", "1.5", Decimal("1.50")),
    ("uuid", "01900000-0000-7000-8000-00000000000A", UUID("01900000-0000-7000-8000-00000000000a")),
    ("moment", "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ("moment", "2026-01-02t03:04:05.25z", datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC)),
    ("moment", "2026-01-02T05:04:05+02:00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ("day", "2024-02-29", date(2024, 2, 29)),
    ("email", "Ada@Example.ORG", "ada@example.org"),
    ("email", "ada@bücher.example", "ada@xn--bcher-kva.example"),
    ("url", "https://a.org/b?c=d#e", "https://a.org/b?c=d#e"),
    ("url", "http://[::1]:3000/", "http://[::1]:3000/"),
    ("secret", " a\tb ", " a\tb "),
]


@pytest.mark.parametrize(("field", "value", "expected"), GOOD, ids=lambda value: repr(value)[:30])
def test_a_good_value_is_read(field: str, value: Any, expected: Any) -> None:
    found = Strict().load({field: value})[field]

    assert found == expected
    assert type(found) is type(expected)


class TestText:
    """In a query everything is text, and is parsed."""

    schema: ClassVar[Schema] = Strict()

    @pytest.mark.parametrize(
        ("field", "value", "expected"),
        [
            ("integer", "5", 5),
            ("integer", "-5", -5),
            ("integer", "007", 7),
            ("float", "5.5", 5.5),
            ("float", "-1e3", -1000.0),
            ("boolean", "true", True),
            ("boolean", "false", False),
            ("text", "5", "5"),
        ],
    )
    def test_is_parsed(self, field: str, value: str, expected: Any) -> None:
        assert self.load({field: value})[field] == expected

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("integer", ""), ("integer", "5.0"), ("integer", "1_000"), ("integer", " 5"),
            ("integer", "+5"), ("integer", "\u0665"), ("integer", "9" * 20), ("integer", "0x5"),
            ("integer", "--5"), ("integer", "9" * 5000), ("float", "1_0"), ("float", " 5"),
            ("float", "nan"), ("float", "inf"), ("float", "1e999"), ("float", "\u0665"),
            ("boolean", "1"), ("boolean", "yes"), ("boolean", "True"), ("boolean", ""),
        ],
    )  # fmt: skip
    def test_that_is_no_such_value_is_refused(self, field: str, value: str) -> None:
        with pytest.raises(ma.ValidationError):
            self.load({field: value})

    def load(self, data: dict[str, Any]) -> Any:
        schema = Strict()
        schema.from_text = True
        return schema.load(data)


@settings(max_examples=200)
@given(st.text(max_size=40), st.sampled_from(sorted(WELCOME)))
def test_no_text_makes_a_field_fail_in_another_way(value: str, field: str) -> None:
    for from_text in (False, True):
        schema = Strict()
        schema.from_text = from_text
        assert list(schema.validate({field: value})) in ([], [field])


@settings(max_examples=200)
@given(st.emails())
def test_the_canonical_form_of_an_address_is_its_own(address: str) -> None:
    try:
        once = fields.canonical_email(address)
    except ValueError:
        return
    assert fields.canonical_email(once) == once
    assert once == once.casefold()


def test_a_naive_time_is_dumped_as_marshmallow_does() -> None:
    class Pair(Schema):
        at = fields.DateTime()
        other = plain.Time()

    value = {"at": datetime(2026, 1, 2, 3, 4, 5), "other": time(1, 2)}  # noqa: DTZ001
    assert as_json(dumper(Pair())(value)) == by_marshmallow(Pair(), value)

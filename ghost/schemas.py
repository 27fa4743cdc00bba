"""The shapes that every room shares, and fast dumpers made from schemas."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from types import NoneType
from typing import Any
from uuid import UUID

import marshmallow as ma
from marshmallow import fields, validate
from sqlalchemy.engine import Row

from ghost.fields import DateTime, Integer

MAX_PAGE = 100_000
MAX_PER_PAGE = 100


class Schema(ma.Schema):
    """A schema that refuses unknown fields."""

    class Meta:
        unknown = ma.RAISE

    from_text = False  # set by `Blueprint.arguments` for queries and forms


class PageQuery(Schema):
    """`page` from 1, and `per_page` from 1 to 100."""

    page = Integer(
        load_default=1,
        validate=validate.Range(1, MAX_PAGE),
        metadata={"description": "The page, counted from 1."},
    )
    per_page = Integer(
        load_default=20,
        validate=validate.Range(1, MAX_PER_PAGE),
        metadata={"description": "How many items make a page."},
    )


# --- Fast dumpers ---------------------------------------------------------------------------------

Dumper = Callable[[Any], Any]
_Convert = Callable[[Any, Any], Any]  # a value, and the object that it comes from
# For which values a field's own way of dumping leaves to orjson what it would do itself.
_PLAIN: dict[Any, frozenset[type]] = {
    fields.String._serialize: frozenset({str}),
    fields.UUID._serialize: frozenset({UUID, str}),
}
# These write nothing as null.
_KNOWN = frozenset(
    {
        *_PLAIN,
        fields.Number._serialize,
        fields.List._serialize,
        fields.Nested._serialize,
        DateTime._serialize,
    }
)
_MAX_PLANS = 500


def dumper(schema: ma.Schema) -> Dumper:
    """Make a function that dumps one object for orjson, equal to `schema.dump` but faster.

    It reads all attributes in one C call and converts only what orjson can't write itself; what
    that is depends on the types of the values, so it is found out once for each set of types.
    Schemas with hooks, or with fields that compute, are left to marshmallow.
    """
    sources = [(name, field, field.attribute or name) for name, field in schema.dump_fields.items()]
    plain = (
        not any(schema._hooks.values())
        and type(schema).get_attribute is ma.Schema.get_attribute
        and all(
            field._CHECK_ATTRIBUTE is not False
            and type(field).serialize is fields.Field.serialize
            and type(field).get_value is fields.Field.get_value
            and "." not in attribute
            and field.dump_default is ma.missing
            for _, field, attribute in sources
        )
    )
    if not plain or len(sources) < 2:
        return lambda value: schema.dump(value, many=False)
    keys = [name if field.data_key is None else field.data_key for name, field, _ in sources]
    attributes = [attribute for *_, attribute in sources]
    from_object, from_mapping = attrgetter(*attributes), itemgetter(*attributes)
    plans: dict[tuple[type, ...], list[tuple[str, _Convert]]] = {}

    def make_plan(kinds: tuple[type, ...]) -> list[tuple[str, _Convert]]:
        plan = []
        for key, (name, field, _), kind in zip(keys, sources, kinds, strict=True):
            convert = _converter(field, name, kind)
            if convert is not None:
                plan.append((key, convert))
        if len(plans) > _MAX_PLANS:
            plans.clear()
        plans[kinds] = plan
        return plan

    def dump(value: Any) -> Any:
        try:
            if isinstance(value, dict):
                got = from_mapping(value)
            elif isinstance(value, Row):  # `row.count` is a method of tuples
                got = from_mapping(value._mapping)
            else:
                got = from_object(value)
        except (AttributeError, KeyError):  # marshmallow leaves out what is not there
            return schema.dump(value, many=False)
        result = dict(zip(keys, got, strict=True))
        kinds = tuple(map(type, got))
        plan = plans.get(kinds)
        for key, convert in make_plan(kinds) if plan is None else plan:
            result[key] = convert(result[key], value)
        return result

    return dump


def _converter(field: Any, name: str, kind: type) -> _Convert | None:
    """What has to be done to a field's values of one type before orjson can write them."""
    serialize = type(field)._serialize
    if serialize is fields.Field._serialize or kind in _PLAIN.get(serialize, ()):
        return None
    if kind is NoneType and serialize in _KNOWN:
        return None
    if serialize is fields.Number._serialize:
        usual = type(field)._format_num is fields.Number._format_num and not field.as_string
        if usual and kind is field.num_type:
            return None
    if serialize is DateTime._serialize and kind is datetime:
        return _utc
    if serialize is fields.List._serialize:
        return _list_converter(field.inner, name)
    if serialize is fields.Nested._serialize:
        return _nested_converter(field)
    return lambda value, obj: field._serialize(value, name, obj)


def _utc(value: datetime, _obj: Any) -> datetime:
    return value if value.tzinfo is UTC else value.astimezone(UTC)


def _list_converter(inner: fields.Field, name: str) -> _Convert:
    converters: dict[type, _Convert | None] = {}

    def convert(values: Any, obj: Any) -> Any:
        values = values if type(values) is list else list(values)
        kinds = set(map(type, values))
        for kind in kinds - converters.keys():
            converters[kind] = _converter(inner, name, kind)
        if not any(converters[kind] for kind in kinds):
            return values
        found = [(converters[type(value)], value) for value in values]
        return [value if change is None else change(value, obj) for change, value in found]

    return convert


def _nested_converter(field: fields.Nested) -> _Convert:
    # Made when it is first needed: a schema may nest itself.
    made: list[Dumper] = []

    def convert(value: Any, _obj: Any) -> Any:
        if not made:
            made.append(dumper(field.schema))
        if field.many or field.schema.many:
            return [made[0](item) for item in value]
        return made[0](value)

    return convert

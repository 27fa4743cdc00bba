"""The shapes that every room shares, and fast dumpers made from schemas."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from ghost.fields import Integer

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
# What orjson writes just as these fields dump it.
_AS_IT_IS = (fields.String, fields.Boolean, fields.Integer, fields.UUID)


def _utc(value: datetime | None) -> datetime | None:
    return value if value is None or value.tzinfo is UTC else value.astimezone(UTC)


def dumper(schema: ma.Schema) -> Dumper:
    """Make a function that dumps one object for orjson, equal to `schema.dump` but faster.

    It reads all attributes in one C call and converts only what orjson can't write itself.
    Schemas with hooks, or with fields that compute, are left to marshmallow.
    """
    names: list[str] = []
    attributes: list[str] = []
    converters: list[tuple[str, Dumper]] = []
    plain = not any(schema._hooks.values())
    for name, field in schema.dump_fields.items():
        attribute = field.attribute or name
        names.append(field.data_key or name)
        attributes.append(attribute)
        simple = field._CHECK_ATTRIBUTE is not False and "." not in attribute
        plain = plain and simple and field.dump_default is ma.missing
        convert = _converter(field)
        if convert:
            converters.append((names[-1], convert))
    if not plain or len(names) < 2:
        return lambda value: schema.dump(value, many=False)
    from_object, from_mapping = attrgetter(*attributes), itemgetter(*attributes)

    def dump(value: Any) -> Any:
        try:
            got = from_mapping(value) if isinstance(value, dict) else from_object(value)
        except (AttributeError, KeyError):  # marshmallow leaves out what is not there
            return schema.dump(value, many=False)
        result = dict(zip(names, got, strict=True))
        for name, convert in converters:
            result[name] = convert(result[name])
        return result

    return dump


def _converter(field: fields.Field) -> Dumper | None:
    """What has to be done to a field's value before orjson can write it as the field would."""
    if isinstance(field, fields.DateTime):
        return _utc
    if type(field)._serialize in {cls._serialize for cls in _AS_IT_IS}:
        return None
    if isinstance(field, fields.List) and _converter(field.inner) is None:
        return lambda value: None if value is None else list(value)
    if isinstance(field, fields.Nested):
        inner = dumper(field.schema)
        if field.many or field.schema.many:
            return lambda value: None if value is None else [inner(item) for item in value]
        return lambda value: None if value is None else inner(value)
    return lambda value: field._serialize(value, field.name, None)

"""Pages of a select: what a query may ask of them, and the page that answers it."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any

import marshmallow as ma
import sqlalchemy as sa
from flask import Response
from marshmallow import fields, validate

from ghost.database import db
from ghost.errors import ValidationFailed
from ghost.fields import UUID, Boolean, Date, DateTime, Decimal, Email, Float, Integer, Text
from ghost.models import counted, narrow, ordered, searched
from ghost.responses import envelope, json_response, page_facts
from ghost.schemas import Dumper, PageQuery, Schema


def page_schema(
    schema: type[ma.Schema], sort: Sequence[str], filters: Sequence[str], search: Sequence[str]
) -> type[PageQuery]:
    """The query of a list: page, size, and the allow-listed order, filters and search."""
    shape = {name: _filter_field(schema, name) for name in filters}
    if sort:
        orders = [order for name in sort for order in (name, f"-{name}")]
        shape["sort"] = Text(
            validate=validate.OneOf(orders),
            metadata={"description": "A column; with `-` in front descending."},
        )
    if search:
        shape["search"] = Text(
            min_length=1,
            max_length=200,
            metadata={"description": "Text that " + " or ".join(search) + " contains."},
        )
    return type(f"{schema.__name__}Query", (PageQuery,), shape)


# Which strict field reads, in a query, what another one writes.
_FILTERS: tuple[tuple[type[fields.Field], Callable[[], fields.Field]], ...] = (
    (fields.Boolean, Boolean),
    (fields.Integer, Integer),
    (fields.Float, Float),
    (fields.Decimal, Decimal),
    (fields.UUID, UUID),
    (fields.DateTime, DateTime),
    (fields.Date, Date),
    (Email, Email),
)


def _filter_field(schema: type[ma.Schema], name: str) -> fields.Field:
    """A query field that reads what the listed schema's field of that name writes."""
    answered = schema._declared_fields.get(name)
    for cls, make in _FILTERS:
        if isinstance(answered, cls):
            return make()
    if isinstance(answered, fields.Enum):
        return fields.Enum(answered.enum, by_value=answered.by_value)
    choices = [rule for rule in getattr(answered, "validators", ()) if type(rule) is validate.OneOf]
    return Text(max_length=200, validate=choices)


@cache
def _column_schema(model: Any, name: str) -> ma.Schema | None:
    """A schema that reads text as a column has it; None for a column of text."""
    kind = getattr(model, name).type
    field: fields.Field | None = None
    if isinstance(kind, sa.Enum):
        field = fields.Enum(kind.enum_class) if kind.enum_class else None
    else:
        with suppress(NotImplementedError):
            field = _BY_PYTHON[kind.python_type]() if kind.python_type in _BY_PYTHON else None
    if field is None:
        return None
    schema = type("Filter", (Schema,), {name: field})()
    schema.from_text = True
    return schema


_BY_PYTHON: dict[type, Callable[[], fields.Field]] = {
    bool: Boolean, int: Integer, float: Float, decimal.Decimal: Decimal, uuid.UUID: UUID,
    datetime.datetime: DateTime, datetime.date: Date,
}  # fmt: skip


def _as_columns(model: Any, filters: Mapping[str, Any]) -> dict[str, Any]:
    """Read what is text still as its column has it.

    :raises ValidationFailed: it can't be.
    """
    typed = dict(filters)
    for name, value in filters.items():
        schema = _column_schema(model, name) if isinstance(value, str) else None
        if schema is not None:
            try:
                typed |= schema.load({name: value})
            except ma.ValidationError as error:
                details = {"query": error.normalized_messages()}
                raise ValidationFailed(details=details) from error
    return typed


def arranged(
    statement: sa.Select[Any],
    asked: dict[str, Any],
    sort: Sequence[str],
    filters: Sequence[str],
    search: Sequence[str],
    default_sort: str | None,
) -> sa.Select[Any]:
    """Filter, search and order a select as a query asks, within what the view allows."""
    model = statement.column_descriptions[0]["entity"]
    order, text = asked.pop("sort", None), asked.pop("search", None)
    statement = narrow(statement, model, filters, _as_columns(model, asked))
    if text:
        statement = searched(statement, model, search, text)
    if order or default_sort:
        return ordered(statement, model, sort, order or default_sort)
    return statement.order_by(model.id.desc())


@lru_cache(maxsize=256)
def _paged(statement: sa.Select[Any]) -> tuple[sa.Select[int], sa.Select[Any], bool]:
    """The count and the page of a select, and whether it selects one model's objects.

    Kept for statements that a room builds once: making these costs more than running them.
    """
    described = statement.column_descriptions
    objects = len(described) == 1 and isinstance(described[0]["type"], type)
    page = statement.limit(sa.bindparam("page_limit", type_=sa.Integer))
    page = page.offset(sa.bindparam("page_offset", type_=sa.Integer))
    return counted(statement), page, objects


def page_of(statement: sa.Select[Any], page: int, per_page: int, dump: Dumper) -> Response:
    """Answer one page of a select, with the count of all."""
    count, select, objects = _paged(statement)
    window = {"page_limit": per_page, "page_offset": (page - 1) * per_page}
    connection = db.session.connection()
    total = connection.scalar(count) or 0
    rows: Sequence[Any]
    if objects:
        rows = db.session.scalars(select, window).all()
    else:
        rows = connection.execute(select, window).all()
    data = [dump(row) for row in rows]
    return json_response(envelope(data, pagination=page_facts(page, per_page, total)))

"""The blueprint of documented, enveloped routes, and the OpenAPI document that they make."""

from __future__ import annotations

import datetime
import decimal
import http
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, lru_cache, wraps
from typing import Any, Protocol, TypeVar, cast

import flask_smorest
import marshmallow as ma
import sqlalchemy as sa
from flask import Flask, Response, request
from flask.cli import AppGroup
from flask_smorest.utils import deepupdate, load_info_from_docstring
from marshmallow import fields, validate

from ghost.access import Access, declare_permissions
from ghost.config import Config
from ghost.database import SAFE_METHODS, db
from ghost.errors import GhostError, PreconditionFailed, UnsupportedMediaType, ValidationFailed
from ghost.fields import UUID, Boolean, Date, DateTime, Decimal, Email, Float, Integer, Text
from ghost.http import refuse_body, refuse_query
from ghost.models import counted, narrow, ordered, searched
from ghost.responses import envelope, json_response, page_facts
from ghost.schemas import Dumper, PageQuery, Schema, dumper

API_PREFIX = "/api/v1"
FORMS = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})

IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Repeated with the same key and body, the first answer comes again, and "
    "nothing is done twice.",
}

View = TypeVar("View", bound=Callable[..., Any])
SchemaLike = ma.Schema | type[ma.Schema]


@dataclass
class APIResponse:
    """What a view returns when data alone does not say it: a message, a status, headers."""

    data: Any = None
    message: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class MetaSchema(ma.Schema):
    request_id = fields.String(required=True)
    timestamp = fields.DateTime(required=True)


class PaginationSchema(ma.Schema):
    page = fields.Integer(required=True)
    per_page = fields.Integer(required=True)
    total = fields.Integer(required=True)
    pages = fields.Integer(required=True)
    has_next = fields.Boolean(required=True)
    has_prev = fields.Boolean(required=True)


class ListMetaSchema(MetaSchema):
    pagination = fields.Nested(PaginationSchema, required=True)


class ErrorDetailSchema(ma.Schema):
    code = fields.String(required=True, metadata={"description": "A stable word for programs."})
    message = fields.String(required=True, metadata={"description": "A sentence for people."})
    details = fields.Dict(allow_none=True)


class ErrorSchema(ma.Schema):
    """The envelope of every error."""

    success = fields.Boolean(required=True, metadata={"const": False})
    data = fields.Raw(required=True, metadata={"type": "null"})
    message = fields.String(required=True)
    error = fields.Nested(ErrorDetailSchema, required=True)
    meta = fields.Nested(MetaSchema, required=True)


@cache
def _envelope_schema(schema: SchemaLike | None, *, paged: bool) -> ma.Schema:
    """The documented shape of an enveloped answer; never used to dump one."""
    data: fields.Field = fields.Raw(required=True, metadata={"type": "null"})
    name, many = "Nothing", paged
    if schema is not None:
        many = paged or (isinstance(schema, ma.Schema) and schema.many)
        data = fields.Nested(schema, many=many, required=True)
        cls = type(schema) if isinstance(schema, ma.Schema) else schema
        name = cls.__name__.removesuffix("Schema")
    shape = {
        "success": fields.Boolean(required=True, metadata={"const": True}),
        "data": data,
        "message": fields.String(required=True, allow_none=True),
        "meta": fields.Nested(ListMetaSchema if paged else MetaSchema, required=True),
    }
    kind = "List" if paged else "Array" if many else ""
    return type(f"{name}{kind}Envelope", (ma.Schema,), shape)()


class Api(flask_smorest.Api):
    """flask-smorest's Api with Ghost's errors and its own way of serving the document."""

    ERROR_SCHEMA = ErrorSchema

    def _register_error_handlers(self) -> None:
        """Errors have one place, `ghost.errors`."""

    def _register_doc_blueprint(self) -> None:
        """The docs room serves the document."""


def make_api(app: Flask, config: Config) -> Api:
    """Make the application's Api: one for each application, since it keeps the newest."""
    app.config.update(
        API_TITLE=config.app.name,
        API_VERSION="v1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_JSON_PATH=None,
    )
    api = Api()
    for cls, parent in ((Text, fields.String), (Integer, fields.Integer)):
        api.register_field(cls, parent)
    api.register_field(Boolean, fields.Boolean)
    api.register_field(DateTime, fields.DateTime)
    api.register_field(Decimal, "string", None)
    api.init_app(
        app,
        spec_kwargs={
            "info": {
                "description": "Every answer is an envelope: `success`, `data`, `message`, `meta`; "
                "an error has `error` with a stable `code`."
            }
        },
    )
    api.spec.components.security_scheme(
        "bearer", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    )
    return api


def _instance(schema: SchemaLike) -> ma.Schema:
    return schema if isinstance(schema, ma.Schema) else schema()


def _load(schema: ma.Schema, location: str) -> Any:
    """Read and validate one part of the request.

    :raises ValidationFailed: with location -> field -> messages.
    """
    if location == "json":
        data = request.get_json()
        if not isinstance(data, dict):
            raise ValidationFailed(details={"json": {"_schema": ["Send a JSON object."]}})
    else:
        if location != "query" and request.mimetype not in FORMS:
            raise UnsupportedMediaType("Send the body as a form.")
        values = request.args if location == "query" else request.form
        data, doubled = {}, {}
        for name, found in values.lists():
            if isinstance(schema.fields.get(name), fields.List):
                data[name] = found
            elif len(found) > 1:
                doubled[name] = ["Given more than once."]
            else:
                data[name] = found[0]
        if doubled:
            raise ValidationFailed(details={location: doubled})
    try:
        return schema.load(data)
    except ma.ValidationError as error:
        raise ValidationFailed(details={location: error.normalized_messages()}) from error


def _page_schema(
    schema: type[ma.Schema], sort: Sequence[str], filters: Sequence[str], search: Sequence[str]
) -> type[Schema]:
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
    return Text(max_length=200)


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


class Decorates(Protocol):
    """A method that makes a decorator, and the decorator leaves a function's type as it is."""

    def __call__(self, *args: Any, **options: Any) -> Callable[[View], View]: ...


class Blueprint(flask_smorest.Blueprint):
    """Routes that are documented, answer in the envelope and declare who may call them.

    :param description: a sentence for the API's documentation.
    :param permissions: the permissions that these routes bring, name -> description.
    :param versioned: False leaves out the `/api/v1` in front of every route.
    """

    # flask-smorest has no annotations; without these an application's views would lose theirs.
    route: Decorates
    get: Decorates
    post: Decorates
    put: Decorates
    patch: Decorates
    delete: Decorates
    doc: Decorates
    errorhandler: Decorates
    cli: AppGroup

    def __init__(
        self,
        name: str,
        import_name: str,
        *,
        description: str = "",
        permissions: Mapping[str, str] | None = None,
        versioned: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(name, import_name, description=description, **options)
        self.permissions = dict(permissions or {})
        self.versioned = versioned
        self._prepare_doc_cbks.append(self._prepare_access_doc)

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Callable[..., Any] | None = None,
        provide_automatic_options: bool | None = None,
        **options: Any,
    ) -> None:
        """Register one route; it has to declare its access."""
        if view_func is None or endpoint == "static" or endpoint == f"{self.name}.static":
            super(flask_smorest.Blueprint, self).add_url_rule(
                rule, endpoint, view_func, provide_automatic_options, **options
            )
            return
        access: Access | None = getattr(view_func, "access", None)
        if access is None:
            raise RuntimeError(
                f"{self.name}.{view_func.__name__} does not say who may call it: put @public, "
                "@login_required, @roles_required or @permissions_required below the route."
            )
        view = _checked(view_func)
        about = deepcopy(getattr(view_func, "_apidoc", {}))
        about["access"] = {
            "access": access,
            "has_key": "<" in rule,
            "repeatable": not access.public and self.url_prefix != "/auth",
        }
        view._apidoc = about  # type: ignore[attr-defined]
        # Canonical without a slash at the end; with one they answer the same.
        rule = rule.rstrip("/") or ("" if self.versioned or self.url_prefix else "/")
        super().add_url_rule(rule, endpoint, view, provide_automatic_options, **options)

    def arguments(
        self, schema: SchemaLike, *, location: str = "json", **options: Any
    ) -> Callable[[View], View]:
        """Pass one validated part of the request to the view as a dict.

        :param schema: a class, or an object such as `OrderSchema(partial=True)`.
        :param location: `json`, `query` or `form`.
        """
        document = super().arguments(schema, location=location, **options)
        instance = _instance(schema)
        instance.from_text = location != "json"  # type: ignore[attr-defined]

        def decorate(view: View) -> View:
            @wraps(view)
            def loaded(*args: Any, **values: Any) -> Any:
                return view(*args, _load(instance, location), **values)

            loaded._apidoc = deepcopy(document(view)._apidoc)  # type: ignore[attr-defined]
            loaded.locations = {*getattr(view, "locations", ()), location}  # type: ignore[attr-defined]
            return cast(View, loaded)

        return decorate

    def response(
        self, status_code: int, schema: SchemaLike | None = None, **options: Any
    ) -> Callable[[View], View]:
        """Put what the view returns into the envelope, dumped by the schema.

        The view returns data, an `APIResponse`, or a finished response. 204 has no body.

        :param schema: a class, or an object; with `OrderSchema(many=True)` the data is an array.
        """
        dump = _dumper_of(schema) if schema else None
        document = self._document(status_code, schema, paged=False, **options)

        def decorate(view: View) -> View:
            @wraps(view)
            def answered(*args: Any, **values: Any) -> Response:
                result = view(*args, **values)
                if isinstance(result, Response):
                    return result
                return _answer(result, status_code, dump)

            answered._apidoc = document(view)  # type: ignore[attr-defined]
            return cast(View, answered)

        return decorate

    def paginated(
        self,
        schema: type[ma.Schema],
        *,
        query: type[PageQuery] | None = None,
        sort: Sequence[str] = (),
        filter: Sequence[str] = (),
        search: Sequence[str] = (),
        default_sort: str | None = None,
    ) -> Callable[[View], View]:
        """Answer one page of the select that the view returns.

        :param sort: columns of the selected model that may order it, `-` in front for descending.
        :param filter: columns that a query field of the same name may equal; read and documented
            as the schema's field of that name, and where it has none read as the column is.
        :param search: columns of which one has to contain the text of `search`.
        :param default_sort: the order when none is asked for; the newest first when None.
        :param query: a schema with more query fields, whose values the view gets as a dict.
        """
        page_schema = query or _page_schema(schema, sort, filter, search)
        instance = page_schema()
        instance.from_text = True
        dump = dumper(schema())
        document_query = super().arguments(page_schema, location="query")
        document = self._document(200, schema, paged=True)
        columns = (tuple(sort), tuple(filter), tuple(search), default_sort)

        def decorate(view: View) -> View:
            @wraps(view)
            def listed(*args: Any, **values: Any) -> Response:
                asked = _load(instance, "query")
                page, per_page = asked.pop("page"), asked.pop("per_page")
                if query is None:
                    statement = _arranged(view(*args, **values), asked, *columns)
                else:
                    statement = view(*args, asked, **values)
                return _page(statement, page, per_page, dump)

            about = document_query(view)._apidoc
            listed._apidoc = about  # type: ignore[attr-defined]
            listed._apidoc = document(listed)  # type: ignore[attr-defined]
            listed.locations = {*getattr(view, "locations", ()), "query"}  # type: ignore[attr-defined]
            return cast(View, listed)

        return decorate

    def errors(self, *errors: type[GhostError]) -> Callable[[View], View]:
        """Document errors of a view that can't be told from its decorators."""

        def decorate(view: View) -> View:
            view.errors = {*getattr(view, "errors", ()), *(error.status for error in errors)}  # type: ignore[attr-defined]
            about = deepcopy(getattr(view, "_apidoc", {}))
            about["errors"] = {"statuses": sorted(view.errors)}
            view._apidoc = about  # type: ignore[attr-defined]
            return view

        return decorate

    def _document(
        self, status_code: int, schema: SchemaLike | None, *, paged: bool, **options: Any
    ) -> Callable[[Any], dict[str, Any]]:
        """Make a function that adds a success answer to what a view documents."""
        answer = {"description": options.pop("description", http.HTTPStatus(status_code).phrase)}
        if status_code != 204:
            answer["schema"] = _envelope_schema(schema, paged=paged)
        answer |= {"content_type": None, **options}

        def document(view: Any) -> dict[str, Any]:
            about: dict[str, Any] = deepcopy(getattr(view, "_apidoc", {}))
            answers = about.setdefault("response", {}).setdefault("responses", {})
            answers.setdefault(status_code, []).append(answer)
            about.setdefault("success_status_codes", []).append(status_code)
            return about

        return document

    @staticmethod
    def _prepare_access_doc(
        doc: dict[str, Any], doc_info: dict[str, Any], *, method: str, **_context: Any
    ) -> dict[str, Any]:
        """Add security, the operation's id, and the errors that its declarations imply."""
        declared = doc_info["access"]
        access: Access = declared["access"]
        statuses = {400, 422, 429, 500, 503, *doc_info.get("errors", {}).get("statuses", ())}
        if not access.public:
            statuses |= {401, 403}
            doc["security"] = [{"bearer": []}]
        if "requestBody" in doc:
            statuses |= {413, 415}
        if declared["has_key"]:
            statuses.add(404)
        if method not in ("get", "head"):
            statuses.add(409)
        if method in ("put", "patch", "delete"):
            statuses.add(412)
        if method == "post" and declared["repeatable"]:
            doc.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
        answers = doc.setdefault("responses", {})
        for status in sorted(statuses):
            answers.setdefault(status, http.HTTPStatus(status).name)
        if access.text:
            about = doc_info["docstring"]
            described = about.get("description", "")
            about["description"] = f"{described}\n\n{access.text}".strip()
        return doc

    def _store_endpoint_docs(
        self, endpoint: str, obj: Any, parameters: Any, tags: Any, **options: Any
    ) -> None:
        """Keep what a view documents, with an operation id that no other has."""
        methods = [method for method in self.HTTP_METHODS if method in options["methods"]]
        kept = self._docs.setdefault(endpoint, {})
        for method in methods:
            about = deepcopy(obj._apidoc)
            about["docstring"] = load_info_from_docstring(obj.__doc__, delimiter="---")
            about["tags"] = tags
            name = f"{self.name}.{endpoint}" + ("" if len(methods) == 1 else f".{method.lower()}")
            manual = about.setdefault("manual_doc", {})
            about["manual_doc"] = deepupdate({"operationId": name}, manual)
            kept[method.lower()] = about
        kept["parameters"] = parameters


def _checked(view: View) -> View:
    """Refuse unknown query fields where a view declares none, once the caller may call it."""
    access: Access = view.access  # type: ignore[attr-defined]
    locations: frozenset[str] = frozenset(getattr(view, "locations", ()))
    has_query = "query" in locations
    reads_body = bool(locations - {"query"})

    @wraps(view)
    def checked(*args: Any, **values: Any) -> Any:
        if request.query_string and not has_query:
            access.check()
            refuse_query()
        if not reads_body and request.method not in SAFE_METHODS:
            access.check()
            refuse_body()
        return view(*args, **values)

    return cast(View, checked)


def _dumper_of(schema: SchemaLike) -> Dumper:
    """A fast dumper of one object, or of as many as the schema says."""
    instance = _instance(schema)
    dump = dumper(instance)
    return (lambda items: [dump(item) for item in items]) if instance.many else dump


def _answer(result: Any, status: int, dump: Dumper | None) -> Response:
    message: str | None = None
    headers: Mapping[str, str] = {}
    if isinstance(result, APIResponse):
        message, headers = result.message, result.headers
        status, result = result.status or status, result.data
    if status == 204:
        empty = Response(status=204, headers=dict(headers))
        del empty.headers["Content-Type"]
        return empty
    if dump is not None and result is not None:
        result = dump(result)
    response = json_response(envelope(result, message=message), status, headers)
    if "ETag" in headers and request.method in ("GET", "HEAD"):
        response.make_conditional(request)
    return response


def _arranged(
    statement: sa.Select[Any],
    asked: dict[str, Any],
    sort: Sequence[str],
    filters: Sequence[str],
    search: Sequence[str],
    default_sort: str | None,
) -> sa.Select[Any]:
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


def _page(statement: sa.Select[Any], page: int, per_page: int, dump: Dumper) -> Response:
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


def etag_of(version: int) -> str:
    """The ETag of a row's version."""
    return f'"{version}"'


def check_version(version: int) -> None:
    """Compare the request's If-Match, if it sent one, with a row's version.

    :raises PreconditionFailed: the row has changed. See RFC 9110, section 13.1.1.
    """
    if "If-Match" in request.headers and not request.if_match.contains(str(version)):
        raise PreconditionFailed


def register(app: Flask, api: Api, blueprint: Any) -> None:
    """Add a blueprint: Ghost's kind under `/api/v1` and documented, a plain one as it is."""
    if not isinstance(blueprint, Blueprint):
        app.register_blueprint(blueprint)
        return
    declare_permissions(app, blueprint.permissions)
    prefix = (API_PREFIX if blueprint.versioned else "") + (blueprint.url_prefix or "")
    api.register_blueprint(blueprint, url_prefix=prefix or None)

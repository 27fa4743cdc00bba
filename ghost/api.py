"""The blueprint of documented, enveloped routes."""

from __future__ import annotations

import http
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

import flask_smorest
import marshmallow as ma
from flask import Flask, Response, request
from flask.cli import AppGroup
from flask_smorest.utils import deepupdate, load_info_from_docstring
from marshmallow import fields

from ghost.access import Access, contract_of, declare, declare_permissions
from ghost.database import SAFE_METHODS
from ghost.errors import GhostError, PreconditionFailed, UnsupportedMediaType, ValidationFailed
from ghost.http import refuse_body, refuse_query
from ghost.lists import arranged, page_of, page_schema
from ghost.openapi import IDEMPOTENCY_KEY, Api, SchemaLike, envelope_schema
from ghost.responses import envelope, json_response
from ghost.schemas import Dumper, PageQuery, dumper

API_PREFIX = "/api/v1"
FORMS = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})

View = TypeVar("View", bound=Callable[..., Any])


@dataclass
class APIResponse:
    """What a view returns when data alone does not say it: a message, a status, headers."""

    data: Any = None
    message: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


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
        declared = contract_of(view_func)
        access = declared.access
        if access is None:
            raise RuntimeError(
                f"{self.name}.{view_func.__name__} does not say who may call it: put @public, "
                "@login_required, @roles_required or @permissions_required below the route."
            )
        view = _checked(view_func)
        about = deepcopy(getattr(view_func, "_apidoc", {}))
        about["access"] = {
            "access": access,
            "errors": declared.errors,
            "has_key": "<" in rule,
            "repeatable": not access.public and self.url_prefix != "/auth",
        }
        _describe(view, about)
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

            _describe(loaded, deepcopy(document(view)._apidoc))
            declare(loaded, locations=contract_of(view).locations | {location})
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

            _describe(answered, document(view))
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
        asked_for = query or page_schema(schema, sort, filter, search)
        instance = asked_for()
        instance.from_text = True
        dump = dumper(schema())
        document_query = super().arguments(asked_for, location="query")
        document = self._document(200, schema, paged=True)
        columns = (tuple(sort), tuple(filter), tuple(search), default_sort)

        def decorate(view: View) -> View:
            @wraps(view)
            def listed(*args: Any, **values: Any) -> Response:
                asked = _load(instance, "query")
                page, per_page = asked.pop("page"), asked.pop("per_page")
                if query is None:
                    statement = arranged(view(*args, **values), asked, *columns)
                else:
                    statement = view(*args, asked, **values)
                return page_of(statement, page, per_page, dump)

            _describe(listed, document_query(view)._apidoc)
            _describe(listed, document(listed))
            declare(listed, locations=contract_of(view).locations | {"query"})
            return cast(View, listed)

        return decorate

    def errors(self, *errors: type[GhostError]) -> Callable[[View], View]:
        """Document errors of a view that can't be told from its decorators."""

        def decorate(view: View) -> View:
            statuses = {error.status for error in errors}
            declare(view, errors=contract_of(view).errors | statuses)
            return view

        return decorate

    def _document(
        self, status_code: int, schema: SchemaLike | None, *, paged: bool, **options: Any
    ) -> Callable[[Any], dict[str, Any]]:
        """Make a function that adds a success answer to what a view documents."""
        answer = {"description": options.pop("description", http.HTTPStatus(status_code).phrase)}
        if status_code != 204:
            answer["schema"] = envelope_schema(schema, paged=paged)
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
        statuses = {400, 422, 429, 500, 503, *declared["errors"]}
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
        form = doc_info.get("manual_doc", {}).get("requestBody")  # keys are for JSON alone
        if method == "post" and declared["repeatable"] and form is None:
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


def _describe(view: Callable[..., Any], about: dict[str, Any]) -> None:
    """Keep what flask-smorest documents of a view where it looks for it."""
    view._apidoc = about  # type: ignore[attr-defined]


def _checked(view: View) -> View:
    """Refuse unknown query fields where a view declares none, once the caller may call it."""
    declared = contract_of(view)
    access = declared.access or Access()
    has_query = "query" in declared.locations
    reads_body = bool(declared.locations - {"query"})

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

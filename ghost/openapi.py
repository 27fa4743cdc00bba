"""The OpenAPI document: what every answer has in common, and flask-smorest made to write it."""

from __future__ import annotations

from functools import cache

import flask_smorest
import marshmallow as ma
from flask import Flask
from marshmallow import fields

from ghost.config import Config
from ghost.fields import Boolean, DateTime, Decimal, Integer, Text

SchemaLike = ma.Schema | type[ma.Schema]

IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Repeated with the same key and body, the first answer comes again, and "
    "nothing is done twice.",
}
IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    "description": "The `ETag` that the change is meant for; 412 when it is another now.",
    "schema": {"type": "string"},
}
IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "description": "An `ETag`; 304 without a body when it is still that.",
    "schema": {"type": "string"},
}
NOT_MODIFIED = {"304": {"description": "Not Modified"}}


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
def envelope_schema(schema: SchemaLike | None, *, paged: bool) -> ma.Schema:
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

"""Shapes of what the probes answer."""

from __future__ import annotations

from marshmallow import fields, validate

from ghost.openapi import ErrorDetailSchema, MetaSchema
from ghost.schemas import Schema

STATUSES = ("ok", "degraded", "down")


class AliveSchema(Schema):
    status = fields.String(required=True, validate=validate.Equal("ok"))


class CheckSchema(Schema):
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    latency_ms = fields.Float(
        allow_none=True, metadata={"description": "Null when no answer came in time."}
    )
    message = fields.String()
    count = fields.Integer(metadata={"description": "Of workers: how many are alive."})


class HealthSchema(Schema):
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    version = fields.String()
    uptime_s = fields.Float()
    checks = fields.Dict(keys=fields.String(), values=fields.Nested(CheckSchema))


class DownSchema(Schema):
    """The envelope of a 503 that still tells what was found."""

    success = fields.Boolean(required=True, metadata={"const": False})
    data = fields.Nested(HealthSchema, required=True)
    message = fields.String(required=True)
    error = fields.Nested(ErrorDetailSchema, required=True)
    meta = fields.Nested(MetaSchema, required=True)

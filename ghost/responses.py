"""The envelope around every answer, and the JSON that Ghost writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
from flask import Flask, Response
from flask.json.provider import JSONProvider

from ghost.logging import request_id_var

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def _default(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "__html__"):
        return str(value.__html__())
    return str(value)


def dumps(value: Any) -> bytes:
    """JSON as UTF-8 bytes: times as RFC 3339 in UTC with `Z`, UUIDs and decimals as strings."""
    return orjson.dumps(value, _default, _OPTIONS)


class FastJSONProvider(JSONProvider):
    """Flask's JSON through orjson. `loads` is for our own data; requests have a stricter reader."""

    def dumps(self, obj: Any, **_kwargs: Any) -> str:
        return dumps(obj).decode()

    def loads(self, s: str | bytes, **_kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        body = dumps(self._prepare_response_obj(args, kwargs))
        return Response(body, mimetype="application/json")


def meta() -> dict[str, Any]:
    """What every envelope says about its request: `request_id` and `timestamp`."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"request_id": request_id_var.get(), "timestamp": now[:-6] + "Z"}


def envelope(
    data: Any, *, message: str | None = None, pagination: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Wrap an answer's data.

    :param pagination: `{page, per_page, total, pages, has_next, has_prev}` for a list.
    """
    about = meta()
    if pagination is not None:
        about["pagination"] = pagination
    return {"success": True, "data": data, "message": message, "meta": about}


def json_response(
    payload: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Make a response of a payload that is enveloped already, or of none."""
    response = Response(dumps(payload), status, mimetype="application/json")
    if headers:
        response.headers.update(headers)
    return response


def error_response(
    status: int,
    code: str,
    message: str,
    details: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The envelope of an error."""
    payload = {
        "success": False,
        "data": None,
        "message": message,
        "error": {"code": code, "message": message, "details": details},
        "meta": meta(),
    }
    return json_response(payload, status, headers)


def page_facts(page: int, per_page: int, total: int) -> dict[str, Any]:
    """Compute `meta.pagination` from the page, its size and the count of all items."""
    pages = -(-total // per_page)
    return {
        "page": page,
        "per_page": per_page,
        "total": total,
        "pages": pages,
        "has_next": page < pages,
        "has_prev": page > 1 and total > 0,
    }


def init_app(app: Flask) -> None:
    """Make the application write its JSON with orjson."""
    app.json = FastJSONProvider(app)

"""The OpenAPI document and the two pages that show it, without a line from another host."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from flask import Blueprint, Flask, Response, current_app, render_template, request
from flask import send_from_directory as send
from flask.typing import ResponseReturnValue

from ghost.access import public
from ghost.config import current_config
from ghost.ratelimit import unlimited
from ghost.responses import dumps

ASSETS = Path(__file__).parent / "static"
ASSET_SECONDS = 24 * 3600

# Every script and style is a file of ours; Swagger UI's style sheet carries its icons as data.
SWAGGER_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
# ReDoc makes style elements as it runs and searches in a worker that it makes from a blob.
REDOC_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "worker-src blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

bp = Blueprint("docs", __name__, template_folder="templates")


class Document(NamedTuple):
    """The OpenAPI document of one application, as it is sent."""

    body: bytes
    etag: str


def _document(app: Flask) -> Document:
    """Return the document, made once: no route can be added after the first request."""
    found: Document | None = app.extensions.get("ghost.docs")
    if found is None:
        body = dumps(app.extensions["ghost"].api.spec.to_dict())
        found = Document(body, hashlib.sha256(body).hexdigest()[:32])
        app.extensions["ghost.docs"] = found
    return found


@bp.get("/openapi.json")
@public
@unlimited
def openapi() -> Response:
    """Send the OpenAPI 3.1 document."""
    body, etag = _document(current_app)
    response = Response(body, mimetype="application/json")
    response.set_etag(etag)
    response.headers["Cache-Control"] = "no-cache"
    response.make_conditional(request)
    return response


def _page(template: str, policy: str) -> Response:
    text = render_template(template, title=current_config().app.name, version=version("ghost"))
    return Response(text, mimetype="text/html", headers={"Content-Security-Policy": policy})


@bp.get("/docs")
@public
@unlimited
def swagger_ui() -> Response:
    """Show the API in Swagger UI, where it can be tried out."""
    return _page("docs/swagger-ui.html", SWAGGER_POLICY)


@bp.get("/redoc")
@public
@unlimited
def redoc() -> Response:
    """Show the API in ReDoc, for reading."""
    return _page("docs/redoc.html", REDOC_POLICY)


@bp.get("/docs/static/<path:name>")
@public
@unlimited
def asset(name: str) -> ResponseReturnValue:
    """Send a script, style sheet or picture of the pages."""
    response = send(ASSETS, name, max_age=ASSET_SECONDS)
    response.headers["Cache-Control"] = f"public, max-age={ASSET_SECONDS}"
    return response

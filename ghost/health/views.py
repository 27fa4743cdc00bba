"""Probes and metrics: `/health`, `/health/live`, `/health/ready`, `/metrics`."""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from importlib.metadata import version
from typing import Any, cast

from flask import Flask, Response, current_app, request
from flask.blueprints import BlueprintSetupState
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from ghost.access import public
from ghost.api import Blueprint
from ghost.config import current_config
from ghost.errors import RETRY_AFTER_SECONDS, ServiceUnavailable, Unauthorized
from ghost.health import metrics
from ghost.health.checks import Checks, Outcome, Status
from ghost.health.schemas import AliveSchema, DownSchema, HealthSchema
from ghost.ratelimit import unlimited
from ghost.responses import dumps, envelope, json_response

READINESS = ("database", "schema", "redis")
# Without these nothing works; without the others something waits.
VITAL = frozenset({"database", "schema"})
ALIVE = {"status": "ok"}
DOWN_MESSAGE = "This instance can't serve requests now."
FORWARDING_HEADERS = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")

bp = Blueprint(
    "health", __name__, description="How this instance is, for whoever runs it.", versioned=False
)
_started = time.monotonic()
_lock = threading.Lock()


@bp.record
def _set_up(state: BlueprintSetupState) -> None:
    metrics.init_app(cast(Flask, state.app))


def get_checks() -> Checks:
    """Return the application's checks, made at the first call."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    checks: Checks | None = app.extensions.get("ghost.health")
    if checks is None:
        with _lock:
            checks = app.extensions.setdefault("ghost.health", Checks(app))
    return checks


def may_see_details() -> bool:
    """Tell whether the caller gets more than a status: in production loopback, or the token."""
    config = current_config()
    if not config.is_production or is_from_loopback(request.environ):
        return True
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return (
        config.health.token is not None
        and scheme.lower() == "bearer"
        and hmac.compare_digest(given.strip().encode(), config.health.token.encode())
    )


def is_from_loopback(environ: dict[str, Any]) -> bool:
    """Tell whether the request began on this machine.

    A request that a proxy sent on counts with the address that the trusted proxies name. Where they
    name none, because none is configured or one is missing, the connection's own address is the
    proxy's, and says nothing about the caller.
    """
    address = environ.get("REMOTE_ADDR")
    original = environ.get("werkzeug.proxy_fix.orig") or {}
    peer = original.get("REMOTE_ADDR", address)
    if address == peer and any(name in environ for name in FORWARDING_HEADERS):
        return False
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:  # a Unix socket
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


@bp.get("/health/live")
@public
@unlimited
@bp.response(200, AliveSchema)
def live() -> Response:
    """Tell that the process answers.

    Nothing else is looked at: who restarts a process for a lost database makes it worse.
    """
    # By hand, and with the whole content type: this is the route that is called most.
    return Response(dumps(envelope(ALIVE)), content_type="application/json")


@bp.get("/health/ready")
@public
@unlimited
@bp.response(200, HealthSchema)
@bp.alt_response(503, schema=DownSchema)
def ready() -> Response:
    """Tell whether this instance can serve requests.

    200 with the database there and its schema not behind the code, else 503. Without Redis
    requests are served all the same.
    """
    outcomes = get_checks().make(READINESS)
    found = _overall(outcomes)
    details = may_see_details()
    return _answer(found, {"status": found, "checks": _shown(outcomes, details=details)})


@bp.get("/health")
@public
@unlimited
@bp.response(200, HealthSchema)
@bp.alt_response(503, schema=DownSchema)
def health() -> Response:
    """Tell how this instance and all that it needs is.

    In production only a caller on the same machine, or with the bearer token `health.token`, sees
    more than the status.
    """
    outcomes = get_checks().make()
    found = _overall(outcomes)
    data: dict[str, Any] = {"status": found}
    if may_see_details():
        data["version"] = version("ghost")
        data["uptime_s"] = round(time.monotonic() - _started, 1)
        data["checks"] = _shown(outcomes, details=True)
    return _answer(found, data)


@bp.get("/metrics")
@public
@unlimited
@bp.errors(Unauthorized)
@bp.doc(responses={"200": {"description": "OK", "content": {"text/plain": {}}}})
def show_metrics() -> Response:
    """Give figures for Prometheus.

    In production for callers on the same machine, or with the bearer token `health.token`.
    """
    if not may_see_details():
        raise Unauthorized
    page = metrics.render(get_checks().count_jobs())
    return Response(page, content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _overall(outcomes: dict[str, Outcome]) -> Status:
    found = {name: outcome.finding.status for name, outcome in outcomes.items()}
    if any(found[name] == "down" for name in VITAL):
        return "down"
    return "ok" if set(found.values()) == {"ok"} else "degraded"


def _shown(outcomes: dict[str, Outcome], *, details: bool) -> dict[str, Any]:
    if not details:
        return {name: {"status": outcome.finding.status} for name, outcome in outcomes.items()}
    shown: dict[str, Any] = {}
    for name, outcome in outcomes.items():
        status, message, more = outcome.finding
        shown[name] = {"status": status, "latency_ms": outcome.latency_ms, **more}
        if message is not None:
            shown[name]["message"] = message
    return shown


def _answer(found: Status, data: dict[str, Any]) -> Response:
    """Send what was found: 200, or 503 with the data that an error leaves out elsewhere."""
    if found != "down":
        return json_response(envelope(data))
    payload = envelope(data, message=DOWN_MESSAGE) | {
        "success": False,
        "error": {"code": ServiceUnavailable.code, "message": DOWN_MESSAGE, "details": None},
    }
    return json_response(payload, 503, {"Retry-After": str(RETRY_AFTER_SECONDS)})

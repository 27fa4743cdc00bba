"""Rate limits on Redis, in memory while Redis is away.

Flask-Limiter keeps state on its object, so every application has one of its own; routes only carry
a mark.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, Response, request
from flask_limiter import HeaderNames, Limiter

from ghost.access import contract_of, declare, identity
from ghost.config import Config

View = TypeVar("View", bound=Callable[..., Any])
REDIS_SECONDS = 1
_COME_AGAIN = "X-RateLimit-Retry-After"  # on its way from Flask-Limiter to `Retry-After`


def source() -> str:
    """The caller's address; an IPv6 network of 64 bits counts as one."""
    address = request.remote_addr or "unknown"
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return address


def caller_or_source() -> str:
    """The user of a genuine token, else the address."""
    user_id = identity()
    return f"user:{user_id}" if user_id else source()


def rate_limit(rate: str, *, key: Callable[[], str] = source) -> Callable[[View], View]:
    """Limit a view, instead of the default limit.

    :param rate: as `"5/minute"`, or the name of a key: `login` of the section `ratelimit`, or
        `mail.send_limit` of another one.
    :param key: what is counted: the caller's address, when nothing else is said.
    """

    def decorate(view: View) -> View:
        declare(view, rate_limit=(rate, key))
        return view

    return decorate


def unlimited(view: View) -> View:
    """Take a view out of every limit: probes, documentation."""
    declare(view, is_limited=False)
    return view


def init_app(app: Flask, config: Config) -> Limiter | None:
    """Limit every route registered so far; called when all of them are."""
    settings = config.ratelimit
    if not settings.enabled:
        return None
    uri = settings.storage or config.redis.url or "memory://"
    on_redis = not uri.startswith("memory")

    @app.after_request
    def tidy_headers(response: Response) -> Response:
        """Flask-Limiter tells every caller when to come again; only the refused have to.

        And it adds its figures to those of a view that refuses by a count of its own, or for a
        reason of its own, and knows itself when to come again.
        """
        again = response.headers.pop(_COME_AGAIN, None)
        if again is not None and response.status_code == 429:
            response.headers.setdefault("Retry-After", again)
        for name in ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"):
            figures = response.headers.getlist(name)
            if len(figures) > 1:
                response.headers[name] = figures[0]
        return response

    limiter = Limiter(
        key_func=caller_or_source,
        app=app,
        default_limits=[settings.default],
        storage_uri=uri.replace("unix://", "redis+unix://", 1),
        storage_options=(
            {"socket_connect_timeout": REDIS_SECONDS, "socket_timeout": REDIS_SECONDS}
            if on_redis
            else {}
        ),
        in_memory_fallback_enabled=on_redis,
        headers_enabled=True,
        header_name_mapping={HeaderNames.RETRY_AFTER: _COME_AGAIN},
        key_prefix=f"ghost:{config.app.name}",
    )
    # A browser asks before it calls: neither counted nor refused.
    limiter.request_filter(lambda: request.method == "OPTIONS")
    for endpoint, view in app.view_functions.items():
        declared = contract_of(view)
        if not declared.is_limited or endpoint == "static":
            limiter.exempt(view)
        elif declared.rate_limit:
            rate, key = declared.rate_limit
            section, dot, name = rate.partition(".")
            rate = getattr(getattr(config, section), name) if dot else getattr(settings, rate, rate)
            app.view_functions[endpoint] = limiter.limit(rate, key_func=key)(view)  # type: ignore[assignment]
    return limiter

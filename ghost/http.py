"""What happens around every request: its id, its body's rules, the answer's headers, a log line."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar

import flask
from flask import Flask, Response, current_app, g, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from werkzeug.middleware.proxy_fix import ProxyFix

from ghost.access import contract_of, declare
from ghost.config import Config, current_config
from ghost.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed
from ghost.logging import log_request, request_id_var, user_id_var
from ghost.models import uuid7
from ghost.unread import UnreadBodies

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

View = TypeVar("View", bound=Callable[..., Any])

MAX_JSON_DEPTH = 64
MAX_INTEGER = 2**63 - 1
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")

# What an API's answer needs: see the OWASP REST security cheat sheet. Policies that concern only
# pages are the pages' own.
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
)
HSTS = ("Strict-Transport-Security", "max-age=31536000; includeSubDomains")


class Request(flask.Request):
    """A request whose JSON is read strictly and whose body can't outgrow its limit unseen."""

    @property
    def max_content_length(self) -> int | None:
        """Bytes that the body may have: `app.max_body`, or what the view declares."""
        declared = contract_of(current_app.view_functions.get(self.endpoint or "")).body_limit
        return declared(current_config()) if declared else super().max_content_length

    @max_content_length.setter
    def max_content_length(self, value: int | None) -> None:
        self._max_content_length = value

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """Read the JSON body by the project's one set of rules.

        :raises UnsupportedMediaType: the content type is not JSON.
        :raises BadRequest: it is no valid JSON, not UTF-8, too deep, or ambiguous.
        :raises PayloadTooLarge: it is longer than it may be.
        """
        if not force and not self._is_plain_json():
            if silent:
                return None
            raise UnsupportedMediaType
        try:
            return read_json(self.get_data(cache=cache))
        except BadRequest:
            if silent:
                return None
            raise

    def _is_plain_json(self) -> bool:
        """Tell whether the body is declared as JSON, in UTF-8 and not compressed."""
        if self.environ.get("CONTENT_TYPE") == "application/json":  # what nearly all send
            plain = True
        else:
            charset = self.mimetype_params.get("charset", "utf-8")
            plain = self.is_json and charset.lower() == "utf-8"
        return plain and self.environ.get("HTTP_CONTENT_ENCODING", "identity") == "identity"

    def get_data(
        self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False
    ) -> Any:
        """The whole body, measured: a cut one is refused, also where no length was declared."""
        if parse_form_data or hasattr(self, "_cached_data"):
            return super().get_data(cache, as_text, parse_form_data)  # type: ignore[call-overload]
        limit, declared = self.max_content_length, self.content_length
        if limit is not None and declared is not None and declared > limit:
            raise PayloadTooLarge
        body = super().get_data(cache=False)
        if declared is not None and len(body) != declared:
            raise BadRequest("The body is shorter than its Content-Length.")
        self._cached_data = body
        return body.decode("utf-8", "replace") if as_text else body

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body as it comes in; chunks are counted, since Werkzeug cuts them at the limit."""
        if self.content_length is None and self.environ.get("wsgi.input_terminated"):
            counted = CountedBody(self.environ["wsgi.input"], self.max_content_length)
            return io.BufferedReader(counted)
        return super().stream


def body_limit(limit: Callable[[Config], int]) -> Callable[[View], View]:
    """Let the bodies of a view have another length than `app.max_body`.

    :param limit: gives the bytes at most, by the configuration.
    """

    def decorate(view: View) -> View:
        declare(view, body_limit=limit)
        return view

    return decorate


class CountedBody(io.RawIOBase):
    """A body of unknown length, refused as soon as it is longer than it may be.

    :param limit: bytes at most; None for any number.
    """

    def __init__(self, source: IO[bytes], limit: int | None) -> None:
        self.source, self.limit, self.length = source, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes.

        :raises PayloadTooLarge: they are too many.
        :raises BadRequest: the server could make nothing of the chunks.
        """
        try:
            piece = self.source.read(len(buffer))
        # Each server has its own errors for chunks that are none and connections that end.
        except Exception as error:
            raise BadRequest("The body could not be read.") from error
        self.length += len(piece)
        if self.limit is not None and self.length > self.limit:
            raise PayloadTooLarge
        buffer[: len(piece)] = piece
        return len(piece)


def _refuse_constant(name: str) -> NoReturn:
    raise BadRequest(f"{name} is not JSON.")


def _integer(digits: str) -> int:
    # The length first: the time to read digits grows with the square of their number.
    if len(digits) > 20 or not -MAX_INTEGER - 1 <= (number := int(digits)) <= MAX_INTEGER:
        raise BadRequest("A number is too large.")
    return number


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise BadRequest("A number is too large.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRequest("A key stands twice in one object.")
    return found


_decoder = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant=_refuse_constant,
    parse_int=_integer,
    parse_float=_float,
)


def read_json(body: bytes, what: str = "The body") -> Any:
    """Read JSON that came from outside. See RFC 8259, section 8.1, for UTF-8.

    :param what: it is, for whoever sent it.
    :raises BadRequest: malformed, not UTF-8, NaN or Infinity, a key twice, numbers out of range,
        lone surrogates, or nested deeper than 64.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{what} is not UTF-8.") from error
    if text.startswith("\ufeff"):
        raise BadRequest(f"{what} starts with a byte order mark.")
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH and _depth(text) > MAX_JSON_DEPTH:
        raise BadRequest("The JSON is nested too deeply.")
    try:
        found = _decoder.decode(text)
    except ValueError as error:
        raise BadRequest(f"{what} is not valid JSON.") from error
    if "\\u" in text and _SURROGATE.search(text):
        _refuse_lone_surrogates(found, what)
    return found


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_lone_surrogates(value: Any, what: str) -> None:
    """Refuse text that no encoding can write: answers, logs and databases would choke on it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"{what} holds half a character.") from error


# A string that never ends is taken to the end: looking for another one in it would take long.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def _depth(text: str) -> int:
    """How deep brackets nest, those in strings not counted."""
    depth = deepest = 0
    for token in _STRUCTURE.finditer(text):
        if token.group() in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token.group() in "]}":
            depth -= 1
    return deepest


def refuse_query() -> None:
    """Refuse every query field of a view that declares none.

    :raises ValidationFailed: the URL has a query.
    """
    if request.query_string and request.args:
        raise ValidationFailed(
            details={"query": {name: ["Unknown field."] for name in request.args}}
        )


def refuse_body() -> None:
    """Refuse the JSON of a view that reads none; an empty object is nothing.

    :raises ValidationFailed: it has fields.
    """
    if request.is_json and request.get_data() and (fields := request.get_json()):
        named = fields if isinstance(fields, dict) else {"_schema": None}
        raise ValidationFailed(details={"json": {name: ["Unknown field."] for name in named}})


class AnswerHeaders:
    """Adds the request id and the security headers to every answer that does not set its own.

    Around the application, where the headers are a plain list: the same in an `after_request` costs
    a tenth of a small answer.
    """

    def __init__(self, application: WSGIApplication, config: Config) -> None:
        self.application = application
        headers = SECURITY_HEADERS + ((HSTS,) if config.is_production else ())
        self.headers = [(name.lower(), (name, value)) for name, value in headers]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            present = {name.lower() for name, _ in headers}
            headers.append(("X-Request-ID", request_id_var.get() or ""))
            headers.extend(pair for name, pair in self.headers if name not in present)
            return start_response(status, headers, *more)

        return self.application(environ, start)


class Hosts:
    """The hosts that an application answers for, with or without a port.

    Werkzeug's own check (3.2) knows no IPv6 address, minds the case of letters, and takes a header
    that is none for an empty one.
    """

    _HEADER = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)

    def __init__(self, names: Iterable[str]) -> None:
        lowered = [name.lower() for name in names]
        self.names = frozenset(lowered)
        self.suffixes = tuple(name for name in lowered if name.startswith("."))

    def require(self, host: str) -> None:
        """Refuse a request for another host.

        :param host: the header `Host`.
        :raises BadRequest: it is not one of ours.
        """
        found = self._HEADER.fullmatch(host.lower())
        name = found.group(1) if found else ""
        if not (name in self.names or name.endswith(self.suffixes or "\n")):
            raise BadRequest("This host is not served here.")


class LazySessions(SecureCookieSessionInterface):
    """Flask's cookie sessions, for applications that use them; free without a cookie."""

    def open_session(self, app: Flask, request: flask.Request) -> SecureCookieSession | None:
        if "HTTP_COOKIE" not in request.environ:
            return self.session_class()
        return super().open_session(app, request)

    def save_session(self, app: Flask, session: SessionMixin, response: flask.Response) -> None:
        if session.accessed or session.modified:
            super().save_session(app, session, response)


def init_app(app: Flask, config: Config) -> None:
    """Bind the request class, the proxies, the limits and the hooks of every request."""
    app.request_class = Request
    app.session_interface = LazySessions()
    app.config["MAX_CONTENT_LENGTH"] = config.app.max_body
    hosts = None
    if config.app.trusted_hosts:  # probes come from this machine, by address
        hosts = Hosts((*config.app.trusted_hosts, *LOOPBACK))
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    proxies = config.app.trusted_proxies
    if proxies:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies
        )
    app.wsgi_app = UnreadBodies(  # type: ignore[method-assign]
        AnswerHeaders(app.wsgi_app, config)
    )

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        wanted = request.environ.get("HTTP_X_REQUEST_ID")
        valid = wanted is not None and _REQUEST_ID.match(wanted)
        request_id_var.set(wanted if valid else str(uuid7()))
        user_id_var.set(None)
        if hosts is not None:
            hosts.require(request.environ.get("HTTP_HOST", ""))

    @app.teardown_request
    def forget(_error: BaseException | None) -> None:
        request_id_var.set(None)
        user_id_var.set(None)


def log_requests(app: Flask) -> None:
    """Write one line for each request; called last, so that it runs before other hooks can fail."""

    @app.after_request
    def log(response: Response) -> Response:
        asked: flask.Request = request._get_current_object()  # type: ignore[attr-defined]
        rule = asked.url_rule
        log_request(
            asked.method,
            asked.path,
            response.status_code,
            time.perf_counter() - g.started,
            asked.remote_addr,
            rule.rule if rule else None,
        )
        return response

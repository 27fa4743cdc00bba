"""The tree of Ghost's errors and the one place where errors become the envelope."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from flask import Flask, current_app, request
from flask.typing import ResponseReturnValue
from loguru import logger
from redis.exceptions import RedisError
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm.exc import StaleDataError
from werkzeug.exceptions import HTTPException

from ghost.responses import error_response

RETRY_AFTER_SECONDS = 5


class GhostError(Exception):
    """An error that a client is meant to see.

    :param message: one sentence for a person; the class's own when None.
    :param details: what a program can use; for a validation error location -> field -> messages.
    :param headers: headers for the answer, `Retry-After` for one.
    """

    status = 500
    code = "internal_error"
    message = "Something went wrong on our side."

    def __init__(
        self,
        message: str | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message = message or type(self).message
        self.details = dict(details) if details else None
        self.headers = dict(headers) if headers else {}
        super().__init__(self.message)


class BadRequest(GhostError):
    status, code, message = 400, "bad_request", "The request could not be understood."


class Unauthorized(GhostError):
    """No credentials, or wrong ones. See RFC 6750 for the header."""

    status, code, message = 401, "unauthorized", "Please log in."

    def __init__(self, message: str | None = None, **extra: Any) -> None:
        super().__init__(message, **extra)
        self.headers.setdefault("WWW-Authenticate", self._challenge())

    def _challenge(self) -> str:
        return "Bearer"


class TokenInvalid(Unauthorized):
    code, message = "token_invalid", "This token is not valid."

    def _challenge(self) -> str:
        return 'Bearer error="invalid_token"'


class TokenExpired(TokenInvalid):
    code, message = "token_expired", "This token has expired."


class TokenRevoked(TokenInvalid):
    code, message = "token_revoked", "This session has ended. Please log in again."


class Forbidden(GhostError):
    status, code, message = 403, "forbidden", "You may not do this."


class AccountDisabled(Forbidden):
    code, message = "account_disabled", "This account is disabled."


class EmailNotVerified(Forbidden):
    code, message = "email_not_verified", "Please confirm your e-mail address first."


class NotFound(GhostError):
    status, code, message = 404, "not_found", "There is nothing here."


class MethodNotAllowed(GhostError):
    status, code, message = 405, "method_not_allowed", "This method is not allowed here."


class Conflict(GhostError):
    """A state that refuses the change; `field` names what collided."""

    status, code, message = 409, "conflict", "This is already taken."

    def __init__(
        self, message: str | None = None, *, field: str | None = None, **extra: Any
    ) -> None:
        super().__init__(message, **extra)
        if field:
            self.details = {"json": {field: [self.message]}} | (self.details or {})


class TokenUsed(GhostError):
    """A mailed token that was used, replaced, is too old or never was."""

    status, code, message = 410, "token_used", "This link or code is used up or too old."


class PreconditionFailed(GhostError):
    status, code = 412, "precondition_failed"
    message = "This was changed by somebody else in the meantime."


class PayloadTooLarge(GhostError):
    status, code, message = 413, "payload_too_large", "The request is too large."


class UnsupportedMediaType(GhostError):
    status, code = 415, "unsupported_media_type"
    message = "Send the body as application/json."


class ValidationFailed(GhostError):
    status, code, message = 422, "validation_error", "Validation failed."


class PreconditionRequired(GhostError):
    status, code, message = 428, "precondition_required", "Send an If-Match header."


class RateLimited(GhostError):
    status, code, message = 429, "rate_limited", "Too many requests. Please wait a little."


class InternalError(GhostError):
    pass


class ServiceUnavailable(GhostError):
    status, code = 503, "service_unavailable"
    message = "A part that this needs is away. Please try again shortly."

    def __init__(self, message: str | None = None, **extra: Any) -> None:
        super().__init__(message, **extra)
        self.headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))


_BY_STATUS: dict[int, type[GhostError]] = {
    cls.status: cls
    for cls in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, Conflict, TokenUsed,
        PreconditionFailed, PayloadTooLarge, UnsupportedMediaType, ValidationFailed,
        PreconditionRequired, RateLimited, ServiceUnavailable,
    )
}  # fmt: skip


def init_app(app: Flask) -> None:
    """Make every error of the application an envelope."""
    app.register_error_handler(GhostError, _ghost_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(sa_exc.SQLAlchemyError, _database_error)
    app.register_error_handler(StaleDataError, _stale)
    app.register_error_handler(RedisError, _redis_error)
    app.register_error_handler(Exception, _unexpected)


def code_of(status: int) -> str:
    """The stable word for an HTTP status of 400 and more."""
    cls = _BY_STATUS.get(status, BadRequest if status < 500 else InternalError)
    return cls.code


def _ghost_error(error: GhostError) -> ResponseReturnValue:
    return error_response(error.status, error.code, error.message, error.details, error.headers)


def _http_error(error: HTTPException) -> ResponseReturnValue:
    """Werkzeug's errors, and flask-smorest's, whose details are in `error.data`."""
    if error.code is None or error.code < 400:
        return error.get_response()
    status = error.code
    data: Mapping[str, Any] = getattr(error, "data", None) or {}
    headers = {
        name: value
        for name, value in error.get_headers()
        if name.lower() not in ("content-type", "content-length")
    }
    headers.update(data.get("headers") or {})
    details = data.get("messages") or data.get("errors")
    cls = _BY_STATUS.get(status)
    if cls is None:
        return error_response(status, code_of(status), error.name + ".", details, headers)
    if status == 503:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    if status == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    message = data.get("message") or cls.message
    return error_response(status, cls.code, message, details, headers)


def _database_error(error: sa_exc.SQLAlchemyError) -> ResponseReturnValue:
    """Integrity is a conflict, data a validation error, a lost or busy database a 503."""
    if isinstance(error, sa_exc.IntegrityError):
        conflict = _conflict_of(error)
        logger.info("integrity: {}", conflict.details)
        return _ghost_error(conflict)
    if _is_misfit(error):
        logger.bind(error=str(getattr(error, "orig", error))).warning(
            "the database refused a value"
        )
        return _ghost_error(ValidationFailed("A value does not fit."))
    if is_unavailable(error):
        logger.bind(error=str(getattr(error, "orig", error))).error("the database is unavailable")
        return _ghost_error(ServiceUnavailable())
    return _unexpected(error)


# What SQLite says when its file is busy, full, damaged or gone; the rest are errors of ours.
_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY,
    }
)  # fmt: skip
_UNIQUE_VIOLATION = "23505"
_READ_ONLY_TRANSACTION = "25006"  # a standby that is not promoted yet
_PROGRAM_LIMIT = "54"  # a class: a value is too long for an index, say


def is_unavailable(error: BaseException) -> bool:
    """Tell whether a database error means that it is away, hanging or busy, not that we erred."""
    if isinstance(error, sa_exc.TimeoutError):  # no connection of the pool came free
        return True
    if not isinstance(error, sa_exc.DBAPIError):
        return False
    sqlite_code = getattr(error.orig, "sqlite_errorcode", None)
    if sqlite_code is not None:
        return sqlite_code & 0xFF in _SQLITE_AWAY
    if error.connection_invalidated or _pgcode(error) == _READ_ONLY_TRANSACTION:
        return True
    lost = isinstance(error, sa_exc.OperationalError | sa_exc.InterfaceError)
    return lost and not _is_too_much(error)


def _is_misfit(error: sa_exc.SQLAlchemyError) -> bool:
    """Tell whether a value that came from outside is to blame."""
    return isinstance(error, sa_exc.DataError) or (
        isinstance(error, sa_exc.DBAPIError) and _is_too_much(error)
    )


def _is_too_much(error: sa_exc.DBAPIError) -> bool:
    return _pgcode(error).startswith(_PROGRAM_LIMIT)


def _pgcode(error: sa_exc.DBAPIError) -> str:
    return getattr(error.orig, "pgcode", None) or ""


_SQLITE_UNIQUE = re.compile(r"UNIQUE constraint failed: (?:index '(\w+)'|([\w., ]+))")
_LAST_WORD = re.compile(r"(\w+)\W*\Z")


def _conflict_of(error: sa_exc.IntegrityError) -> Conflict:
    """Name the field of a violated unique constraint, by its last column on every database."""
    failed = _SQLITE_UNIQUE.search(str(error.orig))
    name = column = None
    if failed:
        name, column = failed.groups()
    elif _pgcode(error) == _UNIQUE_VIOLATION:
        name = error.orig.diag.constraint_name  # type: ignore[union-attr]
    else:
        return Conflict("This is at odds with other data.")
    column = column or _last_column(name) or ""
    word = _LAST_WORD.search(column.partition("::")[0])
    return Conflict(field=word.group(1) if word else None)


def _last_column(name: str | None) -> str | None:
    """The last column, or expression, of a unique constraint or index of our models."""
    for table in current_app.extensions["sqlalchemy"].metadata.tables.values():
        for constraint in table.constraints:
            if constraint.name == name and len(constraint.columns):
                return str(list(constraint.columns)[-1].name)
        for index in table.indexes:
            if index.name == name:
                return str(index.expressions[-1])
    return None


def _stale(_error: StaleDataError) -> ResponseReturnValue:
    if request.headers.get("If-Match"):
        return _ghost_error(PreconditionFailed())
    return _ghost_error(Conflict(PreconditionFailed.message))


def _redis_error(error: RedisError) -> ResponseReturnValue:
    logger.bind(error=str(error)).error("Redis is unavailable")
    return _ghost_error(ServiceUnavailable())


def _unexpected(error: Exception) -> ResponseReturnValue:
    """The last resort: log the stack, tell the client nothing."""
    logger.opt(exception=error).error("unexpected {}", type(error).__name__)
    if current_app.testing and current_app.config.get("PROPAGATE_EXCEPTIONS"):
        raise error
    details = {"exception": repr(error)} if current_app.debug else None
    return error_response(500, InternalError.code, InternalError.message, details, {})

"""Everything that Ghost writes into a log: sinks, ids, redaction, the bridge from the stdlib."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import stat
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, date, datetime
from functools import lru_cache
from json import dumps as json_dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import UUID

import click
import orjson
from loguru import logger

from ghost.config import Config, get_config

if TYPE_CHECKING:
    from loguru import Message, Record

__all__ = [
    "GunicornLogger",
    "configure",
    "configure_rq",
    "job_id_var",
    "log_request",
    "logger",
    "redact",
    "redact_text",
    "reopen_files",
    "request_id_var",
    "user_id_var",
]

Component = Literal["web", "worker", "cli"]
StreamName = Literal["stdout", "stderr"]
Render: TypeAlias = Callable[["Record"], bytes]

request_id_var: ContextVar[str | None] = ContextVar("ghost_request_id", default=None)
job_id_var: ContextVar[str | None] = ContextVar("ghost_job_id", default=None)
user_id_var: ContextVar[str | None] = ContextVar("ghost_user_id", default=None)

ROTATE_BYTES = 50 * 1024 * 1024
RETENTION_SECONDS = 14 * 24 * 3600
TEXT_LIMIT = 16 * 1024
STACK_LIMIT = 32 * 1024
PATH_LIMIT = 512
HIDDEN = "***"


# A field is secret when its name contains one of these ...
_SECRET_PARTS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "credential",
    "apikey",
    "api_key",
    "private_key",
    "secret_key",
    "signing_key",
    "encryption_key",
    "recovery_code",
    "verification_code",
    "reset_code",
    "otpauth",
)
# ... or is one of these, as a whole. "code" alone is a one-time code; "status_code" is not.
_SECRET_NAMES = frozenset(
    ("code", "codes", "otp", "totp", "pin", "pwd", "pass", "jwt", "bearer", "signature", "dsn")
)
_extra_secret_names: frozenset[str] = frozenset()

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@lru_cache(maxsize=2048)
def _is_secret_name(name: str) -> bool:
    """Tell whether the value under this name must not be shown."""
    lowered = _CAMEL.sub("_", name).lower().replace("-", "_").replace(" ", "_")
    return (
        lowered in _SECRET_NAMES
        or lowered in _extra_secret_names
        or any(part in lowered for part in _SECRET_PARTS)
    )


# Cheap signs that a text may hold a secret: only such a text meets the expressions below.
_SIGNS = (
    "eyj",
    "bearer",
    "basic ",
    "digest ",
    "ghost_",
    "://",
    "token",
    "passw",
    "passphrase",
    "secret",
    "api_key",
    "api-key",
    "apikey",
    "private",
    "credential",
    "cookie",
    "authorization",
    "recovery",
    "code",
    "otp",
    "pin=",
    "pin'",
    'pin"',
    "pwd",
    "jwt",
    "sig=",
    "signature=",
    "ticket=",
    "state=",
    "key=",
    "parameters:",
    "failing row",
    "$2",
)

# Texts come from outside and may be made to hurt: every repetition below is bounded, or can't be
# given back once it is matched, so that the time grows with the length and no faster.
_NAME = (
    r"(?:token|secret|passw(?:or)?d|passphrase|api[_-]?key|private[_-]?key|credential"
    r"|authorization|cookie|recovery[_-]?codes?|otpauth)[\w-]{0,40}+"
)
_QUOTED = r"""(?:"(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?)"""

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # JSON Web Tokens, cut ones too.
    (re.compile(r"eyJ[\w-]{6,}+(?:\.[\w-]*+){0,4}"), HIDDEN),
    # A scheme with something that is no English word.
    (
        re.compile(
            r"(?i)\b(bearer|basic|digest|token)\s{1,8}(?=[a-z]{0,100}+[\d._~+/=-])[\w.~+/-]{6,}+=*+"
        ),
        rf"\1 {HIDDEN}",
    ),
    (re.compile(r"(?i)\bbearer\s{1,8}[\w.~+/=-]++"), f"Bearer {HIDDEN}"),
    # API keys: at least one digit or capital, so that names such as ghost_production stay.
    (re.compile(r"\bghost_(?=[a-z_-]{0,64}+[A-Z0-9])[\w-]{6,}+"), f"ghost_{HIDDEN}"),
    # One-time values in a query or a fragment.
    (
        re.compile(r"(?i)([?&#;](?:code|otp|ticket|sig|signature|key|state)=)[^\s&#\"'<>]++"),
        rf"\1{HIDDEN}",
    ),
    # name=value and "name": "value", as in URLs, reprs, JSON and calls.
    (re.compile(rf"(?i)({_NAME})=(?:{_QUOTED}|[^\s&#;,\"'<>)\]}}]++)"), rf"\1={HIDDEN}"),
    (
        re.compile(
            rf"(?i)({_NAME}[\"']\s{{0,8}}[:,]\s{{0,8}})(?:[bru]{{0,2}}{_QUOTED}|-?\d[\w.]*+)"
        ),
        rf"\1'{HIDDEN}'",
    ),
    (
        re.compile(
            rf"(?i)([\"'](?:code|otp|totp|pin|jwt|pwd)[\"']\s{{0,8}}:\s{{0,8}})(?:{_QUOTED}|\d++)"
        ),
        rf"\1'{HIDDEN}'",
    ),
    (re.compile(r"(?i)\b(otp|totp|pin|pwd|jwt)=[^\s&#;,\"'<>)\]}]++"), rf"\1={HIDDEN}"),
    # Header lines.
    (
        re.compile(
            r"(?i)\b((?:set-)?cookie|(?:proxy-)?authorization|x-api-key|x-csrf-token)"
            r"([ \t]{0,8}:[ \t]{0,8})(?!['\"]?\*\*\*)[^\r\n]++"
        ),
        rf"\1\2{HIDDEN}",
    ),
    # What the database and its driver say about rows.
    (re.compile(r"\[parameters: [^\n]*+"), f"[parameters: {HIDDEN}]"),
    (re.compile(r"(?is)(failing row contains )\(.*?(?=\n\[SQL: |\Z)"), rf"\1({HIDDEN})"),
    (re.compile(r"\$2[abxy]?\$\d\d\$[./A-Za-z0-9]{20,}+"), HIDDEN),
)
_WORD = re.compile(r"""[^\s"'<>]++""")


def _hide_url_password(word: str) -> str:
    """Hide the password of scheme://user:password@host.

    Up to the last "@": a raw "@" or "/" may be in the password.
    """
    end = word.rfind("@")
    start = word.find("://")
    while 0 <= start < end:
        start += 3
        colon = word.find(":", start, end)
        if colon < 0:
            break
        if not _URL_STOP.search(word, start, colon):
            return f"{word[:colon]}:{HIDDEN}{word[end:]}"
        start = word.find("://", colon)
    return word


_URL_STOP = re.compile(r"[/?#@]")


def redact_text(text: str) -> str:
    """Return the text without the secrets that their own look betrays."""
    lowered = text.lower()
    for sign in _SIGNS:
        if sign in lowered:
            break
    else:
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    if "://" in text and "@" in text:
        text = _WORD.sub(lambda word: _hide_url_password(word[0]), text)
    return text


def redact(value: Any, *, _depth: int = 0) -> Any:
    """Return a copy of the value, fit for a log line: no secrets, plain types, bounded size."""
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return redact_text(value if len(value) <= TEXT_LIMIT else _shorten(value, TEXT_LIMIT))
    if kind is int or kind is float:
        return value
    if isinstance(value, datetime | date | UUID):
        return str(value)
    if _depth >= 6:
        return "..."
    if isinstance(value, Mapping):
        return {
            _name(key): HIDDEN
            if item is not None and _is_secret_name(_name(key))
            else redact(item, _depth=_depth + 1)
            for key, item in _first(value.items(), 100)
        }
    if isinstance(value, list | tuple | set | frozenset):
        # A header or form as pairs: ("Authorization", "Bearer ...").
        items = list(_first(value, 100))
        if kind is tuple and len(items) == 2 and _is_secret_name(_name(items[0])):
            return [items[0], HIDDEN]
        return [redact(item, _depth=_depth + 1) for item in items]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    try:
        return redact_text(_shorten(str(value), TEXT_LIMIT))
    except Exception:  # somebody else's __str__; a log line is no place to fail
        return f"<unprintable {kind.__name__}>"


def _name(key: object) -> str:
    return key if isinstance(key, str) else str(key)


def _first(items: Iterable[Any], count: int) -> Iterator[Any]:
    for number, item in enumerate(items):
        if number == count:
            return
        yield item


def _shorten(text: str, limit: int) -> str:
    """Keep the beginning and the end of a text of more than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"


def _clean(record: Record) -> None:
    """Add the ids and take the secrets out, before any sink sees the record."""
    extra = record["extra"]
    if record["function"] == "log_request" and record["name"] == __name__:
        # Once for each request: of its fields only these come from outside.
        extra["method"] = redact(extra["method"])
        extra["path"] = redact(extra["path"][:PATH_LIMIT])
    else:
        _clean_content(record)
    if "request_id" not in extra:
        # The caller chose it, within 128 harmless characters.
        request_id = request_id_var.get()
        extra["request_id"] = request_id and redact_text(request_id)
    if "job_id" not in extra:
        extra["job_id"] = job_id_var.get()
    if "user_id" not in extra:
        extra["user_id"] = user_id_var.get()
    # Our sinks clean a record that comes without this mark: an application that replaces the
    # patcher by logger.configure() must not lose the redaction with it.
    record["cleaned"] = True  # type: ignore[typeddict-unknown-key]


def _clean_content(record: Record) -> None:
    message = record["message"]
    if len(message) > STACK_LIMIT:
        message = _shorten(message, STACK_LIMIT)
    record["message"] = redact_text(message)
    extra = record["extra"]
    for name, value in extra.items():
        if value is not None:
            extra[name] = HIDDEN if _is_secret_name(name) else redact(value)


_IDS = ("request_id", "job_id", "user_id")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What moves the cursor, ends a line or turns the direction of writing; tab and newline apart.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_COLOURS = {
    "TRACE": "\x1b[2m",
    "DEBUG": "\x1b[36m",
    "INFO": "\x1b[32m",
    "SUCCESS": "\x1b[32m",
    "WARNING": "\x1b[33m",
    "ERROR": "\x1b[31m",
    "CRITICAL": "\x1b[1;31m",
}
_second: tuple[int, str] = (0, "")


def _now() -> str:
    """Return the time as RFC 3339 in UTC with milliseconds; a second's text is made once."""
    global _second
    now = time.time()
    second, text = _second
    if second != int(now):
        second = int(now)
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second = (second, text)
    return f"{text}.{int((now - second) * 1000):03d}Z"


def _exception(record: Record) -> dict[str, str] | None:
    """Return an exception's type, text and stack, without secrets."""
    exception = record["exception"]
    if exception is None:
        return None
    kind, value, trace = exception
    if kind is None:  # logger.exception() outside an except clause
        return None
    try:
        stack = "".join(traceback.format_exception(kind, value, trace))
        message = str(value)
    except Exception:  # an exception that can't print itself
        stack, message = "", "<unprintable>"
    return {
        "type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
        "message": redact_text(_shorten(message, TEXT_LIMIT)),
        "stack": redact_text(_shorten(stack, STACK_LIMIT)).rstrip("\n"),
    }


def _render_json(record: Record) -> bytes:
    """Return a record as one JSON object on one line."""
    extra = record["extra"]
    line: dict[str, Any] = {
        "time": _now(),
        "level": record["level"].name,
        "logger": record["name"],
        "message": record["message"],
        "request_id": extra["request_id"],
        "job_id": extra["job_id"],
        "user_id": extra["user_id"],
    }
    for name, value in extra.items():
        if name not in line:
            line[name] = value
        elif name not in _IDS:
            line[name + "_"] = value  # a bound field can't pose as one of ours
    if record["exception"] is not None:
        line["exception"] = _exception(record)
    try:
        data = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # lone surrogates, integers of more than 64 bits
        text = json_dumps(line, default=str, ensure_ascii=False)
        data = text.encode("utf-8", "replace") + b"\n"
    if not data.isascii():
        # Some readers take these for line ends; in JSON they may be written as escapes.
        for raw, escape in (
            (b"\xe2\x80\xa8", b"\\u2028"),
            (b"\xe2\x80\xa9", b"\\u2029"),
            (b"\xc2\x85", b"\\u0085"),
        ):
            data = data.replace(raw, escape)
    return data


def _visible(text: str) -> str:
    """Return a text of which no character moves the cursor or ends the line."""
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text.replace("\n", "\n    | ")


def _field(value: Any) -> str:
    if isinstance(value, str):
        text = _visible(value).replace("\n    | ", "\\n")
        return text if text and " " not in text and '"' not in text else f'"{text}"'
    return _visible(str(value)).replace("\n    | ", "\\n")


def _render_console(record: Record, *, colour: bool) -> bytes:
    """Return a record as a line for people; a stack follows, indented."""
    level = record["level"].name
    extra = record["extra"]
    parts = [record["time"].strftime("%Y-%m-%d %H:%M:%S.%f")[:-3], f"{level:<8}"]
    if "access" in record:
        parts.append(
            f"{_field(extra['method'])} {_field(extra['path'])} {extra['status']}"
            f" {extra['duration_ms']:.1f} ms"
        )
        shown = {"method", "path", "status", "duration_ms"}
    else:
        parts += [f"{record['name']}:", _visible(_ANSI.sub("", record["message"]))]
        shown = set()
    parts += [
        f"{_visible(name)}={_field(value)}"
        for name, value in extra.items()
        if name not in shown and value is not None
    ]
    if colour:
        parts[1] = f"{_COLOURS.get(level, '')}{parts[1]}\x1b[0m"
    text = " ".join(parts)
    if (exception := _exception(record)) is not None:
        text += "\n    | " + _visible(exception["stack"] or exception["message"])
    return (text + "\n").encode("utf-8", "backslashreplace")


class _Sink:
    """What a loguru sink of ours does around the writing itself: it never raises."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self.lost_count = 0

    def write(self, message: Message) -> None:
        try:
            record = message.record
            if "cleaned" not in record:
                _clean(record)
            data = self._render(record)
            if self.lost_count:
                data = self._lost_line(record) + data
            self._put(data)
            self.lost_count = 0
        except Exception:
            # Disk full, closed stdout, a reader that is gone: there is nobody left to tell, and
            # the request that logged must not pay for it. The next line that gets through
            # says how many were lost.
            self.lost_count += 1

    def _lost_line(self, record: Record) -> bytes:
        lost: Any = {
            **record,
            "level": logger.level("WARNING"),
            "name": __name__,
            "message": "Log lines were lost because they could not be written.",
            "extra": dict.fromkeys(_IDS) | {"lost_count": self.lost_count},
            "exception": None,
        }
        lost.pop("access", None)
        return self._render(lost)

    def _put(self, data: bytes) -> None:
        raise NotImplementedError


class _StreamSink(_Sink):
    """Writes to the process's stdout or stderr."""

    def __init__(self, name: StreamName, render: Render) -> None:
        super().__init__(render)
        self._name = name
        self._number = 1 if name == "stdout" else 2
        self._stream: Any = None  # the stream that was found to be the real one
        self._is_pipe = False
        self._stalled_until = 0.0

    def _put(self, data: bytes) -> None:
        stream = getattr(sys, self._name)
        if stream is not self._stream:
            if stream is None or not self._is_real(stream):
                # Captured by a test, or replaced by the program: only its own write() will do.
                stream.write(data.decode("utf-8", "replace"))
                stream.flush()
                return
            self._stream = stream
            self._is_pipe = stat.S_ISFIFO(os.fstat(self._number).st_mode)
        if stream.closed:  # its number may belong to another file by now
            raise ValueError("closed stream")
        if self._is_pipe:
            self._wait_for_room()
        _write_all(self._number, data)

    def _is_real(self, stream: Any) -> bool:
        try:
            return stream.fileno() == self._number
        except (OSError, ValueError, AttributeError):
            return False

    def _wait_for_room(self) -> None:
        """Wait a second at most for a reader that has stopped, then drop for another second."""
        if self._stalled_until and time.monotonic() < self._stalled_until:
            raise BlockingIOError
        poll = select.poll()
        poll.register(self._number, select.POLLOUT)
        if not poll.poll(1000):
            self._stalled_until = time.monotonic() + 1.0
            raise BlockingIOError
        self._stalled_until = 0.0


class _FileSink(_Sink):
    """Writes to the first free of `web.log`, `web-1.log`, ... and rotates it.

    Two processes that write and rotate one file lose lines, so that each file has one writer: who
    holds its lock. The lock ends with its process, whatever ended that, and a successor goes on
    with the file; the number of files is that of the processes that ever ran at once.
    """

    def __init__(self, folder: Path, component: str, render: Render) -> None:
        super().__init__(render)
        self._folder = folder
        self._component = component
        self._number: int | None = None
        self._path = folder / f"{component}.log"
        self._size = 0
        self._is_torn = False
        self._retry_at = 0.0
        _file_sinks.add(self)

    def _put(self, data: bytes) -> None:
        number = self._number
        if number is None:
            number = self._open()
        elif self._size and self._size + len(data) > ROTATE_BYTES:
            number = self._rotate()
        if self._is_torn:
            data = b"\n" + data
        self._is_torn = True  # until the whole line is written
        _write_all(number, data)
        self._is_torn = False
        self._size += len(data)

    def _open(self) -> int:
        if time.monotonic() < self._retry_at:
            raise BlockingIOError
        self._retry_at = time.monotonic() + 5.0
        self._folder.mkdir(parents=True, exist_ok=True)
        _delete_old_files(self._folder)
        number: int | None = None
        slot = 0
        while number is None:
            suffix = f"-{slot}" if slot else ""
            self._path = self._folder / f"{self._component}{suffix}.log"
            number = _open_locked(self._path)
            slot += 1
        self._number = number
        self._size = os.fstat(number).st_size
        # A process before us may have died, or found the disk full, within a line.
        self._is_torn = self._size > 0 and os.pread(number, 1, self._size - 1) != b"\n"
        self._retry_at = 0.0
        return number

    def _rotate(self) -> int:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
        self._path.rename(self._path.with_suffix(f".{stamp}.log"))
        self.close()
        return self._open()

    def close(self) -> None:
        if self._number is not None:
            number, self._number = self._number, None
            os.close(number)

    def stop(self) -> None:
        """Loguru's word for closing a sink that was removed."""
        self.close()


_file_sinks: weakref.WeakSet[_FileSink] = weakref.WeakSet()


def _write_all(number: int, data: bytes) -> None:
    written = os.write(number, data)
    while written < len(data):
        written += os.write(number, data[written:])


def _open_locked(path: Path) -> int | None:
    """Open a file for appending as its only writer; None when it has one already."""
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Renamed or deleted between the opening and the lock?
            if os.path.samestat(os.fstat(number), path.stat()):
                return number
        except BlockingIOError:
            os.close(number)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(number)
            raise
        os.close(number)


_LOG_FILE = re.compile(r"(?:web|worker|cli)(?:-\d+)?(?:\.\d{8}T\d{12}Z)?\.log")


def _delete_old_files(folder: Path) -> None:
    """Delete the log files that nobody writes and that were last written 14 days ago."""
    oldest = time.time() - RETENTION_SECONDS
    for path in folder.iterdir():
        if _LOG_FILE.fullmatch(path.name) is None:
            continue
        try:
            if path.stat().st_mtime >= oldest or (number := _open_locked(path)) is None:
                continue
        except OSError:  # deleted by another process, or not ours to touch
            continue
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(number)


def reopen_files() -> None:
    """Close the log files; the next line opens them anew."""
    for sink in _file_sinks:
        sink.close()


# A forked child inherits the parent's lock with the file: it lets go and finds a file of its own.
os.register_at_fork(after_in_child=reopen_files)


class _Bridge(logging.Handler):
    """Hands what libraries log by the standard library to loguru."""

    def createLock(self) -> None:
        self.lock = None  # loguru has its own

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # wrong arguments in somebody else's call
            message = str(record.msg)

        def name_origin(target: Record) -> None:
            target["name"] = record.name
            target["function"] = record.funcName or ""
            target["line"] = record.lineno

        logger.patch(name_origin).opt(exception=record.exc_info or None).log(
            _level_name(record.levelno), _ANSI.sub("", message).strip("\n")
        )


_LEVELS = ((50, "CRITICAL"), (40, "ERROR"), (30, "WARNING"), (20, "INFO"), (10, "DEBUG"))


def _level_name(number: int) -> str:
    """Return loguru's name for a numeric level of the standard library."""
    return next((name for least, name in _LEVELS if number >= least), "TRACE")


class _NoAccessLines(logging.Filter):
    """Drops the request lines of Werkzeug's development server: the application writes its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        return " - - [" not in str(record.msg)


# Libraries that bring handlers of their own.
_BRIDGED = (
    "gunicorn",
    "werkzeug",
    "sqlalchemy",
    "rq",
    "alembic",
    "flask",
    "py.warnings",
    "rq_scheduler",
)
# At DEBUG SQLAlchemy writes the rows it reads, hashes included; `database.echo` asks for the
# statements alone. The others tell of each packet.
_QUIET = (
    "alembic.runtime.plugins",
    "sqlalchemy",
    "urllib3",
    "asyncio",
    "watchfiles",
    "PIL",
    "flask_cors",
    "flask-limiter",
    "limits",
)

_bridge = _Bridge()
_no_access_lines = _NoAccessLines()


def _bridge_standard_library(level_number: int) -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        # Plain output to a stream would double each line. Others (a test's, a tracker's) stay.
        if type(handler) is logging.StreamHandler or isinstance(handler, _Bridge):
            root.removeHandler(handler)
    root.addHandler(_bridge)
    root.setLevel(level_number)
    names = [
        name
        for name in list(logging.root.manager.loggerDict)
        if name.split(".", 1)[0] in _BRIDGED or name == "py.warnings"
    ]
    for name in {*names, *_BRIDGED}:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.disabled = False
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level_number, logging.WARNING))
    # With echo on, SQLAlchemy adds a handler of its own to this logger unless it has one.
    engine = logging.getLogger("sqlalchemy.engine.Engine")
    engine.addHandler(_bridge)
    engine.propagate = False
    werkzeug = logging.getLogger("werkzeug")
    werkzeug.addFilter(_no_access_lines)
    # Else Werkzeug adds a handler when it finds no level of its own.
    werkzeug.setLevel(level_number)


_lock = threading.Lock()
_handler_ids: list[int] = []
_settings: tuple[object, ...] | None = None
_component: Component | None = None
_min_level = 0


def configure(config: Config, *, component: Component | None = None) -> None:
    """Send everything that this process logs where the configuration says.

    Called again with the same settings it does nothing, with others it replaces its own sinks and
    leaves those of the application. Nothing is opened or written before the first line.

    :param component: names the log file, and for `cli` the stream: a command's own output is on
        stdout, so that its log goes to stderr. None keeps what an earlier call said, else it is
        `cli` in a command of `flask` that does not serve, and `web` everywhere else.
    """
    global _component, _settings
    level = config.logging.level.upper()
    style = config.logging.format
    folder = config.logging.dir
    names = frozenset(
        _CAMEL.sub("_", name).lower().replace("-", "_") for name in config.logging.redact
    )
    with _lock:
        _component = component or _component or _guess_component()
        settings = (level, style, folder, names, _component)
        if settings != _settings:
            _install(level, style, folder, names, _component)
            _settings = settings
        _bridge_standard_library(logger.level(level).no)
        if config.env != "testing":  # there the test runner collects the warnings
            logging.captureWarnings(True)


def _guess_component() -> Component:
    is_command = click.get_current_context(silent=True) is not None
    return "cli" if is_command and "run" not in sys.argv else "web"


def _install(
    level: str, style: str, folder: Path | None, names: frozenset[str], component: Component
) -> None:
    global _extra_secret_names, _min_level
    _extra_secret_names = names
    _is_secret_name.cache_clear()
    _min_level = logger.level(level).no
    for handler_id in _handler_ids or [0]:  # 0 is loguru's own, to stderr
        with suppress(ValueError):  # the application removed it
            logger.remove(handler_id)
    _handler_ids.clear()
    logger.configure(patcher=_clean)
    stream: StreamName = "stderr" if component == "cli" else "stdout"
    is_terminal = bool(getattr(getattr(sys, stream), "isatty", bool)())

    def render_plain(record: Record) -> bytes:
        return _render_console(record, colour=False)

    def render_coloured(record: Record) -> bytes:
        return _render_console(record, colour=True)

    plain: Render = _render_json if style == "json" else render_plain
    coloured: Render = _render_json if style == "json" else render_coloured
    sinks: list[_Sink] = [_StreamSink(stream, coloured if is_terminal else plain)]
    if folder is not None:
        sinks.append(_FileSink(folder, component, plain))
    for sink in sinks:
        # The sink renders by itself: loguru's own formatting is left with nothing to do.
        handler_id = logger.add(
            sink, level=level, format="", colorize=False, backtrace=False, diagnose=False
        )
        _handler_ids.append(handler_id)


def _as_access(record: Record) -> None:
    record["name"] = "ghost.access"
    record["access"] = True  # type: ignore[typeddict-unknown-key]


_access = logger.patch(_as_access)


def log_request(
    method: str,
    path: str,
    status: int,
    duration_seconds: float,
    client_ip: str | None = None,
    route: str | None = None,
) -> None:
    """Write the line of a request that was answered; probes and scrapes at DEBUG.

    :param path: without its query, which may hold anything.
    :param route: the rule that matched, None for an unknown path.
    """
    if path.startswith("/health") or path == "/metrics":
        level = 10
    elif status >= 500:
        level = 30
    else:
        level = 20
    if level < _min_level:
        return
    # The message is a constant: what the caller sent travels in fields alone.
    write = _access.info if level == 20 else _access.warning if level == 30 else _access.debug
    write(
        "request",
        method=method,
        path=path,
        status=status,
        duration_ms=round(duration_seconds * 1000, 3),
        client_ip=client_ip,
        route=route,
    )


class GunicornLogger:
    """Gunicorn's `logger_class`: what the server says goes through the standard library's logger.

    The application writes a line for each request itself, so that gunicorn's access log is off.
    """

    def __init__(self, cfg: Any) -> None:
        self.error_log = logging.getLogger("gunicorn.error")
        self.access_log = logging.getLogger("gunicorn.access")
        # The server speaks before the application is loaded.
        try:
            config = get_config()
        except RuntimeError:
            config = Config.load()
        configure(config)
        self.setup(cfg)

    def setup(self, cfg: Any) -> None:
        """Follow gunicorn's own settings, at the start and at each reload."""
        self.cfg = cfg
        self.error_log.setLevel(_stdlib_level(cfg.loglevel))

    def critical(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.critical(msg, *args, **kwargs)

    def error(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.error(msg, *args, **kwargs)

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.warning(msg, *args, **kwargs)

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.info(msg, *args, **kwargs)

    def debug(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.debug(msg, *args, **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.exception(msg, *args, **kwargs)

    def log(self, lvl: int | str, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.log(_stdlib_level(lvl), msg, *args, **kwargs)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write nothing: see the class."""

    def reopen_files(self) -> None:
        """Open the log files anew, for gunicorn's USR1."""
        reopen_files()

    def close_on_exec(self) -> None:
        """Do nothing: the files are opened that way."""


def _stdlib_level(level: int | str) -> int:
    if isinstance(level, int):
        return level
    return logging.getLevelNamesMapping().get(level.upper(), logging.INFO)


def configure_rq(config: Config) -> None:
    """Send the log of RQ's worker, jobs and scheduler through loguru.

    To be called in the module that `rq worker -c` imports, before the worker sets up handlers of
    its own; where the bridge is in place, it sets up none.
    """
    configure(config, component="worker")
    for name in ("rq.worker", "rq.job", "rq.scheduler", "rq.queue"):
        logging.getLogger(name).setLevel(logging.NOTSET)

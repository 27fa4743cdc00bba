"""What a log line holds, and how it looks: as JSON, or for people.

Ids are added and secrets taken out before any sink sees a record.
"""

from __future__ import annotations

import re
import time
import traceback
from contextvars import ContextVar
from json import dumps as json_dumps
from typing import TYPE_CHECKING, Any

import orjson

from ghost.redaction import HIDDEN, TEXT_LIMIT, is_secret_name, redact, redact_text, shorten

if TYPE_CHECKING:
    from loguru import Record

request_id_var: ContextVar[str | None] = ContextVar("ghost_request_id", default=None)
job_id_var: ContextVar[str | None] = ContextVar("ghost_job_id", default=None)
user_id_var: ContextVar[str | None] = ContextVar("ghost_user_id", default=None)

STACK_LIMIT = 32 * 1024
PATH_LIMIT = 512
OWN_NAME, ACCESS_LOGGER = "ghost.logging", "ghost.access"

IDS = ("request_id", "job_id", "user_id")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def clean(record: Record) -> None:
    """Add the ids and take the secrets out, before any sink sees the record."""
    extra = record["extra"]
    if record["function"] == "log_request" and record["name"] == OWN_NAME:
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
        message = shorten(message, STACK_LIMIT)
    record["message"] = redact_text(message)
    extra = record["extra"]
    for name, value in extra.items():
        if value is not None:
            extra[name] = HIDDEN if is_secret_name(name) else redact(value)


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
        "message": redact_text(shorten(message, TEXT_LIMIT)),
        "stack": redact_text(shorten(stack, STACK_LIMIT)).rstrip("\n"),
    }


def render_json(record: Record) -> bytes:
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
        elif name not in IDS:
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


def render_console(record: Record, *, colour: bool) -> bytes:
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
        parts += [f"{record['name']}:", _visible(ANSI.sub("", record["message"]))]
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

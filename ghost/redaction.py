"""What no log and no ledger may show: secrets, by the name of their field or by their own look."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

TEXT_LIMIT = 16 * 1024
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


def _lowered(name: str) -> str:
    return _CAMEL.sub("_", name).lower().replace("-", "_").replace(" ", "_")


def set_secret_names(names: Iterable[str]) -> None:
    """Choose the names of fields that are secret beside those that always are."""
    global _extra_secret_names
    _extra_secret_names = frozenset(map(_lowered, names))
    is_secret_name.cache_clear()


@lru_cache(maxsize=2048)
def is_secret_name(name: str) -> bool:
    """Tell whether the value under this name must not be shown."""
    lowered = _lowered(name)
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
    "sg.",
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
    # SendGrid's key, alone and where a URL has its user.
    (re.compile(r"\bSG\.[\w-]{10,}+\.[\w-]{10,}+"), HIDDEN),
    (re.compile(r"(?i)(sendgrid://)[^\s@/]++@"), rf"\1{HIDDEN}@"),
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
        return redact_text(value if len(value) <= TEXT_LIMIT else shorten(value, TEXT_LIMIT))
    if kind is int or kind is float:
        return value
    if isinstance(value, datetime | date | UUID):
        return str(value)
    if _depth >= 6:
        return "..."
    if isinstance(value, Mapping):
        return {
            _name(key): HIDDEN
            if item is not None and is_secret_name(_name(key))
            else redact(item, _depth=_depth + 1)
            for key, item in _first(value.items(), 100)
        }
    if isinstance(value, list | tuple | set | frozenset):
        # A header or form as pairs: ("Authorization", "Bearer ...").
        items = list(_first(value, 100))
        if kind is tuple and len(items) == 2 and is_secret_name(_name(items[0])):
            return [items[0], HIDDEN]
        return [redact(item, _depth=_depth + 1) for item in items]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    try:
        return redact_text(shorten(str(value), TEXT_LIMIT))
    except Exception:  # somebody else's __str__; a log line is no place to fail
        return f"<unprintable {kind.__name__}>"


def _name(key: object) -> str:
    return key if isinstance(key, str) else str(key)


def _first(items: Iterable[Any], count: int) -> Iterator[Any]:
    for number, item in enumerate(items):
        if number == count:
            return
        yield item


def shorten(text: str, limit: int) -> str:
    """Keep the beginning and the end of a text of more than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"


def storable(text: str) -> str:
    """Return a text that every database stores: no NUL, and no half a character."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def redact_json(value: Any) -> Any:
    """Return JSON without secrets, and otherwise whole: for what is kept and not logged."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, list):
        return [redact_json(item) for item in value]
    if isinstance(value, dict):
        return {
            name: HIDDEN if item is not None and is_secret_name(name) else redact_json(item)
            for name, item in value.items()
        }
    return value

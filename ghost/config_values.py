"""The kinds of values that a setting may hold: how each is read from text and checked."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from string import Formatter
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

import limits
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ghost.config_mail import read_sendgrid_url, read_ses_url, read_smtp_url
from ghost.config_schedules import ScheduleSetting, WrongEntry, read_schedule
from ghost.config_storage import (
    SCHEMES,
    VARIANTS,
    VariantSetting,
    read_variant,
    resolve_storage_url,
)

WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
DOTTED_WORD = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*", re.ASCII)
DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?::[A-Za-z_]\w*)?", re.ASCII)
_URL_PASSWORD = re.compile(r"^([A-Za-z0-9+.-]+://[^:/@?]*):.*@", re.DOTALL)
# SendGrid's key stands where a user would.
_URL_KEY = re.compile(r"(?i)^(sendgrid://)(?:.*@|[^/?#]*)", re.DOTALL)
_QUERY_PASSWORD = re.compile(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&#]*")


class Mismatch(Exception):
    """A value is not what its setting expects; the text says what is.

    :param got: what was there instead, when that is a part of the value.
    """

    def __init__(self, expected: str, got: str = "") -> None:
        super().__init__(expected)
        self.got = got


def mask_url(url: str) -> str:
    """Return the URL with every password in it replaced by stars."""
    # Up to the last @: a password may hold an unescaped one, and hiding too much does no harm.
    url = _URL_PASSWORD.sub(r"\1:***@", _URL_KEY.sub(r"\1***@", url))
    return _QUERY_PASSWORD.sub(r"\1***", url)


def describe(value: object, *, hidden: bool) -> str:
    """Name a wrong value in a few words on one line; only its type when it may be a secret."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple | set):
        return "a list"
    if isinstance(value, bool):
        return "true or false" if hidden else str(value).lower()
    if isinstance(value, int | float):
        return "a number" if hidden else f"the number {_number(value)}"
    if isinstance(value, str):
        return "another text" if hidden else f"the text {_shorten(repr(value))}"
    return f"a {type(value).__name__}"


def _number(value: int | float) -> str:
    try:
        return _shorten(str(value))
    except ValueError:  # more digits than Python turns into text
        return "of thousands of digits"


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def resolve_path(value: str, root: Path) -> Path:
    """Return the path, a relative one taken from the project's root."""
    return root / value


def from_json(text: str) -> object:
    """Turn an environment variable's text into a value: JSON where it parses, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


class Kind(ABC):
    """One kind of value."""

    hidden = False
    """Whether a wrong value must not be repeated to the user: it may hold a secret."""

    def from_text(self, text: str) -> object:
        """Turn an environment variable's text into a value that `check` can judge."""
        return from_json(text)

    @abstractmethod
    def check(self, value: object, root: Path) -> Any:
        """Return the value as the program uses it.

        :param root: what relative paths start from.
        :raises Mismatch: the value is of another kind.
        """

    def mask(self, value: Any) -> object:
        """Return what may be shown of a checked value."""
        return value


class OrNone(Kind):
    """A value that may be left out; an empty variable leaves it out too."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.hidden = kind.hidden

    def from_text(self, text: str) -> object:
        return None if text.strip() in ("", "null") else self.kind.from_text(text)

    def check(self, value: object, root: Path) -> Any:
        return None if value is None else self.kind.check(value, root)

    def mask(self, value: Any) -> object:
        return None if value is None else self.kind.mask(value)


class Text(Kind):
    """A text of one line."""

    def __init__(self, expected: str = "a text", *, longest: int = 200) -> None:
        self.expected = expected
        self.longest = longest

    def from_text(self, text: str) -> object:
        # A secret or name made of digits stays the text it is; only "..." is unpacked.
        value = super().from_text(text)
        return value if isinstance(value, str) else text

    def check(self, value: object, root: Path) -> Any:
        if isinstance(value, bool | int | float):
            raise Mismatch(f"{self.expected} (in quotes)")
        if not isinstance(value, str) or not 0 < len(value) <= self.longest:
            raise Mismatch(self.expected)
        if value != value.strip() or any(not c.isprintable() for c in value):
            raise Mismatch(f"{self.expected}, without blanks around or control characters in it")
        return value


class Secret(Text):
    """A text that is never shown. Its strength is judged in production only."""

    hidden = True

    def __init__(self) -> None:
        super().__init__("a secret text", longest=4096)

    def mask(self, value: Any) -> object:
        return "***"


class Pem(Text):
    """A key in PEM form."""

    hidden = True

    def __init__(self, which: str) -> None:
        super().__init__(f"a {which} key in PEM form", longest=16384)
        self.which = which

    def check(self, value: object, root: Path) -> str:
        if not isinstance(value, str) or len(value) > self.longest:
            raise Mismatch(self.expected)
        text = value.replace("\\n", "\n").strip()  # how .env files and dashboards carry lines
        head, tail = text.partition("\n")[0].strip(), text.rpartition("\n")[2].strip()
        if not re.fullmatch(rf"-----BEGIN [A-Z ]*{self.which.upper()} KEY-----", head):
            raise Mismatch(self.expected)
        if not tail.startswith("-----END ") or not text.isascii():
            raise Mismatch(self.expected)
        return text + "\n"

    def mask(self, value: Any) -> object:
        return "***" if self.which == "private" else "a public key"


class Choice(Text):
    """One of a few words."""

    def __init__(self, *words: str, upper: bool = False) -> None:
        super().__init__("one of " + ", ".join(words))
        self.words = words
        self.upper = upper

    def check(self, value: object, root: Path) -> str:
        text = super().check(value, root)
        text = text.upper() if self.upper else text
        if text not in self.words:
            raise Mismatch(self.expected)
        return text


class Pattern(Text):
    """A text that matches a regular expression as a whole."""

    def __init__(self, pattern: re.Pattern[str], expected: str) -> None:
        super().__init__(expected)
        self.pattern = pattern

    def check(self, value: object, root: Path) -> str:
        text: str = super().check(value, root)
        if not self.pattern.fullmatch(text):
            raise Mismatch(self.expected)
        return text


class Flag(Kind):
    """True or false; the environment may also say yes, no, on, off, 1, 0."""

    _TEXTS = {"true": True, "yes": True, "on": True, "1": True} | {
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }

    def from_text(self, text: str) -> object:
        return self._TEXTS.get(text.strip().lower(), text)

    def check(self, value: object, root: Path) -> bool:
        if not isinstance(value, bool):
            raise Mismatch("true or false")
        return value


class Integer(Kind):
    """A whole number within bounds."""

    def __init__(self, least: int, most: int, unit: str = "") -> None:
        self.least = least
        self.most = most
        self.expected = f"a whole number{unit and ' of ' + unit} from {least} to {most}"

    def check(self, value: object, root: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Mismatch(self.expected)
        if not self.least <= value <= self.most:
            raise Mismatch(self.expected)
        return value


class Number(Kind):
    """A number within bounds, fractions too."""

    def __init__(self, least: float, most: float, unit: str = "") -> None:
        self.least = least
        self.most = most
        self.expected = f"a number{unit and ' of ' + unit} from {least:g} to {most:g}"

    def check(self, value: object, root: Path) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Mismatch(self.expected)
        if not self.least <= value <= self.most or not math.isfinite(value):
            raise Mismatch(self.expected)
        return float(value)


class Items(Kind):
    """A list of values of one kind, without repetition."""

    def __init__(self, kind: Kind, *, least: int = 0, most: int = 100) -> None:
        self.kind = kind
        self.least = least
        self.most = most
        self.hidden = kind.hidden

    def from_text(self, text: str) -> object:
        value = super().from_text(text)
        if isinstance(value, list):
            return value
        return [part.strip() for part in text.split(",")] if text.strip() else []

    def check(self, value: object, root: Path) -> list[Any]:
        if not isinstance(value, list | tuple) or not self.least <= len(value) <= self.most:
            raise Mismatch(f"a list of {self.least} to {self.most} entries")
        checked = []
        for number, item in enumerate(value, start=1):
            try:
                checked.append(self.kind.check(item, root))
            except Mismatch as mismatch:
                got = mismatch.got or describe(item, hidden=self.hidden)
                raise Mismatch(f"entry {number} to be {mismatch}", got) from None
        if any(item in checked[:index] for index, item in enumerate(checked)):
            raise Mismatch("a list without repetitions")
        return checked

    def mask(self, value: Any) -> object:
        return [self.kind.mask(item) for item in value]


class Table(Kind):
    """A mapping from names to values of one kind."""

    def __init__(
        self,
        kind: Kind,
        *,
        most: int = 100,
        name: re.Pattern[str] = WORD,
        names: str = "names made of letters, digits, - and _ (in quotes)",
    ) -> None:
        self.kind = kind
        self.most = most
        self.name = name
        self.names = names
        self.hidden = kind.hidden

    def check(self, value: object, root: Path) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > self.most:
            raise Mismatch(f"a mapping of at most {self.most} names")
        checked = {}
        for name, item in value.items():
            if not isinstance(name, str) or len(name) > 200 or not self.name.fullmatch(name):
                raise Mismatch(self.names)
            try:
                checked[name] = self.kind.check(item, root)
            except Mismatch as mismatch:
                got = mismatch.got or describe(item, hidden=self.hidden)
                raise Mismatch(f"{name} to be {mismatch}", got) from None
        return checked

    def mask(self, value: Any) -> object:
        return {name: self.kind.mask(item) for name, item in value.items()}


class ScheduleEntry(Kind):
    """A job on the clock; shown without its arguments' values."""

    def check(self, value: object, root: Path) -> ScheduleSetting:
        if isinstance(value, ScheduleSetting):  # of a configuration that was read before
            return value
        try:
            return read_schedule(value)
        except WrongEntry as mistake:
            raise Mismatch(str(mistake), describe(mistake.got, hidden=False)) from None

    def mask(self, value: Any) -> object:
        return f"{value.job} {value.timing} {value.timezone}, missed: {value.missed}"


class Folder(Text):
    """A path, relative ones taken from the project's root."""

    def __init__(self, *, existing: bool = False) -> None:
        super().__init__("the path of an existing folder" if existing else "the path of a folder")
        self.existing = existing
        self.longest = 4096

    def check(self, value: object, root: Path) -> Path:
        text = super().check(str(value) if isinstance(value, Path) else value, root)
        try:
            path = resolve_path(text, root)
            wrong = (self.existing or path.exists()) and not path.is_dir()
        except OSError:  # a name too long, a folder that may not be entered
            wrong = True
        if wrong:
            raise Mismatch(self.expected)
        return path


class Rate(Text):
    """A rate as Flask-Limiter reads it: "300/minute", several joined by ";"."""

    def __init__(self) -> None:
        super().__init__('a rate like "300/minute" or "10/second;300/minute"')

    def check(self, value: object, root: Path) -> str:
        text: str = super().check(value, root)
        try:
            rates = limits.parse_many(text)
        except ValueError:
            raise Mismatch(self.expected) from None
        if any(rate.amount < 1 or rate.multiples < 1 for rate in rates):
            raise Mismatch(f"{self.expected}, at least 1")
        return text


def is_host(text: str) -> bool:
    """Tell whether the text is a host name or an address, without scheme and port."""
    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return len(text) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in text.split("."))
    return True


class Host(Text):
    """A host name or address; with `domains`, `.example.com` means all hosts under it."""

    def __init__(self, *, domains: bool = False) -> None:
        super().__init__("a host name or address, without scheme and port")
        self.domains = domains

    def check(self, value: object, root: Path) -> str:
        text: str = super().check(value, root)
        if not is_host(text.removeprefix(".") if self.domains else text):
            raise Mismatch(self.expected)
        return text


class MailAddress(Text):
    """An e-mail address, alone or as `Name <address>`."""

    _ADDRESS = r"[\w.!#$%&'*+/=?^`{|}~-]+@([A-Za-z0-9.-]+)"
    _SHAPE = re.compile(rf'{_ADDRESS}|(?:"[^"\\]+"|[^<>@,;:"\\]+) <{_ADDRESS}>', re.ASCII)

    def __init__(self) -> None:
        super().__init__("an e-mail address, alone or as Name <address>")

    def check(self, value: object, root: Path) -> str:
        text: str = super().check(value, root)
        shape = self._SHAPE.fullmatch(text)
        if shape is None or not is_host(shape[1] or shape[2]):
            raise Mismatch(self.expected)
        return text


class LinkTemplate(Text):
    """The address of a page, with the places {public_url} and {token}."""

    def __init__(self) -> None:
        super().__init__("an address with {token} in it that starts with {public_url} or https://")
        self.longest = 2000

    def check(self, value: object, root: Path) -> str:
        text: str = super().check(value, root)
        try:
            places = [(name, spec, conv) for _, name, spec, conv in Formatter().parse(text) if name]
            filled = {"public_url": "https://example.org", "token": "x"}
            parts = urlsplit(text.format_map(filled))
        except (ValueError, LookupError, AttributeError):
            raise Mismatch(self.expected) from None
        if ("token", "", None) not in places or parts.scheme not in ("http", "https"):
            raise Mismatch(self.expected)
        if not set(places) <= {("token", "", None), ("public_url", "", None)} or not parts.hostname:
            raise Mismatch(self.expected)
        if "{public_url}" in text and not text.startswith("{public_url}"):
            raise Mismatch(self.expected)
        return text


class Origin(Text):
    """An origin exactly as a browser sends it: with credentials there may be no `*`."""

    _SHAPE = re.compile(
        r"([a-z][a-z0-9+.-]*)://([^/@?#\\\s:\[\]*]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?"
    )

    def __init__(self) -> None:
        super().__init__("an origin as browsers send it, like https://app.example.com")

    def check(self, value: object, root: Path) -> str:
        text: str = super().check(value, root)
        shape = self._SHAPE.fullmatch(text)
        if shape is None:
            raise Mismatch(f"{self.expected} (no path, no slash at the end)")
        scheme, host, port = shape.groups()
        if not is_host(host) or host != host.lower() or not host.isascii():
            raise Mismatch(f"{self.expected} (in lower case, no pattern)")
        if port and (int(port) > 65535 or (scheme, port) in (("http", "80"), ("https", "443"))):
            raise Mismatch(f"{self.expected} (without the scheme's own port)")
        return text


class Url(Text):
    """A URL of known schemes; passwords in it are masked when it is shown."""

    hidden = True

    def __init__(self, expected: str, schemes: Collection[str]) -> None:
        super().__init__(expected, longest=2000)
        self.schemes = schemes

    def check(self, value: object, root: Path) -> str:
        text: str = super().check(value, root)
        if " " in text:
            raise Mismatch(f"{self.expected}, without blanks")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise Mismatch(self.expected) from None
        if parts.scheme not in self.schemes or "://" not in text or port == 0:
            raise Mismatch(self.expected)
        return self.check_parts(text, parts, root)

    def check_parts(self, text: str, parts: SplitResult, root: Path) -> str:
        if not parts.hostname or not is_host(parts.hostname):
            raise Mismatch(self.expected)
        return text

    def mask(self, value: Any) -> object:
        return mask_url(value)


class WebUrl(Url):
    """The address at which people reach the application; no slash at the end."""

    def __init__(self) -> None:
        super().__init__("an address like https://api.example.com", ("http", "https"))
        self.hidden = False

    def check_parts(self, text: str, parts: SplitResult, root: Path) -> str:
        super().check_parts(text, parts, root)
        if "@" in parts.netloc or parts.query or parts.fragment or text.endswith(("?", "#")):
            raise Mismatch(f"{self.expected}, without user, query and fragment")
        return text.rstrip("/")


class DatabaseUrl(Url):
    """sqlite:/// or postgresql://; the latter always means psycopg2."""

    _DRIVERS = {
        "postgres": "postgresql+psycopg2",
        "postgresql": "postgresql+psycopg2",
        "postgresql+psycopg2": "postgresql+psycopg2",
        "sqlite": "sqlite",
        "sqlite+pysqlite": "sqlite",
    }

    def __init__(self) -> None:
        super().__init__("a URL of the form sqlite:///path or postgresql://user@host/name", ())

    def check(self, value: object, root: Path) -> str:
        text: str = Text.check(self, value, root)
        scheme, separator, rest = text.partition("://")
        driver = self._DRIVERS.get(scheme)
        if driver is None or not separator:
            raise Mismatch(self.expected)
        try:
            url = make_url(f"{driver}://{rest}")
        except (ArgumentError, ValueError):
            raise Mismatch(self.expected) from None
        if driver == "sqlite":
            return self._sqlite(f"{driver}://{rest}", root)
        if not url.database or (url.port is not None and not 0 < url.port < 65536):
            raise Mismatch(self.expected)
        if url.host and not is_host(url.host):
            raise Mismatch(self.expected)
        return f"{driver}://{rest}"

    def _sqlite(self, text: str, root: Path) -> str:
        # Ghost resolves the path itself: Flask-SQLAlchemy 3.1 would put it under instance/ again.
        url = make_url(text)
        if url.host or url.username or url.port is not None:
            raise Mismatch("sqlite:///path with three slashes (four for an absolute path)")
        if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
            return text
        path = resolve_path(str(url.database), root)
        return url.set(database=str(path)).render_as_string(hide_password=False)


class RedisUrl(Url):
    """redis://, rediss:// or a Unix socket."""

    def __init__(self, *others: str, unix: str = "unix") -> None:
        self.unix = unix
        super().__init__(
            f"a URL of the form redis://host:6379/0, rediss://host/0 or {unix}:///path",
            ("redis", "rediss", unix, *others),
        )

    def check_parts(self, text: str, parts: SplitResult, root: Path) -> str:
        if parts.scheme == "memory":
            return text
        if parts.scheme != self.unix:
            database = parts.path.removeprefix("/")
            if database and not (database.isascii() and database.isdigit()):
                raise Mismatch(f"{self.expected} (the path is the number of a database)")
            return super().check_parts(text, parts, root)
        user, at, folder = parts.netloc.rpartition("@")
        path = unquote(folder + parts.path)
        if path in ("", "/"):
            raise Mismatch(self.expected)
        query = parts.query and f"?{parts.query}"
        return f"{parts.scheme}://{user}{at}{quote(str(resolve_path(path, root)))}{query}"


class MailUrl(Url):
    """Where mail leaves the house."""

    def __init__(self) -> None:
        super().__init__(
            "a URL of the form smtp://user:password@host:587?tls=starttls, smtps://host, "
            "ses://region, sendgrid://key@, file:///folder or console://",
            ("smtp", "smtps", "ses", "sendgrid", "file", "console", "memory"),
        )

    def check_parts(self, text: str, parts: SplitResult, root: Path) -> str:
        if parts.fragment:
            raise Mismatch(self.expected)
        if parts.scheme in ("console", "memory"):
            if text.rstrip("/") != f"{parts.scheme}:":
                raise Mismatch(f"{parts.scheme}:// with nothing after it")
            return f"{parts.scheme}://"
        if parts.scheme == "file":
            path = unquote(parts.netloc + parts.path)
            if path in ("", "/") or parts.query:
                raise Mismatch("file:///folder")
            return f"file://{quote(str(resolve_path(path, root)))}"
        try:
            if parts.scheme == "ses":
                read_ses_url(parts)
            elif parts.scheme == "sendgrid":
                read_sendgrid_url(parts)
            else:
                read_smtp_url(parts, root)
        except ValueError as error:
            raise Mismatch(str(error)) from None
        return text


class StorageUrl(Url):
    """Where the bytes of files lie."""

    def __init__(self) -> None:
        super().__init__(
            "a URL of the form file:///folder, s3://bucket/prefix?endpoint=&region=, "
            "az://container/prefix or gs://bucket/prefix",
            SCHEMES,
        )

    def check(self, value: object, root: Path) -> str:
        text: str = Text.check(self, value, root)
        if " " in text or text.partition("://")[0] not in self.schemes:
            raise Mismatch(self.expected)
        try:
            return resolve_storage_url(text, root)
        except ValueError as error:
            raise Mismatch(str(error)) from None


class MediaType(Text):
    """A type of content, `image/png`, or all of a kind, `image/*`; none that a browser runs."""

    _SHAPE = re.compile(r"[a-z]+/(?:\*|[a-z0-9][a-z0-9.+-]{0,100})")
    _RUNS = re.compile(r".*(?:html|xml|svg|script|xsl|shockwave).*")

    def __init__(self) -> None:
        super().__init__("a type like image/png, or image/* for all of a kind")

    def check(self, value: object, root: Path) -> str:
        text: str = super().check(value, root)
        if not self._SHAPE.fullmatch(text):
            raise Mismatch(self.expected)
        # Office documents have "xml" in their names, and are archives.
        if self._RUNS.fullmatch(text) and not text.startswith("application/vnd.openxmlformats"):
            raise Mismatch(f"{self.expected}, but none that browsers run: HTML, SVG, XML, scripts")
        return text


class Variants(Table):
    """The variants of images by name: Ghost's own, and those that are named here over them."""

    def __init__(self) -> None:
        super().__init__(
            _Variant(),
            most=20,
            name=re.compile(r"[a-z][a-z0-9_-]{0,49}"),
            names="names made of small letters, digits, - and _",
        )

    def check(self, value: object, root: Path) -> dict[str, VariantSetting]:
        return {**VARIANTS, **super().check(value, root)}


class _Variant(Kind):
    """The size of a variant, or a mapping that says more."""

    def check(self, value: object, root: Path) -> VariantSetting:
        try:
            return read_variant(value)
        except ValueError as error:
            raise Mismatch(str(error), describe(value, hidden=False)) from None

    def mask(self, value: Any) -> object:
        quality = f", quality {value.quality}" if value.quality else ""
        return f"{value.width} x {value.height} {value.fit}{quality}"


def public_host(url: str) -> str:
    """Return the host of a checked web address, an IPv6 one in brackets."""
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


def local_url(host: str, port: int) -> str:
    """Return the web address of a server on this machine that listens on the host."""
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(url: str) -> bool:
    """Tell whether a checked web address is one of this machine's own."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""The configuration of an application: read, judged, and refused where production must."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from flask import current_app, has_app_context
from flask.cli import NoAppException

from ghost import config_values as kinds
from ghost.config_sections import (
    LISTS,
    SECTIONS,
    AppSection,
    AuthSection,
    CorsSection,
    DatabaseSection,
    HealthSection,
    JobsSection,
    LoggingSection,
    MailSection,
    RatelimitSection,
    RedisSection,
    StorageSection,
    settings,
)
from ghost.config_sources import Key, Names, Sources, Word, find_root, printable
from ghost.config_values import Kind, Mismatch, describe, is_loopback, mask_url, public_host

_SECRET_NAME = re.compile("secret|passw|token|key|credential|private", re.IGNORECASE)
_KNOWN_EXAMPLES = (
    *("changeme", "change me", "change-me", "change_me", "secret", "password", "passw0rd", "dev"),
    *("development", "example", "default", "insecure", "test", "testing", "admin", "ghost"),
    *("your-secret", "your_secret", "yoursecret", "replace", "12345678", "super-secret"),
)


class ConfigError(NoAppException):
    """The configuration is wrong: `mistakes` says all that is, one line each.

    A NoAppException, so that every `flask` command prints the lines instead of a stack trace.
    """

    exit_code = 1

    def __init__(self, mistakes: list[str], reading: Reading | None = None) -> None:
        self.mistakes = list(mistakes)
        self.reading = reading
        lines = "\n".join(f"  - {mistake}" for mistake in self.mistakes)
        super().__init__(f"The configuration cannot be used:\n{lines}")

    def show(self, file: Any = None) -> None:
        self.ctx = None  # no usage: the command was right
        super().show(file)


_NAMES = Names({name: [f.name for f in settings(cls)] for name, cls in SECTIONS.items()}, LISTS)
_FIELDS = {(name, f.name): f.metadata for name, cls in SECTIONS.items() for f in settings(cls)}
_KINDS: dict[Key, Kind] = {
    **{path: metadata["kind"] for path, metadata in _FIELDS.items()},
    **{(name,): kind for name, (kind, _) in LISTS.items()},
}


@dataclass(frozen=True)
class Row:
    """One line of `flask config show`; a secret's value is masked already."""

    name: str
    value: object
    source: str


class Reading:
    """Everything that the sources say, judged: the values, where each is from, the mistakes."""

    def __init__(
        self,
        overrides: Mapping[str, Any] | None = None,
        *,
        root: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        self.values: dict[Key, Any] = {}
        self.origins: dict[Key, str] = {}
        self.own: dict[str, Any] = {}
        self.mistakes: list[str] = []
        try:
            self.root = find_root(root, environ)
        except Mismatch as mismatch:
            self.root = Path("/")
            self.mistakes = [f"{'root' if root else 'GHOST_ROOT'}: expected {mismatch}"]
            return
        sources = Sources(overrides or {}, self.root, environ, _NAMES)
        self.mistakes = sources.mistakes
        self._read_settings(sources)
        self._read_own(sources)
        self._derive()
        self.mistakes += _find_contradictions(self)
        if self.values.get(("app", "env")) == "production":
            debug = sources.variables.get("FLASK_DEBUG", "").lower()
            is_debug = debug not in ("", "0", "false", "no")  # as Flask itself reads it
            self.mistakes += _find_refusals(self, is_debug=is_debug)

    def get(self, name: str) -> Any:
        """Return the value of `section.key`; None also when it is wrong."""
        return self.values.get(tuple(name.split(".")))

    def is_set(self, name: str) -> bool:
        """Tell whether any source names the key, rightly or wrongly."""
        return self.origins[tuple(name.split("."))] != "default"

    def is_right(self, name: str) -> bool:
        """Tell whether the key's value, given or default, was understood."""
        return tuple(name.split(".")) in self.values

    def label(self, name: str) -> str:
        """Return the key with the source that named it."""
        origin = self.origins[tuple(name.split("."))]
        return name if origin == "default" else f"{name} ({origin})"

    def rows(self) -> Iterator[Row]:
        """List every key with its value and source, secrets masked."""
        for path, origin in self.origins.items():
            name = printable(".".join(map(str, path)))
            if path not in self.values:
                yield Row(name, "(wrong)", origin)
            elif self.values[path] is None:
                yield Row(name, None, origin)
            elif path in _KINDS:
                yield Row(name, _KINDS[path].mask(self.values[path]), origin)
            else:
                yield Row(name, _mask_own(path[-1], self.values[path]), origin)

    def _read_settings(self, sources: Sources) -> None:
        for path, kind in _KINDS.items():
            word = sources.find_word(path)
            if word is None:
                default = _FIELDS[path]["default"] if path in _FIELDS else []
                self.origins[path] = "default"
                self.values[path] = None if default is None else kind.check(default, self.root)
                continue
            self.origins[path] = word.source
            try:
                word = sources.resolve(word)
                value = kind.from_text(str(word.value)) if word.is_text else word.value
            except Mismatch as mismatch:
                self.mistakes.append(f"{_label(path, word)}: expected {mismatch}")
                continue
            try:
                self.values[path] = kind.check(value, self.root)
            except Mismatch as mismatch:
                got = mismatch.got or describe(value, hidden=kind.hidden)
                self.mistakes.append(f"{_label(path, word)}: expected {mismatch}, got {got}")

    def _read_own(self, sources: Sources) -> None:
        for path, word in sources.list_own_words().items():
            self.origins[path] = word.source
            try:
                word = sources.resolve(word)
            except Mismatch as mismatch:
                self.mistakes.append(f"{_label(path, word)}: expected {mismatch}")
                continue
            value = kinds.from_json(str(word.value)) if word.is_text else word.value
            self.values[path] = value
            section = self.own
            for name in path[:-1]:
                section = section.setdefault(name, {})
            section[path[-1]] = value

    def _derive(self) -> None:
        """Fill in the defaults that follow from other settings."""
        env = self.get("app.env")
        public_url = self.get("app.public_url")
        is_public = public_url and not is_loopback(public_url)
        mail_host = public_host(public_url) if is_public else "localhost"
        derived: dict[str, Callable[[], Any]] = {
            "app.trusted_hosts": lambda: [public_host(public_url)] if public_url else [],
            "app.public_url": lambda: None if env == "production" else self._local_url(),
            "mail.sender": lambda: f"no-reply@{mail_host}",
            "logging.format": lambda: "json" if env == "production" else "console",
            "logging.dir": lambda: self.root / "instance/logs" if env == "development" else None,
        }
        for name, value in derived.items():
            if not self.is_set(name):
                self.values[tuple(name.split("."))] = value()

    def _local_url(self) -> str:
        host = self.get("app.host") or "127.0.0.1"
        return kinds.local_url(host, self.get("app.port") or 8080)


class Config:
    """The configuration of one application: typed sections, read once, never changed.

    An application's own section is a mapping: `config["shop"]["currency"]`.
    """

    app: AppSection
    database: DatabaseSection
    redis: RedisSection
    auth: AuthSection
    ratelimit: RatelimitSection
    cors: CorsSection
    mail: MailSection
    storage: StorageSection
    jobs: JobsSection
    logging: LoggingSection
    health: HealthSection
    blueprints: list[str]
    models: list[str]
    root: Path
    """The project's folder, the one of wsgi.py."""

    def __init__(self, reading: Reading) -> None:
        if reading.mistakes:
            raise ConfigError(reading.mistakes, reading)
        members: dict[str, Any] = {
            name: cls(**{f.name: reading.values[name, f.name] for f in settings(cls)})
            for name, cls in SECTIONS.items()
        }
        members |= {name: reading.values[name,] for name in LISTS}
        vars(self).update(members, root=reading.root, _own=_freeze(reading.own), reading=reading)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("A configuration does not change; load another one.")

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        *,
        root: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Config:
        """Read all sources and judge what they say. Writes nothing, opens no connection.

        :param overrides: the program's own word, section to key to value; the strongest.
        :param root: the project's folder; None: GHOST_ROOT, or the nearest with a wsgi.py.
        :param environ: the environment variables; None: those of the process.
        :raises ConfigError: anything is wrong; it names everything that is.
        """
        return cls(Reading(overrides, root=root, environ=environ))

    @property
    def env(self) -> str:
        """`development`, `testing` or `production`."""
        return self.app.env

    @property
    def is_production(self) -> bool:
        return self.env == "production"

    @property
    def is_development(self) -> bool:
        return self.env == "development"

    @property
    def instance(self) -> Path:
        """The folder for what this installation keeps; may not exist yet."""
        return self.root / "instance"

    def __getitem__(self, name: str) -> Any:
        if name in SECTIONS or name in LISTS:
            return getattr(self, name)
        return self._own[name]

    def __contains__(self, name: object) -> bool:
        return name in SECTIONS or name in LISTS or name in self._own

    def get(self, name: str, default: Any = None) -> Any:
        """Return a section, or the default when nobody names it."""
        try:
            return self[name]
        except KeyError:
            return default

    def source(self, name: str) -> str:
        """Say where the value of `section.key` comes from, such as ".env DATABASE_URL".

        :raises KeyError: there is no such key.
        """
        return self.reading.origins[tuple(name.split("."))]

    def rows(self) -> Iterator[Row]:
        """List every key with its value and source, secrets masked."""
        return self.reading.rows()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in (*SECTIONS, *LISTS))
        return f"Config(root={str(self.root)!r}, {shown})"

    _own: Mapping[str, Any]
    reading: Reading
    """What the sources said, for `flask config show`."""


_lock = threading.Lock()
_current: list[Config] = []


def set_config(config: Config) -> None:
    """Make this the configuration of the process; the newest wins."""
    with _lock:
        _current[:] = [config]


def get_config() -> Config:
    """Return the configuration of the process.

    :raises RuntimeError: none was loaded yet.
    """
    if not _current:
        raise RuntimeError(
            "No configuration was loaded yet: call create_app(), or set_config(Config.load())."
        )
    return _current[0]


def current_config() -> Config:
    """Return the configuration of the current application, else that of the process."""
    if has_app_context() and "ghost" in current_app.extensions:
        config: Config = current_app.extensions["ghost"].config
        return config
    return get_config()


def _label(path: Key, word: Word) -> str:
    return f"{printable('.'.join(map(str, path)))} ({word.source})"


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({name: _freeze(item) for name, item in value.items()})
    return value


def _mask_own(name: object, value: object) -> object:
    if isinstance(value, dict):
        return {inner: _mask_own(inner, item) for inner, item in value.items()}
    if _SECRET_NAME.search(str(name)):
        return "***"
    if isinstance(value, list):
        return [_mask_own("", item) for item in value]
    return mask_url(value) if isinstance(value, str) else value


def _find_contradictions(reading: Reading) -> Iterator[str]:
    """List the values that are right alone and wrong together."""
    algorithm = reading.get("auth.jwt_algorithm")
    if algorithm not in (None, "HS256"):
        for name, expected in _find_key_mistakes(reading, algorithm):
            yield f"{reading.label(name)}: expected {expected}"
    backoff, longest = reading.get("jobs.backoff"), reading.get("jobs.backoff_max")
    if backoff is not None and longest is not None and backoff > longest:
        yield f"{reading.label('jobs.backoff_max')}: expected at least jobs.backoff ({backoff:g})"


def _find_key_mistakes(reading: Reading, algorithm: str) -> Iterator[tuple[str, str]]:
    private, public = reading.get("auth.jwt_private_key"), reading.get("auth.jwt_public_keys")
    if private is None and reading.is_right("auth.jwt_private_key"):
        yield "auth.jwt_private_key", f"a private key, {algorithm} signs with it"
    if public == {}:
        yield "auth.jwt_public_keys", f"a public key by its id, {algorithm} verifies with it"
    if not private or not public:
        return
    method = jwt.get_algorithm_by_name(algorithm)
    halves = []
    for name, pem in [("", private), *public.items()]:
        try:
            prepared = method.prepare_key(pem)
        except Exception:  # PyJWT and cryptography raise a dozen kinds for a bad key
            key_name = "auth.jwt_public_keys" if name else "auth.jwt_private_key"
            yield key_name, f"a key for {algorithm}{name and f' as {name}'}"
            continue
        halves.append(prepared if name else prepared.public_key())
    if len(halves) == len(public) + 1 and halves[0] not in halves[1:]:
        yield "auth.jwt_public_keys", "the public half of auth.jwt_private_key among them"


def _find_refusals(reading: Reading, *, is_debug: bool) -> Iterator[str]:
    """List everything that is unsafe in production, without repeating a value."""
    for name, reason in [*_find_weak_secrets(reading), *_find_unsafe_settings(reading)]:
        yield f"{reading.label(name)}: in production it must {reason}"
    if is_debug:
        yield "FLASK_DEBUG: in production it must be off"


def _find_unsafe_settings(reading: Reading) -> Iterator[tuple[str, str]]:
    if not reading.is_set("app.public_url"):
        yield "app.public_url", "be set, to an https:// address"
    elif _is_plain(reading.get("app.public_url")):
        yield "app.public_url", "be https://, or cookies would not be Secure"
    if reading.get("app.trusted_hosts") == [] and reading.is_set("app.trusted_hosts"):
        yield "app.trusted_hosts", "name the hosts that are answered, or be left out"
    is_sqlite = str(reading.get("database.url")).startswith("sqlite")
    if is_sqlite and not reading.get("database.allow_sqlite"):
        yield "database.url", "not be SQLite, unless database.allow_sqlite is true"
    if reading.get("redis.url") is None and reading.is_right("redis.url"):
        yield "redis.url", "be set (REDIS_URL)"
    for name, cure in (("mail.url", " (set MAIL_URL)"), ("mail.fallback_url", "")):
        if reading.get(name) in ("console://", "memory://"):  # nobody would get the mails
            yield name, f"not be {reading.get(name)}{cure}"
        if _sends_password_in_clear(reading.get(name)):
            yield name, "be smtps:// or have ?tls=starttls to carry a password"
    if (reading.get("auth.bcrypt_rounds") or 12) < 12:
        yield "auth.bcrypt_rounds", "be at least 12"
    for name in ("auth.verify_link", "auth.reset_link", "auth.invite_link"):
        if _is_plain(reading.get(name)):
            yield name, "be https://"


def _find_weak_secrets(reading: Reading) -> Iterator[tuple[str, str]]:
    variables = {"app.secret_key": "SECRET_KEY"}
    if reading.get("auth.jwt_algorithm") == "HS256":
        variables |= {"auth.jwt_secret_key": "JWT_SECRET_KEY"}
    for name, variable in variables.items():
        if reading.get(name) is None and reading.is_right(name):
            yield name, f"be set ({variable})"
    names = ("app.secret_key", "auth.jwt_secret_key", "health.token")
    secrets = [(name, reading.get(name)) for name in names if reading.get(name)]
    previous = "auth.jwt_previous_secret_keys"
    secrets += [(previous, secret) for secret in reading.get(previous) or []]
    seen: set[str] = set()
    for name, secret in secrets:
        if _is_example(secret):
            yield name, "not be a known example; make one: openssl rand -hex 32"
        elif len(secret.encode()) < 32:
            yield name, "have at least 32 bytes; make one: openssl rand -hex 32"
        if secret in seen:
            yield name, "differ from every other secret"
        seen.add(secret)


def _is_example(secret: str) -> bool:
    # Little is left of an example, however often it is repeated or decorated.
    rest = secret.lower()
    for example in sorted(_KNOWN_EXAMPLES, key=len, reverse=True):
        rest = rest.replace(example, "")
    return len(rest) < len(secret) / 2 or len(set(secret)) < 8


def _is_plain(url: str | None) -> bool:
    return bool(url) and str(url).startswith("http://") and not is_loopback(str(url))


def _sends_password_in_clear(url: str | None) -> bool:
    parts = urlsplit(url or "")
    has_user = parts.username is not None or parts.password is not None
    return parts.scheme == "smtp" and has_user and parse_qs(parts.query).get("tls") != ["starttls"]

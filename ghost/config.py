# ruff: noqa: RUF009 - `key` only declares a field, and copies a mutable default.
"""The configuration: typed sections, their defaults, and what production refuses."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import jwt
from flask import current_app, has_app_context
from flask.cli import NoAppException

from ghost import config_values as kinds
from ghost.config_sources import Key, Names, Sources, Word, find_root
from ghost.config_values import Kind, Mismatch, describe, is_loopback, mask_url, public_host

DAY = 86400
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


def key(default: Any, kind: Kind, meaning: str, *, shown: str = "") -> Any:
    """Declare a setting.

    :param default: None too when it follows from other settings; `shown` then says how.
    :param meaning: one line for the documentation.
    """
    metadata = {"kind": kind, "meaning": meaning, "shown": shown, "default": default}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


class Section:
    """A part of the configuration; its text form hides secrets."""

    title: ClassVar[str]

    def __repr__(self) -> str:
        shown = (
            f"{f.name}={f.metadata['kind'].mask(getattr(self, f.name))!r}" for f in settings(self)
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def settings(section: Section | type[Section]) -> tuple[Field[Any], ...]:
    """List a section's keys; each one's metadata holds its kind, default and meaning."""
    return fields(section)  # type: ignore[arg-type]


_secret = kinds.OrNone(kinds.Secret())
_rate = kinds.Rate()
_dotted = kinds.Pattern(kinds.DOTTED, "a dotted name like orders.views:bp")
_seconds = kinds.Integer(1, 10 * 365 * DAY, "seconds")


@dataclass(frozen=True, kw_only=True, repr=False)
class AppSection(Section):
    """The application as a whole and the address it is reached at."""

    name: str = key("Ghost", kinds.Text(longest=80), "The product's name, in mails and documents.")
    env: str = key(
        "development",
        kinds.Choice("development", "testing", "production"),
        "What the process is for; production refuses what is unsafe.",
    )
    secret_key: str | None = key(
        None,
        _secret,
        "Source of the keys for mailed links and the like. Made once in development.",
    )
    host: str = key("127.0.0.1", kinds.Host(), "Address that `make run` listens on.")
    port: int = key(8080, kinds.Integer(1, 65535), "Port that `make run` listens on.")
    public_url: str = key(
        None,
        kinds.WebUrl(),
        "Where people reach the application; links in mails start with it. Needed in production.",
        shown="`http://<host>:<port>` outside production",
    )
    trusted_proxies: int = key(
        0, kinds.Integer(0, 10), "How many reverse proxies stand in front and set X-Forwarded-For."
    )
    trusted_hosts: list[str] = key(
        None,
        kinds.Items(kinds.Host(domains=True)),
        "Host headers that are answered; `.example.com` takes all under it, an empty list any.",
        shown="the host of `public_url` when that is set, else any",
    )
    max_body: int = key(
        1024 * 1024, kinds.Integer(1024, 1024**3, "bytes"), "Largest request body, in bytes."
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class DatabaseSection(Section):
    """The database and its connections."""

    url: str = key(
        "sqlite:///instance/ghost.db",
        kinds.DatabaseUrl(),
        "`sqlite:///path` or `postgresql://user:password@host/name`.",
    )
    pool_size: int = key(10, kinds.Integer(1, 1000), "Connections kept open per process.")
    max_overflow: int = key(20, kinds.Integer(0, 1000), "Connections beyond `pool_size` at a peak.")
    pool_timeout: float = key(
        30.0, kinds.Number(0.1, 600, "seconds"), "Longest wait for a free connection, in seconds."
    )
    pool_recycle: int = key(3600, _seconds, "Age at which a connection is replaced, in seconds.")
    pool_pre_ping: bool = key(
        True, kinds.Flag(), "Whether a connection is tested when it is taken from the pool."
    )
    echo: bool = key(False, kinds.Flag(), "Whether every SQL statement is logged.")
    statement_timeout: float = key(
        4.0,
        kinds.Number(0.1, 3600, "seconds"),
        "Longest statement in a request, in seconds; then 503.",
    )
    job_statement_timeout: float = key(
        300.0, kinds.Number(0.1, DAY, "seconds"), "Longest statement in a job, in seconds."
    )
    allow_sqlite: bool = key(False, kinds.Flag(), "Whether production may run on SQLite.")


@dataclass(frozen=True, kw_only=True, repr=False)
class RedisSection(Section):
    """The Redis-protocol server that carries jobs and counters."""

    url: str | None = key(
        None,
        kinds.OrNone(kinds.RedisUrl()),
        "`redis://host:6379/0`, `rediss://...` or `unix:///path`. Needed in production.",
        shown="none; `make run` starts one",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class AuthSection(Section):
    """Accounts, sessions and tokens."""

    jwt_secret_key: str | None = key(
        None, _secret, "Key that signs access tokens with HS256. Made once in development."
    )
    jwt_previous_secret_keys: list[str] = key(
        [], kinds.Items(kinds.Secret()), "Earlier keys whose tokens are still accepted."
    )
    jwt_algorithm: str = key(
        "HS256",
        kinds.Choice("HS256", "RS256", "ES256", "EdDSA"),
        "How access tokens are signed; all but HS256 need the two keys below.",
    )
    jwt_private_key: str | None = key(
        None, kinds.OrNone(kinds.Pem("private")), "PEM of the key that signs."
    )
    jwt_public_keys: dict[str, str] = key(
        {}, kinds.Table(kinds.Pem("public")), "PEMs of the keys that verify, by key id (`kid`)."
    )
    access_token_expires: int = key(900, _seconds, "Life of an access token, in seconds.")
    refresh_token_expires: int = key(30 * DAY, _seconds, "Life of a session, in seconds.")
    refresh_grace: int = key(
        10,
        kinds.Integer(0, 300, "seconds"),
        "How long a used refresh token still gets the same answer, in seconds.",
    )
    bcrypt_rounds: int = key(
        12, kinds.Integer(4, 18), "Cost of a password hash; 12 is production's least."
    )
    password_min_length: int = key(8, kinds.Integer(8, 128), "Shortest password, in characters.")
    allow_registration: bool = key(True, kinds.Flag(), "Whether anybody may make an account.")
    require_verified_email: bool = key(
        False, kinds.Flag(), "Whether logging in needs a verified e-mail address."
    )
    throttle_failures: int = key(
        10, kinds.Integer(1, 100_000), "Wrong passwords per account before it has to wait."
    )
    throttle_window: int = key(900, _seconds, "Time in which they are counted, in seconds.")
    reset_token_expires: int = key(3600, _seconds, "Life of a password reset link, in seconds.")
    verification_token_expires: int = key(DAY, _seconds, "Life of a verification link, in seconds.")
    invitation_token_expires: int = key(7 * DAY, _seconds, "Life of an invitation, in seconds.")
    verify_link: str = key(
        "{public_url}/account/verify-email#token={token}",
        kinds.LinkTemplate(),
        "Page that a verification mail links to.",
    )
    reset_link: str = key(
        "{public_url}/account/reset-password#token={token}",
        kinds.LinkTemplate(),
        "Page that a password reset mail links to.",
    )
    invite_link: str = key(
        "{public_url}/account/reset-password#token={token}",
        kinds.LinkTemplate(),
        "Page that an invitation links to.",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class RatelimitSection(Section):
    """How often one caller may ask."""

    enabled: bool = key(True, kinds.Flag(), "Whether requests are counted at all.")
    default: str = key("300/minute", _rate, "Requests per caller.")
    auth: str = key(
        "10/minute", _rate, "Requests per source on register, login, forgot, reset, verify, resend."
    )
    refresh: str = key("60/minute", _rate, "Refreshes per session.")
    storage: str | None = key(
        None,
        kinds.OrNone(kinds.RedisUrl("memory", unix="redis+unix")),
        "Where the counters are kept: `redis://...`, `redis+unix:///path` or `memory://`.",
        shown="`redis.url`, else memory",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class CorsSection(Section):
    """Which websites may call the API from a browser."""

    origins: list[str] = key(
        [], kinds.Items(kinds.Origin()), "Exact origins, like `https://app.example.com`."
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class MailSection(Section):
    """How mail leaves the house."""

    url: str = key(
        "console://",
        kinds.MailUrl(),
        "`smtp://user:password@host:587?tls=starttls`, `smtps://...`, `file:///folder` "
        "or `console://`.",
    )
    sender: str = key(
        None,
        kinds.MailAddress(),
        "Address that mails come from, alone or as `Name <address>`.",
        shown="`no-reply@` and the host of `public_url`",
    )
    templates: Path | None = key(
        None,
        kinds.OrNone(kinds.Folder(existing=True)),
        "Folder whose mail templates replace Ghost's of the same name.",
    )
    timeout: float = key(
        10.0, kinds.Number(0.1, 300, "seconds"), "Longest wait for the mail server, in seconds."
    )
    max_attempts: int = key(5, kinds.Integer(1, 100), "How often one mail is tried.")


@dataclass(frozen=True, kw_only=True, repr=False)
class JobsSection(Section):
    """Work that is done after the answer."""

    queues: list[str] = key(
        ["high", "default", "low"],
        kinds.Items(kinds.Pattern(kinds.WORD, "a queue name of letters, digits, - and _"), least=1),
        "Queues, the most urgent first.",
    )
    timeout: int = key(300, kinds.Integer(1, DAY, "seconds"), "Longest run of a job, in seconds.")
    retention_finished: int = key(7 * DAY, _seconds, "How long finished jobs are kept, in seconds.")
    retention_failed: int = key(30 * DAY, _seconds, "How long failed jobs are kept, in seconds.")
    modules: list[str] = key(
        [], kinds.Items(_dotted), "Modules that define the application's jobs."
    )
    max_attempts: int = key(5, kinds.Integer(1, 100), "How often a failing job is tried.")
    backoff: float = key(
        1.0,
        kinds.Number(0, 3600, "seconds"),
        "Wait before the second try, in seconds; then doubling.",
    )
    backoff_max: float = key(
        600.0, kinds.Number(0, DAY, "seconds"), "Longest wait between two tries, in seconds."
    )
    sweep_interval: float = key(
        2.0,
        kinds.Number(0.05, 3600, "seconds"),
        "How often workers look for jobs that were not handed over, in seconds.",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class LoggingSection(Section):
    """What is logged, how and where."""

    level: str = key(
        "INFO",
        kinds.Choice("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", upper=True),
        "The least that is logged.",
    )
    format: str = key(
        None,
        kinds.Choice("console", "json"),
        "Lines for people or for machines.",
        shown="`json` in production, else `console`",
    )
    dir: Path | None = key(
        None,
        kinds.OrNone(kinds.Folder()),
        "Folder of the log files besides the standard output.",
        shown="`instance/logs` in development, else none",
    )
    redact: list[str] = key(
        [], kinds.Items(kinds.Text()), "Field names that are masked in logs besides Ghost's own."
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class HealthSection(Section):
    """What the health pages tell."""

    token: str | None = key(
        None, _secret, "Bearer token that opens the details of health and the metrics."
    )


SECTIONS: dict[str, type[Section]] = {
    "app": AppSection,
    "database": DatabaseSection,
    "redis": RedisSection,
    "auth": AuthSection,
    "ratelimit": RatelimitSection,
    "cors": CorsSection,
    "mail": MailSection,
    "jobs": JobsSection,
    "logging": LoggingSection,
    "health": HealthSection,
}

LISTS: dict[str, tuple[Kind, str]] = {
    "blueprints": (
        kinds.Items(_dotted),
        "Blueprints that the factory registers, as `module:name`.",
    ),
    "models": (kinds.Items(_dotted), "Modules whose models the factory loads."),
}
"""The keys that stand outside any section, with their kind and meaning."""

_NAMES = Names({name: [f.name for f in settings(cls)] for name, cls in SECTIONS.items()}, LISTS)
_KINDS: dict[Key, Kind] = {
    **{(name, f.name): f.metadata["kind"] for name, cls in SECTIONS.items() for f in settings(cls)},
    **{(name,): kind for name, (kind, _) in LISTS.items()},
}
_DEFAULTS: dict[Key, Any] = {
    **{
        (name, f.name): f.metadata["default"]
        for name, cls in SECTIONS.items()
        for f in settings(cls)
    },
    **{(name,): [] for name in LISTS},
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

    def rows(self) -> Iterator[Row]:
        """List every key with its value and source, secrets masked."""
        for path, origin in self.origins.items():
            name = ".".join(map(str, path))
            if path not in self.values:
                yield Row(name, "(wrong)", origin)
            elif path in _KINDS:
                yield Row(name, _KINDS[path].mask(self.values[path]), origin)
            else:
                yield Row(name, _mask_own(path[-1], self.values[path]), origin)

    def _read_settings(self, sources: Sources) -> None:
        for path, kind in _KINDS.items():
            word = sources.find_word(path)
            if word is None:
                default = _DEFAULTS[path]
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
        derived: dict[str, Callable[[], Any]] = {
            "app.trusted_hosts": lambda: [public_host(public_url)] if public_url else [],
            "app.public_url": lambda: None if env == "production" else self._local_url(),
            "mail.sender": lambda: f"no-reply@{public_host(public_url or '') or 'localhost'}",
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
    return f"{'.'.join(map(str, path))} ({word.source})"


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
        yield from _find_key_mistakes(reading, algorithm)
    backoff, longest = reading.get("jobs.backoff"), reading.get("jobs.backoff_max")
    if backoff is not None and longest is not None and backoff > longest:
        yield f"jobs.backoff_max: expected at least jobs.backoff ({backoff:g})"


def _find_key_mistakes(reading: Reading, algorithm: str) -> Iterator[str]:
    private, public = reading.get("auth.jwt_private_key"), reading.get("auth.jwt_public_keys")
    if ("auth", "jwt_private_key") in reading.values and private is None:
        yield f"auth.jwt_private_key: expected a private key, {algorithm} signs with it"
    if public == {}:
        yield f"auth.jwt_public_keys: expected a public key by its id, {algorithm} verifies with it"
    if not private or not public:
        return
    method = jwt.get_algorithm_by_name(algorithm)
    verifying = []
    for name, pem in {"jwt_private_key": private, **public}.items():
        try:
            prepared = method.prepare_key(pem)
        except Exception:  # PyJWT and cryptography raise a dozen kinds for a bad key
            place = name if pem is private else f"jwt_public_keys.{name}"
            yield f"auth.{place}: expected a key for {algorithm}"
            continue
        verifying.append(prepared.public_key() if pem is private else prepared)
    if len(verifying) == len(public) + 1 and verifying[0] not in verifying[1:]:
        yield "auth.jwt_public_keys: expected the public half of auth.jwt_private_key among them"


def _find_refusals(reading: Reading, *, is_debug: bool) -> Iterator[str]:
    """List everything that is unsafe in production, without repeating a value."""
    yield from (f"{reason} (in production)" for reason in _find_weak_secrets(reading))
    refusals = {
        "FLASK_DEBUG: debug must be off": is_debug,
        "app.public_url: must be set, to an https:// address": reading.origins["app", "public_url"]
        == "default",
        "app.public_url: must be https://, or cookies would not be Secure": _is_plain(
            reading.get("app.public_url")
        ),
        "database.url: SQLite needs database.allow_sqlite: true": str(
            reading.get("database.url")
        ).startswith("sqlite")
        and not reading.get("database.allow_sqlite"),
        "redis.url: must be set (REDIS_URL)": ("redis", "url") in reading.values
        and not reading.get("redis.url"),
        "mail.url: must not be console:// (set MAIL_URL)": reading.get("mail.url") == "console://",
        "mail.url: must not be memory:// (set MAIL_URL)": reading.get("mail.url") == "memory://",
        "mail.url: a password needs smtps:// or ?tls=starttls": _sends_password_in_clear(
            reading.get("mail.url")
        ),
        "auth.bcrypt_rounds: must be at least 12": (reading.get("auth.bcrypt_rounds") or 12) < 12,
    }
    for name in ("verify_link", "reset_link", "invite_link"):
        refusals[f"auth.{name}: must be https://"] = _is_plain(reading.get(f"auth.{name}"))
    yield from (f"{reason} (in production)" for reason, is_met in refusals.items() if is_met)


def _find_weak_secrets(reading: Reading) -> Iterator[str]:
    signs_with_secret = reading.get("auth.jwt_algorithm") == "HS256"
    needed = {"app.secret_key": "SECRET_KEY"}
    needed |= {"auth.jwt_secret_key": "JWT_SECRET_KEY"} if signs_with_secret else {}
    seen: set[str] = set()
    for name in ("app.secret_key", "auth.jwt_secret_key", "health.token"):
        secret = reading.get(name)
        if secret is None:
            if name in needed and tuple(name.split(".")) in reading.values:
                yield f"{name}: must be set ({needed[name]})"
            continue
        yield from _find_weakness(name, secret, seen)
    for secret in reading.get("auth.jwt_previous_secret_keys") or []:
        yield from _find_weakness("auth.jwt_previous_secret_keys", secret, seen)


def _find_weakness(name: str, secret: str, seen: set[str]) -> Iterator[str]:
    plain = secret.lower()
    for example in sorted(_KNOWN_EXAMPLES, key=len, reverse=True):
        plain = plain.replace(example, "")
    # Little is left of an example, however often it is repeated or decorated.
    if len(plain) < len(secret) / 2 or len(set(secret)) < 8:
        yield f"{name}: must not be a known example; make one: openssl rand -hex 32"
    elif len(secret.encode()) < 32:
        yield f"{name}: must have at least 32 bytes; make one: openssl rand -hex 32"
    if secret in seen:
        yield f"{name}: must differ from every other secret"
    seen.add(secret)


def _is_plain(url: str | None) -> bool:
    return bool(url) and str(url).startswith("http://") and not is_loopback(str(url))


def _sends_password_in_clear(url: str | None) -> bool:
    parts = urlsplit(url or "")
    has_user = parts.username is not None or parts.password is not None
    encrypts = "starttls" in parse_qs(parts.query).get("tls", [])
    return parts.scheme == "smtp" and has_user and not encrypts

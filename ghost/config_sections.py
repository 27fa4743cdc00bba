# ruff: noqa: RUF009 - `key` only declares a field, and copies a mutable default.
"""Every section of the configuration with its keys, their defaults and meanings."""

from __future__ import annotations

import re
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from ghost import config_values as kinds
from ghost.config_schedules import ScheduleSetting
from ghost.config_storage import ALLOWED_TYPES, VariantSetting
from ghost.config_values import Kind

DAY = 86400


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
        "Source of the keys for mailed links and the like. Needed in production.",
        shown="made once in development",
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
        "Host headers that are answered; `.example.com` takes all under it, an empty list any, but "
        "not in production.",
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
        None,
        _secret,
        "Key that signs access tokens with HS256. Needed in production.",
        shown="made once in development",
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
    max_sessions: int = key(
        100,
        kinds.Integer(1, 10_000),
        "Sessions that an account may have; a log-in ends those longest unused beyond it.",
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
        "`smtp://user:password@host:587?tls=starttls`, `smtps://...`, `ses://region`, "
        "`sendgrid://key@`, `file:///folder` or `console://`.",
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
    fallback_url: str | None = key(
        None,
        kinds.OrNone(kinds.MailUrl()),
        "A second way out, tried when that of `url` takes no mail at all.",
    )
    rate: float | None = key(
        None,
        kinds.OrNone(kinds.Number(0.01, 100_000, "messages/s")),
        "Mails of batches that leave in a second, over all workers; no limit when none.",
    )
    send_limit: str = key("60/minute", _rate, "Requests to send, per caller.")
    max_recipients: int = key(50, kinds.Integer(1, 1000), "Recipients of one mail.")
    max_batch: int = key(10_000, kinds.Integer(1, 100_000), "Recipients of one batch.")
    max_size: int = key(
        10 * 1024 * 1024,
        kinds.Integer(1024, 100 * 1024 * 1024, "bytes"),
        "Largest mail with its files, before they are encoded, in bytes.",
    )
    max_attachments: int = key(20, kinds.Integer(0, 1000), "Files in one mail.")
    retention: int = key(
        30 * DAY, _seconds, "How long mails are kept after anything happened to them, in seconds."
    )
    ses_topic: str | None = key(
        None,
        kinds.OrNone(
            kinds.Pattern(
                re.compile(
                    r"arn:aws(-cn|-us-gov)?:sns:[a-z]{2}(-[a-z]+)+-[0-9]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}"
                ),
                "the ARN of an SNS topic",
            )
        ),
        "ARN of the SNS topic whose events of SES are believed.",
    )
    sendgrid_webhook_key: str | None = key(
        None,
        kinds.OrNone(
            kinds.Pattern(
                # How the DER of every public key of the curve P-256 begins, and how long it is.
                re.compile(r"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE[A-Za-z0-9+/]{86}=="),
                "the verification key of SendGrid's signed event webhook",
            )
        ),
        "Public key, in Base64, that verifies events of SendGrid.",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class StorageSection(Section):
    """Files: where they lie, and what is taken."""

    url: str = key(
        "file://instance/uploads",
        kinds.StorageUrl(),
        "`file:///folder`, `s3://bucket/prefix?endpoint=&region=`, `az://container/prefix` or "
        "`gs://bucket/prefix`; all but the first with `key:secret@` before the bucket, or without.",
    )
    max_file_size: int = key(
        50 * 1024 * 1024, kinds.Integer(1024, 1024**4, "bytes"), "Largest file, in bytes."
    )
    quota_per_user: int | None = key(
        1024**3,
        kinds.OrNone(kinds.Integer(1024, 1024**5, "bytes")),
        "Bytes that the files of one account may have together; no limit when none.",
    )
    allowed_types: list[str] = key(
        list(ALLOWED_TYPES),
        kinds.Items(kinds.MediaType()),
        "Types of content that are taken, `image/*` for all of a kind; "
        "`application/octet-stream` is what Ghost does not know.",
        shown="common images, documents, archives, texts, audio and video; see docs/files.md",
    )
    max_image_pixels: int = key(
        50_000_000, kinds.Integer(1, 1_000_000_000), "Pixels that an image may have."
    )
    max_image_frames: int = key(500, kinds.Integer(1, 100_000), "Frames that an image may have.")
    strip_metadata: bool = key(
        True, kinds.Flag(), "Whether places, cameras and texts are taken off images."
    )
    variants: dict[str, VariantSetting] = key(
        {},
        kinds.Variants(),
        "Smaller copies of images by name, besides Ghost's: `width`, `height`, `fit` (`inside` or "
        "`cover`), `quality`; a number alone is both.",
        shown="`thumb` 128 x 128 cover; `small` 320, `medium` 800, `large` 1600 inside",
    )
    variant_types: list[str] = key(
        ["image/webp", "image/jpeg"],
        kinds.Items(kinds.Choice("image/avif", "image/webp", "image/jpeg"), least=1),
        "As what variants are made, the one that is preferred first; the last one goes to whoever "
        "names none of them.",
    )
    max_inline_pixels: int = key(
        16_000_000,
        kinds.Integer(1, 1_000_000_000),
        "Pixels of an image that is worked on while its request waits, half of it for all but "
        "JPEG; variants of larger ones are made by a worker, and their metadata is taken off by a "
        "process of its own.",
    )
    max_avatar_size: int = key(
        5 * 1024 * 1024, kinds.Integer(1024, 1024**3, "bytes"), "Largest avatar, in bytes."
    )
    signed_redirect: bool = key(
        False,
        kinds.Flag(),
        "Whether downloads from an object store are redirected to it, instead of passed through.",
    )
    accel_redirect: str | None = key(
        None,
        kinds.OrNone(
            kinds.Pattern(
                re.compile(r"/(?:[A-Za-z0-9_.-]+/)+"), "a path like /_files/, with a slash around"
            )
        ),
        "Internal location of nginx from which it serves the folder, like `/_files/`.",
    )
    timeout: float = key(
        10.0,
        kinds.Number(0.1, 300, "seconds"),
        "Longest wait for an object store's next bytes, in seconds.",
    )
    keep_deleted: int = key(
        DAY,
        kinds.Integer(0, 10 * 365 * DAY, "seconds"),
        "How long the bytes of a deleted file are kept, in seconds.",
    )
    upload_expiry: int = key(
        DAY, _seconds, "How long a resumable upload may take to be finished, in seconds."
    )
    max_uploads: int = key(
        20, kinds.Integer(1, 10_000), "Resumable uploads that one account may have unfinished."
    )
    upload_limit: str = key("120/minute", _rate, "Uploads per caller.")
    piece_limit: str = key(
        "1200/minute", _rate, "Requests per caller that go on with resumable uploads."
    )
    download_limit: str = key(
        "1200/minute", _rate, "Downloads per caller, or source where nobody is logged in."
    )


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
    max_kills: int = key(
        3,
        kinds.Integer(1, 100),
        "A job whose process died so often is put aside, however many attempts it has left.",
    )
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
    processes: int = key(
        2, kinds.Integer(1, 64), "How many jobs one `flask worker` runs at the same time."
    )
    recycle_after: int = key(
        1000,
        kinds.Integer(1, 1_000_000),
        "Jobs after which a process of a worker makes room for a new one.",
    )
    stop_timeout: float = key(
        30.0,
        kinds.Number(0, DAY, "seconds"),
        "How long a worker that is stopped waits for its jobs before it gives them back,"
        " in seconds.",
    )
    max_wait: float = key(
        300.0,
        kinds.Number(1, 30 * DAY, "seconds"),
        "Wait of a queue's oldest job from which on its health is `degraded`, in seconds.",
    )
    schedules: dict[str, ScheduleSetting] = key(
        {},
        kinds.Table(
            kinds.ScheduleEntry(),
            name=kinds.DOTTED_WORD,
            names="names like nightly or orders.close_stale",
        ),
        "Jobs on the clock by name: `job`, `cron` or `every` (seconds), `timezone`, `missed`, "
        "`args`.",
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
    "storage": StorageSection,
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

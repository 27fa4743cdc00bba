"""What a mail URL says about a server or an account, and which of them cannot be used."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ghost.network import ascii_domain, is_this_machine


@dataclass(frozen=True)
class SmtpServer:
    """A mail server and how to talk to it.

    :param tls: "implicit", "starttls" or "none"; never less than what it says.
    :param ca: file of the only certificate authorities to trust; the system's when None.
    """

    host: str
    port: int
    tls: str
    username: str = ""
    password: str = field(default="", repr=False)
    ca: Path | None = None


def read_smtp_url(parts: SplitResult, root: Path) -> SmtpServer:
    """Read `smtp://user:password@host:587?tls=starttls&ca=file` or `smtps://...`; opens nothing.

    :param root: what a relative path of `ca` starts from.
    :raises ValueError: this can't work, or would send a password in clear; the text says what is
        expected and shows no password.
    """
    if not parts.hostname:
        raise ValueError("a host, as in smtp://mail.example.org:587")
    if parts.path not in ("", "/") or parts.fragment:
        raise ValueError("a URL that ends with its host and options, without a path")
    host = _host(parts.hostname)
    options = _options(parts)
    if parts.scheme == "smtps":
        tls = "implicit"
    else:
        # Whoever forgets the option gets encryption, not its absence.
        tls = options.get("tls", "none" if is_this_machine(host) else "starttls")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(username) != bool(password):
        raise ValueError("both a user and a password, or neither")
    if username and tls == "none" and not is_this_machine(host):
        raise ValueError("smtps:// or ?tls=starttls: a password is not sent without encryption")
    return SmtpServer(
        host=host,
        port=parts.port or {"implicit": 465, "starttls": 587, "none": 25}[tls],
        tls=tls,
        username=username,
        password=password,
        ca=_authorities(root / options["ca"]) if "ca" in options else None,
    )


def _host(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return ascii_domain(name)
    except ValueError:
        raise ValueError("a host name or an address after smtp://") from None


def _options(parts: SplitResult) -> dict[str, str]:
    modes = ("starttls", "none") if parts.scheme == "smtp" else ()
    expected = (
        "no options but ?tls=starttls or ?tls=none, of smtp://, and ?ca= with the file of a"
        " private certificate authority"
    )
    options = _read_options(parts, ("tls", "ca"), expected)
    if "tls" in options and options["tls"] not in modes:
        raise ValueError(expected)
    return options


def _read_options(parts: SplitResult, names: Collection[str], expected: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(expected) from None
    options = dict(pairs)
    if len(options) != len(pairs) or not options.keys() <= set(names):
        raise ValueError(expected)
    return options


def _authorities(path: Path) -> Path:
    """Check that a file holds certificate authorities, or no mail would ever leave."""
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ValueError):  # SSLError is an OSError
        raise ValueError("a file with certificates behind ?ca=") from None
    return path


# --- SES and SendGrid -----------------------------------------------------------------------------

SENDGRID_HOST = "api.sendgrid.com"
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d\Z")
_CONFIGURATION_SET = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_API_KEY = re.compile(r"[A-Za-z0-9._-]{1,200}\Z")


@dataclass(frozen=True)
class SesAccount:
    """An account of Amazon SES.

    :param key: id of the access key; AWS's usual chain of places decides when it is empty.
    :param endpoint: another address than Amazon's, on this machine; for tests.
    """

    region: str
    key: str = ""
    secret: str = field(default="", repr=False)
    configuration_set: str | None = None
    endpoint: str | None = None


@dataclass(frozen=True)
class SendGridAccount:
    """An account of SendGrid.

    :param endpoint: another address than `https://<host>`, on this machine; for tests.
    """

    api_key: str = field(repr=False)
    host: str = SENDGRID_HOST
    endpoint: str | None = None


def read_ses_url(parts: SplitResult) -> SesAccount:
    """Read `ses://KEY:SECRET@eu-west-1?configuration_set=name` or `ses://eu-west-1`.

    :raises ValueError: the text says what is expected and shows no secret.
    """
    if importlib.util.find_spec("boto3") is None:
        raise ValueError("boto3 for ses://, which `pip install ghost[ses]` brings")
    if not _REGION.match(parts.hostname or "") or parts.port or parts.path not in ("", "/"):
        raise ValueError("a region, as in ses://eu-west-1, and a / of the secret written as %2F")
    options = _known_options(parts, "configuration_set", "endpoint")
    key, secret = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(key) != bool(secret):
        raise ValueError("both an access key and its secret, or neither")
    configuration_set = options.get("configuration_set")
    if configuration_set is not None and not _CONFIGURATION_SET.match(configuration_set):
        raise ValueError("the name of a configuration set behind configuration_set=")
    return SesAccount(
        region=parts.hostname or "",
        key=key,
        secret=secret,
        configuration_set=configuration_set,
        endpoint=_endpoint(options),
    )


def read_sendgrid_url(parts: SplitResult) -> SendGridAccount:
    """Read `sendgrid://API_KEY@` or `sendgrid://API_KEY@api.eu.sendgrid.com`.

    :raises ValueError: the text says what is expected and shows no key.
    """
    expected = "an API key and an @ behind it, as in sendgrid://SG.abc@"
    api_key = unquote(parts.username or "")
    if not _API_KEY.match(api_key) or parts.password or parts.path not in ("", "/"):
        raise ValueError(expected)
    host = parts.hostname or SENDGRID_HOST
    if parts.port or not (host == SENDGRID_HOST or host.endswith(f".{SENDGRID_HOST[4:]}")):
        # The key would go to whoever is there.
        raise ValueError("a host of sendgrid.com, as api.eu.sendgrid.com, or none")
    return SendGridAccount(api_key, _host(host), _endpoint(_known_options(parts, "endpoint")))


def _known_options(parts: SplitResult, *names: str) -> dict[str, str]:
    expected = f"no options but {' and '.join(f'?{name}=' for name in names)}"
    if parts.fragment:
        raise ValueError(expected)
    return _read_options(parts, names, expected)


def _endpoint(options: dict[str, str]) -> str | None:
    """The address of a stand-in; never another machine, which would get the key."""
    if "endpoint" not in options:
        return None
    expected = "an http:// or https:// address of this machine behind endpoint=, with a port"
    try:
        parts = urlsplit(options["endpoint"])
        port = parts.port
    except ValueError:
        raise ValueError(expected) from None
    is_local = parts.scheme in ("http", "https") and is_this_machine(parts.hostname or "")
    if not is_local or not port or "@" in parts.netloc or parts.path.strip("/") or parts.query:
        raise ValueError(expected)
    return f"{parts.scheme}://{parts.netloc}"

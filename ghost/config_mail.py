"""What a mail URL says about an SMTP server, and which servers cannot be used."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote

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
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(expected) from None
    options = dict(pairs)
    if len(options) != len(pairs) or not set(options) <= {"tls", "ca"}:
        raise ValueError(expected)
    if "tls" in options and options["tls"] not in modes:
        raise ValueError(expected)
    return options


def _authorities(path: Path) -> Path:
    """Check that a file holds certificate authorities, or no mail would ever leave."""
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ValueError):  # SSLError is an OSError
        raise ValueError("a file with certificates behind ?ca=") from None
    return path

"""The ways out for mail, behind one interface; `mail.url` says which one is taken."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ghost.config import Config
from ghost.config_mail import read_smtp_url
from ghost.mail.providers.base import Delivery, NotSent, Provider, Unreachable
from ghost.mail.providers.local import ConsoleProvider, FileProvider, MemoryProvider, outbox
from ghost.mail.providers.smtp import SmtpProvider

__all__ = [
    "Delivery",
    "NotSent",
    "Provider",
    "Unreachable",
    "open_provider",
    "outbox",
    "provider_for",
]


def open_provider(config: Config) -> Provider:
    """Make the provider that the settings ask for, to be used in a `with` statement.

    It connects with the first message, and one connection serves all messages of the `with`.
    """
    return provider_for(config.mail.url, root=config.root, timeout_seconds=config.mail.timeout)


def provider_for(url: str, *, root: Path, timeout_seconds: float) -> Provider:
    """Make the provider that a mail URL asks for; opens and writes nothing.

    :param root: what relative paths in the URL start from.
    :param timeout_seconds: for connecting, and again for each answer of an SMTP server.
    :raises ValueError: the URL is wrong; the message says why and shows no password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError("mail.url is not a URL") from error
    if parts.scheme in ("smtp", "smtps"):
        try:
            server = read_smtp_url(parts, root)
        except ValueError as error:
            raise ValueError(f"mail.url: expected {error}") from error
        return SmtpProvider(server, timeout_seconds=timeout_seconds)
    if parts.query:
        raise ValueError(f"mail.url: {parts.scheme}:// takes no options")
    if parts.scheme == "file":
        path = unquote(parts.netloc + parts.path)
        if not path.strip("/"):
            raise ValueError("mail.url: name the folder, as in file:///var/spool/ghost-mail")
        return FileProvider(root / path)
    if parts.scheme == "console":
        return ConsoleProvider()
    if parts.scheme == "memory":
        return MemoryProvider()
    raise ValueError(
        f"mail.url: unknown scheme {parts.scheme!r}; expected smtp, smtps, file, console or memory"
    )

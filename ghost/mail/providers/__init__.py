"""The ways out for mail, behind one interface; `mail.url` says which one is taken."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from ghost.config import Config
from ghost.config_mail import read_sendgrid_url, read_ses_url, read_smtp_url
from ghost.mail.providers.base import Delivery, NotSent, Provider, Refused, Unreachable
from ghost.mail.providers.failover import FailoverProvider
from ghost.mail.providers.local import ConsoleProvider, FileProvider, MemoryProvider, outbox
from ghost.mail.providers.smtp import SmtpProvider

__all__ = [
    "Delivery",
    "NotSent",
    "Provider",
    "Refused",
    "Unreachable",
    "open_provider",
    "outbox",
    "provider_for",
]


def open_provider(config: Config) -> Provider:
    """Make the provider that the settings ask for, to be used in a `with` statement.

    It connects with the first message, and one connection serves all messages of the `with`.
    With `mail.fallback_url`, a second provider takes what the first takes nothing of.
    """
    settings = config.mail
    first = provider_for(settings.url, root=config.root, timeout_seconds=settings.timeout)
    if settings.fallback_url is None:
        return first
    second = provider_for(
        settings.fallback_url,
        root=config.root,
        timeout_seconds=settings.timeout,
        setting="mail.fallback_url",
    )
    return FailoverProvider(first, second, key=settings.url)


def provider_for(
    url: str, *, root: Path, timeout_seconds: float, setting: str = "mail.url"
) -> Provider:
    """Make the provider that a mail URL asks for; opens and writes nothing.

    :param root: what relative paths in the URL start from.
    :param timeout_seconds: for connecting, and again for each answer of a server.
    :param setting: what an error names.
    :raises ValueError: the URL is wrong; the message says why and shows no password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{setting} is not a URL") from error
    try:
        return _provider_for(parts, root, timeout_seconds)
    except ValueError as error:
        raise ValueError(f"{setting}: expected {error}") from error


def _provider_for(parts: SplitResult, root: Path, timeout_seconds: float) -> Provider:
    if parts.scheme in ("smtp", "smtps"):
        return SmtpProvider(read_smtp_url(parts, root), timeout_seconds=timeout_seconds)
    if parts.scheme == "ses":
        ses_account = read_ses_url(parts)  # which sees that boto3 is there
        return _load("ses", "SesProvider")(ses_account, timeout_seconds=timeout_seconds)
    if parts.scheme == "sendgrid":
        account = read_sendgrid_url(parts)
        return _load("sendgrid", "SendGridProvider")(account, timeout_seconds=timeout_seconds)
    if parts.query:
        raise ValueError(f"no options behind {parts.scheme}://")
    if parts.scheme == "file":
        path = unquote(parts.netloc + parts.path)
        if not path.strip("/"):
            raise ValueError("the name of a folder, as in file:///var/spool/ghost-mail")
        return FileProvider(root / path)
    if parts.scheme == "console":
        return ConsoleProvider()
    if parts.scheme == "memory":
        return MemoryProvider()
    raise ValueError(
        f"smtp, smtps, ses, sendgrid, file, console or memory, not the scheme {parts.scheme!r}"
    )


def _load(module: str, name: str) -> Callable[..., Provider]:
    """A provider whose libraries take long to import, and which few use."""
    loaded = importlib.import_module(f"ghost.mail.providers.{module}")
    provider: Callable[..., Provider] = getattr(loaded, name)
    return provider

"""Hand messages to an SMTP server, with a limit on every wait."""

from __future__ import annotations

import math
import smtplib
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import flask_mail
from flask import current_app

from ghost.config_mail import SmtpServer
from ghost.extensions import mail
from ghost.jobs import Permanent
from ghost.mail.messages import Message
from ghost.mail.providers.base import Closing, Delivery, NotSent, printable
from ghost.network import ascii_domain, is_this_machine

# The whole of one delivery may take this many times the limit of a single step.
OVERALL_FACTOR = 4
MAX_WORDS_OF_SERVER = 300


@dataclass(frozen=True)
class SmtpProvider(Closing, SmtpServer):
    """Hand messages to an SMTP server through Flask-Mail.

    :param timeout_seconds: for connecting, and for each answer; four times this for the whole.
    """

    timeout_seconds: float = 10.0
    name = "smtp"

    def send(self, message: Message) -> Delivery:
        state = mail.init_mail(
            {
                "MAIL_SERVER": self.host,
                "MAIL_PORT": self.port,
                "MAIL_USERNAME": self.username or None,
                "MAIL_PASSWORD": self.password or None,
                "MAIL_USE_SSL": self.tls == "implicit",
                "MAIL_USE_TLS": self.tls == "starttls",
                "MAIL_DEFAULT_SENDER": str(message.sender_address),
            }
        )
        try:
            with Connection(state, ca=self.ca, timeout_seconds=self.timeout_seconds) as connection:
                refused = connection.deliver(message)
        except smtplib.SMTPException as error:
            raise _failure(error) from error
        except OSError as error:
            raise NotSent(f"the mail server {self.host}:{self.port} failed: {error}") from error
        accepted = tuple(address for address in message.destinations if address not in refused)
        return Delivery(accepted, refused, provider=self.name)


class Connection(flask_mail.Connection):
    """Flask-Mail's connection with what it lacks.

    A limit on every wait and on the whole, certificates that are checked, no sending of a
    password or a mail below the wanted encryption, and an eye for partial refusals.
    """

    def __init__(self, state: Any, *, ca: Path | None, timeout_seconds: float) -> None:
        super().__init__(state)
        self.ca = ca
        self.timeout_seconds = timeout_seconds

    def configure_host(self) -> smtplib.SMTP:
        encrypted = self.mail.use_ssl or self.mail.use_tls
        host = _LimitedSMTP(
            self.mail.server,
            self.mail.port,
            context=_tls_context(self.ca) if encrypted else None,
            implicit_tls=self.mail.use_ssl,
            timeout_seconds=self.timeout_seconds,
        )
        try:
            if self.mail.use_tls:
                host.starttls(context=host.context)
                host.limit_socket()
            if self.mail.username and self.mail.password:
                if not encrypted and not is_this_machine(self.mail.server):
                    raise NotSent("a password is not sent without encryption")
                host.login(self.mail.username, self.mail.password)
        except BaseException:
            host.close()
            raise
        return host

    def deliver(self, message: Message) -> dict[str, str]:
        """Send one message.

        :returns: the refused addresses with the server's words; empty when all were taken.
        :raises smtplib.SMTPException: nobody gets this message.
        """
        if self.host is None:
            raise RuntimeError("Use the connection in a with statement.")
        sender = message.sender_address.email
        refused = self.host.sendmail(sender, list(message.destinations), message.as_bytes())
        dispatched = flask_mail.Message(
            subject=message.subject,
            recipients=list(message.destinations),
            body=message.text,
            html=message.html,
            sender=str(message.sender_address),
        )
        flask_mail.email_dispatched.send(
            current_app._get_current_object(),  # type: ignore[attr-defined]
            message=dispatched,
        )
        return {address: _words(*answer) for address, answer in refused.items()}

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.host is None:
            return
        try:
            # The server has taken the mail by now: a failing farewell must not send it again.
            self.host.quit()
        except OSError:
            self.host.close()


class _LimitedSMTP(smtplib.SMTP):
    """smtplib's client on sockets that keep to a limit per step and to one for the whole."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext | None,
        implicit_tls: bool,
        timeout_seconds: float,
    ) -> None:
        self.context = context
        self.implicit_tls = implicit_tls
        self.deadline = time.monotonic() + OVERALL_FACTOR * timeout_seconds
        self.step_seconds = timeout_seconds
        # A name is given because smtplib would ask the DNS for one, without a limit.
        super().__init__(host, port, local_hostname=_own_name(), timeout=timeout_seconds)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connect to the first address that answers, within the limits.

        socket.create_connection, which smtplib uses, allows the whole time-out to each address.
        """
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, 0, socket.SOCK_STREAM
        ):
            connecting = _LimitedSocket(family, kind, protocol)
            connecting.set_limits(self.step_seconds, self.deadline)
            try:
                connecting.keep_limits()
                connecting.connect(address)
            except OSError as error:
                connecting.close()
                failure = error
                continue
            if not self.implicit_tls or self.context is None:
                return connecting
            try:
                self.sock = self.context.wrap_socket(connecting, server_hostname=host)
            except BaseException:
                connecting.close()
                raise
            self.limit_socket()
            return self.sock
        raise failure or OSError(f"{host} has no address")

    def limit_socket(self) -> None:
        """Put the limits on the socket again, after TLS has made a new one."""
        if isinstance(self.sock, _LimitedSSLSocket):
            self.sock.set_limits(self.step_seconds, self.deadline)


class _Limits:
    """A limit on each wait of a socket, and on all of them together.

    The time-out of a plain socket starts anew with every byte, so that a server which sends one
    now and then is never given up.
    """

    step_seconds = math.inf
    deadline = math.inf

    def set_limits(self, step_seconds: float, deadline: float) -> None:
        self.step_seconds = step_seconds
        self.deadline = deadline

    def keep_limits(self) -> None:
        left = min(self.step_seconds, self.deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("the mail server took too long")
        self.settimeout(left if left < math.inf else None)  # type: ignore[attr-defined]


class _LimitedSocket(_Limits, socket.socket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.keep_limits()
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.keep_limits()
        super().sendall(*args, **kwargs)


class _LimitedSSLSocket(_Limits, ssl.SSLSocket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.keep_limits()
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:  # sendall calls it piece by piece
        self.keep_limits()
        return super().send(*args, **kwargs)


def _tls_context(ca: Path | None) -> ssl.SSLContext:
    """Certificate and host name are checked; with `ca`, only its authorities are trusted."""
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _LimitedSSLSocket
    return context


def _own_name() -> str:
    """What to say in EHLO; an address literal where the machine has no full name (RFC 5321)."""
    name = socket.gethostname()
    try:
        return ascii_domain(name) if "." in name else "[127.0.0.1]"
    except ValueError:
        return "[127.0.0.1]"


def _failure(error: smtplib.SMTPException) -> Exception:
    """Tell for good from for now. See RFC 5321, section 4.2.1."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        answers = list(error.recipients.values())
        words = "; ".join(sorted({_words(*answer) for answer in answers}))
        if all(500 <= code < 600 for code, _ in answers):
            return Permanent(f"the mail server refused every recipient: {words}")
        return NotSent(f"the mail server took no recipient: {words}")
    if isinstance(error, smtplib.SMTPSenderRefused | smtplib.SMTPDataError):
        words = _words(error.smtp_code, error.smtp_error)
        if 500 <= error.smtp_code < 600:
            return Permanent(f"the mail server refused the mail: {words}")
        return NotSent(f"the mail server did not take the mail: {words}")
    if isinstance(error, smtplib.SMTPResponseException):
        # A 5xx to the greeting or to the password says nothing about this mail.
        words = _words(error.smtp_code, error.smtp_error)
        return NotSent(f"the mail server does not serve us: {words}")
    # smtplib says "Server not connected" of a time-out; the reason stands behind it.
    reason = error.__context__ if isinstance(error.__context__, OSError) else error
    return NotSent(f"the mail server failed: {printable(str(reason))[:MAX_WORDS_OF_SERVER]}")


def _words(code: int, text: bytes | str) -> str:
    """A server's answer on one line, cut to a bearable length."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return printable(f"{code} {' '.join(text.split())}")[:MAX_WORDS_OF_SERVER]

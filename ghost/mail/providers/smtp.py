"""Hand messages to an SMTP server, many over one connection, with a limit on every wait."""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import flask_mail
from flask import current_app
from loguru import logger

from ghost.config_mail import SmtpServer
from ghost.extensions import mail
from ghost.jobs import Permanent
from ghost.mail.messages import Message
from ghost.mail.providers.base import (
    Closing,
    Delivery,
    NotSent,
    Refused,
    Unreachable,
    printable,
)
from ghost.mail.providers.sockets import Limits, connect, tls_context
from ghost.network import ascii_domain, is_this_machine

# The whole of one delivery may take this many times the limit of a single step.
OVERALL_FACTOR = 4
FAREWELL_SECONDS = 2.0
MAX_WORDS_OF_SERVER = 300
# Commands in one write. A server that answers each of many while we still write may find that
# nobody reads, and both would wait. See RFC 2920, section 3.1.
MAX_PIPELINED = 100
CLOSING = 421

Answer = tuple[int, bytes]


@dataclass(frozen=True)
class _Answers:
    """What a server said to MAIL, to each RCPT and to DATA; None where it was not asked."""

    sender: Answer
    recipients: tuple[Answer, ...]
    data: Answer | None

    @property
    def is_waiting(self) -> bool:
        """Whether the server waits for a mail."""
        return self.data is not None and self.data[0] == 354

    def refusal(self, addresses: Sequence[str]) -> Exception | None:
        """Why nobody gets the mail.

        :param addresses: those of the recipients, in the order of their answers.
        """
        if not _is_yes(self.sender):
            return _refusal("the mail server refused the mail", [self.sender])
        if not any(map(_is_yes, self.recipients)):
            return _refusal_of_all(addresses, self.recipients)
        if self.data is not None and not self.is_waiting:
            return _refusal("the mail server refused the mail", [self.data])
        return None


class SmtpProvider(Closing):
    """Hand messages to an SMTP server through Flask-Mail, all over one connection.

    :param timeout_seconds: for connecting, and for each answer; four times this for the whole of
        one message.
    """

    name = "smtp"

    def __init__(self, server: SmtpServer, *, timeout_seconds: float) -> None:
        self.server = server
        self.timeout_seconds = timeout_seconds
        self._connection: Connection | None = None

    def send(self, message: Message) -> Delivery:
        content = _as_data(message)
        deadline = time.monotonic() + OVERALL_FACTOR * self.timeout_seconds
        if self._connection is not None:
            try:
                return self._send(message, content, deadline)
            except Unreachable as error:
                # Servers end a connection that was idle, or has carried enough mails for them.
                logger.debug("connecting to the mail server again: {}", error)
        return self._send(message, content, deadline)

    def _send(self, message: Message, content: bytes, deadline: float) -> Delivery:
        if self._connection is None:
            self._connection = self._open(deadline)
        connection = self._connection
        try:
            delivery = connection.deliver(message, content, deadline)
        except BaseException:
            if connection.is_lost:
                self._connection = None
                connection.drop()
            raise
        return delivery

    def _open(self, deadline: float) -> Connection:
        server = self.server
        state = mail.init_mail(
            {
                "MAIL_SERVER": server.host,
                "MAIL_PORT": server.port,
                "MAIL_USERNAME": server.username or None,
                "MAIL_PASSWORD": server.password or None,
                "MAIL_USE_SSL": server.tls == "implicit",
                "MAIL_USE_TLS": server.tls == "starttls",
            }
        )
        connection = Connection(state, server.ca, self.timeout_seconds, deadline)
        try:
            return connection.__enter__()
        except smtplib.SMTPException as error:
            raise _not_served(error) from error
        except OSError as error:
            raise Unreachable(
                f"the mail server {server.host}:{server.port} failed: {error}"
            ) from error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.__exit__(None, None, None)


class Connection(flask_mail.Connection):
    """Flask-Mail's connection with what it lacks.

    A limit on every wait and on the whole, certificates that are checked, no sending of a
    password or a mail below the wanted encryption, an eye for partial refusals, and several
    commands in one write where the server likes that.
    """

    is_lost = False
    """Whether it can't be used for another message."""

    def __init__(
        self, state: Any, ca: Path | None, timeout_seconds: float, deadline: float
    ) -> None:
        super().__init__(state)
        self.ca = ca
        self.timeout_seconds = timeout_seconds
        self.deadline = deadline
        self._is_halfway = False  # the server still has a refused message in mind

    def configure_host(self) -> smtplib.SMTP:
        encrypted = self.mail.use_ssl or self.mail.use_tls
        host = _LimitedSMTP(
            self.mail.server,
            self.mail.port,
            context=tls_context(self.ca) if encrypted else None,
            implicit_tls=self.mail.use_ssl,
            timeout_seconds=self.timeout_seconds,
            deadline=self.deadline,
        )
        try:
            if self.mail.use_tls:
                host.starttls(context=host.context)
                host.limit_socket()
            if self.mail.username and self.mail.password:
                if not encrypted and not is_this_machine(self.mail.server):
                    raise Unreachable("a password is not sent without encryption")
                host.login(self.mail.username, self.mail.password)
            host.ehlo_or_helo_if_needed()
        except BaseException:
            host.close()
            raise
        return host

    def deliver(self, message: Message, content: bytes, deadline: float) -> Delivery:
        """Send one message.

        :param content: as it travels behind DATA, with the dot at its end.
        :raises Permanent: everybody, or the mail itself, was refused for good.
        :raises Unreachable: the connection was lost, or ended by the server, before the mail was
            sent.
        :raises NotSent: it was refused for now, or nobody knows what became of it.
        """
        host: Any = self.host
        recipients = message.destinations
        size = len(content) - len(b".\r\n")
        largest = host.esmtp_features.get("size", "")
        if largest.isdigit() and 0 < int(largest) < size:
            raise Permanent(f"the mail server takes at most {largest} bytes; the mail has {size}")
        begin = f"MAIL FROM:<{message.sender_address.email}>" + (f" SIZE={size}" if largest else "")
        host.limit(deadline)
        self.is_lost = True  # until it is known to be at the end of an answer
        try:
            answers = self._begin(begin, [f"RCPT TO:<{address}>" for address in recipients])
            if refusal := answers.refusal(recipients):
                self._abort(answers)
                raise refusal
            host.send(content)
        except smtplib.SMTPException as error:
            # The dot is the last byte: the server can't have taken the mail.
            raise Unreachable(_reason(error)) from error
        try:
            code, text = host.getreply()
        except smtplib.SMTPException as error:
            raise NotSent(f"nobody knows whether it was taken: {_reason(error)}") from error
        self._is_halfway, self.is_lost = False, code == CLOSING
        if not _is_yes((code, text)):
            raise _refusal("the mail server refused the mail", [(code, text)])
        _tell_listeners(message)
        said = list(zip(recipients, answers.recipients, strict=True))
        others = [(address, answer) for address, answer in said if not _is_yes(answer)]
        return Delivery(
            tuple(address for address, answer in said if _is_yes(answer)),
            {address: _words(*answer) for address, answer in others if _is_final(answer)},
            {address: _words(*answer) for address, answer in others if not _is_final(answer)},
            provider=SmtpProvider.name,
        )

    def _begin(self, sender: str, recipients: Sequence[str]) -> _Answers:
        """Say from whom and to whom, and ask to send.

        :raises Unreachable: the server says that it closes the connection.
        """
        host: Any = self.host
        if not host.has_extn("pipelining"):
            return self._begin_step_by_step(sender, recipients)
        commands = [*self._reset(), sender, *recipients, "DATA"]
        answers: list[Answer] = []
        for start in range(0, len(commands), MAX_PIPELINED):
            group = commands[start : start + MAX_PIPELINED]
            host.send("".join(f"{command}\r\n" for command in group))
            answers += [self._answer() for _ in group]
        first = len(commands) - len(recipients) - 2
        return _Answers(answers[first], tuple(answers[first + 1 : -1]), answers[-1])

    def _begin_step_by_step(self, sender: str, recipients: Sequence[str]) -> _Answers:
        for command in self._reset():
            self._ask(command)
        sender_answer = self._ask(sender)
        if not _is_yes(sender_answer):
            return _Answers(sender_answer, (), None)
        answers = tuple(self._ask(recipient) for recipient in recipients)
        data_answer = self._ask("DATA") if any(map(_is_yes, answers)) else None
        return _Answers(sender_answer, answers, data_answer)

    def _reset(self) -> list[str]:
        """What must be said before another message."""
        was_halfway, self._is_halfway = self._is_halfway, True
        return ["RSET"] if was_halfway else []

    def _ask(self, command: str) -> Answer:
        host: Any = self.host
        host.send(f"{command}\r\n")
        return self._answer()

    def _answer(self) -> Answer:
        host: Any = self.host
        answer: Answer = host.getreply()
        if answer[0] == CLOSING:
            # What follows would answer other commands, if it came at all.
            raise Unreachable(f"the mail server closed the connection: {_words(*answer)}")
        return answer

    def _abort(self, answers: _Answers) -> None:
        """Leave a refused message, so that another can follow."""
        if answers.is_waiting:
            # It was asked to before it had refused everybody, and now waits for a mail to nobody.
            # See RFC 2920, section 3.1.
            try:
                self._ask(".")
            except (Unreachable, smtplib.SMTPException):
                return  # the connection is lost, and the refusal still holds
        self.is_lost = False

    def drop(self) -> None:
        """Close a connection on which nothing can be said any more."""
        if self.host is not None:
            self.host.close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        host: Any = self.host
        if host is None:
            return
        try:
            # The server has taken the mail by now: a failing farewell must not send it again.
            host.limit(time.monotonic() + FAREWELL_SECONDS)
            host.quit()
        except OSError:
            host.close()


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
        deadline: float,
    ) -> None:
        self.context = context
        self.implicit_tls = implicit_tls
        self.deadline = deadline
        self.step_seconds = timeout_seconds
        # A name is given because smtplib would ask the DNS for one, without a limit.
        super().__init__(host, port, local_hostname=_own_name(), timeout=timeout_seconds)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connected = connect(host, port, step_seconds=self.step_seconds, deadline=self.deadline)
        if not self.implicit_tls or self.context is None:
            return connected
        try:
            self.sock = self.context.wrap_socket(connected, server_hostname=host)
        except BaseException:
            connected.close()
            raise
        self.limit_socket()
        return self.sock

    def limit(self, deadline: float) -> None:
        """Limit what follows, for one message."""
        self.deadline = deadline
        self.limit_socket()

    def limit_socket(self) -> None:
        """Put the limits on the socket, which may be a new one: TLS makes its own."""
        limited: Any = self.sock
        if isinstance(limited, Limits):
            limited.set_limits(self.step_seconds, self.deadline)


def _as_data(message: Message) -> bytes:
    """The mail as it travels behind DATA. See RFC 5321, section 4.5.2."""
    content = message.as_bytes()
    end = b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n"
    return content.replace(b"\r\n.", b"\r\n..") + end


def _tell_listeners(message: Message) -> None:
    """Send Flask-Mail's signal; only when somebody listens, for its message takes long to make."""
    if not flask_mail.email_dispatched.receivers:
        return
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


def _own_name() -> str:
    """What to say in EHLO; an address literal where the machine has no full name (RFC 5321)."""
    name = socket.gethostname()
    try:
        return ascii_domain(name) if "." in name else "[127.0.0.1]"
    except ValueError:
        return "[127.0.0.1]"


def _is_yes(answer: Answer) -> bool:
    return 200 <= answer[0] < 300


def _is_final(answer: Answer) -> bool:
    return 500 <= answer[0] < 600


def _refusal(what: str, answers: Sequence[Answer]) -> Exception:
    """Tell for good from for now. See RFC 5321, section 4.2.1."""
    words = "; ".join(sorted({_words(*answer) for answer in answers}))[:MAX_WORDS_OF_SERVER]
    return (Permanent if all(map(_is_final, answers)) else NotSent)(f"{what}: {words}")


def _refusal_of_all(addresses: Sequence[str], answers: Sequence[Answer]) -> Exception:
    """Why nobody gets a mail that each of its recipients was refused."""
    error = _refusal("the mail server took no recipient", answers)
    refused = {
        address: _words(*answer)
        for address, answer in zip(addresses, answers, strict=True)
        if _is_final(answer)
    }
    return (Refused if isinstance(error, Permanent) else NotSent)(str(error), refused)


def _not_served(error: smtplib.SMTPException) -> Unreachable:
    """What a server says before any mail says nothing about one, not even a 5xx."""
    if isinstance(error, smtplib.SMTPResponseException):
        words = _words(error.smtp_code, error.smtp_error)
        return Unreachable(f"the mail server does not serve us: {words}")
    return Unreachable(_reason(error))


def _reason(error: smtplib.SMTPException) -> str:
    # smtplib says "Server not connected" of a time-out; the reason stands behind it.
    reason = error.__context__ if isinstance(error.__context__, OSError) else error
    return f"the mail server failed: {printable(str(reason))[:MAX_WORDS_OF_SERVER]}"


def _words(code: int, text: bytes | str) -> str:
    """A server's answer on one line, cut to a bearable length."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return printable(f"{code} {' '.join(text.split())}")[:MAX_WORDS_OF_SERVER]

"""SMTP servers to order: ones that answer as told, and ones below SMTP."""

from __future__ import annotations

import email
import email.policy
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from ghost.config import current_config
from ghost.mail.delivery import sender_of
from ghost.mail.messages import Message
from ghost.mail.providers import Delivery, open_provider
from ghost.models import uuid7

CERTIFICATES = Path(__file__).parent / "certificates"


def deliver(message: Message) -> Delivery:
    """Send one message through the configured provider, without a row."""
    sender = message.sender or sender_of(current_config())
    message_id = message.message_id or f"<{uuid7()}@app.example.com>"
    with open_provider(current_config()) as provider:
        return provider.send(replace(message, sender=sender, message_id=message_id))


def server_context(certificate: str) -> ssl.SSLContext:
    """What a server shows who it is with: "localhost", "other-name" or "self-signed"."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
    return context


class FreePortController(Controller):
    """aiosmtpd's controller, able to wake its server on a port that the system chose."""

    def _trigger_server(self) -> None:
        listening: Any = self.server
        self.port = listening.sockets[0].getsockname()[1]
        socket.create_connection((self.hostname, self.port)).close()


class Sink:
    """An SMTP server that answers as it is told and keeps what it took.

    :param answers: "MAIL", "DATA", "QUIT" or a recipient -> the answer that it gives instead.
    """

    def __init__(
        self,
        *,
        answers: Mapping[str, str] | None = None,
        drops: str | None = None,
        password: str | None = None,
        certificate: str | None = None,
        implicit: bool = False,
    ) -> None:
        self.answers = dict(answers or {})
        self.drops = drops
        self.password = password
        self.received: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.encrypted: list[bool] = []
        self.logins: list[str] = []
        options: dict[str, Any] = {}
        if password:
            options |= {"authenticator": self._login, "auth_require_tls": False}
        if certificate and not implicit:
            options["tls_context"] = server_context(certificate)
        self._controller = FreePortController(self, hostname="127.0.0.1", port=0, **options)
        if certificate and implicit:
            self._controller.ssl_context = server_context(certificate)
        self._controller.start()
        self.port: int = self._controller.port

    def url(self, options: str = "", *, scheme: str = "smtp", login: str = "") -> str:
        return f"{scheme}://{login}localhost:{self.port}{options}"

    def close(self) -> None:
        self._controller.stop()

    def _login(self, _server: Any, _session: Any, _envelope: Any, _how: str, data: Any) -> Any:
        self.logins.append(data.login.decode())
        success = data.password.decode() == self.password
        return AuthResult(success=success, handled=False)

    def _after(self, command: str, server: SMTP, usual: str) -> str:
        if self.drops == command:
            server.transport.abort()
        return self.answers.get(command, usual)

    async def handle_MAIL(
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: Any
    ) -> str:
        envelope.mail_from = address
        return self._after("MAIL", server, "250 OK")

    async def handle_RCPT(
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: Any
    ) -> str:
        answer = self._after(address, server, "250 OK")
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.received.append(message)
        self.recipients += envelope.rcpt_tos
        self.encrypted.append(session.ssl is not None or self._controller.ssl_context is not None)
        return self._after("DATA", server, "250 OK")

    async def handle_QUIT(self, server: SMTP, _session: Session, _envelope: Envelope) -> str:
        return self._after("QUIT", server, "221 Bye")


class Scripted:
    """A server below SMTP: what it does with a connection is a function of a socket."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                with suppress(OSError):
                    self._serve(connection)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for connection in (*self._connections, self._listener):
            connection.close()
        self._thread.join(5)


def stay_silent(_connection: socket.socket) -> None:
    """Take the connection and never say a word."""


def drip(connection: socket.socket) -> None:
    """Greet for ever, a byte at a time, each well within the limit of one wait."""
    connection.sendall(b"220-")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def hang_up(connection: socket.socket) -> None:
    connection.close()

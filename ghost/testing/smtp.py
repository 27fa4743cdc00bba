"""An SMTP server for tests that takes every mail and keeps it."""

from __future__ import annotations

import email
import email.policy
import logging
import threading
import time
from dataclasses import dataclass
from email.message import EmailMessage

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as SMTPSession

from ghost.testing.servers import free_port


@dataclass(frozen=True)
class ReceivedMail:
    """A mail as it came over the wire."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage

    @property
    def to(self) -> str:
        return str(self.message["To"])

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def text(self) -> str:
        """The plain text; empty when there is none."""
        part = self.message.get_body(("plain",))
        return part.get_content() if part else ""

    @property
    def html(self) -> str | None:
        part = self.message.get_body(("html",))
        return part.get_content() if part else None


class SMTPServer:
    """Listens on a free port of the loopback address until it is closed."""

    def __init__(self) -> None:
        self.messages: list[ReceivedMail] = []
        self._arrived = threading.Condition()
        # It would tell of every connection, the last of them after pytest has closed its capture.
        logging.getLogger("mail.log").setLevel(logging.WARNING)
        self.port = free_port()  # aiosmtpd 1.4.6 does not start on port 0
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()
        self.url = f"smtp://127.0.0.1:{self.port}"

    async def handle_DATA(  # aiosmtpd's name
        self, _server: SMTP, _session: SMTPSession, envelope: Envelope
    ) -> str:
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        recipients = tuple(envelope.rcpt_tos)
        with self._arrived:
            self.messages.append(ReceivedMail(envelope.mail_from or "", recipients, message))
            self._arrived.notify_all()
        return "250 OK"

    def wait(self, count: int = 1, *, seconds: float = 10.0) -> list[ReceivedMail]:
        """Wait until so many mails are here, and give them.

        :raises TimeoutError: they did not come in time.
        """
        deadline = time.monotonic() + seconds
        with self._arrived:
            while len(self.messages) < count:
                if not self._arrived.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{len(self.messages)} of {count} mails after {seconds} s")
        return self.messages

    def clear(self) -> None:
        """Forget the mails."""
        self.messages.clear()

    def close(self) -> None:
        """Stop listening."""
        self._controller.stop()

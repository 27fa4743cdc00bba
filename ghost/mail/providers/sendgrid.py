"""Hand messages to SendGrid by its HTTP API, with a limit on every wait."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from ghost.config_mail import SendGridAccount
from ghost.jobs import Permanent
from ghost.mail import mime
from ghost.mail.messages import Address, Attachment, Message
from ghost.mail.providers.base import Closing, Delivery, NotSent, Unreachable, printable
from ghost.mail.providers.sockets import Limits, connect, tls_context

PATH = "/v3/mail/send"
MAX_ANSWER_BYTES = 64 * 1024
MAX_WORDS = 300

_ACCEPTED, _FORBIDDEN, _UNAUTHORIZED, _TOO_MANY, _UNAVAILABLE = 202, 403, 401, 429, 503
# What SendGrid says about the mail itself; the rest of the 4xx is about us.
_REFUSALS = (400, 406, 413)
# Names with these are taken for several: github.com/sendgrid/sendgrid-python, issue 578.
_SEPARATORS = re.compile(r"[,;]")


class SendGridProvider(Closing):
    """Hand messages to SendGrid, all over one connection.

    :param timeout_seconds: for connecting, and again for one message with its answer.
    """

    name = "sendgrid"

    def __init__(self, account: SendGridAccount, *, timeout_seconds: float) -> None:
        self.account = account
        self.timeout_seconds = timeout_seconds
        self._connection: HTTPConnection | None = None

    def send(self, message: Message) -> Delivery:
        body = json.dumps(request_body(message), ensure_ascii=False).encode()
        status, answer = self._post(body)
        if status == _ACCEPTED:
            return Delivery(message.destinations, provider=self.name)
        words = f"SendGrid answered {status}: {_words(answer)}"
        if status in _REFUSALS:
            raise Permanent(words)
        if status in (_UNAUTHORIZED, _FORBIDDEN, _TOO_MANY, _UNAVAILABLE):
            # The key or the account is not served: this says nothing about the mail.
            raise Unreachable(words)
        raise NotSent(words)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, body: bytes) -> tuple[int, bytes]:
        """Ask once: neither a redirect is followed nor a failure tried again.

        :raises Unreachable: nothing was asked.
        :raises NotSent: nobody knows whether it was taken.
        """
        deadline = time.monotonic() + self.timeout_seconds
        connection = self._connected(deadline)
        # Dropped, unless it is known to be at the end of an answer.
        self._connection = None
        try:
            # An answer may come before all was sent: that it is too large.
            with suppress(BrokenPipeError):
                connection.request(
                    "POST",
                    PATH,
                    body=body,
                    headers={
                        "Authorization": f"Bearer {self.account.api_key}",
                        "Content-Type": "application/json",
                        "User-Agent": "ghost",
                    },
                    preload_content=False,
                )
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES, decode_content=False)
            is_whole = not response.read(1, decode_content=False)
        except (HTTPError, OSError, ValueError) as error:
            connection.close()
            raise NotSent(f"nobody knows whether SendGrid took it: {_reason(error)}") from error
        if is_whole and connection.sock is not None:
            self._connection = connection
        else:
            connection.close()
        return response.status, answer

    def _connected(self, deadline: float) -> HTTPConnection:
        """The open connection, or a new one where there is none any more."""
        if self._connection is not None and not self._connection.is_connected:
            self.close()
        if self._connection is None:
            connection = _connection_to(self.account, self.timeout_seconds, deadline)
            try:
                connection.connect()
            except (HTTPError, OSError) as error:
                connection.close()
                raise Unreachable(f"SendGrid can't be reached: {_reason(error)}") from error
            self._connection = connection
        if isinstance(self._connection.sock, Limits):
            self._connection.sock.set_limits(self.timeout_seconds, deadline)
        return self._connection


class _Limited:
    """Connections on sockets with limits; mixed into those of urllib3."""

    host: str
    port: int
    step_seconds: float
    deadline: float

    def _new_conn(self) -> socket.socket:
        return connect(self.host, self.port, step_seconds=self.step_seconds, deadline=self.deadline)


class _LimitedHTTPConnection(_Limited, HTTPConnection):
    """To a stand-in on this machine."""


class _LimitedHTTPSConnection(_Limited, HTTPSConnection):
    """To SendGrid itself."""


def _connection_to(
    account: SendGridAccount, timeout_seconds: float, deadline: float
) -> HTTPConnection:
    parts = urlsplit(account.endpoint or f"https://{account.host}:443")
    host = parts.hostname or ""
    connection: _LimitedHTTPConnection | _LimitedHTTPSConnection
    if parts.scheme == "http":
        connection = _LimitedHTTPConnection(host, parts.port, timeout=timeout_seconds)
    else:
        connection = _LimitedHTTPSConnection(
            host, parts.port, timeout=timeout_seconds, ssl_context=tls_context()
        )
    connection.step_seconds = timeout_seconds
    connection.deadline = deadline
    return connection


def request_body(message: Message) -> dict[str, Any]:
    """What SendGrid is asked. See its reference, "Mail Send", POST /v3/mail/send."""
    body: dict[str, Any] = {
        "personalizations": _personalizations(message),
        "from": _mailbox(message.sender_address),
        "subject": message.subject,
        "content": _content(message),
        "headers": {
            "Message-ID": message.message_id,
            "Auto-Submitted": "auto-generated",
            **{name: mime.text_header(value) for name, value in message.headers.items()},
        },
        # It comes back with every event about the mail.
        "custom_args": {"ghost_message_id": (message.message_id or "")[1:].partition("@")[0]},
        # What leaves is what was written: a link with a token goes through nobody else's hands.
        "tracking_settings": {
            "click_tracking": {"enable": False, "enable_text": False},
            "open_tracking": {"enable": False},
        },
    }
    if message.reply_addresses:
        body["reply_to_list"] = [_mailbox(address) for address in message.reply_addresses]
    if message.attachments:
        is_shown = message.html is not None
        body["attachments"] = [_attachment(one, is_shown) for one in message.attachments]
    return body


def _personalizations(message: Message) -> list[dict[str, Any]]:
    """Who gets it; headers and envelope are one here.

    Each address stands once, whatever its case, or SendGrid refuses the mail.
    """
    known: set[str] = set()

    def left(addresses: Iterable[Address]) -> list[dict[str, str]]:
        mailboxes = []
        for address in addresses:
            lower = address.email.lower()
            if address.email in message.destinations and lower not in known:
                known.add(lower)
                mailboxes.append(_mailbox(address))
        return mailboxes

    to, cc, bcc = map(left, (message.addresses, message.cc_addresses, message.bcc_addresses))
    if not to:  # which SendGrid wants; those in copy see each other anyway
        to, cc = cc, []
    if not to:
        # Each for itself: none may see the others.
        return [{"to": [mailbox]} for mailbox in bcc]
    lists: Mapping[str, Sequence[object]] = {"to": to, "cc": cc, "bcc": bcc}
    return [{name: mailboxes for name, mailboxes in lists.items() if mailboxes}]


def _mailbox(address: Address) -> dict[str, str]:
    if not address.name:
        return {"email": address.email}
    name = address.name
    if _SEPARATORS.search(name):
        name = '"{}"'.format(name.replace('"', "'"))
    return {"email": address.email, "name": name}


def _content(message: Message) -> list[dict[str, str]]:
    """The bodies, plain text first; an empty one would be refused."""
    bodies = [("text/plain", message.text), ("text/html", message.html)]
    content = [{"type": kind, "value": body} for kind, body in bodies if body]
    return content or [{"type": "text/plain", "value": "\n"}]


def _attachment(file: Attachment, is_shown: bool) -> dict[str, str]:
    described = {
        "content": base64.b64encode(file.content).decode(),
        "filename": file.filename,
        "type": file.kind,
        "disposition": "inline" if file.content_id and is_shown else "attachment",
    }
    return {**described, "content_id": file.content_id} if file.content_id else described


def _words(answer: bytes) -> str:
    """What SendGrid says is wrong, on one line."""
    try:
        errors = json.loads(answer)["errors"]
        words = "; ".join(
            f"{error['message']} ({error['field']})" if error.get("field") else error["message"]
            for error in errors
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        words = answer.decode("utf-8", "replace")
    return printable(" ".join(words.split()))[:MAX_WORDS] or "nothing"


def _reason(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:MAX_WORDS] or type(error).__name__

"""SendGrid's "Mail Send" on this machine, as strict as its reference says.

Rules from its OpenAPI description (required and known fields, lengths) and from its pages "Mail
Send" and "Errors" (who stands twice, reserved headers, order of the contents).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "SG.abcdefghijklmnop.qrstuvwxyz0123456789"
MAX_BYTES = 30 * 1024 * 1024

_EMAIL = re.compile(r"[^@\s,;<>]+@[^@\s,;<>]+\.[^@\s,;<>]+\Z")
_TOP = {
    "personalizations", "from", "reply_to", "reply_to_list", "subject", "content", "attachments",
    "template_id", "headers", "categories", "custom_args", "send_at", "batch_id", "asm",
    "ip_pool_name", "mail_settings", "tracking_settings",
}  # fmt: skip
_PERSONALIZATION = {
    "from", "to", "cc", "bcc", "subject", "headers", "substitutions", "dynamic_template_data",
    "custom_args", "send_at",
}  # fmt: skip
_ATTACHMENT = {"content", "type", "filename", "disposition", "content_id"}
_RESERVED = {
    "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type",
    "content-transfer-encoding", "to", "from", "subject", "reply-to", "cc", "bcc",
}  # fmt: skip


class Stub:
    """A server that checks what it is asked.

    :param answer: the status and the body that it gives instead.
    :param drops: it hangs up when it has read the request.
    """

    def __init__(
        self,
        *,
        answer: tuple[int, bytes] | None = None,
        headers: dict[str, str] | None = None,
        drops: bool = False,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self.headers = headers or {}
        self.drops = drops
        self.taken: list[dict[str, Any]] = []
        self.asked = 0
        self.connections: set[Any] = set()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                stub._serve(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.scheme = "https" if context else "http"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, key: str = KEY) -> str:
        host = "localhost" if self.scheme == "https" else "127.0.0.1"
        return f"sendgrid://{key}@?endpoint={self.scheme}://{host}:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        self.asked += 1
        self.connections.add(request.client_address)
        content = request.rfile.read(int(request.headers["Content-Length"]))
        if self.drops:
            request.close_connection = True
            return
        status, body = self.answer or self._judge(request, content)
        request.send_response(status)
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _judge(self, request: BaseHTTPRequestHandler, content: bytes) -> tuple[int, bytes]:
        if request.path != "/v3/mail/send":
            return 404, _errors([("not found", None)])
        if request.headers["Authorization"] != f"Bearer {KEY}":
            message = "The provided authorization grant is invalid, expired, or revoked"
            return 401, _errors([(message, None)])
        if request.headers["Content-Type"] != "application/json":
            return 415, _errors([("unsupported", None)])
        if len(content) > MAX_BYTES:
            return 413, _errors([("The request is too large.", None)])
        asked = json.loads(content)
        if mistakes := list(find_mistakes(asked)):
            return 400, _errors(mistakes)
        self.taken.append(asked)
        return 202, b""


def _errors(mistakes: list[tuple[str, str | None]]) -> bytes:
    return json.dumps(
        {"errors": [{"message": said, "field": field, "help": None} for said, field in mistakes]}
    ).encode()


def find_mistakes(asked: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    for name in asked.keys() - _TOP:
        yield "Additional property is not allowed", name
    for name in {"personalizations", "from", "subject", "content"} - asked.keys():
        yield f"The {name} is required.", name
    if not asked.get("subject"):
        yield "The subject is required.", "subject"
    yield from _mailbox_mistakes(asked.get("from"), "from")
    yield from _recipient_mistakes(asked.get("personalizations") or [])
    for mailbox in asked.get("reply_to_list", []):
        yield from _mailbox_mistakes(mailbox, "reply_to_list")
    if "reply_to_list" in asked and ("reply_to" in asked or not asked["reply_to_list"]):
        yield "Use either reply_to or reply_to_list.", "reply_to_list"
    yield from _content_mistakes(asked.get("content") or [])
    yield from _header_mistakes(asked.get("headers", {}))
    for number, attachment in enumerate(asked.get("attachments", [])):
        yield from _attachment_mistakes(attachment, f"attachments.{number}")
    for name, value in asked.get("custom_args", {}).items():
        if not isinstance(value, str):
            yield "The custom_args must be strings.", f"custom_args.{name}"
    yield from _tracking_mistakes(asked.get("tracking_settings", {}))


def _recipient_mistakes(
    personalizations: list[dict[str, Any]],
) -> Iterator[tuple[str, str | None]]:
    if not 1 <= len(personalizations) <= 1000:
        yield "You must have at least one personalization.", "personalizations"
    count = 0
    for number, one in enumerate(personalizations):
        place = f"personalizations.{number}"
        for name in one.keys() - _PERSONALIZATION:
            yield "Additional property is not allowed", f"{place}.{name}"
        known = set()
        for kind in ("to", "cc", "bcc"):
            if kind in one and not one[kind]:
                yield f"The {kind} array must have at least one email.", f"{place}.{kind}"
            for mailbox in one.get(kind, []):
                yield from _mailbox_mistakes(mailbox, f"{place}.{kind}")
                if mailbox["email"].lower() in known:
                    said = "Each email address in the personalization block should be unique"
                    yield f"{said} between to, cc, and bcc.", place
                known.add(mailbox["email"].lower())
                count += 1
        if "to" not in one:
            yield "The to array is required for all personalization objects", f"{place}.to"
    if count > 1000:
        yield "There is a limit of 1000 total recipients", "personalizations"


def _mailbox_mistakes(mailbox: Any, place: str) -> Iterator[tuple[str, str | None]]:
    if not isinstance(mailbox, dict) or not mailbox.keys() <= {"email", "name"}:
        yield "Not an email object.", place
        return
    if not _EMAIL.match(mailbox.get("email", "")) or len(mailbox["email"]) > 254:
        yield "Does not contain a valid address.", f"{place}.email"
    name = mailbox.get("name", "x")
    if not name or (re.search("[,;]", name) and not re.match(r'"[^"]*"\Z', name)):
        yield "Names with commas must be quoted.", f"{place}.name"


def _content_mistakes(content: list[dict[str, Any]]) -> Iterator[tuple[str, str | None]]:
    if not content:
        yield "The content is required.", "content"
    order = {"text/plain": 0, "text/html": 1}
    kinds = [order.get(part.get("type", ""), 2) for part in content]
    if kinds != sorted(set(kinds)):
        yield "If present, text/plain and text/html must be first, in this order.", "content"
    for number, part in enumerate(content):
        if part.keys() != {"type", "value"} or not part["value"] or ";" in part["type"]:
            yield (
                "The content value must be a string at least one character in length.",
                (f"content.{number}.value"),
            )


def _header_mistakes(headers: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    for name, value in headers.items():
        if name.lower() in _RESERVED:
            yield f"The header {name} is reserved.", "headers"
        if not isinstance(value, str) or not (name + value).isascii() or "\n" in value:
            yield "Headers must be encoded strings.", f"headers.{name}"
    if len({name.lower() for name in headers}) < len(headers):
        yield "A header stands twice.", "headers"


def _attachment_mistakes(attachment: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    for name in attachment.keys() - _ATTACHMENT:
        yield "Additional property is not allowed", f"{place}.{name}"
    try:
        base64.b64decode(attachment["content"], validate=True)
    except (KeyError, binascii.Error):
        yield "The attachment content must be base64 encoded.", f"{place}.content"
    if not attachment.get("filename") or re.search(r"[\r\n]", attachment["filename"]):
        yield "The filename is required.", f"{place}.filename"
    if re.search(r"[\r\n;]", attachment.get("type", "x")):
        yield "The type can't have ';' or CRLF characters.", f"{place}.type"
    if attachment.get("disposition", "attachment") not in ("attachment", "inline"):
        yield "The disposition is inline or attachment.", f"{place}.disposition"
    if attachment.get("disposition") == "inline" and not attachment.get("content_id"):
        yield "An inline attachment needs a content_id.", f"{place}.content_id"


def _tracking_mistakes(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    known = {
        "click_tracking": {"enable", "enable_text"},
        "open_tracking": {"enable", "substitution_tag"},
    }
    for name, values in settings.items():
        if not values.keys() <= known.get(name, set()):
            yield "Additional property is not allowed", f"tracking_settings.{name}"

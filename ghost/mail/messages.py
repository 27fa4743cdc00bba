"""One mail as data: its addresses, its headers and the bytes that travel."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.charset import QP, Charset
from email.header import Header
from email.message import Message as MimeMessage
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.policy import compat32
from email.utils import format_datetime, quote
from types import MappingProxyType

from ghost.errors import ValidationFailed
from ghost.jobs import Permanent
from ghost.network import ascii_domain

MAX_HEADER_CHARACTERS = 900
MAX_LINE_BYTES = 998  # RFC 5322, section 2.1.1

# What the message itself writes; a caller's header of that name would stand beside ours.
_OWN_HEADERS = frozenset(
    (
        "from", "to", "cc", "bcc", "sender", "reply-to", "subject", "date", "message-id",
        "mime-version", "auto-submitted", "return-path", "received", "content-type",
        "content-transfer-encoding", "content-disposition",
    )
)  # fmt: skip
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,75}\Z")
_MESSAGE_ID = re.compile(r"<[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+>\Z")
_LOCAL_PART = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}\Z")
_LOOKS_LIKE_ADDRESS = re.compile(r"\s*\S+@\S+\s*\Z")
_NAMED = re.compile(r"(.*?)\s*<([^<>]*)>\Z", re.DOTALL)


class InvalidMessage(ValidationFailed, Permanent, ValueError):
    """A mail that must not be sent, now or later; the details name the field."""

    def __init__(self, field_name: str, reason: str) -> None:
        super().__init__(
            f"The mail's {field_name} is not valid: {reason}",
            details={"json": {field_name: [reason]}},
        )


def check_header(value: str, field_name: str) -> str:
    """Give the value back if it may stand in a header.

    :raises InvalidMessage: it holds a control character, a line separator or a lone surrogate,
        or is longer than 900 characters.
    """
    if not isinstance(value, str):
        raise InvalidMessage(field_name, "It must be text.")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
        # Not only CR and LF: mail programs and the standard library also break lines at VT, FF,
        # U+001C to U+001E, U+0085, U+2028 and U+2029.
        raise InvalidMessage(field_name, "It holds a line break or a control character.")
    if len(value) > MAX_HEADER_CHARACTERS:
        raise InvalidMessage(field_name, f"It is longer than {MAX_HEADER_CHARACTERS} characters.")
    return value


@dataclass(frozen=True)
class Address:
    """One mailbox: `email` with an ASCII domain, and the name shown beside it, if any."""

    email: str
    name: str = ""

    @classmethod
    def parse(cls, value: AddressLike, field_name: str = "to") -> Address:
        """Read and check `ada@example.org`, `Ada <ada@example.org>` or `(name, email)`.

        :raises InvalidMessage: it is not exactly one address.
        """
        if isinstance(value, Address):
            name, email = value.name, value.email
        elif isinstance(value, tuple):
            name, email = value
            if _LOOKS_LIKE_ADDRESS.match(name):
                # Two addresses in a tuple, meant as a list of them; or a name made to mislead.
                raise InvalidMessage(field_name, "A name must not look like an address.")
        else:
            named = _NAMED.match(check_header(value, field_name))
            name, email = (named[1].strip(), named[2]) if named else ("", value)
            if len(name) > 1 and name[0] == name[-1] == '"':
                name = re.sub(r"\\(.)", r"\1", name[1:-1])
            elif any(special in name for special in '<>,;@"'):
                raise InvalidMessage(field_name, "Not a valid e-mail address.")
        check_header(name, field_name)
        local, at, domain = check_header(email, field_name).rpartition("@")
        # Letters outside ASCII before the @ would need SMTPUTF8, which few servers speak.
        if not at or not _LOCAL_PART.match(local):
            raise InvalidMessage(field_name, "Not a valid e-mail address.")
        try:
            return cls(f"{local}@{ascii_domain(domain)}", name)
        except (ValueError, UnicodeError) as error:  # idna's error is a UnicodeError
            raise InvalidMessage(field_name, "Not a valid e-mail address.") from error

    @property
    def domain(self) -> str:
        return self.email.rpartition("@")[2]

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>" if self.name else self.email

    def header(self) -> str:
        """The address as ASCII, for a header line. See RFC 2047, section 5."""
        if not self.name:
            return self.email
        encoded = _encoded(self.name)
        if encoded == self.name:
            encoded = f'"{quote(self.name)}"'
        return f"{encoded} <{self.email}>"


@dataclass(frozen=True)
class Attachment:
    """A file of a mail, or an image that its HTML shows by `cid:<content_id>`.

    :param content_type: guessed by the file name's end when None.
    """

    filename: str
    content: bytes = field(repr=False)
    content_type: str | None = None
    content_id: str | None = None


AddressLike = str | tuple[str, str] | Address


@dataclass(frozen=True)
class Message:
    """A mail that is ready to be sent; making one checks all that ends in a header.

    :param to: one address or a list of them: `ada@example.org`, `Ada <ada@example.org>` or
        `("Ada", "ada@example.org")`; each once, however often it is named.
    :param html: the HTML twin of `text`, if there is one.
    :param headers: more headers, by name; none that Ghost writes itself.
    :param message_id: `<id@domain>`. The same one over all attempts lets a receiver recognise a
        repeat; a new one when None.
    :param sender: the configured one when None.
    :raises InvalidMessage: something must not stand in a mail.
    """

    to: AddressLike | Sequence[AddressLike]
    subject: str
    text: str
    html: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    message_id: str | None = None
    sender: AddressLike | None = None
    date: datetime = field(default_factory=lambda: datetime.now(UTC))
    addresses: tuple[Address, ...] = field(init=False)

    def __post_init__(self) -> None:
        to = [self.to] if isinstance(self.to, str | tuple | Address) else list(self.to)
        if not to:
            raise InvalidMessage("to", "There is nobody to send it to.")
        addresses = {address.email: address for address in (Address.parse(one) for one in to)}
        object.__setattr__(self, "addresses", tuple(addresses.values()))
        check_header(self.subject, "subject")
        object.__setattr__(self, "headers", MappingProxyType(dict(self.headers)))
        for name, value in self.headers.items():
            if not _HEADER_NAME.match(check_header(name, "headers")):
                raise InvalidMessage("headers", "Not a valid header name.")
            if name.lower() in _OWN_HEADERS:
                raise InvalidMessage("headers", f"{name} is written by Ghost.")
            check_header(value, "headers")
        if self.message_id is not None and not _MESSAGE_ID.match(
            check_header(self.message_id, "message_id")
        ):
            raise InvalidMessage("message_id", "It must look like <id@domain>.")
        if self.sender is not None:
            Address.parse(self.sender, "sender")
        for part in ("text", "html"):
            body = getattr(self, part) or ""
            if "\0" in body or any("\ud800" <= character <= "\udfff" for character in body):
                raise InvalidMessage(part, "It holds a character that no mail can carry.")

    @property
    def recipients(self) -> tuple[str, ...]:
        """The plain addresses, each once, in the order given."""
        return tuple(address.email for address in self.addresses)

    @property
    def sender_address(self) -> Address:
        """Who sends it.

        :raises InvalidMessage: no sender is set yet.
        """
        if self.sender is None:
            raise InvalidMessage("sender", "The sender must be set before sending.")
        return Address.parse(self.sender, "sender")

    def as_bytes(self, *, readable: bool = False) -> bytes:
        """The mail as it travels, with CRLF line ends.

        :param readable: write UTF-8 as it is, so that a file shows links and words unbroken;
            else everything is ASCII, which every server takes.
        :raises InvalidMessage: sender or Message-ID are still missing.
        """
        if self.message_id is None:
            raise InvalidMessage("message_id", "The Message-ID must be set before sending.")
        mime = _part(self.text, "plain", readable)
        if self.html is not None:
            plain = mime
            mime = MIMEMultipart("alternative")
            mime.attach(plain)
            mime.attach(_part(self.html, "html", readable))
        mime["From"] = self.sender_address.header()
        mime["To"] = ", ".join(address.header() for address in self.addresses)
        mime["Subject"] = _encoded(self.subject)
        mime["Date"] = format_datetime(self.date)
        mime["Message-ID"] = self.message_id
        mime["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        for name, value in self.headers.items():
            mime[name] = _encoded(value)
        return mime.as_bytes(policy=compat32.clone(linesep="\r\n", max_line_length=78))


def _encoded(text: str) -> str:
    """The text of a header as ASCII; text that looks encoded already is encoded once more."""
    if text.isascii() and "=?" not in text:
        return text
    # The generator folds the line where it must; here it stays in one piece.
    return Header(text, Charset("utf-8"), maxlinelen=70).encode(linesep="\n").replace("\n", "")


def _part(body: str, subtype: str, readable: bool) -> MimeMessage:
    """One body; its lines end in LF alone, whatever they ended in before."""
    body = re.sub(r"\r\n?", "\n", body)
    charset = Charset("us-ascii" if body.isascii() else "utf-8")
    fits = all(len(line) < MAX_LINE_BYTES for line in body.encode().split(b"\n"))
    if not fits or not (readable or body.isascii()):
        charset = Charset("utf-8")
        charset.body_encoding = QP
    else:
        # Said here because Flask-Mail changes the default of the whole process.
        charset.body_encoding = None  # type: ignore[assignment]
    part = MIMENonMultipart("text", subtype, charset=charset.input_charset)
    part.set_payload(body, charset)
    return part

"""One mail as data: its addresses, its headers and the bytes that travel."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, quote
from types import MappingProxyType
from typing import cast

from ghost.errors import ValidationFailed
from ghost.jobs import Permanent
from ghost.mail import mime
from ghost.network import ascii_domain

MAX_HEADER_CHARACTERS = 900
MAX_ADDRESS_CHARACTERS = 254  # RFC 5321, section 4.5.3.1.3, without the angle brackets
MAX_HEADERS = 50
MAX_QUOTED = 100  # characters of a name
MAX_FILENAME_CHARACTERS = 255
UNKNOWN_TYPE = "application/octet-stream"

# What the message itself writes, or servers on its way do; a caller's header of that name would
# stand beside the true one.
_OWN_HEADERS = frozenset(
    (
        "from", "to", "cc", "bcc", "sender", "reply-to", "subject", "date", "message-id",
        "mime-version", "auto-submitted", "return-path", "received", "delivered-to",
        "dkim-signature", "authentication-results",
    )
)  # fmt: skip
# SES and SendGrid read instructions from headers; and Content- belongs to the body.
_OWN_PREFIXES = ("content-", "resent-", "arc-", "x-ses-", "x-smtpapi", "x-sg-")
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,75}\Z")
_MESSAGE_ID = re.compile(r"<[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+>\Z")
_LOCAL_PART = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}\Z")
_TYPE_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_CONTENT_TYPE = re.compile(rf"{_TYPE_NAME}/{_TYPE_NAME}\Z")
_CONTENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!#$&'*+=^_`{|}~@-]{0,254}\Z")
# Categories Cc, Cs, Zl and Zp. Not only CR and LF: mail programs and the standard library also
# break lines at VT, FF, U+001C to U+001E, U+0085, U+2028 and U+2029.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# They turn the end of a file name around, so that "gpj.exe" is read as "exe.jpg".
_TURNS_TEXT = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NOT_IN_TEXT = re.compile("[\x00\ud800-\udfff]")


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
    if _CONTROL.search(value):
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
            if len(value) != 2:
                raise InvalidMessage(field_name, "It must be one name and one address.")
            name, email = value
            if _looks_like_address(check_header(name, field_name)):
                # Two addresses in a tuple, meant as a list of them; or a name made to mislead.
                raise InvalidMessage(field_name, "A name must not look like an address.")
        else:
            name, email = _split(check_header(value, field_name))
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
            address = cls(f"{local}@{ascii_domain(domain)}", name)
        except (ValueError, UnicodeError) as error:  # idna's error is a UnicodeError
            raise InvalidMessage(field_name, "Not a valid e-mail address.") from error
        if len(address.email) > MAX_ADDRESS_CHARACTERS:
            raise InvalidMessage(field_name, "Not a valid e-mail address.")
        return address

    @property
    def domain(self) -> str:
        return self.email.rpartition("@")[2]

    def __str__(self) -> str:
        """As it is typed: `parse` reads it again."""
        if not self.name:
            return self.email
        is_plain = self.name == self.name.strip() and not any(map(self.name.count, '<>,;@"'))
        name = self.name if is_plain else f'"{quote(self.name)}"'
        return f"{name} <{self.email}>"

    def header(self) -> str:
        """The address as ASCII, for a header line. See RFC 2047, section 5."""
        if not self.name:
            return self.email
        # Long names too: what is quoted can't be folded everywhere.
        if len(self.name) > MAX_QUOTED or mime.text_header(self.name) != self.name:
            return f"{mime.encoded_words(self.name)} <{self.email}>"
        return f'"{quote(self.name)}" <{self.email}>'


AddressLike = str | tuple[str, str] | Address
Recipients = AddressLike | Sequence[AddressLike]


@dataclass(frozen=True)
class Attachment:
    """A file of a mail, or an image that its HTML shows by `cid:<content_id>`.

    :param content_type: guessed by the file name's end when None.
    """

    filename: str
    content: bytes = field(repr=False)
    content_type: str | None = None
    content_id: str | None = None

    @property
    def kind(self) -> str:
        """Its content type, given or guessed; never a mail or a multipart."""
        if self.content_type is not None:
            return self.content_type
        guessed, compression = mimetypes.guess_type(self.filename)
        if guessed is None or compression or _is_composite(guessed):
            return UNKNOWN_TYPE
        return guessed

    def check(self) -> None:
        """See whether a mail may carry it.

        :raises InvalidMessage: a name that is none or misleads, a type that is none, or one that
            must not be encoded: a mail inside of a mail. See RFC 2046, section 5.2.
        """
        name = self.filename
        if not isinstance(name, str) or not name.strip(" ."):
            raise InvalidMessage("attachments", "A file needs a name.")
        if _CONTROL.search(name) or _TURNS_TEXT.search(name) or "/" in name or "\\" in name:
            raise InvalidMessage("attachments", "A file's name holds what no file name may hold.")
        if len(name) > MAX_FILENAME_CHARACTERS:
            raise InvalidMessage(
                "attachments", f"A file's name is longer than {MAX_FILENAME_CHARACTERS} characters."
            )
        if not isinstance(self.content, bytes):
            raise InvalidMessage("attachments", "A file's content must be bytes.")
        kind = self.content_type
        if kind is not None:
            if not isinstance(kind, str) or not _CONTENT_TYPE.match(kind):
                raise InvalidMessage("attachments", "A content type must look like image/png.")
            if _is_composite(kind):
                raise InvalidMessage("attachments", f"A file can't be {kind.lower()}.")
        identity = self.content_id
        if identity is not None and not (
            isinstance(identity, str) and _CONTENT_ID.match(identity) and identity.count("@") < 2
        ):
            raise InvalidMessage("attachments", "Not a valid content id.")


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
    :param bcc: they get it, and nothing in it says so.
    :param attachments: files; those with a `content_id` are shown by the HTML, if there is one.
    :param envelope: the plain addresses that it goes to, of `recipients`; all when None. For
        another attempt, when some have got it.
    :raises InvalidMessage: something must not stand in a mail.
    """

    to: Recipients
    subject: str
    text: str
    html: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    message_id: str | None = None
    sender: AddressLike | None = None
    date: datetime = field(default_factory=lambda: datetime.now(UTC))
    cc: Recipients = ()
    bcc: Recipients = ()
    reply_to: Recipients = ()
    attachments: Sequence[Attachment] = ()
    envelope: Sequence[str] | None = None
    addresses: tuple[Address, ...] = field(init=False)
    cc_addresses: tuple[Address, ...] = field(init=False)
    bcc_addresses: tuple[Address, ...] = field(init=False)
    reply_addresses: tuple[Address, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._check_addresses()
        check_header(self.subject, "subject")
        self._check_headers()
        if self.message_id is not None and not _MESSAGE_ID.match(
            check_header(self.message_id, "message_id")
        ):
            raise InvalidMessage("message_id", "It must look like <id@domain>.")
        for part, body in (("text", self.text), ("html", self.html or "")):
            if not isinstance(body, str):
                raise InvalidMessage(part, "It must be text.")
            if _NOT_IN_TEXT.search(body):
                raise InvalidMessage(part, "It holds a character that no mail can carry.")
        self._set("attachments", tuple(self.attachments))
        for attachment in self.attachments:
            if not isinstance(attachment, Attachment):
                raise InvalidMessage("attachments", "It must be an Attachment.")
            attachment.check()
        identities = [one.content_id for one in self.attachments if one.content_id]
        if len(set(identities)) < len(identities):
            raise InvalidMessage("attachments", "Two files have the same content id.")

    def _check_addresses(self) -> None:
        # Who stands in two lists is named in the first of them.
        known: set[str] = set()
        for kind, target in (("to", "addresses"), ("cc", "cc_addresses"), ("bcc", "bcc_addresses")):
            addresses = _addresses(getattr(self, kind), kind)
            self._set(target, tuple(one for one in addresses if one.email not in known))
            known.update(address.email for address in addresses)
        if not known:
            raise InvalidMessage("to", "There is nobody to send it to.")
        self._set("reply_addresses", _addresses(self.reply_to, "reply_to"))
        if self.sender is not None:
            self._set("sender", Address.parse(self.sender, "sender"))
        if self.envelope is not None:
            envelope = tuple(address.email for address in _addresses(self.envelope, "envelope"))
            if not envelope or not known.issuperset(envelope):
                raise InvalidMessage("envelope", "It must name some of the recipients.")
            self._set("envelope", envelope)

    def _check_headers(self) -> None:
        headers = dict(self.headers)
        self._set("headers", MappingProxyType(headers))
        names = set()
        for name, value in headers.items():
            if not _HEADER_NAME.match(check_header(name, "headers")):
                raise InvalidMessage("headers", "Not a valid header name.")
            lower = name.lower()
            if lower in _OWN_HEADERS or lower.startswith(_OWN_PREFIXES):
                raise InvalidMessage("headers", f"{name} is not yours to write.")
            check_header(value, "headers")
            names.add(lower)
        if len(names) < len(headers):
            raise InvalidMessage("headers", "A header is named twice.")
        if len(headers) > MAX_HEADERS:
            raise InvalidMessage("headers", f"There are more than {MAX_HEADERS}.")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def recipients(self) -> tuple[str, ...]:
        """The plain addresses of `to`, `cc` and `bcc`, each once, in the order given."""
        everybody = (*self.addresses, *self.cc_addresses, *self.bcc_addresses)
        return tuple(address.email for address in everybody)

    @property
    def destinations(self) -> tuple[str, ...]:
        """The plain addresses that it goes to: `envelope`, or else all recipients."""
        return self.recipients if self.envelope is None else tuple(self.envelope)

    @property
    def sender_address(self) -> Address:
        """Who sends it.

        :raises InvalidMessage: no sender is set yet.
        """
        if self.sender is None:
            raise InvalidMessage("sender", "The sender must be set before sending.")
        return cast(Address, self.sender)  # read when the message was made

    def as_bytes(self, *, readable: bool = False) -> bytes:
        """The mail as it travels, with CRLF line ends; its `bcc` is not in it.

        :param readable: write UTF-8 as it is, so that a file shows links and words unbroken;
            else everything is ASCII, which every server takes.
        :raises InvalidMessage: sender or Message-ID are still missing.
        """
        if self.message_id is None:
            raise InvalidMessage("message_id", "The Message-ID must be set before sending.")
        headers = [("From", self.sender_address.header())]
        for name, addresses in (
            ("Reply-To", self.reply_addresses),
            ("To", self.addresses),
            ("Cc", self.cc_addresses),
        ):
            if addresses:
                headers.append((name, ", ".join(address.header() for address in addresses)))
        headers += [
            ("Subject", mime.text_header(self.subject)),
            ("Date", format_datetime(self.date)),
            ("Message-ID", self.message_id),
            ("Auto-Submitted", "auto-generated"),  # RFC 3834: no out-of-office answers
            *((name, mime.text_header(value)) for name, value in self.headers.items()),
            ("MIME-Version", "1.0"),
        ]
        head = b"".join(mime.header_line(name, value) for name, value in headers)
        return head + self._body(readable)

    def _body(self, readable: bool) -> bytes:
        """All that follows the headers, with those that belong to it."""
        body = mime.body_part(self.text, "plain", readable=readable)
        files = list(self.attachments)
        if self.html is not None:
            html = mime.body_part(self.html, "html", readable=readable)
            if images := [file for file in files if file.content_id]:
                files = [file for file in files if not file.content_id]
                html = mime.multipart(
                    "related", [html, *map(_file_part, images)], '; type="text/html"'
                )
            body = mime.multipart("alternative", [body, html])
        if files:
            body = mime.multipart("mixed", [body, *map(_file_part, files)])
        return body


def _looks_like_address(name: str) -> bool:
    words = name.split()
    return len(words) == 1 and "@" in words[0][1:-1]


def _split(value: str) -> tuple[str, str]:
    """Name and address of `Ada <ada@example.org>`; all of it is the address where it has none."""
    name, bracket, email = value[:-1].rpartition("<")
    if not bracket or value[-1] != ">" or ">" in email:
        return "", value
    return name.strip(), email


def _addresses(value: object, field_name: str) -> tuple[Address, ...]:
    """Read one address or several, each once."""
    is_pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)
    if is_pair or isinstance(value, str | Address):
        return (Address.parse(value, field_name),)  # type: ignore[arg-type]
    if not isinstance(value, Iterable):
        raise InvalidMessage(field_name, "It must be an address or a list of them.")
    parsed = (Address.parse(one, field_name) for one in value)
    return tuple({address.email: address for address in parsed}.values())


def _is_composite(content_type: str) -> bool:
    return content_type.lower().startswith(("message/", "multipart/"))


def _file_part(file: Attachment) -> bytes:
    return mime.file_part(file.filename, file.content, file.kind, file.content_id)

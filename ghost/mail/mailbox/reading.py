"""From the bytes of a mail to what a page shows of it, however broken they are."""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message as MimeMessage
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

from loguru import logger

from ghost.mail.mailbox.store import ENVELOPE, MAX_KEPT, Kept, read
from ghost.mail.plaintext import links_of

MAX_SHOWN = 500_000  # characters of a text or a source
MAX_HEADER = 2_000
MAX_PARTS = 100
MAX_CACHED_BYTES = 256 * 1024
MAX_LINKS = 200
UNKNOWN_TYPE = "application/octet-stream"

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_TEXT_LINK = re.compile(r"https?://[^\s<>\"']{1,2000}")
_QUOTED = re.compile(r'"([^"\\,]*)"(?= <)')
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\Z")


@dataclass(frozen=True)
class File:
    """An attachment, or an image of the HTML, which has a `content_id`."""

    name: str
    content: bytes
    content_type: str
    content_id: str | None

    @property
    def size(self) -> str:
        """Its size in words."""
        count = len(self.content)
        if count < 1024:
            return f"{count} B"
        return f"{count / 1024:.0f} KB" if count < 1024**2 else f"{count / 1024**2:.1f} MB"

    def as_address(self) -> str:
        """Itself as a `data:` address."""
        return f"data:{self.content_type};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Mail:
    """A mail as a page shows it."""

    name: str
    written_at: datetime
    sender: str
    to: str
    subject: str
    date: datetime | None
    envelope: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    text: str
    html: str | None
    files: tuple[File, ...]
    links: tuple[str, ...]
    source: str

    def html_with_images(self) -> str:
        """The HTML with its images as `data:` addresses."""
        images = {
            file.content_id: file.as_address()
            for file in self.files
            if file.content_id and file.content_type.startswith("image/")
        }
        if not images:
            return self.html or ""
        names = "|".join(map(re.escape, sorted(images, key=len, reverse=True)))
        address = re.compile(rf"cid:({names})(?![\w.@-])")  # not cid:logo of cid:logo2
        return address.sub(lambda found: images[found[1]], self.html or "")


@dataclass(frozen=True)
class Summary:
    """What a list shows of a mail: its `snippet` is the beginning of what it says."""

    name: str
    written_at: datetime
    to: str = ""
    subject: str = "(this mail can't be read)"
    snippet: str = ""
    attachment_count: int = 0  # without the images that the HTML shows

    @property
    def initial(self) -> str:
        """The first letter of whom it is to."""
        return next((letter.upper() for letter in self.to if letter.isalnum()), "?")


# More than are kept, so that a page of all of them finds each where it left it.
@lru_cache(maxsize=2 * MAX_KEPT)
def summarize(kept: Kept) -> Summary:
    """Read what a list shows of a mail of the folder, once however large it is."""
    try:
        return _summary(kept.name, kept.written_at, read(kept))
    except Exception as error:  # as in `parse`
        _note(kept.name, error)
        return Summary(kept.name, kept.written_at)


def _summary(name: str, written_at: datetime, raw: bytes) -> Summary:
    mime = message_from_bytes(raw)
    parts = _parts(mime)
    text = "" if parts.text is None else _text_of(parts.text)
    return Summary(
        name=name,
        written_at=written_at,
        to=_people(mime, "To"),
        subject=_header(mime, "Subject"),
        snippet=" ".join(text[:1000].split())[:140],
        attachment_count=sum(_content_id(part) is None for part in parts.files),
    )


def open_mail(kept: Kept) -> Mail:
    """Read a mail of the folder."""
    if kept.size > MAX_CACHED_BYTES:
        return parse(kept.name, kept.written_at, read(kept))
    return _opened(kept)


@lru_cache(maxsize=200)
def _opened(kept: Kept) -> Mail:
    return parse(kept.name, kept.written_at, read(kept))


def parse(name: str, written_at: datetime, raw: bytes) -> Mail:
    """Read a mail; of one that is broken there may be nothing but its source."""
    try:
        return _parsed(name, written_at, raw)
    # The standard library's reader has raised errors of a dozen kinds over the years.
    except Exception as error:
        _note(name, error)
        return Mail(
            name, written_at, sender="", to="", subject="(this mail can't be read)", date=None,
            envelope=(), headers=(), text="", html=None, files=(), links=(), source=_source(raw),
        )  # fmt: skip


def _note(name: str, error: Exception) -> None:
    logger.bind(reason=type(error).__name__, mail=name).debug("a kept mail can't be read")


def _parsed(name: str, written_at: datetime, raw: bytes) -> Mail:
    mime = message_from_bytes(raw)
    parts = _parts(mime)
    text = "" if parts.text is None else _text_of(parts.text)
    html = None if parts.html is None else _text_of(parts.html)
    return Mail(
        name=name,
        written_at=written_at,
        sender=_people(mime, "From"),
        to=_people(mime, "To"),
        subject=_header(mime, "Subject"),
        date=_date(mime),
        envelope=tuple(_clean(str(value)) for value in mime.get_all(ENVELOPE, ())),
        headers=tuple(
            (_clean(key), _decoded(str(value)))
            for key, value in mime.items()
            if key.lower() != ENVELOPE.lower()
        ),
        text=text,
        html=html,
        files=tuple(_file(part, number) for number, part in enumerate(parts.files, 1)),
        links=tuple(_links(text, html or "")),
        source=_source(raw),
    )


class _Parts(NamedTuple):
    """The parts of a mail, not decoded yet."""

    text: MimeMessage | None
    html: MimeMessage | None
    files: list[MimeMessage]


def _parts(mime: MimeMessage) -> _Parts:
    text: MimeMessage | None = None
    html: MimeMessage | None = None
    files: list[MimeMessage] = []
    for part in _leaves(mime):
        kind = part.get_content_type()
        is_body = part.get_content_disposition() != "attachment" and part.get_filename() is None
        if is_body and kind == "text/plain" and text is None:
            text = part
        elif is_body and kind == "text/html" and html is None:
            html = part
        else:
            files.append(part)
    return _Parts(text, html, files)


def _leaves(mime: MimeMessage) -> Iterator[MimeMessage]:
    """The parts that hold no others, in order; without recursion, since parts may nest deeply."""
    waiting, count = [mime], 0
    while waiting and count < MAX_PARTS:
        part = waiting.pop()
        if part.is_multipart():
            waiting.extend(reversed(part.get_payload()))  # type: ignore[arg-type]
        else:
            count += 1
            yield part


def _text_of(part: MimeMessage) -> str:
    content = part.get_payload(decode=True)
    raw = content if isinstance(content, bytes) else b""
    try:
        text = raw.decode(part.get_content_charset() or "utf-8", "replace")
    except (LookupError, UnicodeError, ValueError):  # no such charset, or one that is no text
        text = raw.decode("utf-8", "replace")
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n"))[:MAX_SHOWN]


def _file(part: MimeMessage, number: int) -> File:
    content = part.get_payload(decode=True)
    kind = part.get_content_type().lower()
    if not _TYPE.match(kind):
        kind = UNKNOWN_TYPE
    named = part.get_filename()
    fallback = f"part-{number}{mimetypes.guess_extension(kind) or ''}"
    name = re.sub(r"[/\\]", "_", _decoded(named).strip(". ")) if named else fallback
    return File(
        name[:200] or fallback,
        content if isinstance(content, bytes) else b"",
        kind,
        _content_id(part),
    )


def _content_id(part: MimeMessage) -> str | None:
    if part.get_content_disposition() == "attachment":
        return None
    return _clean(str(part.get("Content-ID", ""))).strip("<> ") or None


def _header(mime: MimeMessage, name: str) -> str:
    return _decoded(str(mime.get(name, "")))


def _people(mime: MimeMessage, name: str) -> str:
    """A header with addresses, without the quotes around names."""
    return _QUOTED.sub(r"\1", _header(mime, name))


def _decoded(value: str) -> str:
    """A header's value as people write it. See RFC 2047."""
    pieces = []
    try:
        for piece, charset in decode_header(value[:MAX_HEADER]):
            if isinstance(piece, str):
                pieces.append(piece)
                continue
            try:
                pieces.append(piece.decode(charset or "utf-8", "replace"))
            except (LookupError, UnicodeError, ValueError):
                pieces.append(piece.decode("utf-8", "replace"))
    except (HeaderParseError, ValueError):
        return _clean(value)
    return _clean("".join(pieces))


def _clean(value: str) -> str:
    one_line = " ".join(value[:MAX_HEADER].split())
    return _UNPRINTABLE.sub("\ufffd", one_line)


def _date(mime: MimeMessage) -> datetime | None:
    try:
        return parsedate_to_datetime(str(mime.get("Date", "")))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _links(text: str, html: str) -> list[str]:
    """What somebody could click on, each once, in order; web addresses alone."""
    found: dict[str, None] = {}
    for link in links_of(html):
        found[_clean(link)] = None
    for link in _TEXT_LINK.findall(text):
        found[_clean(link).rstrip(".,;:!?)")] = None
    web = (link for link in found if link.lower().startswith(("http://", "https://")))
    return [link for link, _ in zip(web, range(MAX_LINKS), strict=False)]


def _source(raw: bytes) -> str:
    text = raw[: 4 * MAX_SHOWN].decode("utf-8", "replace").replace("\r\n", "\n")
    return _UNPRINTABLE.sub("\ufffd", text)[:MAX_SHOWN]

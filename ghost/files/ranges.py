"""Parts of a file, as the header Range asks for them. See RFC 9110, section 14."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from secrets import token_hex

from ghost.errors import GhostError

# More than a reader of PDFs or a download in parts asks for; each is a read, and a request to a
# store of objects.
MAX_RANGES = 16

_RANGE = re.compile(r"([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19})", re.ASCII)


class RangeNotSatisfiable(GhostError):
    """None of the parts that were asked for is in the file."""

    status, code = 416, "range_not_satisfiable"
    message = "The file has no such part."

    def __init__(self, size: int) -> None:
        super().__init__(headers={"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"})


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file of some size: bytes from `start` up to, but without, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def content_range(self, size: int) -> str:
        """The value of Content-Range."""
        return f"bytes {self.start}-{self.stop - 1}/{size}"


def read_ranges(header: str | None, size: int) -> list[Span] | None:
    """Tell which parts of a file of `size` bytes to answer with; None for all of it.

    A header that is malformed, of another unit, asks for more than 16 parts or for more bytes than
    there are, is ignored, as RFC 9110 allows: the last two are how ranges are abused.

    :returns: at least one, in the order asked for.
    :raises RangeNotSatisfiable: all of them begin behind the end.
    """
    if header is None:
        return None
    unit, _, listed = header.partition("=")
    words = [word.strip(" \t") for word in listed.split(",", MAX_RANGES)]
    if unit.strip().lower() != "bytes" or len(words) > MAX_RANGES:
        return None
    spans = []
    for word in words:
        found = _RANGE.fullmatch(word)
        if found is None:
            return None
        span = _read_span(found, size)
        if span is None:
            return None
        if span.length > 0:
            spans.append(span)
    if not spans:
        raise RangeNotSatisfiable(size)
    if sum(span.length for span in spans) > size:
        return None
    return spans


def _read_span(found: re.Match[str], size: int) -> Span | None:
    """A part, without bytes if it is behind the end; None where it ends before it begins."""
    first, last, suffix = found.groups()
    if suffix is not None:
        return Span(max(0, size - int(suffix)), size)
    start = int(first)
    if last and int(last) < start:
        return None
    stop = min(int(last) + 1, size) if last else size
    return Span(min(start, size), max(stop, min(start, size)))


class Multipart:
    """Several parts of a file as one body of the type multipart/byteranges."""

    def __init__(self, spans: Sequence[Span], size: int, content_type: str) -> None:
        boundary = token_hex(16)
        self.content_type = f"multipart/byteranges; boundary={boundary}"
        self._spans = spans
        self._heads = [
            (
                f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\n"
                f"Content-Range: {span.content_range(size)}\r\n\r\n"
            ).encode("latin-1")
            for span in spans
        ]
        self._end = f"\r\n--{boundary}--\r\n".encode()

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        heads = sum(map(len, self._heads))
        return heads + sum(span.length for span in self._spans) + len(self._end)

    def __iter__(self) -> Iterator[bytes | Span]:
        """Give what the body consists of: bytes as they are, and parts of the file."""
        for head, span in zip(self._heads, self._spans, strict=True):
            yield head
            yield span
        yield self._end

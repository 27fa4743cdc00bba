"""Uploads by form: the body is taken apart while it arrives, and its file handed on in pieces."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import ClientDisconnected
from werkzeug.http import parse_options_header
from werkzeug.wsgi import get_content_length, get_input_stream

from ghost.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed
from ghost.files.arrivals import empty_file
from ghost.files.metadata import MAX_METADATA_BYTES, check_metadata
from ghost.files.models import PRIVATE, VISIBILITIES
from ghost.http import read_json
from ghost.pace import within

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# gunicorn (27.0) reads from its socket in pieces of up to 1 MiB, and copies what is left of one for
# each smaller piece that it is asked for.
PIECE_BYTES = 2**20
# What a form may have besides its file.
MAX_PARTS = 8
MAX_HEADERS, MAX_HEADER_BYTES = 8, 4096
FORM_BYTES = 64 * 1024
# A sender that is silent for longer is given up.
SILENCE_SECONDS = 30.0
# How much of a body that is refused is read, and how long, so that the answer gets through.
DRAIN_BYTES, DRAIN_SECONDS = 16 * 2**20, 2.0

_FIELDS = {"visibility": 32, "metadata": MAX_METADATA_BYTES}


class Body:
    """The body of a request, in large pieces, as the server has it.

    :ivar length: as declared, in bytes; None for one in chunks.
    :param limit: bytes at most.
    """

    def __init__(self, environ: WSGIEnvironment, limit: int) -> None:
        self.length, self._limit = get_content_length(environ), limit
        self._count = 0
        self._is_over = False
        # Werkzeug's own stream counts what was declared, where the server does not.
        self._stream = get_input_stream(environ)
        self._socket = environ.get("gunicorn.socket")
        self._encoding = environ.get("HTTP_CONTENT_ENCODING", "identity")

    def check(self) -> None:
        """Refuse a body for what is said of it, before it is read.

        :raises UnsupportedMediaType: it is compressed.
        :raises PayloadTooLarge: it declares more bytes than the limit.
        """
        if self._encoding != "identity":
            raise UnsupportedMediaType("Send the body as it is, not compressed.")
        if self.length is not None and self.length > self._limit:
            raise PayloadTooLarge

    def read(self, size: int = PIECE_BYTES) -> bytes:
        """Read as many bytes, or those that are left; none at the end.

        :raises BadRequest: the body is cut, can't be read, or does not come on.
        :raises PayloadTooLarge: it has more bytes than the limit.
        """
        if self._is_over:
            return b""
        try:
            with self._patience(SILENCE_SECONDS):
                piece: bytes = self._stream.read(size)
        except ClientDisconnected as error:
            raise BadRequest("The body is shorter than its Content-Length.") from error
        # Each server has its own errors for chunks that are none and connections that end.
        except Exception as error:
            raise BadRequest("The body could not be read.") from error
        self._count += len(piece)
        if self._count > self._limit:
            raise PayloadTooLarge
        if not piece:
            self._is_over = True
            if self.length is not None and self._count != self.length:
                raise BadRequest("The body is shorter than its Content-Length.")
        return piece

    def drain(self) -> None:
        """Read on for a moment: who is still sending does not look for an answer yet."""
        ends_at, left = time.monotonic() + DRAIN_SECONDS, DRAIN_BYTES
        # Whatever goes wrong now, the body was refused already.
        with suppress(Exception), self._patience(DRAIN_SECONDS), within(DRAIN_SECONDS):
            while left > 0 and time.monotonic() < ends_at:
                piece = self._stream.read(min(PIECE_BYTES, left))
                if not piece:
                    return
                left -= len(piece)

    @contextmanager
    def _patience(self, seconds: float) -> Iterator[None]:
        """Bound the waits for the sender's next bytes, where the server tells of the connection.

        gunicorn's threads (27.0) wait for a body as long as the connection is open.
        """
        connection = self._socket
        if connection is None or connection.gettimeout() is not None:
            yield
            return
        connection.settimeout(seconds)
        try:
            yield
        finally:
            with suppress(OSError):  # it is closed
                connection.settimeout(None)


class UploadForm:
    """A form of one file and a few fields, read once: `open`, then `pieces`.

    :ivar filename: as the sender says, once it is open.
    :ivar declared_type: likewise; None for nothing.
    :ivar visibility: once all pieces are read, as `metadata`: a field may stand behind the file.
    :param content_type: the header `Content-Type` of the request.
    :param fields: those that are taken, besides the file.
    :raises UnsupportedMediaType: it is of no form with files.
    """

    def __init__(
        self, body: Body, content_type: str, *, fields: Collection[str] = tuple(_FIELDS)
    ) -> None:
        mimetype, options = parse_options_header(content_type)
        if mimetype != "multipart/form-data":
            raise UnsupportedMediaType("Send the file as multipart/form-data.")
        self.filename, self.declared_type = "", None
        self.visibility: str = PRIVATE
        self.metadata: dict[str, Any] = {}
        self._library = import_module("multipart")
        self._body, self._fields = body, fields
        boundary = options.get("boundary", "")
        self._delimiter = b"--" + boundary.encode()
        try:
            self._parser = self._library.PushMultipartParser(
                boundary,
                max_header_count=MAX_HEADERS,
                max_header_size=MAX_HEADER_BYTES,
                max_segment_count=MAX_PARTS,
            )
        except self._library.MultipartError as error:
            raise BadRequest("The form has no usable boundary.") from error
        self._events = self._parse()
        self._seen: set[str] = set()

    def open(self) -> None:
        """Read up to the file.

        :raises ValidationFailed: there is none, or a field is wrong.
        :raises BadRequest: the body is cut or no form.
        """
        if not self._read_fields():
            raise _wrong("files", "file", "Send one file.")

    def pieces(self) -> Iterator[bytes]:
        """Give the bytes of the file, and then read what is behind it.

        :raises ValidationFailed: it is empty, there is a second one, or a field is wrong.
        :raises BadRequest: the body is cut or no form.
        """
        is_first = True
        for event in self._events:
            if event is None:
                break
            # Werkzeug's test client (3.1) for one leaves out the line end of an empty file.
            if is_first and event.startswith(self._delimiter):
                raise empty_file()
            is_first = False
            yield event
        if self._read_fields():
            raise _wrong("files", "file", "Send one file.")

    def _read_fields(self) -> bool:
        """Read fields until a file begins, or the form ends; tells whether it was a file."""
        for part in self._events:
            if part.name == "file" and part.filename is not None:
                self.filename, self.declared_type = part.filename, part.content_type
                return True
            self._check_field(part.name, part.filename)
            self._take(part.name, self._read_value(part.name))
        return False

    def _check_field(self, name: str, filename: str | None) -> None:
        if name == "file":
            raise _wrong("files", "file", "Send a file, with a name.")
        if name not in self._fields or filename is not None:
            raise _wrong("form", name, "Unknown field.")
        if name in self._seen:
            raise _wrong("form", name, "Given more than once.")
        self._seen.add(name)

    def _read_value(self, name: str) -> bytes:
        value = bytearray()
        for event in self._events:
            if event is None:
                break
            value += event
            if len(value) > _FIELDS[name]:
                raise _wrong("form", name, f"Longer than {_FIELDS[name]} bytes.")
        return bytes(value)

    def _take(self, name: str, value: bytes) -> None:
        if name == "metadata":
            self.metadata = _read_metadata(value)
        elif (visibility := value.decode("utf-8", "replace")) in VISIBILITIES:
            self.visibility = visibility
        else:
            raise _wrong("form", name, f"Must be one of: {', '.join(VISIBILITIES)}.")

    def _parse(self) -> Iterator[Any]:
        """What the form consists of: a part, its bytes in pieces, None at its end, the next part.

        :raises BadRequest: it is no form, has too many parts or headers, or is cut.
        """
        try:
            while piece := self._body.read():
                if not self._parser.closed:
                    yield from self._parser.parse(piece)
            self._parser.close()
        except self._library.ParserLimitReached as error:
            raise BadRequest("The form has too many parts or too long headers.") from error
        except self._library.MultipartError as error:
            raise BadRequest("The form is damaged or cut off.") from error


def _wrong(location: str, field: str, message: str) -> ValidationFailed:
    # A name that came from outside is shown, but not at any length.
    return ValidationFailed(details={location: {field[:100]: [message]}})


def _read_metadata(value: bytes) -> dict[str, Any]:
    try:
        return check_metadata(read_json(value, "The field metadata"))
    except BadRequest as error:
        raise _wrong("form", "metadata", error.message) from error
    except ValueError as error:
        raise _wrong("form", "metadata", str(error)) from error

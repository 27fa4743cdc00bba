"""Sending the bytes of files: whole or in parts, from a disk or a bucket, by us or by others.

Nothing here uses the database. Where it can be, the kernel sends a file (`sendfile`), nginx does
(`storage.accel_redirect`), or the bucket itself (`storage.signed_redirect`).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import IO, BinaryIO, cast

from flask import Response, request
from loguru import logger
from werkzeug.http import http_date
from werkzeug.wsgi import wrap_file

from ghost.config import current_config
from ghost.errors import NotFound, PreconditionFailed
from ghost.files.dispositions import content_disposition, content_type_header, may_be_shown
from ghost.files.ranges import Multipart, Span, read_ranges
from ghost.files.storage import current_storage
from ghost.files.storage.base import PIECE_BYTES, Missing, Storage, StorageUnavailable, begun

# Whoever takes nothing for so long is given up: a thread waits for them. For a piece of 256 KiB,
# that is 4 KiB a second.
SEND_SECONDS = 60.0
# An address at a bucket outlives the redirect to it, since players come back to it for more.
REDIRECT_SECONDS = 300
PUBLIC_SECONDS = 300

# Where a file is opened as a page, it is a page of nobody: no scripts, no forms, no way to cookies.
CONTENT_POLICY = (
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'"
)
# nginx answers these by its own idea of a file, which is another than ours.
_OURS_TO_JUDGE = ("If-Match", "If-Unmodified-Since", "If-Range")


@dataclass(frozen=True, slots=True)
class Download:
    """Bytes in the storage, and what is said of them.

    :param etag: names exactly these bytes; without quotes.
    :param modified_at: since when they are there.
    """

    key: str
    size: int
    content_type: str
    filename: str
    etag: str
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Audience:
    """Who gets the answer.

    :param cache_control: who may keep it, and for how long.
    :param is_embeddable: whether pages of other origins may show it.
    """

    cache_control: str
    is_embeddable: bool


EVERYBODY = Audience(f"public, max-age={PUBLIC_SECONDS}", True)
ONE_CALLER = Audience("private, no-cache", False)


def holder_of_link(seconds: int) -> Audience:
    """Whoever has a signed address, which is good for so long."""
    return Audience(f"private, max-age={min(seconds, PUBLIC_SECONDS)}", True)


def serve(download: Download, audience: Audience, *, is_attachment: bool = False) -> Response:
    """Answer the current GET or HEAD request with a file, or the part that it asks for.

    :param is_attachment: have it saved, though it could be shown.
    :raises PreconditionFailed, RangeNotSatisfiable: as RFC 9110 says.
    :raises NotFound: there are no bytes, which is logged.
    :raises StorageUnavailable: the storage is away, or what is there is not what should be.
    """
    try:
        return serve_if_there(download, audience, is_attachment=is_attachment)
    except Missing as error:
        logger.bind(key=download.key).error("the bytes of a file are missing")
        raise NotFound from error


def serve_if_there(
    download: Download, audience: Audience, *, is_attachment: bool = False
) -> Response:
    """As `serve`, for bytes that can be made anew.

    :raises Missing: there are none.
    """
    headers = _headers(download, audience, is_attachment)
    if not _is_wanted(download):
        return _response(None, 304, headers)
    return _send(current_storage(), download, headers)


def _headers(download: Download, audience: Audience, is_attachment: bool) -> dict[str, str]:
    is_shown = may_be_shown(download.content_type) and not is_attachment
    return {
        "Content-Type": content_type_header(download.content_type),
        "Content-Disposition": content_disposition(download.filename, is_shown=is_shown),
        "ETag": f'"{download.etag}"',
        "Last-Modified": http_date(download.modified_at),
        "Accept-Ranges": "bytes",
        "Cache-Control": audience.cache_control,
        "Content-Security-Policy": CONTENT_POLICY,
        "Cross-Origin-Resource-Policy": "cross-origin" if audience.is_embeddable else "same-origin",
    }


def _is_wanted(download: Download) -> bool:
    """Judge the request's conditions in their order. See RFC 9110, section 13.2.2.

    :returns: False when the caller has these bytes already.
    :raises PreconditionFailed: they want others.
    """
    modified_at = download.modified_at.replace(microsecond=0)
    if "If-Match" in request.headers:
        if not request.if_match.contains(download.etag):
            raise PreconditionFailed
    elif (until := request.if_unmodified_since) is not None and modified_at > until:
        raise PreconditionFailed
    if "If-None-Match" in request.headers:
        return not request.if_none_match.contains_weak(download.etag)
    since = request.if_modified_since
    return since is None or modified_at > since


def _send(storage: Storage, download: Download, headers: dict[str, str]) -> Response:
    settings = current_config().storage
    is_head = request.method == "HEAD"
    file = storage.open_local(download.key)
    if file is None:
        if settings.signed_redirect and not is_head:
            url = storage.signed_url(download.key, REDIRECT_SECONDS, _kept_by_store(headers))
            if url is not None:
                return _response(None, 302, {"Location": url, "Cache-Control": "no-store"})
        if is_head:
            _check_size(storage.stat(download.key).size, download)
    else:
        _check_file(file, download)
        judged = any(name in request.headers for name in _OURS_TO_JUDGE)
        if settings.accel_redirect and not judged:
            file.close()
            return _response(
                None, 200, headers | {"X-Accel-Redirect": settings.accel_redirect + download.key}
            )
    if is_head:
        if file is not None:
            file.close()
        return _response(None, 200, headers | {"Content-Length": str(download.size)})
    return _send_bytes(storage, file, download, headers)


def _send_bytes(
    storage: Storage, file: BinaryIO | None, download: Download, headers: dict[str, str]
) -> Response:
    """Send a whole file, one part or several; closes the file, if not yet then after sending."""
    try:
        spans = _wanted_spans(download)
    except BaseException:
        if file is not None:
            file.close()
        raise
    if spans is not None and len(spans) > 1:
        if file is not None:
            file.close()
        else:  # the first part may be there when the last one is not
            _check_size(storage.stat(download.key).size, download)
        return _send_several(storage, download, spans, headers)
    status, span = 200, Span(0, download.size)
    if spans:
        status, (span,) = 206, spans
        headers["Content-Range"] = span.content_range(download.size)
    headers["Content-Length"] = str(span.length)
    if file is None:
        return _response(storage.read(download.key, span.start, span.length), status, headers)
    part = cast(IO[bytes], FilePart(file, span))
    body = wrap_file(request.environ, part, PIECE_BYTES)
    return _response(body, status, headers)


def _wanted_spans(download: Download) -> list[Span] | None:
    wanted = request.headers.get("Range")
    if wanted is None:
        return None
    condition = request.if_range
    if condition.date is not None or condition.etag is not None:
        # Dates count to the second and the bytes never change, so that they are exact enough.
        is_same = condition.etag == download.etag or (
            condition.date is not None
            and condition.date == download.modified_at.replace(microsecond=0)
        )
        if not is_same or request.headers["If-Range"].lstrip().startswith("W/"):
            return None
    return read_ranges(wanted, download.size)


def _send_several(
    storage: Storage, download: Download, spans: Sequence[Span], headers: dict[str, str]
) -> Response:
    parts = Multipart(spans, download.size, headers["Content-Type"])
    headers |= {"Content-Type": parts.content_type, "Content-Length": str(parts.length)}
    return _response(begun(_several(storage, download.key, parts)), 206, headers)


def _several(storage: Storage, key: str, parts: Multipart) -> Generator[bytes, None, None]:
    is_first = True
    for part in parts:
        if isinstance(part, bytes):
            head = part
            continue
        with closing(storage.read(key, part.start, part.length)) as pieces:
            if is_first:
                yield b""  # this far before the answer begins: see `begun`
                is_first = False
            yield head
            yield from pieces
    yield head


def _check_file(file: BinaryIO, download: Download) -> None:
    try:
        _check_size(os.fstat(file.fileno()).st_size, download)
    except StorageUnavailable:
        file.close()
        raise


def _check_size(size: int, download: Download) -> None:
    if size != download.size:
        logger.bind(key=download.key, size=size, expected=download.size).error(
            "a file has another size than it should"
        )
        raise StorageUnavailable


def _kept_by_store(headers: dict[str, str]) -> dict[str, str]:
    return {
        name: headers[name] for name in ("Content-Type", "Content-Disposition", "Cache-Control")
    }


def _response(body: Iterable[bytes] | None, status: int, headers: dict[str, str]) -> Response:
    """Make a response of bytes that are passed on as they are, and bound the waits for a taker."""
    if body is not None:
        connection = request.environ.get("gunicorn.socket")
        if connection is not None:
            # gunicorn (27.0) waits for ever, and sets this anew for the next request.
            connection.settimeout(SEND_SECONDS)
    return Response(body, status, [*headers.items()], direct_passthrough=body is not None)


class FilePart:
    """A part of an open file as a file of its own, which `sendfile` can send."""

    def __init__(self, file: BinaryIO, span: Span) -> None:
        self._file, self._left = file, span.length
        file.seek(span.start)

    def fileno(self) -> int:
        """The descriptor, which stands at the beginning of the part."""
        return self._file.fileno()

    def read(self, size: int = -1) -> bytes:
        """Read on, to the end of the part at most."""
        wanted = self._left if size < 0 else min(size, self._left)
        piece = self._file.read(wanted)
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        """Close the file."""
        self._file.close()

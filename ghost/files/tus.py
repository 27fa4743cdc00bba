"""The headers of tus 1.0.0, read and written. See https://tus.io/protocols/resumable-upload."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from werkzeug.datastructures import Headers

from ghost.errors import BadRequest, GhostError, PreconditionFailed, ValidationFailed
from ghost.files.metadata import MAX_METADATA_BYTES, check_metadata
from ghost.files.models import PRIVATE, VISIBILITIES
from ghost.http import read_json

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,expiration,checksum,termination"
ALGORITHMS = ("sha1", "sha256")
MEDIA_TYPE = "application/offset+octet-stream"

# The keys of `Upload-Metadata` that mean something here; `name` and `type` are Uppy's.
_KEYS = frozenset({"filename", "name", "filetype", "type", "visibility", "metadata"})
_COUNT = re.compile(r"[0-9]{1,18}")  # of bytes, in what a database can hold
_TYPE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,126}")

Found = TypeVar("Found")


class ChecksumMismatch(GhostError):
    """What arrived is not what was sent; none of it is kept."""

    status, code = 460, "checksum_mismatch"
    message = "The bytes have another checksum; send them again."


def check_protocol(headers: Headers) -> None:
    """Refuse a request of another version of the protocol, or of none.

    :raises PreconditionFailed: the header `Tus-Resumable` is not ours.
    """
    if headers.get("Tus-Resumable") != VERSION:
        raise PreconditionFailed(
            f"Send the header Tus-Resumable: {VERSION}.", headers={"Tus-Version": VERSION}
        )


def read_count(headers: Headers, name: str) -> int:
    """Read a header that has to be there and is a number of bytes.

    :raises ValidationFailed: it is none, or missing.
    """
    value = headers.get(name, "")
    if not _COUNT.fullmatch(value):
        raise wrong(name, "Send a number of bytes." if value else "Missing.")
    return int(value)


# --- Upload-Checksum ------------------------------------------------------------------------------


class Checksum:
    """What the bytes of one request have to add up to."""

    def __init__(self, algorithm: str, expected: bytes) -> None:
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self._expected = expected

    def update(self, data: bytes) -> None:
        """Take some more of the bytes."""
        self._hash.update(data)

    def verify(self) -> None:
        """Compare, when all bytes are there.

        :raises ChecksumMismatch: they are not what was sent.
        """
        if not hmac.compare_digest(self._hash.digest(), self._expected):
            raise ChecksumMismatch


def read_checksum(headers: Headers) -> Checksum | None:
    """Read `Upload-Checksum`; None when it is not there.

    :raises BadRequest: the algorithm is none of ours, or the value no base64.
    """
    value = headers.get("Upload-Checksum")
    if value is None:
        return None
    algorithm, _, encoded = value.partition(" ")
    if algorithm not in ALGORITHMS:
        raise BadRequest(f"Upload-Checksum takes {', '.join(ALGORITHMS)}.")
    try:
        return Checksum(algorithm, base64.b64decode(encoded, validate=True))
    except ValueError as error:
        raise BadRequest("The value of Upload-Checksum is not base64.") from error


# --- Upload-Metadata ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Description:
    """What the sender says of a file: `Upload-Metadata`, as far as we know its keys.

    :ivar text: the header itself.
    """

    filename: str = ""
    content_type: str | None = None
    visibility: str = PRIVATE
    details: Mapping[str, Any] | None = None
    text: str = ""


def read_description(headers: Headers) -> Description:
    """Read `Upload-Metadata`; keys that we don't know are the client's own, and left alone.

    :raises ValidationFailed: it is not as the protocol says, or a value is wrong.
    """
    text = headers.get("Upload-Metadata", "")
    values = {key: _text(key, value) for key, value in _read_pairs(text).items() if key in _KEYS}
    return Description(
        filename=values.get("filename") or values.get("name") or "",
        content_type=_read(values, "filetype", _type) or _read(values, "type", _type),
        visibility=_read(values, "visibility", _visibility) or PRIVATE,
        details=_read(values, "metadata", _details),
        text=text,
    )


def _read_pairs(text: str) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    for pair in text.split(",") if text.strip() else ():
        key, _, encoded = pair.strip().partition(" ")
        if not key or not pair.isascii() or not pair.isprintable() or key in values:
            raise wrong("Upload-Metadata", "Send `key base64` pairs, each key once.")
        try:
            values[key] = base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            message = f"The value of {key[:40]} is not base64."
            raise wrong("Upload-Metadata", message) from error
    return values


def _text(key: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise wrong("Upload-Metadata", f"The value of {key} is not UTF-8.") from error


def _read(values: Mapping[str, str], key: str, read: Callable[[str], Found]) -> Found | None:
    """Read one value; None for one that is empty or missing."""
    value = values.get(key)
    if not value:
        return None
    try:
        return read(value)
    except ValueError as error:
        raise wrong("Upload-Metadata", f"{key}: {error}") from error


def _type(value: str) -> str:
    if not _TYPE.fullmatch(value):
        raise ValueError("Send a media type of 127 characters at most.")
    return value


def _visibility(value: str) -> str:
    if value not in VISIBILITIES:
        raise ValueError(f"Must be one of: {', '.join(VISIBILITIES)}.")
    return value


def _details(value: str) -> dict[str, Any]:
    if len(value.encode()) > MAX_METADATA_BYTES:
        raise ValueError(f"Longer than {MAX_METADATA_BYTES} bytes.")
    try:
        found = read_json(value.encode(), "The key metadata")
    except BadRequest as error:
        raise ValueError(error.message) from error
    return check_metadata(found)


def wrong(header: str, message: str) -> ValidationFailed:
    """The error for a header."""
    return ValidationFailed(details={"headers": {header: [message]}})

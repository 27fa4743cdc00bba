"""What a storage URL says about a place for files, which types may lie there, how images shrink."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

SCHEMES = ("file", "s3", "az", "gs")
MAX_VARIANT_PIXELS = 8192  # of one side

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9!._()-]*(?:/[A-Za-z0-9][A-Za-z0-9!._()-]*)*")
_REGION = re.compile(r"[A-Za-z0-9-]{1,50}")

# Safe to keep, and to give to people who trust where it comes from.
ALLOWED_TYPES = (
    "image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/heic",
    "application/pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "application/vnd.oasis.opendocument.text",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/vnd.oasis.opendocument.presentation",
    "application/zip", "application/gzip", "application/x-tar", "application/x-7z-compressed",
    "text/plain", "text/csv", "text/markdown", "application/json",
    "audio/mpeg", "audio/ogg", "audio/wav", "audio/flac", "audio/mp4",
    "video/mp4", "video/webm", "video/quicktime",
)  # fmt: skip


@dataclass(frozen=True)
class FolderPlace:
    """A folder of this machine, or one that several machines share."""

    path: Path


@dataclass(frozen=True)
class BucketPlace:
    """A bucket (or container) of an object store.

    :param service: "s3", "az" or "gs".
    :param prefix: what every key begins with, without a slash at its end; perhaps empty.
    :param key: who we are; the service's usual chain of places decides when it is empty. For
        Azure the name of the account.
    :param endpoint: another address than the service's own.
    """

    service: Literal["s3", "az", "gs"]
    bucket: str
    prefix: str = ""
    key: str = ""
    secret: str = field(default="", repr=False)
    endpoint: str | None = None
    region: str | None = None


Place = FolderPlace | BucketPlace


@dataclass(frozen=True)
class VariantSetting:
    """How a variant of an image is made; see `ghost.files.images.Variant`."""

    width: int
    height: int
    fit: Literal["cover", "inside"] = "inside"
    quality: int | None = None


VARIANTS: Mapping[str, VariantSetting] = {
    "thumb": VariantSetting(128, 128, "cover"),
    "small": VariantSetting(320, 320),
    "medium": VariantSetting(800, 800),
    "large": VariantSetting(1600, 1600),
}


def resolve_storage_url(url: str, root: Path) -> str:
    """Check a storage URL, and make the path of `file://` absolute; opens nothing.

    :param root: what a relative path starts from.
    :raises ValueError: this is none; the text says what is expected and shows no secret.
    """
    parts = urlsplit(url)
    if parts.scheme != "file":
        read_storage_url(url)
        return url
    path = unquote(parts.netloc + parts.path)
    if path.strip("/.") == "" or parts.query or parts.fragment:
        raise ValueError("the path of a folder behind file://")
    return f"file://{quote(str(root / path))}"


def read_storage_url(url: str) -> Place:
    """Read `file:///folder`, `s3://bucket/prefix?endpoint=&region=`, `az://...` or `gs://...`.

    A key and its secret may stand before the bucket, `s3://KEY:SECRET@bucket`.

    :raises ValueError: the text says what is expected and shows no secret.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderPlace(Path(unquote(parts.path)))
    service = parts.scheme
    if service not in ("s3", "az", "gs") or parts.fragment or parts.netloc.count(":") > 1:
        raise ValueError("a URL that begins with file://, s3://, az:// or gs://")
    if importlib.util.find_spec("obstore") is None:
        raise ValueError(f"obstore for {service}://, which `pip install ghost[cloud]` brings")
    user, _, bucket = parts.netloc.rpartition("@")
    key, _, secret = (unquote(word) for word in user.partition(":"))
    prefix = parts.path.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"the name of a bucket, as in {service}://bucket/prefix")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError("a prefix of letters, digits and . _ - between slashes")
    if bool(key) != bool(secret) or (key and service == "gs"):
        raise ValueError("both a key and its secret, or neither (and neither for gs://)")
    options = _options(parts.query, ("endpoint", "region") if service == "s3" else ("endpoint",))
    if "region" in options and not _REGION.fullmatch(options["region"]):
        raise ValueError("the name of a region behind region=")
    return BucketPlace(
        service,  # type: ignore[arg-type]
        bucket,
        prefix,
        key,
        secret,
        _endpoint(options.get("endpoint")),
        options.get("region"),
    )


def _options(query: str, names: tuple[str, ...]) -> dict[str, str]:
    expected = f"no options but {' and '.join(f'?{name}=' for name in names)}"
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError(expected) from None
    options = dict(pairs)
    if len(options) != len(pairs) or not options.keys() <= set(names):
        raise ValueError(expected)
    # An empty one, as in a template that was not filled in, is one that is left out.
    return {name: value for name, value in options.items() if value}


def _endpoint(address: str | None) -> str | None:
    if address is None:
        return None
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("an http:// or https:// address behind endpoint=")
    return address.rstrip("/")


def read_variant(entry: object) -> VariantSetting:
    """Check one entry of `storage.variants`: `{width, height, fit, quality}` or a number.

    :raises ValueError: the text says what is expected.
    """
    if isinstance(entry, VariantSetting):  # of a configuration that was read before
        return entry
    if not isinstance(entry, dict):
        entry = {"width": entry, "height": entry}
    if not entry.keys() <= {"width", "height", "fit", "quality"}:
        raise ValueError("a mapping with no other keys than width, height, fit and quality")
    width = _bounded(entry, "width", MAX_VARIANT_PIXELS)
    height = _bounded(entry, "height", MAX_VARIANT_PIXELS)
    fit = entry.get("fit", "inside")
    if fit not in ("cover", "inside"):
        raise ValueError("a variant whose fit is cover or inside")
    quality = None if entry.get("quality") is None else _bounded(entry, "quality", 100)
    return VariantSetting(width, height, fit, quality)


def _bounded(entry: Mapping[str, Any], name: str, most: int) -> int:
    value = entry.get(name)
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"a variant whose {name} is a whole number from 1 to {most}")
    return value

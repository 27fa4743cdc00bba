"""What a file is: decided from its bytes; what it is called and said to be has to agree."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import BinaryIO, NamedTuple

from ghost.errors import UnsupportedMediaType
from ghost.files.image_headers import read_header
from ghost.files.images import ImageInfo, Limits
from ghost.files.names import extension_of
from ghost.files.zips import read_zip_type

OPAQUE = "application/octet-stream"
HEAD_BYTES = 8192
# How far a browser looks into bytes of which it is not told what they are. See the WHATWG's MIME
# Sniffing standard, section 7.
SNIFFED_BYTES = 1445
WRITTEN_BYTES = 16  # that many printable characters are no accident


class Kind(NamedTuple):
    """A type that Ghost knows: what it counts as, its extensions, and its other names."""

    content_type: str
    category: str
    extensions: tuple[str, ...]
    aliases: tuple[str, ...] = ()


_OOXML = "application/vnd.openxmlformats-officedocument."
_ODF = "application/vnd.oasis.opendocument."

KINDS = (
    Kind("image/jpeg", "image", ("jpg", "jpeg", "jpe", "jfif"), ("image/jpg", "image/pjpeg")),
    Kind("image/png", "image", ("png", "apng"), ("image/apng", "image/x-png")),
    Kind("image/gif", "image", ("gif",)),
    Kind("image/webp", "image", ("webp",)),
    Kind("image/avif", "image", ("avif", "avifs")),
    Kind("image/heic", "image", ("heic", "heif"), ("image/heif", "image/heic-sequence")),
    Kind("application/pdf", "document", ("pdf",), ("application/x-pdf",)),
    Kind(_OOXML + "wordprocessingml.document", "document", ("docx",)),
    Kind(_OOXML + "spreadsheetml.sheet", "document", ("xlsx",)),
    Kind(_OOXML + "presentationml.presentation", "document", ("pptx",)),
    Kind(_ODF + "text", "document", ("odt",)),
    Kind(_ODF + "spreadsheet", "document", ("ods",)),
    Kind(_ODF + "presentation", "document", ("odp",)),
    Kind("application/msword", "document", ("doc", "dot")),
    Kind("application/vnd.ms-excel", "document", ("xls", "xlt")),
    Kind("application/vnd.ms-powerpoint", "document", ("ppt", "pps")),
    Kind("application/rtf", "document", ("rtf",), ("text/rtf",)),
    Kind("application/epub+zip", "document", ("epub",)),
    Kind("application/zip", "archive", ("zip",), ("application/x-zip-compressed",)),
    Kind("application/gzip", "archive", ("gz", "tgz"), ("application/x-gzip",)),
    Kind("application/x-tar", "archive", ("tar",)),
    Kind("application/x-7z-compressed", "archive", ("7z",)),
    Kind("application/vnd.rar", "archive", ("rar",), ("application/x-rar-compressed",)),
    Kind("application/x-bzip2", "archive", ("bz2", "tbz2")),
    Kind("application/x-xz", "archive", ("xz", "txz")),
    Kind("application/zstd", "archive", ("zst",)),
    Kind("application/java-archive", "archive", ("jar", "war", "apk")),
    Kind("text/plain", "text", ("txt", "text", "log")),
    Kind("text/csv", "text", ("csv",), ("application/csv", "application/vnd.ms-excel")),
    Kind("text/markdown", "text", ("md", "markdown"), ("text/x-markdown",)),
    Kind("application/json", "text", ("json",), ("text/json",)),
    Kind("audio/mpeg", "audio", ("mp3",), ("audio/mp3",)),
    Kind("audio/ogg", "audio", ("ogg", "oga", "opus"), ("audio/opus", "application/ogg")),
    Kind("audio/wav", "audio", ("wav",), ("audio/x-wav", "audio/wave", "audio/vnd.wave")),
    Kind("audio/flac", "audio", ("flac",), ("audio/x-flac",)),
    Kind("audio/mp4", "audio", ("m4a",), ("audio/x-m4a", "audio/m4a")),
    Kind("audio/aac", "audio", ("aac",)),
    Kind("video/mp4", "video", ("mp4", "m4v"), ("video/x-m4v",)),
    Kind("video/webm", "video", ("webm",), ("audio/webm",)),
    Kind("video/quicktime", "video", ("mov", "qt")),
    Kind("video/x-matroska", "video", ("mkv",)),
    Kind("video/x-msvideo", "video", ("avi",)),
)
_BY_TYPE = {kind.content_type: kind for kind in KINDS}
_BY_EXTENSION = {extension: kind for kind in KINDS for extension in kind.extensions}
_TEXTS = frozenset(kind.content_type for kind in KINDS if kind.category == "text")
_ZIPPED = frozenset(("application/epub+zip",)) | {
    name for name in _BY_TYPE if name.startswith((_OOXML, _ODF))
}
_BY_ALIAS = {
    alias: kind.content_type
    for kind in KINDS
    for alias in kind.aliases
    if alias not in _BY_TYPE  # what Windows calls a CSV file is Excel's own name too
}
# Binary types whose files may be text throughout.
_WRITTEN = frozenset(("application/pdf", "application/rtf", "application/postscript"))
# What programs say that do not know.
_SILENT = frozenset(("", OPAQUE, "binary/octet-stream", "application/x-download"))

# What a browser or a desktop runs when it is opened, whatever is in it.
_RUN = frozenset((
    "apk", "app", "asp", "aspx", "bash", "bat", "cgi", "class", "cmd", "com", "cpl", "dll",
    "dmg", "elf", "exe", "gadget", "hta", "htm", "html", "inf", "ins", "jar", "js", "jse",
    "jsp", "jsx", "lnk", "mht", "mhtml", "mjs", "msc", "msi", "msp", "php", "php3", "php4",
    "php5", "phtml", "pif", "pl", "ps1", "psm1", "py", "pyc", "pyw", "rb", "reg", "scf",
    "scr", "sh", "shtml", "so", "svg", "svgz", "swf", "ts", "tsx", "url", "vb", "vbe",
    "vbs", "war", "wasm", "ws", "wsc", "wsf", "wsh", "xht", "xhtml", "xml", "xsl", "xslt",
    "zsh",
))  # fmt: skip

# All but tabs, line ends and page breaks.
_CONTROLS = bytes(sorted({*range(32), 127} - {9, 10, 12, 13}))
_BEFORE_MARKUP = re.compile(rb"(?:[\xef\xbb\xbf\xff\xfe\x00-\x20]|<!--.*?-->)+", re.DOTALL)
_MARKUP = re.compile(rb"<[a-zA-Z!?/%]|#!")
_ACTIVE = re.compile(
    rb"<\s*(?:!doctype\s+(?:html|svg)|html|script|svg|iframe|body|head|object|embed)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Content:
    """What a file is; width, height (in pixels) and frames are of a picture only."""

    content_type: str
    category: str
    width: int | None = None
    height: int | None = None
    frames: int = 1


class TypeRefused(UnsupportedMediaType):
    """The content is of a type that is not taken, or not of the one that it is said to be."""

    message = "Files of this type are not taken."


class Sniffer:
    """Looks at the bytes of a file while they pass: how it begins, and whether all of it is text.

    Text is UTF-8 without control characters.
    """

    def __init__(self) -> None:
        self.head = b""
        self._is_text = True
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        if len(self.head) < HEAD_BYTES:
            self.head += piece[: HEAD_BYTES - len(self.head)]
        if self._is_text:
            # What is no text nearly always shows so at once.
            self._is_text = _has_no_controls(piece[:1024]) and _has_no_controls(piece)
        if self._is_text:
            try:
                self._decoder.decode(piece)
            except UnicodeDecodeError:
                self._is_text = False

    @cached_property
    def guessed(self) -> str | None:
        """The type that the beginning tells; asked for once it is there, or all there is."""
        return _guess(self.head)

    @property
    def needs_whole(self) -> bool:
        """Whether more than the beginning has to be seen: of pictures and archives."""
        guessed = self.guessed
        return guessed is not None and (
            guessed.startswith("image/") or guessed == "application/zip"
        )

    @property
    def is_text(self) -> bool:
        """Whether everything so far is text, no character cut in two."""
        return self._is_text and not self._decoder.getstate()[0]


def _has_no_controls(piece: bytes) -> bool:
    return len(piece.translate(None, _CONTROLS)) == len(piece)


def recognize(
    sniffer: Sniffer,
    whole: BinaryIO | None,
    *,
    filename: str,
    declared_type: str | None,
    allowed: Collection[str],
    limits: Limits,
) -> Content:
    """Say what a file is, and refuse what is not taken. Of a picture the structure tells.

    :param whole: all of its bytes, where `Sniffer.needs_whole` says so.
    :param filename: its label, cleaned.
    :param declared_type: what the sender says; None for nothing.
    :param allowed: types, and `image/*` and the like.
    :raises TypeRefused: it is not allowed, is active content, or its name or declared type
        contradict it.
    :raises NotAnImage, ImageTooLarge: it is a picture, and can't be taken.
    """
    extension = extension_of(filename)
    guessed = sniffer.guessed
    if sniffer.is_text and guessed not in _WRITTEN:  # BMW's sales figures begin as a bitmap does
        guessed = None
    picture: ImageInfo | None = None
    if guessed is not None and guessed.startswith("image/") and whole is not None:
        picture = read_header(whole, limits).info
        content_type = picture.content_type
    elif guessed == "application/zip" and whole is not None:
        content_type = read_zip_type(whole) or guessed
    else:
        content_type = guessed or _text_type(sniffer, extension)
        if category_of(content_type) != "archive":  # one of web pages shows some, uncompressed
            _refuse_active(sniffer, is_known=guessed is not None)
    check_name(content_type, filename)
    _check_declared(content_type, declared_type)
    if not is_allowed(content_type, allowed):
        raise TypeRefused(f"Files of the type {content_type} are not taken.")
    category = category_of(content_type)
    if picture is None:
        return Content(content_type, category)
    return Content(content_type, category, picture.width, picture.height, picture.frames)


def category_of(content_type: str) -> str:
    """What a type counts as: one of `ghost.files.models.CATEGORIES`."""
    kind = _BY_TYPE.get(content_type)
    if kind is not None:
        return kind.category
    family = content_type.partition("/")[0]
    return family if family in ("image", "video", "audio", "text") else "other"


def is_allowed(content_type: str, allowed: Collection[str]) -> bool:
    """Tell whether a type is among those that are allowed."""
    return content_type in allowed or f"{content_type.partition('/')[0]}/*" in allowed


def check_name(content_type: str, filename: str) -> None:
    """Refuse a name whose extension stands for something else than the content.

    An extension that Ghost does not know, and none, stand for anything.

    :raises TypeRefused: it does, or it is one of files that are run when they are opened.
    """
    extension = extension_of(filename)
    if extension in _RUN:
        raise TypeRefused(f"Files with the extension .{extension} are not taken.")
    kind = _BY_EXTENSION.get(extension)
    if kind is None or kind.content_type == content_type:
        return
    is_zip = kind.content_type == "application/zip" and content_type in _ZIPPED
    # Sound in the container of a film, or one named by the other's extension.
    is_media = {kind.content_type, content_type} in (
        {"audio/mp4", "video/mp4"},
        {"video/mp4", "video/quicktime"},
        {"video/webm", "video/x-matroska"},
    )
    if not is_zip and not is_media:
        raise TypeRefused(f"The extension .{extension} contradicts the content: {content_type}.")


def _check_declared(content_type: str, declared_type: str | None) -> None:
    declared = (declared_type or "").partition(";")[0].strip().lower()
    if declared in _SILENT or _BY_ALIAS.get(declared, declared) == content_type:
        return
    kind = _BY_TYPE.get(content_type)
    if kind is not None and declared in kind.aliases:
        return
    if content_type in _TEXTS and declared == "text/plain":
        return
    if content_type in _ZIPPED and declared == "application/zip":
        return
    if {declared.partition("/")[2], content_type.partition("/")[2]} in ({"mp4"}, {"webm"}):
        return
    raise TypeRefused(f"The declared type contradicts the content: {content_type}.")


def _guess(head: bytes) -> str | None:
    """The type that the beginning of a file tells; None when it tells none."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "application/zip"
    if head.startswith(b"\x1a\x45\xdf\xa3"):  # filetype 1.2 takes every one for WebM
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    found = import_module("filetype").guess(head)
    return _BY_ALIAS.get(found.mime, found.mime) if found is not None else None


def _text_type(sniffer: Sniffer, extension: str) -> str:
    if not sniffer.is_text:
        return OPAQUE
    kind = _BY_EXTENSION.get(extension)
    if kind is None or kind.category != "text":
        return "text/plain"
    if kind.content_type == "application/json" and not re.match(
        rb'(?:\xef\xbb\xbf)?\s*(?:[{\["0-9-]|true|false|null)', sniffer.head
    ):
        return "text/plain"
    return kind.content_type


def _refuse_active(sniffer: Sniffer, *, is_known: bool) -> None:
    """Refuse what a browser might run: HTML, SVG, XML and scripts, in UTF-8 or UTF-16.

    :param is_known: whether it begins as a known binary type does: what begins so has markup
        nowhere but where browsers do not begin.
    """
    plain = sniffer.head[: 2 * SNIFFED_BYTES].replace(b"\0", b"")
    begins = _BEFORE_MARKUP.sub(b"", plain, count=1) if _BEFORE_MARKUP.match(plain) else plain
    # Of bytes that nobody has written, one in a thousand begins as an element does.
    first = begins[:WRITTEN_BYTES]
    is_written = sniffer.is_text or (first.isascii() and _has_no_controls(first))
    # What is plain text, and begins as nothing else, goes out as such: it may tell of markup.
    is_plain = sniffer.is_text and sniffer.guessed is None
    if (is_written and not is_known and _MARKUP.match(begins)) or (
        not is_plain and _ACTIVE.search(plain[:SNIFFED_BYTES])
    ):
        raise TypeRefused("HTML, SVG, XML and scripts are not taken.")

"""How a mail is written: headers that are folded and ASCII, bodies, files, and their nesting.

Written here and not by the standard library's generator, which takes longer for a mail than a
server on the same machine takes to accept it. See RFC 5322, 2045 to 2047, 2231 and 2387.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from secrets import token_hex
from typing import TypeVar
from urllib.parse import quote as percent_encoded

MAX_LINE_BYTES = 998  # RFC 5322, section 2.1.1, without the line's end
# Of a line with an encoded word. See RFC 2047, section 2.
FOLD_AT = 76
# With its 12 characters of "=?utf-8?q?" and "?=" a word fits behind "Reply-To: ".
_MAX_ENCODED = 52
_MAX_PARAMETER = 56

_SAFE_IN_WORD = re.compile(r"[A-Za-z0-9!*+/-]\Z")
_BREAK = re.compile(r"(?<=[^ ]) (?=[^ ])")

_Piece = TypeVar("_Piece", str, bytes)


def text_header(value: str) -> str:
    """The text of a header as ASCII; text that looks encoded already is encoded once more."""
    return value if value.isascii() and "=?" not in value else encoded_words(value)


def encoded_words(text: str) -> str:
    """Write text as encoded words, each of whole characters. See RFC 2047."""
    quoted = [_quoted(character) for character in text]
    if sum(map(len, quoted)) <= len(text.encode()) * 4 // 3:
        return " ".join(f"=?utf-8?q?{''.join(word)}?=" for word in _packed(quoted, _MAX_ENCODED))
    # Three bytes become four characters.
    words = _packed([character.encode() for character in text], _MAX_ENCODED // 4 * 3)
    return " ".join(f"=?utf-8?b?{base64.b64encode(b''.join(word)).decode()}?=" for word in words)


def header_line(name: str, value: str) -> bytes:
    """A header, folded at blanks; `value` is ASCII without line breaks."""
    line = f"{name}: {value}"
    if len(line) <= FOLD_AT:
        return line.encode("ascii") + b"\r\n"
    # Only single blanks between words are broken: none is lost, and no line is of blanks alone.
    first, *words = _BREAK.split(value)
    lines = [f"{name}: {first}"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > FOLD_AT:
            lines.append(f" {word}")
        else:
            lines[-1] += f" {word}"
    return "\r\n".join(lines).encode("ascii") + b"\r\n"


def body_part(body: str, subtype: str, *, readable: bool) -> bytes:
    """A text with its headers; its lines end in CRLF, whatever they ended in before."""
    if "\r" in body:
        body = body.replace("\r\n", "\n").replace("\r", "\n")
    raw = body.encode()
    is_ascii = body.isascii()
    fits = max(map(len, raw.split(b"\n"))) <= MAX_LINE_BYTES
    if fits and (is_ascii or readable):
        encoding = b"7bit" if is_ascii else b"8bit"
    else:
        encoding = b"quoted-printable"
        raw = binascii.b2a_qp(raw, istext=True)
    return (
        b"Content-Type: text/%s; charset=%s\r\nContent-Transfer-Encoding: %s\r\n\r\n%s"
        % (subtype.encode(), b"us-ascii" if is_ascii else b"utf-8", encoding,
           raw.replace(b"\n", b"\r\n"))
    )  # fmt: skip


def file_part(filename: str, content: bytes, content_type: str, content_id: str | None) -> bytes:
    """A file with its headers, in base64, so that not a byte of it changes."""
    if content_type.startswith("text/") and not content.isascii() and _is_utf8(content):
        content_type += "; charset=utf-8"
    lines = [
        f"Content-Type: {content_type}",
        "Content-Transfer-Encoding: base64",
        ";\r\n ".join(
            [
                f"Content-Disposition: {'inline' if content_id else 'attachment'}",
                *_filename_parameters(filename),
            ]
        ),
    ]
    if content_id:
        lines.append(f"Content-ID: <{content_id}>")
    encoded = binascii.b2a_base64(content, newline=False)
    rows = [encoded[start : start + 76] for start in range(0, len(encoded), 76)]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + b"\r\n".join([*rows, b""])


def multipart(subtype: str, parts: Sequence[bytes], parameters: str = "") -> bytes:
    """Several parts as one.

    :param parameters: more of its content type, as `; type="text/html"`.
    """
    # By chance no part holds it, and nobody who writes a part can know it.
    boundary = f"=_{token_hex(16)}".encode()
    head = b'Content-Type: multipart/%s%s;\r\n boundary="%s"\r\n\r\n' % (
        subtype.encode(), parameters.encode(), boundary,
    )  # fmt: skip
    delimiter = b"--%s\r\n" % boundary
    # The line break before a delimiter belongs to it: each part keeps its own.
    pieces = [piece for part in parts for piece in (delimiter, part, b"\r\n")]
    return b"".join([head, *pieces, b"--%s--\r\n" % boundary])


def _quoted(character: str) -> str:
    if character == " ":
        return "_"
    if _SAFE_IN_WORD.match(character):
        return character
    return "".join(f"={byte:02X}" for byte in character.encode())


def _packed(pieces: Iterable[_Piece], longest: int) -> Iterator[list[_Piece]]:
    """Fill words with pieces that must stay whole."""
    word: list[_Piece] = []
    length = 0
    for piece in pieces:
        if length + len(piece) > longest:
            yield word
            word, length = [], 0
        word.append(piece)
        length += len(piece)
    yield word


def _filename_parameters(filename: str) -> list[str]:
    """The parameter `filename`, in pieces where it is long. See RFC 2231, section 4.1."""
    if filename.isascii() and len(filename) <= _MAX_PARAMETER:
        escaped = filename.replace("\\", "\\\\").replace('"', '\\"')
        return [f'filename="{escaped}"']
    characters = [percent_encoded(character, safe="") for character in filename]
    pieces = ["".join(piece) for piece in _packed(characters, _MAX_PARAMETER)]
    if len(pieces) == 1:
        return [f"filename*=utf-8''{pieces[0]}"]
    return [f"filename*0*=utf-8''{pieces[0]}"] + [
        f"filename*{number}*={piece}" for number, piece in enumerate(pieces[1:], 1)
    ]


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True

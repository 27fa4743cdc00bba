"""Which document a ZIP archive is, told by the list of its members; nothing is unpacked."""

from __future__ import annotations

import struct
from io import SEEK_END
from typing import BinaryIO

# The list and its end; what is longer is taken for an archive and no more. See APPNOTE.TXT, 4.3.
MAX_LIST_BYTES = 2**20
MAX_MEMBERS = 20_000
MAX_COMMENT_BYTES = 2**16 - 1

_END = struct.Struct("<4s4H2IH")
_MEMBER = struct.Struct("<4s6H3I5H2I")
_OPEN_DOCUMENT = b"application/vnd.oasis.opendocument."
_DOCUMENTS = {
    b"word/document.xml": "wordprocessingml.document",
    b"xl/workbook.xml": "spreadsheetml.sheet",
    b"ppt/presentation.xml": "presentationml.presentation",
}


def read_zip_type(file: BinaryIO) -> str | None:
    """The type of the document that an archive is; None for one of anything else.

    Documents with macros are told apart, by types of their own.
    """
    file.seek(0)
    head = file.read(150)
    # Their first member is the name of their type, uncompressed. See ODF 1.3, part 2, 3.3.
    if head[30:38] == b"mimetype":
        declared = head[38:].partition(b"PK")[0]
        if declared == b"application/epub+zip":
            return declared.decode()
        if declared.startswith(_OPEN_DOCUMENT):
            kind = declared.removeprefix(_OPEN_DOCUMENT).decode("ascii", "replace")
            if kind in ("text", "spreadsheet", "presentation"):
                return declared.decode()
        return None
    names = _read_names(file)
    if b"META-INF/MANIFEST.MF" in names or b"AndroidManifest.xml" in names:
        return "application/java-archive"
    if b"[Content_Types].xml" not in names:
        return None
    found = [kind for member, kind in _DOCUMENTS.items() if member in names]
    if len(found) != 1:
        return None
    if any(name.endswith(b"vbaProject.bin") for name in names):
        return "application/vnd.ms-office.macroenabled"
    return f"application/vnd.openxmlformats-officedocument.{found[0]}"


def _read_names(file: BinaryIO) -> set[bytes]:
    size = file.seek(0, SEEK_END)
    start = max(0, size - MAX_COMMENT_BYTES - _END.size)
    file.seek(start)
    tail = file.read()
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or len(tail) - position < _END.size:
        return set()
    *_, length, offset, _comment = _END.unpack_from(tail, position)
    if length > MAX_LIST_BYTES or offset + length > size:
        return set()
    file.seek(offset)
    members = file.read(length)
    names: set[bytes] = set()
    at = 0
    while at + _MEMBER.size <= len(members) and len(names) < MAX_MEMBERS:
        fields = _MEMBER.unpack_from(members, at)
        name_length, extra_length, comment_length = fields[10:13]
        if fields[0] != b"PK\x01\x02":
            break
        at += _MEMBER.size
        names.add(members[at : at + name_length])
        at += name_length + extra_length + comment_length
    return names

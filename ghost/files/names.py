"""What a file is called: a label for people, never a path.

What a stranger's name has too much is taken off it, rather than refused: names come from devices
and programs, and who uploads has often no say in them.
"""

from __future__ import annotations

import re
import unicodedata

MAX_LENGTH = 255
NAMELESS = "file"

_MAX_EXTENSION = 16
# Control characters, marks without a width or that turn the direction of text, lone surrogates,
# characters of nobody, line ends.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_EXTENSION = re.compile(r"[A-Za-z0-9]{1,16}")


def clean_filename(name: str) -> str:
    """Make a label of a name: 1 to 255 visible characters, in NFC, without folders.

    Too long a name loses the end of its stem and keeps its extension.
    """
    last = re.split(r"[/\\]", name)[-1]
    seen = "".join(c for c in last if unicodedata.category(c) not in _UNSEEN)
    # Names that differ only in blanks look the same; those that end with a dot lose it on Windows.
    label = " ".join(unicodedata.normalize("NFC", seen).split()).rstrip(". ")
    if not label.strip("."):
        return NAMELESS
    if len(label) <= MAX_LENGTH:
        return label
    stem, dot, extension = label.rpartition(".")
    if not dot or len(extension) > _MAX_EXTENSION:
        return label[:MAX_LENGTH].rstrip(". ")
    return stem[: MAX_LENGTH - len(extension) - 1].rstrip(". ") + dot + extension


def extension_of(label: str) -> str:
    """The extension of a label in lower case, without the dot; empty when it has none.

    As those read it for whom a wide dot or letter is a plain one: old programs on Windows do.
    """
    stem, dot, extension = unicodedata.normalize("NFKC", label).rpartition(".")
    return extension.lower() if stem and dot and _EXTENSION.fullmatch(extension) else ""

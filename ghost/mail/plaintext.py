"""The text of an HTML mail, for readers and programs that show no HTML."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from html import unescape
from typing import NamedTuple

MAX_INDENTS = 8  # lists and quotes inside of each other; deeper ones are not indented further
MAX_ENDLESS_TAGS = 8

_TAG_NAME = re.compile(r"[a-zA-Z][^\s/>]*+")
_ATTRIBUTE = re.compile(
    r"""([^\s=>/"']++|["'])(?:\s*+=\s*+("[^"]*+"?|'[^']*+'?|[^\s>]++))?+""", re.DOTALL
)
_TAG_END = re.compile(r"""(?:[^>"']|"[^"]*+"|'[^']*+')*+>""")
# Longer than any character's number; int() refuses thousands of digits.
_TOO_HIGH = re.compile(r"&#[0-9]{4000}[0-9]++;?")
_SPACE = re.compile(r"[ \t\r\n\f\v]+")
_BLANK_LINES = re.compile(r"\n{3,}")

_UNSEEN = frozenset(
    ("head", "style", "script", "title", "template", "svg", "object", "iframe", "noscript")
)
# Their content is no markup: it ends at their own end tag and nowhere else.
_RAW = frozenset(("style", "script", "title", "iframe", "textarea", "xmp"))
_PARAGRAPHS = frozenset(
    (
        "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre",
        "hr", "article", "section", "header", "footer", "main", "figure",
    )
)  # fmt: skip
_LINES = frozenset(
    (
        "div", "li", "tr", "dt", "dd", "address", "form", "fieldset", "body", "html", "caption",
        "center", "figcaption", "nav", "aside", "option", "thead", "tbody", "tfoot",
    )
)  # fmt: skip


class _Tag(NamedTuple):
    name: str
    is_end: bool
    attributes: dict[str, str]


def to_text(html: str) -> str:
    """Say in plain text what an HTML mail says.

    Links are followed by their address, list items have a dash or a number, cells of a row stand
    on one line, and images leave their `alt`. Any text is taken for HTML as browsers would, and
    the time it takes grows with its length alone.

    :returns: lines without blanks at their end; the last one ends too, unless there is none.
    """
    writer = _Writer()
    for token in _tokens(html):
        if isinstance(token, str):
            writer.text(_unescaped(token))
        elif token.is_end:
            writer.end(token.name)
        else:
            writer.start(token.name, token.attributes)
    return writer.finish()


def links_of(html: str) -> list[str]:
    """The addresses that an HTML mail links to, in order."""
    return [
        token.attributes["href"].strip()
        for token in _tokens(html)
        if isinstance(token, _Tag) and token.name == "a" and token.attributes.get("href")
    ]


# Not html.parser: in Python 3.11.7 its time grows with the square of an unfinished tag's length
# (10 KB of "<a " took 4 s).
def _tokens(html: str) -> Iterator[str | _Tag]:
    position, length, endless = 0, len(html), 0
    while position < length:
        start = html.find("<", position)
        if start < 0:
            yield html[position:]
            return
        if start > position:
            yield html[position:start]
        if html.startswith("<!--", start):
            position = _after(html, "-->", start + 4)
        elif html.startswith(("<!", "<?"), start):
            position = _after(html, ">", start)
        else:
            is_end = html.startswith("</", start)
            name = _TAG_NAME.match(html, start + 1 + is_end)
            if name is None:
                yield "<"
                position = start + 1
                continue
            end = None
            if endless < MAX_ENDLESS_TAGS:
                end = _TAG_END.match(html, name.end())
            if end is None:  # a quote that never ends
                # Each of these tags was searched to the end of the document: of many, the others
                # are taken to end at their next ">", quoted or not.
                endless += 1
                position = _after(html, ">", name.end())
                inner = html[name.end() : position]
            else:
                position, inner = end.end(), end[0]
            tag = _Tag(name[0].lower(), is_end, {} if is_end else _attributes(inner))
            yield tag
            if tag.name in _RAW and not is_end:
                position = yield from _raw(html, tag.name, position)


def _unescaped(text: str) -> str:
    return unescape(_TOO_HIGH.sub("\ufffd", text))


def _after(html: str, mark: str, start: int) -> int:
    found = html.find(mark, start)
    return len(html) if found < 0 else found + len(mark)


def _raw(html: str, name: str, start: int) -> Generator[str, None, int]:
    """What stands up to the end tag of an element without markup; all of it where there is none."""
    found = re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE).search(html, start)
    end = len(html) if found is None else found.start()
    if end > start:
        yield html[start:end]
    return end


def _attributes(inner: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _ATTRIBUTE.findall(inner):
        found.setdefault(name.lower(), _unescaped(value.strip("\"'") if value else ""))
    return found


class _Writer:
    """Puts the pieces of a document onto lines."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._line: list[str] = []
        self._unseen: str | None = None
        self._unseen_depth = 0
        self._preformatted = 0
        self._link: tuple[str, int, int] | None = None  # address, line and piece where it began
        self._lists: list[int | None] = []  # the next number; None where there are dashes
        self._quotes = 0
        self._mark = ""
        self._is_first_cell = True

    def text(self, text: str) -> None:
        if self._unseen:
            return
        if self._preformatted:
            first, *more = text.split("\n")
            self._line.append(first)
            for line in more:
                self._break(keep=True)
                self._line.append(line)
            return
        self._add(_SPACE.sub(" ", text))

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._unseen and not (self._unseen == "head" and name == "body"):
            self._unseen_depth += name == self._unseen
            return
        self._unseen = None
        if name in _UNSEEN:
            self._unseen, self._unseen_depth = name, 1
        elif name == "br":
            self._break(keep=True)
        elif name == "img":
            self._add(attributes.get("alt", "").strip())
        elif name == "a":
            self._close_link()  # there is none inside of another
            href = _SPACE.sub("", attributes.get("href", ""))
            self._link = (href, len(self._lines), len(self._line))
        elif name in ("td", "th"):
            if not self._is_first_cell and self._line:
                self._line.append(" | ")
            self._is_first_cell = False
        elif name in _PARAGRAPHS or name in _LINES:
            self._open_block(name, attributes)

    def end(self, name: str) -> None:
        if self._unseen:
            self._unseen_depth -= name == self._unseen
            if not self._unseen_depth:
                self._unseen = None
            return
        if name == "a":
            self._close_link()
        elif name in _PARAGRAPHS or name in _LINES:
            self._break()
            if name in ("ul", "ol") and self._lists:
                self._lists.pop()
            elif name == "blockquote" and self._quotes:
                self._quotes -= 1
            elif name == "pre" and self._preformatted:
                self._preformatted -= 1
            if name in _PARAGRAPHS:
                self._gap()

    def finish(self) -> str:
        self._close_link()
        self._break()
        text = _BLANK_LINES.sub("\n\n", "\n".join(self._lines)).strip("\n")
        return text + "\n" if text else ""

    def _open_block(self, name: str, attributes: dict[str, str]) -> None:
        self._break()
        if name in ("ul", "ol"):
            self._gap()
            start = attributes.get("start", "1")
            number = int(start) if start.isascii() and start.isdigit() and len(start) < 7 else 1
            self._lists.append(number if name == "ol" else None)
            return
        if name == "li":
            self._mark = "- "
            if self._lists and (number_now := self._lists[-1]) is not None:
                self._mark = f"{number_now}. "
                self._lists[-1] = number_now + 1
            return
        if name == "tr":
            self._is_first_cell = True
        if name in _PARAGRAPHS and not self._mark:
            self._gap()
        if name == "hr":
            self._line.append("-" * 20)
            self._break()
            self._gap()
        elif name == "blockquote":
            self._quotes += 1
        elif name == "pre":
            self._preformatted += 1

    def _add(self, text: str) -> None:
        if text:
            # Blanks of two pieces that meet are one.
            if text[0] == " " and (not self._line or self._line[-1].endswith(" ")):
                text = text[1:]
            if text:
                self._line.append(text)

    def _close_link(self) -> None:
        if self._link is None:
            return
        (href, line, piece), self._link = self._link, None
        # Only an address that a reader can use, and only where the text is not that already.
        if not href.lower().startswith(("http://", "https://", "mailto:", "tel:")):
            return
        if line == len(self._lines):
            shown = "".join(self._line[piece:]).strip()
            if href in (shown, f"mailto:{shown}", f"tel:{shown}", f"{shown}/"):
                return
            blank = " " if self._line and not self._line[-1].endswith(" ") else ""
            self._line.append(f"{blank}({href})" if shown else href)
        else:  # it holds whole paragraphs
            self._break()
            self._line.append(href)
            self._break()

    def _break(self, *, keep: bool = False) -> None:
        """End the line; one without words is left out unless it is kept."""
        line = "".join(self._line).rstrip()
        self._line = []
        if not self._preformatted:
            line = line.lstrip()
        if not line and not keep:
            return
        depth = min(max(len(self._lists) - 1, 0), MAX_INDENTS)
        indent = "> " * min(self._quotes, MAX_INDENTS) + "  " * depth
        if self._lists and not self._mark:
            indent += "  "
        self._lines.append((indent + self._mark + line).rstrip())
        self._mark = ""

    def _gap(self) -> None:
        """Leave a line out, but not inside of a list."""
        if self._lines and self._lines[-1] and not self._lists:
            self._lines.append("")

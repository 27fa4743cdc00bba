"""Mail templates: subject, text and HTML files become what a mail says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from css_inline import CSSInliner, InlineError
from jinja2 import (
    StrictUndefined,
    Template,
    TemplateNotFound,
    select_autoescape,
)
from sqlalchemy.exc import SQLAlchemyError

from ghost.config import current_config
from ghost.errors import ValidationFailed
from ghost.jobs import Permanent
from ghost.mail.messages import Attachment
from ghost.mail.plaintext import to_text
from ghost.mail.sandbox import FAILURES, MAX_CHARACTERS, Files, Sandbox, reason_of

GHOST_FOLDER = Path(__file__).parent / "templates"
# Mails that hold a usable link or code, or warn of what was done with one. Whoever may send mail
# must not send these: they would be genuine to the last letter.
SECURITY_TEMPLATES = frozenset(
    ("verify-email", "reset-password", "invitation", "password-changed", "email-changed")
)
MAX_IMAGE_BYTES = 1024 * 1024
MAX_IMAGES = 20
MAX_DEPTH = 100  # elements inside of each other
MAX_GREETED_CHARACTERS = 60

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}\Z")
_LOCALE = re.compile(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z0-9]{2,8}))?\Z")
_IMAGE_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*\Z")
# Type, and how such a file begins: browsers and mail programs go by the bytes.
_IMAGES = {
    ".png": ("image/png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ".jpg": ("image/jpeg", re.compile(rb"\xff\xd8\xff")),
    ".jpeg": ("image/jpeg", re.compile(rb"\xff\xd8\xff")),
    ".gif": ("image/gif", re.compile(rb"GIF8[79]a")),
    ".webp": ("image/webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
}
# Whoever registers chooses both the address and the name: a name may not carry an advertisement
# with a link to a stranger's mailbox.
_LOOKS_LIKE_A_LINK = re.compile(
    r"[:/@\\]|www\.|\w\.\w{2}", re.IGNORECASE
)  # Nor may a value hold it in a subject.
_VALUES_LINE_END = "\v"

# Nothing is loaded from anywhere; what can't be inlined (media queries) stays in its <style>.
_OPEN_TAG = re.compile(r'<[a-zA-Z][^\s/>]*+(?:\s++[^\s=>/"]++(?:="[^"]*+")?)*+\s*+/?>')
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Elements without an end, and those whose end may be left out: they nest by others alone.
_SHALLOW = frozenset(
    (
        "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr",
        "dd", "dt", "li", "option", "p", "tbody", "td", "tfoot", "th", "thead", "tr",
    )
)  # fmt: skip
_inliner = CSSInliner(load_remote_stylesheets=False, keep_at_rules=True)


class UnknownTemplate(ValidationFailed, Permanent):
    """There is no mail template of this name, or it lacks its subject or its body."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, details={"json": {"template": [reason]}})


class TemplateFailed(ValidationFailed, Permanent):
    """A template and its context don't fit; a missing variable is named."""

    def __init__(self, template: str, reason: str) -> None:
        message = f"The mail template {template!r} can't be filled in: {reason}"
        super().__init__(message, details={"json": {"context": [reason]}})


@dataclass(frozen=True)
class Rendered:
    """A template that was filled in; `images` are those that its HTML shows."""

    subject: str
    text: str
    html: str | None = None
    images: tuple[Attachment, ...] = ()


@dataclass
class _Images:
    """What `inline_image` of one mail has shown so far, each once."""

    folders: tuple[Path, ...]
    shown: dict[str, Attachment] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        """The address of an image of the templates' folders, for `src`."""
        if name not in self.shown:
            if len(self.shown) == MAX_IMAGES:
                raise ValueError(f"it shows more than {MAX_IMAGES} images")
            self.shown[name] = _find_image(self.folders, name)
        return f"cid:{self.shown[name].content_id}"


def render(template: str, context: Mapping[str, Any], *, locale: str | None = None) -> Rendered:
    """Fill a mail template in.

    A template `welcome` is the files `welcome.subject.txt`, `welcome.txt` and `welcome.html`; one
    of the last two may be missing, and the text is then made from the HTML. For the locale
    `de-AT`, written in any case, `welcome.de-AT.txt` and `welcome.de.txt` are tried first; an HTML
    that is closer to it than the text gives the text, too. A file of the same name in
    the folder `mail.templates` wins over Ghost's. The HTML is escaped and its style sheet moved
    to the elements; a missing variable is an error; `app_name` is always there, and `full_name`
    may be left out.

    :raises UnknownTemplate: there is no such template, or it lacks its subject or body.
    :raises TemplateFailed: it needs another context than this, or it has a mistake.
    """
    folders = template_folders()
    environment = environment_of(folders)
    subjects = _subject_environment_of(folders)
    stems = _stems(template, locale)
    values = {"app_name": current_config().app.name, "full_name": None, **context}

    def find(suffix: str, environment: Sandbox = environment) -> Template | None:
        return _find(environment, template, [stem + suffix for stem in stems])

    subject, text, html = find(".subject.txt", subjects), find(".txt"), find(".html")
    if subject is None:
        raise UnknownTemplate(f"There is no mail template {template!r}.")
    if text is None and html is None:
        raise UnknownTemplate(f"The mail template {template!r} has neither a text nor an HTML.")
    if text is not None and html is not None and _rank(html, stems) < _rank(text, stems):
        text = None  # it would be in another language
    # Only the file's own line ends go: those of values are refused when the message is made.
    filled_subject = _fill(template, subject, values).strip(" \n").replace(_VALUES_LINE_END, "\n")
    images = _Images(folders)
    filled_html = None
    if html is not None:
        filled_html = _fill(template, html, {**values, "inline_image": images})
        filled_html = _with_inlined_style(template, filled_html)
    filled_text = to_text(filled_html or "") if text is None else _fill(template, text, values)
    return Rendered(filled_subject, filled_text, filled_html, tuple(images.shown.values()))


def is_template_name(name: str) -> bool:
    """Tell whether a mail may have this name: `order-shipped`, and no path."""
    return _NAME.match(name) is not None


def is_locale(locale: str) -> bool:
    """Tell whether this is a language, with or without a region: `de`, `de-AT`, `de_AT`."""
    return _LOCALE.match(locale) is not None


def is_locale_of_file(locale: str) -> bool:
    """Tell whether a file whose name has this locale is found: `de-AT`, but not `de_AT`."""
    return is_locale(locale) and f"x.{locale}" in _stems("x", locale)


def duration(seconds: float) -> str:
    """Say a length of time in words, never longer than it is: `1 hour`, `90 minutes`, `7 days`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count, rest = divmod(int(seconds), length)
        if count >= 3 or (count and not rest):
            return f"{count} {unit}" + ("s" if count != 1 else "")
    return "a minute or two"


def greeting_name(full_name: str | None) -> str | None:
    """The name to greet somebody by, or None where there is none or it looks like a link."""
    name = " ".join((full_name or "").split())
    if not name or len(name) > MAX_GREETED_CHARACTERS or _LOOKS_LIKE_A_LINK.search(name):
        return None
    return name


def template_folders() -> tuple[Path, ...]:
    """Where templates lie: the application's folder, if it has one, before Ghost's."""
    config = current_config()
    own = (config.root / config.mail.templates,) if config.mail.templates else ()
    return (*own, GHOST_FOLDER)


@lru_cache(maxsize=8)
def environment_of(folders: tuple[Path, ...]) -> Sandbox:
    """The Jinja environment of these folders; a context may hold objects, so it is sandboxed."""
    environment = Sandbox(
        loader=Files(folders),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["greeting_name"] = greeting_name
    environment.filters["duration"] = duration
    return environment


@lru_cache(maxsize=8)
def _subject_environment_of(folders: tuple[Path, ...]) -> Sandbox:
    """The environment of subjects, in which line ends of values differ from those of files."""

    def mark_line_ends(value: object) -> str:
        return str(value).replace("\n", _VALUES_LINE_END)

    return environment_of(folders).overlay(finalize=mark_line_ends)


def _stems(template: str, locale: str | None) -> list[str]:
    if not is_template_name(template):
        raise UnknownTemplate(f"There is no mail template {template[:100]!r}.")
    found = _LOCALE.match(locale or "")
    if not found:
        return [template]
    language, region = found[1].lower(), found[2]
    # The usual spelling of a region first (`de-AT`), then others, then that of scripts (`zh-Hant`).
    regions = (region.upper(), region.lower(), region.title()) if region else ()
    locales = dict.fromkeys((*(f"{language}-{one}" for one in regions), language))
    return [*(f"{template}.{one}" for one in locales), template]


def _rank(template: Template, stems: list[str]) -> int:
    """How far a file is from the locale that was asked for."""
    return next(
        rank for rank, stem in enumerate(stems) if template.name in (f"{stem}.txt", f"{stem}.html")
    )


def _find(environment: Sandbox, template: str, names: list[str]) -> Template | None:
    try:
        return environment.select_template(names)
    except TemplateNotFound:
        return None
    except FAILURES as error:
        raise TemplateFailed(template, reason_of(error)) from error


def _fill(name: str, template: Template, values: Mapping[str, Any]) -> str:
    pieces, length = [], 0
    try:
        for piece in template.generate(values):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_CHARACTERS:
                raise ValueError(f"it is longer than {MAX_CHARACTERS} characters")
    except SQLAlchemyError:  # some of them are a KeyError, too
        raise
    except FAILURES as error:
        raise TemplateFailed(name, reason_of(error)) from error
    return "".join(pieces)


def _with_inlined_style(name: str, html: str) -> str:
    if "<style" not in html:
        return html
    # css-inline 0.24.0 follows the elements by recursion: some hundreds inside of each other end a
    # thread with a small stack, and the process with it.
    if html.count("<") > MAX_DEPTH and _depth(html) > MAX_DEPTH:
        raise TemplateFailed(name, f"Its elements are nested more than {MAX_DEPTH} deep.")
    try:
        inlined = _inliner.inline(html)
    except (InlineError, ValueError) as error:
        raise TemplateFailed(name, "Its style sheet can't be read.") from error
    # css-inline writes < and > in attributes as they are: right, but not every mail program reads
    # HTML as browsers do.
    return _OPEN_TAG.sub(lambda tag: _escaped(tag[0]), inlined)


def _escaped(tag: str) -> str:
    return f"<{tag[1:-1].replace('<', '&lt;').replace('>', '&gt;')}>"


def _depth(html: str) -> int:
    """How deep elements are nested at most, counting one of an item and its list."""
    depth = deepest = 0
    for is_end, name in _TAG.findall(html):
        if name.lower() not in _SHALLOW:
            depth = max(0, depth - 1) if is_end else depth + 1
            deepest = max(deepest, depth)
    return deepest


def _find_image(folders: tuple[Path, ...], name: str) -> Attachment:
    kind = _IMAGES.get(Path(name).suffix.lower()) if isinstance(name, str) else None
    if kind is None or not _IMAGE_NAME.match(name):
        raise ValueError(f"{str(name)[:100]!r} is no name of a PNG, JPEG, GIF or WebP image")
    for folder in folders:
        path = folder / name
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return _read_image(path, path.stat().st_mtime_ns, *kind)
    raise ValueError(f"there is no image {name!r} in the templates' folders")


@lru_cache(maxsize=64)
def _read_image(
    path: Path, _changed_at_ns: int, content_type: str, start: re.Pattern[bytes]
) -> Attachment:
    """Read an image, once for each time that the file is changed."""
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise ValueError(f"the image {path.name} is larger than {MAX_IMAGE_BYTES} bytes")
    content = path.read_bytes()
    if not start.match(content):
        raise ValueError(f"the image {path.name} is not what its name says")
    content_id = f"{hashlib.sha256(content).hexdigest()[:32]}@images"
    return Attachment(path.name, content, content_type, content_id)

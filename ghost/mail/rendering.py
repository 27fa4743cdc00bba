"""Mail templates: a subject, a text and an HTML file each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import (
    Environment,
    FileSystemLoader,
    StrictUndefined,
    TemplateNotFound,
    select_autoescape,
)

from ghost.config import Config, current_config
from ghost.mail.messages import Attachment

_FOLDER = Path(__file__).parent / "templates"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")
_LOCALE = re.compile(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z0-9]{2,8}))?\Z")
# Whoever registers chooses both the address and the name: a name may not carry an advertisement
# with a link to a stranger's mailbox.
_LOOKS_LIKE_A_LINK = re.compile(r"[:/@\\]|www\.|\w\.\w{2}", re.IGNORECASE)
MAX_GREETED_CHARACTERS = 60


@dataclass(frozen=True)
class Rendered:
    """A template that was filled in; `images` are those that its HTML shows."""

    subject: str
    text: str
    html: str | None = None
    images: tuple[Attachment, ...] = ()


def render(template: str, context: Mapping[str, Any], *, locale: str | None = None) -> Rendered:
    """Fill a mail template in.

    A template `welcome` is the files `welcome.subject.txt`, `welcome.txt` and `welcome.html`;
    for the locale `de-AT`, `welcome.de-AT.txt` and `welcome.de.txt` are tried first. A file of
    the same name in the folder `mail.templates` wins over Ghost's. The HTML is escaped, a missing
    variable is an error; `app_name` is always there, and `full_name` may be left out.

    :raises TemplateNotFound: there is no such template, or it lacks subject or text.
    """
    if not _NAME.match(template):
        raise TemplateNotFound(template)
    config = current_config()
    environment = _environment(_application_folder(config))
    stems = _stems(template, locale)
    values = {"app_name": config.app.name, "full_name": None, **context}

    def fill(suffix: str) -> str:
        names = [stem + suffix for stem in stems]
        return environment.select_template(names).render(values)

    # Only the file's own line end goes: one inside the subject came from a value, and is refused
    # when the message is made.
    subject, text = fill(".subject.txt").strip(" \n"), fill(".txt")
    try:
        html = fill(".html")
    except TemplateNotFound as error:
        if error.name is not None and not error.name.startswith(template + "."):
            raise  # the template is there; what it extends or includes is not
        html = None
    return Rendered(subject, text, html)


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


def _stems(template: str, locale: str | None) -> list[str]:
    found = _LOCALE.match(locale or "")
    if not found:
        return [template]
    language, region = found.groups()
    regional = [f"{template}.{language}-{region}"] if region else []
    return [*regional, f"{template}.{language}", template]


def _application_folder(config: Config) -> str | None:
    if not config.mail.templates:
        return None
    return str(config.root / config.mail.templates)


@lru_cache(maxsize=8)
def _environment(application_folder: str | None) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder for folder in (application_folder, _FOLDER) if folder]),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["greeting_name"] = greeting_name
    environment.filters["duration"] = duration
    return environment

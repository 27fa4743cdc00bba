"""Which mail templates there are, what they need, and how they look with a given context."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateNotFound, meta, nodes

from ghost.mail.rendering import (
    GHOST_FOLDER,
    SECURITY_TEMPLATES,
    Rendered,
    environment_of,
    is_locale_of_file,
    is_template_name,
    render,
    template_folders,
)
from ghost.mail.sandbox import FAILURES, Sandbox, reason_of

ENDS = (".subject.txt", ".txt", ".html")
ALWAYS_THERE = frozenset(("app_name", "full_name", "inline_image"))
MAX_SAMPLE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class TemplateInfo:
    """A mail template as a choice: `locales` beside its default, the `variables` it names.

    :param source: `application` or `ghost`: whose subject is used.
    :param is_security: it is sent by Ghost alone.
    :param problem: why one of its files can't be used, if so; its variables may lack some then.
    """

    name: str
    locales: tuple[str, ...]
    source: str
    variables: tuple[str, ...]
    is_security: bool
    problem: str | None = None


def list_templates() -> list[TemplateInfo]:
    """List the mail templates by name, the application's and Ghost's."""
    folders = template_folders()
    environment = environment_of(folders)
    found: dict[str, set[str]] = {}
    for file in _files(folders):
        name, locale, _end = file
        found.setdefault(name, set()).add(locale)
    return [
        _info(environment, folders, name, locales)
        for name, locales in sorted(found.items())
        if any((folder / f"{name}.subject.txt").is_file() for folder in folders)
    ]


def _info(
    environment: Sandbox, folders: tuple[Path, ...], name: str, locales: set[str]
) -> TemplateInfo:
    variables, problem = _variables(environment, name, locales)
    return TemplateInfo(
        name=name,
        locales=tuple(sorted(locales - {""})),
        source=_source(folders, name),
        variables=variables,
        is_security=name in SECURITY_TEMPLATES,
        problem=problem,
    )


def preview(template: str, context: Mapping[str, Any], *, locale: str | None = None) -> Rendered:
    """Fill a template in for a browser: images stand in the HTML, as `data:` addresses.

    :raises UnknownTemplate: there is no such template.
    :raises TemplateFailed: it needs another context than this, or it has a mistake.
    """
    rendered = render(template, context, locale=locale)
    html = rendered.html
    for image in rendered.images:
        data = base64.b64encode(image.content).decode()
        html = (html or "").replace(
            f"cid:{image.content_id}", f"data:{image.content_type};base64,{data}"
        )
    return Rendered(rendered.subject, rendered.text, html)


def sample_of(template: str) -> dict[str, Any]:
    """The context that a template is shown with: its file `NAME.sample.json`, or nothing.

    :raises ValueError: the file is no JSON object.
    """
    if not is_template_name(template):
        return {}
    for folder in template_folders():
        path = folder / f"{template}.sample.json"
        if path.is_file():
            if path.stat().st_size > MAX_SAMPLE_BYTES:
                raise ValueError(f"{path.name} is too large")
            try:
                sample = json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path.name} is no valid JSON") from error
            if not isinstance(sample, dict):
                raise ValueError(f"{path.name} holds no object")
            return sample
    return {}


def _files(folders: tuple[Path, ...]) -> Iterator[tuple[str, str, str]]:
    """Name, locale ("" for none) and end of every file that is part of a mail template."""
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            end = next((end for end in ENDS if path.name.endswith(end)), None)
            if end is None:
                continue
            name, _, locale = path.name.removesuffix(end).partition(".")
            if is_template_name(name) and (not locale or is_locale_of_file(locale)):
                yield name, locale, end


def _source(folders: tuple[Path, ...], name: str) -> str:
    first = next(folder for folder in folders if (folder / f"{name}.subject.txt").is_file())
    return "ghost" if first == GHOST_FOLDER else "application"


def _variables(
    environment: Sandbox, name: str, locales: set[str]
) -> tuple[tuple[str, ...], str | None]:
    """What the files of a template take from the context, those that they extend included.

    :returns: with what is wrong with the first of them that is broken, if any.
    """
    needed: set[str] = set()
    problems: list[str] = []
    for locale in sorted(locales):
        stem = f"{name}.{locale}" if locale else name
        for end in ENDS:
            used, made = _names_in(environment, stem + end, set(), problems)
            needed |= used - made
    return tuple(sorted(needed - ALWAYS_THERE)), next(iter(problems), None)


def _names_in(
    environment: Sandbox, file: str, seen: set[str], problems: list[str]
) -> tuple[set[str], set[str]]:
    """The names that a file uses and does not make, and those that it makes for its children.

    :param problems: gets what is wrong with files that are broken.
    """
    seen.add(file)
    try:
        source, _, _ = environment.loader.get_source(environment, file)  # type: ignore[union-attr]
        tree = environment.parse(source, file)
        used = set(meta.find_undeclared_variables(tree))
    except TemplateNotFound:
        return set(), set()
    except FAILURES as error:
        problems.append(reason_of(error))
        return set(), set()
    made = {
        target.name
        for assignment in tree.find_all(nodes.Assign)
        for target in assignment.find_all(nodes.Name)
        if target.ctx == "store"
    } | {macro.name for macro in tree.find_all(nodes.Macro)}
    for referenced in meta.find_referenced_templates(tree):
        if referenced is not None and referenced not in seen:
            more_used, more_made = _names_in(environment, referenced, seen, problems)
            used, made = used | more_used, made | more_made
    return used, made

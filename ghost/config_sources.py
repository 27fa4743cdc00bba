"""Where the words of the configuration come from: environment, .env and files, in their order."""

from __future__ import annotations

import difflib
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dotenv.parser import parse_stream
from dotenv.variables import parse_variables

from ghost.config_values import Mismatch, describe, resolve_path

SHORT_NAMES = {
    "DATABASE_URL": ("database", "url"),
    "REDIS_URL": ("redis", "url"),
    "JWT_SECRET_KEY": ("auth", "jwt_secret_key"),
    "SECRET_KEY": ("app", "secret_key"),
    "LOG_LEVEL": ("logging", "level"),
    "API_HOST": ("app", "host"),
    "API_PORT": ("app", "port"),
    "GHOST_ENV": ("app", "env"),
    "MAIL_URL": ("mail", "url"),
    "STORAGE_URL": ("storage", "url"),
}
"""The environment variables that everybody knows, and the keys they set."""

RESERVED = ("frontends", "plugins", "websocket")
"""Sections that a later Ghost will know: an application must not call its own so."""

_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?")
_MOST_DEPTH = 20
_MOST_ENTRIES = 10_000

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Word:
    """What one source says about one key."""

    value: object
    source: str
    is_text: bool = False
    """Text of an environment variable: its kind is still to be read from it."""
    is_from_file: bool = False
    """`${NAME}` in it stands for a variable."""


class Names:
    """The sections and keys that Ghost knows, and the mistakes made with others.

    :param sections: section name to its keys.
    :param lists: keys that stand at the top, outside any section.
    """

    def __init__(self, sections: Mapping[str, Collection[str]], lists: Collection[str]) -> None:
        self.sections = sections
        self.lists = lists

    def find_mistake(self, key: Key, source: str) -> str | None:
        """Return the line that says why the key cannot be, or None when it can."""
        top, *rest = key
        label = f"{printable('.'.join(map(str, key)))} ({source})"
        if not isinstance(top, str):
            return f"{label}: expected a name, got {describe(top, hidden=False)}; put it in quotes"
        if top in self.lists:
            return f"{label}: expected a list, got a mapping" if rest else None
        if top in self.sections:
            if not rest:
                return f"{label}: expected a section with keys"
            if rest[0] in self.sections[top]:
                return None
            return f"{label}: unknown key{self._suggest_key(top, rest[0])}"
        if top in RESERVED:
            return f"{label}: this version of Ghost has no such section, and the name is reserved"
        if near := self._find_near_section(top):
            return f"{label}: unknown section; did you mean {near}?"
        if not rest:
            homes = [f"{name}.{top}" for name, keys in self.sections.items() if top in keys]
            hint = f"; did you mean {' or '.join(homes)}?" if homes else ""
            return f"{label}: expected a section with keys{hint}"
        return None

    def find_near_variable(self, name: str) -> str | None:
        """Return the variable that was meant, or None when the name resembles none of ours."""
        known = {
            top.upper(): f"GHOST_{top.upper()}" for top in ("env", "root", "config", *self.lists)
        }
        for section, keys in self.sections.items():
            for key in keys:
                known[f"{section}_{key}".upper()] = f"GHOST_{section}__{key}".upper()
        rest = name.removeprefix("GHOST_").upper()
        if rest.startswith("ENV"):  # GHOST_ENVIRONMENT=production must not run as development
            return "GHOST_ENV"
        near = difflib.get_close_matches(rest, known, n=1, cutoff=0.85)
        return known[near[0]] if near else None

    def _find_near_section(self, name: str) -> str | None:
        known = {_plain(section): section for section in (*self.sections, *self.lists, *RESERVED)}
        plain = _plain(name)
        for section in known:
            if sorted(section) == sorted(plain):
                return known[section]
        near = difflib.get_close_matches(plain, known, n=1, cutoff=0.82)
        return known[near[0]] if near else None

    def _suggest_key(self, section: str, key: object) -> str:
        known = {_plain(name): name for name in self.sections[section]}
        near = difflib.get_close_matches(_plain(str(key)), known, n=1, cutoff=0.6)
        if near:
            return f"; did you mean {known[near[0]]}?"
        homes = [f"{name}.{key}" for name, keys in self.sections.items() if key in keys]
        return f"; did you mean {' or '.join(homes)}?" if homes else ""


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def printable(text: str) -> str:
    """Return the text on one line, without characters that a terminal would obey."""
    cleaned = "".join(c if c.isprintable() else "?" for c in text)
    return cleaned if len(cleaned) <= 80 else f"{cleaned[:77]}..."


def find_root(root: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the project's folder: as given, GHOST_ROOT, the nearest with a wsgi.py, or this one.

    :raises Mismatch: the folder does not exist.
    """
    named = root or (Path(environ["GHOST_ROOT"]) if environ.get("GHOST_ROOT") else None)
    try:
        here = Path.cwd()
    except OSError:
        if named is None or not named.is_absolute():
            raise Mismatch("a current folder that exists") from None
        here = named
    if named is None:
        return next((d for d in (here, *here.parents) if (d / "wsgi.py").is_file()), here)
    try:
        folder = (here / named).resolve()
        if folder.is_dir():
            return folder
    except (OSError, ValueError, RuntimeError):
        pass
    raise Mismatch("an existing folder")


class Sources:
    """All words of all sources, and the mistakes met while reading them. Nothing is written.

    :ivar variables: the environment and, below it, .env: what `${NAME}` refers to.
    :ivar layers: one mapping of keys to words per source, strongest first.
    :ivar mistakes: one line each.
    """

    def __init__(
        self, overrides: Mapping[str, Any], root: Path, environ: Mapping[str, str], names: Names
    ) -> None:
        self.root = root
        self.names = names
        self.mistakes: list[str] = []
        dotenv = self._read_dotenv(environ)
        # The `flask` command puts .env into the environment before anything of ours runs. A
        # variable that says what .env says is therefore .env's word, in .env's place.
        environment = {name: text for name, text in environ.items() if dotenv.get(name) != text}
        self.variables = dotenv | environment
        variables = [
            self._list_variables(environment, "environment"),
            self._list_variables(dotenv, ".env"),
        ]
        database = SHORT_NAMES["DATABASE_URL"]
        self.layers = [
            self._list_keys(overrides, "program"),
            # DATABASE_URL beats every other word on the database but the program's.
            *(
                {database: words[database]}
                for words in variables
                if database in words and words[database].source.endswith(" DATABASE_URL")
            ),
            *variables,
            *self._read_files(),
        ]
        self._drop_unknown_keys()

    def find_word(self, key: Key) -> Word | None:
        """Return what the strongest source that knows the key says."""
        return next((layer[key] for layer in self.layers if key in layer), None)

    def list_own_words(self) -> dict[Key, Word]:
        """Return the words in the application's own sections, weaker ones only where they fit."""
        chosen: dict[Key, Word] = {}
        for layer in self.layers:
            stronger = set(chosen)
            for key, word in layer.items():
                if key[0] in self.names.sections or key[0] in self.names.lists:
                    continue
                above = {key[:length] for length in range(1, len(key) + 1)}
                if not above & stronger and not any(k[: len(key)] == key for k in stronger):
                    chosen[key] = word
        return chosen

    def resolve(self, word: Word) -> Word:
        """Return the word with `${NAME}` and `${NAME:-default}` replaced by variables' values.

        :raises Mismatch: a variable that is not set and has no default, or a broken reference.
        """
        if not word.is_from_file:
            return word
        is_text = isinstance(word.value, str) and "${" in word.value
        return Word(self._fill(word.value), word.source, is_text=is_text)

    def _fill(self, value: object) -> object:
        if isinstance(value, str):
            return _REFERENCE.sub(self._look_up, value)
        if isinstance(value, list):
            return [self._fill(item) for item in value]
        if isinstance(value, dict):
            return {name: self._fill(item) for name, item in value.items()}
        return value

    def _look_up(self, reference: re.Match[str]) -> str:
        name, default = reference.groups()
        if reference.group() == "$${":
            return "${"
        if name is None:
            raise Mismatch("${NAME} or ${NAME:-default} ($${ stands for ${ itself)")
        if default is not None:
            return self.variables.get(name) or default
        if name not in self.variables:
            raise Mismatch(f"the variable {name} to be set, or a default: ${{{name}:-...}}")
        return self.variables[name]

    def _drop_unknown_keys(self) -> None:
        for layer in self.layers:
            for key, word in list(layer.items()):
                if mistake := self.names.find_mistake(key, word.source):
                    self.mistakes.append(mistake)
                    del layer[key]

    def _list_keys(
        self, mapping: Mapping[Any, Any], source: str, *, is_file: bool = False
    ) -> dict[Key, Word]:
        try:
            _measure(mapping, 0, [0])
        except Mismatch as mismatch:
            self.mistakes.append(f"{source}: expected {mismatch}")
            return {}
        keys = self._walk(mapping, ())
        return {key: Word(value, source, is_from_file=is_file) for key, value in keys}

    def _walk(self, mapping: Mapping[Any, Any], above: Key) -> Iterator[tuple[Key, object]]:
        for name, value in mapping.items():
            key = (*above, name)
            is_setting = len(key) == 2 and key[0] in self.names.sections
            if isinstance(value, Mapping) and not is_setting:
                yield from self._walk(value, key)
            elif value is not None or above:  # a section with nothing in it says nothing
                yield key, value

    def _list_variables(self, variables: Mapping[str, str], place: str) -> dict[Key, Word]:
        words: dict[Key, Word] = {}
        for name in sorted(variables):
            if not name.startswith("GHOST_") or name in ("GHOST_ENV", "GHOST_ROOT", "GHOST_CONFIG"):
                continue
            key = tuple(name.removeprefix("GHOST_").lower().split("__"))
            label = f"{printable(name)} ({place})"
            if len(key) > 1 and not all(key):
                self.mistakes.append(f"{label}: expected a name like GHOST_<SECTION>__<KEY>")
            elif len(key) > 1 and key[0] in self.names.sections and len(key) != 2:
                self.mistakes.append(f"{label}: expected one key in a section, its value in JSON")
            elif len(key) > 1 or key[0] in self.names.lists:
                source = f"{place} {printable(name)}"
                words[key] = Word(variables[name], source, is_text=True)
            elif near := self.names.find_near_variable(name):
                self.mistakes.append(f"{label}: unknown variable; did you mean {near}?")
        # Last, so that within one source the short name beats the long one.
        for name, key in SHORT_NAMES.items():
            if name in variables:
                words[key] = Word(variables[name], f"{place} {name}", is_text=True)
        return words

    def _read_dotenv(self, environ: Mapping[str, str]) -> dict[str, str]:
        path = self.root / ".env"
        if not _is_there(path) or path.is_dir():  # some keep a virtual environment there
            return {}
        text = self._read_text(path, ".env")
        values: dict[str, str] = {}
        for binding in parse_stream(io.StringIO(text)):
            line = f".env: line {binding.original.line}"
            name = binding.key
            if binding.error:
                self.mistakes.append(f"{line}: expected NAME=value")
            if binding.error or name is None:
                continue
            is_ours = name in SHORT_NAMES or name.startswith("GHOST_")
            if is_ours and (name in values or binding.value is None):
                reason = "is set a second time" if name in values else "has no value"
                self.mistakes.append(f"{line}: {printable(name)} {reason}")
            if binding.value is not None:
                known = {**environ, **values}
                parts = parse_variables(binding.value)
                values[name] = "".join(part.resolve(known) for part in parts)
        return values

    def _read_files(self) -> Iterator[dict[Key, Word]]:
        named = self.variables.get("GHOST_CONFIG")
        paths = [self.root / "config.yaml", self.root / "config.json"]
        if named:
            paths = [resolve_path(named, self.root)]
        for path in paths:
            inside = path.is_relative_to(self.root)
            label = printable(str(path.relative_to(self.root) if inside else path))
            if named and path.suffix not in (".yaml", ".yml", ".json"):
                self.mistakes.append("GHOST_CONFIG: expected the name of a .yaml or .json file")
            elif _is_there(path):
                yield self._list_keys(self._read_file(path, label), label, is_file=True)
            elif named:
                self.mistakes.append(f"GHOST_CONFIG: expected an existing file, {label} is none")

    def _read_file(self, path: Path, label: str) -> Mapping[Any, Any]:
        text = self._read_text(path, label)
        try:
            content = _parse_json(text) if path.suffix == ".json" else _parse_yaml(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
            # What PyYAML quotes may be a piece of a secret.
            problem = re.sub(r" ?'.*'", "", error.problem or "unknown", flags=re.DOTALL)
            self.mistakes.append(f"{label}:{where} not valid YAML ({printable(problem)})")
        except yaml.YAMLError:
            self.mistakes.append(f"{label}: not valid YAML (characters that YAML does not allow)")
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            self.mistakes.append(f"{label}: {where}: not valid JSON ({printable(error.msg)})")
        except _Repeated as error:
            self.mistakes.append(f"{label}: {printable(str(error))} stands there twice")
        except (ValueError, RecursionError):
            self.mistakes.append(f"{label}: holds a value that is too big, too deep or no number")
        else:
            if content is None or isinstance(content, dict):
                return content or {}
            got = describe(content, hidden=True)
            self.mistakes.append(f"{label}: expected a mapping of sections, got {got}")
        return {}

    def _read_text(self, path: Path, label: str) -> str:
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            self.mistakes.append(f"{label}: expected text in UTF-8")
        except OSError as error:
            self.mistakes.append(f"{label}: cannot be read ({error.strerror})")
        return ""


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


class _Repeated(Exception):
    """A key stands twice in a mapping."""


def _measure(value: object, depth: int, count: list[int]) -> None:
    # Aliases may make a small YAML file endless.
    count[0] += 1
    if depth > _MOST_DEPTH or count[0] > _MOST_ENTRIES:
        raise Mismatch(f"at most {_MOST_ENTRIES} entries, {_MOST_DEPTH} levels deep")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _measure(item, depth + 1, count)


def _parse_json(text: str) -> object:
    return json.loads(text or "null", object_pairs_hook=_mapping, parse_constant=_refuse)


def _mapping(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Repeated(next(name for name in names if names.count(name) > 1))
    return mapping


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def _parse_yaml(text: str) -> object:
    return yaml.load(text, Loader=_YamlLoader)  # noqa: S506 - a SafeLoader


class _YamlLoader(yaml.SafeLoader):
    """YAML with the plain values of version 1.2: `off` is a text, `010` and `1:30` are too."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise _Repeated(f"line {key.start_mark.line + 1}: {key.value}")
            seen.add((key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)))
        return node


_INTEGER = r"[-+]?(?:0|[1-9][0-9]*)"
for _tag, _pattern in (
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("null", r"~|null|Null|NULL|"),
    ("int", _INTEGER),
    ("float", rf"{_INTEGER}(?:\.[0-9]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"),
    ("merge", r"<<"),
):
    _YamlLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})\Z"), None
    )

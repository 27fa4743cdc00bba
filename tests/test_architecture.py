"""The picture of docs/architecture.md, held against the code: who imports whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PACKAGE = Path(__file__).parent.parent / "ghost"

FLOORS = {
    "assembly": {
        "app", "cli", "devserver", "embedded", "migrate", "processes", "server", "supervisor",
        "testing", "worker",
    },
    "rooms": {"auth", "docs", "files", "health", "mail", "users"},
    "machinery": {"jobs"},
    "foundation": {
        "access", "affinity", "api", "balance", "commands", "config", "config_mail",
        "config_schedules", "config_sections", "config_sources", "config_storage", "config_values",
        "database", "errors", "extensions", "fields", "http", "idempotency", "lists", "log_records",
        "log_sinks", "logging", "models", "network", "openapi", "pace", "passwords", "prepared",
        "ratelimit", "reading", "redaction", "responses", "retention", "revisions", "schemas",
        "secrets", "signals", "timing", "tokens", "unread", "unreader",
    },
}  # fmt: skip
HEIGHT = {name: height for height, floor in enumerate(reversed(FLOORS)) for name in FLOORS[floor]}
ROOMS = FLOORS["rooms"] | FLOORS["machinery"]

# Between rooms of one floor: who uses whose services and models.
BETWEEN_ROOMS = {
    ("auth", "users"), ("auth", "mail"), ("users", "mail"), ("files", "users"), ("files", "mail"),
    ("health", "files"),
}  # fmt: skip

# Inside a room: views -> schemas, and views -> services -> jobs -> models. Other files of a room
# are its tools and may stand anywhere, as long as no circle comes of it. A schema may use a rule
# that a service states (what a user name looks like).
INSIDE_A_ROOM = {
    "views": {"schemas", "services", "jobs", "models"},
    "schemas": {"services", "models"},
    "services": {"jobs", "models"},
    "jobs": {"models"},
    "models": set(),
}

# An import inside a function hides a circle, so there is none; but for these.
INSIDE_FUNCTIONS = {
    "ghost.testing": "a pytest plug-in is imported in every run, so heavy imports wait",
}


@dataclass(frozen=True)
class Import:
    """One module of ours that another one imports."""

    source: str
    target: str
    line: int
    in_function: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def part(module: str) -> str:
    """The room or top-level module: `ghost.auth.views` -> `auth`; empty for the package."""
    return ".".join(module.split(".")[1:2])


def read_modules() -> dict[str, Path]:
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        names = ("ghost", *path.relative_to(PACKAGE).with_suffix("").parts)
        modules[".".join(names).removesuffix(".__init__")] = path
    return modules


MODULES = read_modules()


def imports_of(name: str, path: Path) -> Iterator[Import]:
    """Imports of ours in one file, those for the type checker and in functions included."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [one if one in MODULES else str(node.module) for one in whole]
        else:
            continue
        for target in targets:
            if target == "ghost" or target.startswith("ghost."):
                yield Import(name, target, node.lineno, id(node) in inner)


IMPORTS = [found for name, path in sorted(MODULES.items()) for found in imports_of(name, path)]
# The package itself only names what applications import, each loaded when it is asked for.
OURS = [found for found in IMPORTS if found.source != "ghost"]


def test_every_module_has_its_floor() -> None:
    homeless = {part(name) for name in MODULES} - set(HEIGHT) - {""}

    assert not homeless, "give them a floor in docs/architecture.md and here"


def test_imports_go_downward_only() -> None:
    upward = [
        str(found)
        for found in OURS
        if part(found.target) and HEIGHT[part(found.source)] < HEIGHT[part(found.target)]
    ]

    assert upward == []


def test_rooms_use_each_other_in_one_direction() -> None:
    sideways = [
        str(found)
        for found in OURS
        if part(found.source) != part(found.target)
        and {part(found.source), part(found.target)} <= ROOMS
        and HEIGHT[part(found.source)] == HEIGHT[part(found.target)]
        and (part(found.source), part(found.target)) not in BETWEEN_ROOMS
    ]

    assert sideways == []


def test_a_room_never_uses_views_of_another() -> None:
    seen = [
        str(found)
        for found in OURS
        if found.target.endswith(".views")
        and part(found.source) != part(found.target)
        and part(found.source) not in FLOORS["assembly"]
    ]

    assert seen == []


def test_inside_a_room_views_stand_on_services_and_models_on_nothing() -> None:
    wrong = []
    for found in OURS:
        source, target = found.source.split("."), found.target.split(".")
        same_room = len(source) == len(target) == 3 and source[1] == target[1]
        if not same_room or source[1] not in ROOMS:
            continue
        if target[2] in INSIDE_A_ROOM and source[2] in INSIDE_A_ROOM:
            if target[2] not in INSIDE_A_ROOM[source[2]]:
                wrong.append(str(found))
        elif target[2] == "views":  # only assembly registers them
            wrong.append(str(found))

    assert wrong == []


def test_nothing_but_assembly_imports_the_application() -> None:
    users = [
        str(found)
        for found in OURS
        if found.target == "ghost.app" and part(found.source) not in FLOORS["assembly"]
    ]

    assert users == []


def test_ghost_does_not_import_its_own_front_door() -> None:
    """`from ghost import db` would load what an application sees; inside, names have a home."""
    assert [str(found) for found in OURS if found.target == "ghost"] == []


def test_no_import_hides_in_a_function() -> None:
    hidden = [
        str(found) for found in OURS if found.in_function and found.source not in INSIDE_FUNCTIONS
    ]

    assert hidden == []


def test_imports_make_no_circle() -> None:
    below: dict[str, set[str]] = {}
    for found in OURS:
        # A package's own __init__ gathers its modules; they don't import it back.
        if found.target != found.source and found.target != "ghost":
            below.setdefault(found.source, set()).add(found.target)

    circle = find_circle(below)

    assert not circle, " -> ".join(circle)


def find_circle(below: dict[str, set[str]]) -> list[str]:
    done: set[str] = set()
    path: list[str] = []

    def walk(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        for target in sorted(below.get(name, ())):
            if circle := walk(target):
                return circle
        path.pop()
        done.add(name)
        return []

    return next((circle for name in sorted(below) if (circle := walk(name))), [])


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_two_test_files_share_a_name() -> None:
    """Else pytest, which knows them by it, can't run all of them at once."""
    names = [
        path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py"
    ]

    assert len(names) == len(set(names))

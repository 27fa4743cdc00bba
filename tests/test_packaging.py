"""The wheel carries everything, the lock is complete, and a clone can be set up."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()

# What git would never hold.
NOT_PACKED = ("__pycache__", ".pyc")


def list_sources(folder: str, prefix: str) -> set[str]:
    """The files of a folder under the names that they have in the wheel."""
    root = ROOT / folder
    return {
        f"{prefix}/{path.relative_to(root).as_posix()}"
        for path in root.rglob("*")
        if path.is_file() and not any(word in str(path) for word in NOT_PACKED)
    }


def find_imports(paths: Iterable[Path]) -> set[str]:
    """The names of the top-level modules that some sources import."""
    found = set()
    for node in (node for path in paths for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    # _typeshed is the type checker's own.
    return found - sys.stdlib_module_names - {"ghost", "__main__", "_typeshed"}


def requirement_names(lines: list[str]) -> set[str]:
    """The normalised names of requirements such as `Flask-Mail>=0.10`."""
    return {re.split(r"[<>=\[ ;]", line)[0].lower().replace("_", "-") for line in lines}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of the files in a wheel that was built just now."""
    source = tmp_path_factory.mktemp("source")
    for name in ("ghost", "migrations"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, source],
        check=True,
        capture_output=True,
    )
    (path,) = target.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_the_wheel_carries_every_file_of_the_package(wheel):
    packed = {name for name in wheel if name.startswith("ghost/")}

    assert packed == list_sources("ghost", "ghost") | list_sources("migrations", "ghost/migrations")


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern",
    [
        r"ghost/migrations/env\.py",
        r"ghost/migrations/script\.py\.mako",
        r"ghost/migrations/versions/\w+\.py",
        r"ghost/mail/templates/.+\.html",
        r"ghost/docs/static/.+\.js",
        r"ghost/py\.typed",
    ],
)
def test_the_wheel_carries_what_is_no_module(wheel, pattern):
    assert [name for name in wheel if re.fullmatch(pattern, name)]


@pytest.mark.slow
def test_the_wheel_brings_nothing_but_the_package(wheel):
    tops = {name.split("/")[0] for name in wheel}

    assert tops == {"ghost", f"ghost-{PROJECT['version']}.dist-info"}


@pytest.mark.unit
def test_every_requirement_is_locked():
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    names = requirement_names(wanted)
    locked = set(re.findall(r"^([a-z0-9-]+)==", LOCK, re.MULTILINE))

    assert names - locked == set()


@pytest.mark.unit
def test_every_locked_package_has_hashes_and_no_place():
    entries = re.split(r"\n(?=[a-z])", LOCK.strip())

    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert re.findall(r"https?://|file:|@", LOCK) == []


@pytest.mark.unit
def test_limiter_and_gunicorn_are_asked_for_without_extras():
    """The extra [redis] goes back to an old limiter; [fast] to an old gunicorn."""
    assert [line for line in PROJECT["dependencies"] if "[" in line] == []


@pytest.mark.unit
def test_make_help_tells_every_target():
    answer = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True
    )
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert phony is not None
    assert re.findall(r"make (\w+)", answer.stdout) == phony[1].split()


@pytest.mark.unit
def test_a_missing_ensurepip_is_told_with_its_cure(tmp_path):
    """Debian's python3 has none until python3-venv is installed."""
    python = tmp_path / "python3.11"
    python.write_text(
        f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)

    result = subprocess.run(
        ["sh", ROOT / "scripts" / "setup.sh", tmp_path / "venv"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "GHOST_PYTHON": str(python)},
        capture_output=True,
        text=True,
    )

    assert result.returncode == 1
    assert "sudo apt install python3-venv" in result.stderr
    assert not (tmp_path / "venv").exists()


# Loaded for ses:// alone, and for buckets.
EXTRAS = {"ghost/mail/providers/ses.py": "ses", "ghost/files/storage/objects.py": "cloud"}


def part_of(path):
    """Which requirements a file may import."""
    if extra := EXTRAS.get(path.relative_to(ROOT).as_posix()):
        return extra
    return "ghost.testing" if "testing" in path.parts else "run-time"


@pytest.mark.unit
@pytest.mark.parametrize("part", ["run-time", "ghost.testing", "ses", "cloud"])
def test_every_import_of_the_package_is_a_requirement(part):
    wanted = requirement_names(PROJECT["dependencies"])
    if part == "ghost.testing":
        wanted |= requirement_names(PROJECT["optional-dependencies"]["dev"])
    if part in EXTRAS.values():  # boto3 is a layer on botocore, which it always brings
        wanted |= requirement_names(PROJECT["optional-dependencies"][part]) | {"botocore"}
    owners = packages_distributions()

    imported = find_imports(
        path
        for folder in ("ghost", "migrations")
        for path in (ROOT / folder).rglob("*.py")
        if part_of(path) == part
    )

    assert {
        module
        for module in imported
        if not requirement_names(owners.get(module, [module])) & wanted
    } == set()

"""Migrations: where revisions live, how they run, and how applications get Ghost's.

There is one linear history per application. Ghost's own is the folder `migrations/` of its
repository, which the wheel carries as `ghost/migrations/`. An application without a history of its
own runs on that one; with its first own revision it gets a copy, and `flask migrations install`
later adds what a newer Ghost brings onto the application's head.
"""

from __future__ import annotations

import ast
import functools
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import click
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.engine import Connection, Engine

from ghost.config import Config, current_config
from ghost.database import reading

SchemaState = Literal["ok", "behind", "ahead", "unknown"]


# --- Where revisions live -------------------------------------------------------------------------


def ghost_migrations() -> Path:
    """The folder of Ghost's own history: in the wheel inside the package, else beside it."""
    packed = Path(__file__).parent / "migrations"
    return packed if packed.is_dir() else Path(__file__).parent.parent / "migrations"


def migrations_directory(config: Config) -> str:
    """The application's `migrations/` beside wsgi.py, or Ghost's own while it has none."""
    own = config.root / "migrations"
    return str(own if (own / "env.py").is_file() else ghost_migrations())


@dataclass(frozen=True)
class Revision:
    """One file of a history, read without running it."""

    id: str
    down: tuple[str, ...]
    path: Path


def read_history(directory: str | Path) -> dict[str, Revision]:
    """Revisions of a migrations folder by id."""
    files = sorted((Path(directory) / "versions").glob("*.py"))
    return {found.id: found for file in files if (found := _read_revision(file))}


def _read_revision(path: Path) -> Revision | None:
    values: dict[str, Any] = {}
    for statement in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        match statement:
            case ast.Assign(targets=[ast.Name(name)], value=value) if value is not None:
                pass
            case ast.AnnAssign(target=ast.Name(name), value=value) if value is not None:
                pass
            case _:
                continue
        if name in ("revision", "down_revision"):
            values[name] = ast.literal_eval(value)
    if "revision" not in values:
        return None
    down = values.get("down_revision") or ()
    return Revision(values["revision"], (down,) if isinstance(down, str) else tuple(down), path)


def heads(history: dict[str, Revision]) -> list[str]:
    """Ids that nothing stands on; one, unless two lines were written side by side."""
    below = {down for revision in history.values() for down in revision.down}
    return [revision_id for revision_id in history if revision_id not in below]


def in_order(history: dict[str, Revision]) -> list[Revision]:
    """A history from its first revision to its head."""
    ordered: list[Revision] = []
    seen: set[str] = set()

    def add(revision: Revision) -> None:
        if revision.id in seen:
            return
        seen.add(revision.id)
        for down in revision.down:
            add(history[down])
        ordered.append(revision)

    for head in heads(history):
        add(history[head])
    return ordered


# --- What the database has ------------------------------------------------------------------------


def schema_state(engine: Engine) -> SchemaState:
    """Tell how the database's schema stands to this code's revisions; one query.

    `behind`: revisions wait for `flask db upgrade`, or Ghost brings some that wait for
    `flask migrations install`. `ahead`: a newer release has migrated already. `unknown`: the
    database does not say.
    """
    directory = migrations_directory(current_config())
    known, expected, lacking = _expectation(directory, _changed_at(directory))
    try:
        with reading(engine).connect() as connection:
            current = current_revisions(connection)
    except sa.exc.SQLAlchemyError:
        return "unknown"
    if not current <= known:
        return "ahead"
    return "ok" if current == expected and not lacking else "behind"


def current_revisions(connection: Connection) -> set[str]:
    """Ids that the database is at; an autocommit connection, since the query may fail."""
    try:
        return set(connection.scalars(sa.text("SELECT version_num FROM alembic_version")))
    except sa.exc.DBAPIError:
        # The table is missing in a new database; anything else is an error.
        if sa.inspect(connection).has_table("alembic_version"):
            raise
        return set()


def _changed_at(directory: str) -> int:
    with suppress(FileNotFoundError):
        return (Path(directory) / "versions").stat().st_mtime_ns
    return 0


@functools.lru_cache(maxsize=8)
def _expectation(directory: str, _changed_at: int) -> tuple[frozenset[str], set[str], bool]:
    """Known ids, ids that should be current, and whether Ghost's newest ones are lacking."""
    history = read_history(directory)
    return frozenset(history), set(heads(history)), bool(lacking_revisions(Path(directory)))


# --- Taking up Ghost's revisions ------------------------------------------------------------------


def lacking_revisions(directory: Path) -> list[Revision]:
    """Ghost's revisions that a history has not got, oldest first."""
    source = ghost_migrations()
    if directory.resolve() == source.resolve():
        return []
    present = read_history(directory)
    return [revision for revision in in_order(read_history(source)) if revision.id not in present]


def install_revisions(root: Path) -> list[Path]:
    """Copy Ghost's revisions that an application lacks onto its head; may be repeated.

    A revision keeps its id, so a database that ran on Ghost's own history fits the copy too; only
    what it stands on changes. The first time, env.py and its companions are copied as well.

    :param root: the folder of wsgi.py.
    :returns: the files written, in that order.
    :raises click.ClickException: the application's history has no single head, or holes.
    """
    source, target = ghost_migrations(), root / "migrations"
    if target.resolve() == source.resolve():
        return []
    lacking = lacking_revisions(target)
    present = read_history(target)
    _refuse_holes(lacking, read_history(source), present)
    tops = heads(present)
    if len(tops) > 1:
        raise click.ClickException(
            f"This application has {len(tops)} heads ({', '.join(tops)}): "
            "join them with `flask db merge heads`, then repeat."
        )
    (target / "versions").mkdir(parents=True, exist_ok=True)
    written = [*_copy_missing(source, target, ("script.py.mako", "alembic.ini"))]
    top = tops[0] if tops else None
    for revision in lacking:
        written.append(_place(revision, top, target / "versions" / revision.path.name))
        top = revision.id
    # Last: a folder counts as the application's history once it has an env.py.
    return [*written, *_copy_missing(source, target, ("env.py",))]


def _copy_missing(source: Path, target: Path, names: Iterable[str]) -> Iterator[Path]:
    for name in names:
        if not (target / name).exists():
            shutil.copyfile(source / name, target / name)
            yield target / name


def _refuse_holes(
    lacking: Iterable[Revision], ghosts: dict[str, Revision], present: dict[str, Revision]
) -> None:
    missing = {revision.id for revision in lacking}
    for revision in ghosts.values():
        if revision.id in present and missing & set(revision.down):
            raise click.ClickException(
                f"{present[revision.id].path.name} is here, but {', '.join(revision.down)}, which "
                "it stood on, is not: bring that file back from the application's own history."
            )


def _place(revision: Revision, down: str | None, target: Path) -> Path:
    """Write one of Ghost's revisions so that it stands on `down`."""
    if target.exists():
        raise click.ClickException(f"{target} exists and is another revision: rename it.")
    text = revision.path.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^down_revision\b.*$", f"down_revision = {_quoted(down)}", text, count=1)
    text = re.sub(r"(?m)^Revises:.*$", f"Revises: {down or ''}".rstrip(), text, count=1)
    text = (
        f"# Ghost's revision {revision.id}, taken up by `flask migrations install` "
        f"from Ghost {version('ghost')}.\n{text}"
    )
    draft = target.with_suffix(".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(target)
    return target


def _quoted(revision_id: str | None) -> str:
    return "None" if revision_id is None else f'"{revision_id}"'


# --- Commands, loaded when they are used ----------------------------------------------------------


class _Commands(click.Command):
    """A group of `ghost.migrate`, loaded when it is used: Alembic would slow down every start."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:  # fmt: skip
        """Let the group itself take over."""
        group = import_module("ghost.migrate").GROUPS[self.name]
        return cast(click.Context, group.make_context(info_name, args, parent, **extra))


class _Extension:
    """Stands where Flask-Migrate puts its state, and puts that there when it is asked for."""

    def __init__(self, app: Flask) -> None:
        self.app = app

    def __getattr__(self, name: str) -> Any:
        import_module("ghost.migrate").bind(self.app)
        return getattr(self.app.extensions["migrate"], name)


def init_app(app: Flask) -> None:
    """Give the application `flask db` and `flask migrations`."""
    app.extensions["migrate"] = _Extension(app)
    app.cli.add_command(_Commands("db", help="Perform database migrations."))
    app.cli.add_command(_Commands("migrations", help="Take up the revisions that Ghost brings."))

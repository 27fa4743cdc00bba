"""What `flask db` and `flask migrations` do: loaded when one of them is used, since Alembic is big.

See `ghost.revisions` for where revisions live.
"""

from __future__ import annotations

import copy
import functools
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click
import flask_migrate
import sqlalchemy as sa
from alembic import command, context
from alembic.autogenerate.api import AutogenContext
from alembic.util import CommandError
from flask import Flask, current_app, g
from flask.cli import AppGroup, with_appcontext
from flask_migrate.cli import db as database_commands
from sqlalchemy.engine import Connection, Engine

from ghost.config import current_config
from ghost.database import db, migration_engine, reading
from ghost.revisions import (
    Revision,
    current_revisions,
    ghost_migrations,
    install_revisions,
    lacking_revisions,
    migrations_directory,
)

# "ghost" in ASCII. PostgreSQL counts advisory locks by database, so every application of one
# database waits for the same lock.
LOCK_KEY = 0x67686F7374
LOCK_WAIT_SECONDS = 60.0
LOCK_POLL_SECONDS = 0.1
CONNECT_SECONDS = 5.0

logger = logging.getLogger(__name__)

# Six lines about its own plug-ins, before the first one about the work.
logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)


class Migrate(flask_migrate.Migrate):
    """Flask-Migrate with Ghost's folders, and its commands made safe for applications."""

    def get_config(
        self,
        directory: str | None = None,
        x_arg: str | Sequence[str] | None = None,
        opts: Sequence[str] | None = None,
    ) -> flask_migrate.Config:
        # Asked for at each call: one Migrate serves several applications of a process, and the
        # folder of an application may have been made a moment ago.
        directory = directory or migrations_directory(current_config())
        return super().get_config(directory, x_arg=x_arg, opts=opts)


migrations = AppGroup("migrations", help="Take up the revisions that Ghost brings.")


@migrations.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when revisions are lacking.")
def install(check: bool) -> None:
    """Copy Ghost's revisions that this application lacks onto its history."""
    root = current_config().root
    if check:
        lacking = lacking_revisions(root / "migrations")
        for revision in lacking:
            click.echo(f"lacking: {revision.path.name}")
        if lacking:
            raise click.exceptions.Exit(1)
        click.echo("This application has every revision of Ghost's.")
        return
    if (root / "migrations").resolve() == ghost_migrations().resolve():
        click.echo("This is Ghost's own history: there is nothing to install.")
        return
    if _install(root):
        click.echo("Now run `flask db upgrade`, and commit the new files.")
    else:
        click.echo("This application has every revision of Ghost's.")


def _install(root: Path) -> list[Path]:
    written = install_revisions(root)
    for path in written:
        click.echo(f"wrote {path.relative_to(root)}")
    return written


def _guarded_commands() -> click.Group:
    """Flask-Migrate's group, the commands that write or compare models prepared first."""
    group = copy.copy(database_commands)
    group.commands = {
        name: _after(_PREPARATIONS[name], original) if name in _PREPARATIONS else original
        for name, original in database_commands.commands.items()
    }
    group.commands["init"] = _initialise
    return group


@click.command("init")
@with_appcontext
@click.pass_context
def _initialise(ctx: click.Context) -> None:
    """Give this application a migrations folder; same as `flask migrations install`."""
    ctx.invoke(install, check=False)


def _after(prepare: Callable[[], None], original: click.Command) -> click.Command:
    prepared = copy.copy(original)
    callback: Callable[..., Any] = original.callback or original.main

    @functools.wraps(callback)
    @with_appcontext
    def run(*args: Any, **options: Any) -> Any:
        # Whoever names a folder knows what is in it.
        if not (options.get("directory") or g.get("directory")):
            prepare()
        return callback(*args, **options)

    prepared.callback = run
    return prepared


def _own_history() -> None:
    """Make sure that a new revision goes into the application's folder, onto all of Ghost's."""
    config = current_config()
    directory = Path(migrations_directory(config))
    own = config.root / "migrations"
    if directory.resolve() == ghost_migrations().resolve() and own.resolve() != directory.resolve():
        _install(config.root)
    _refuse_lacking()


def _own_history_and_schema() -> None:
    """Also bring a database that has nothing in it yet to where the comparison starts."""
    _own_history()
    try:
        with _connect(reading(db.engine), CONNECT_SECONDS) as connection:
            if current_revisions(connection):
                return
    except CommandError as error:
        raise click.ClickException(str(error)) from error
    command.upgrade(current_app.extensions["migrate"].migrate.get_config(), "head")


def _refuse_lacking() -> None:
    if lacking := _lacking_here():
        raise click.ClickException(_lacking_text(lacking))


def _warn_lacking() -> None:
    if lacking := _lacking_here():
        click.secho(_lacking_text(lacking), fg="yellow", err=True)


def _lacking_here() -> list[Revision]:
    return lacking_revisions(Path(migrations_directory(current_config())))


def _lacking_text(lacking: Sequence[Revision]) -> str:
    names = ", ".join(revision.path.name for revision in lacking)
    return (
        f"This Ghost brings revisions that the application has not taken up yet: {names}. "
        "Run `flask migrations install && flask db upgrade`."
    )


_PREPARATIONS: dict[str, Callable[[], None]] = {
    "migrate": _own_history_and_schema,
    "revision": _own_history,
    "merge": _own_history,
    "check": _refuse_lacking,
    "upgrade": _warn_lacking,
}


# --- Running revisions: what env.py calls ---------------------------------------------------------
# Every application keeps a copy of env.py, which imports `run` from here: it stays here.


def run() -> None:
    """Run what the command at hand asks for, alone, in one transaction.

    On SQLite too: DDL is transactional there as well, once BEGIN is our own. A process that is
    killed leaves the schema as it was, and the command can be repeated.
    """
    if context.is_offline_mode():
        _run_offline()
        return
    wait_seconds = float(_argument("wait", LOCK_WAIT_SECONDS))
    with _locked_connection(migration_engine(), wait_seconds) as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            transactional_ddl=True,
            **_options(),
        )
        with context.begin_transaction():
            context.run_migrations()
            if connection.dialect.name == "sqlite":
                _refuse_dangling(connection)


def _run_offline() -> None:
    context.configure(
        url=db.engine.url, target_metadata=db.metadata, literal_binds=True, **_options()
    )
    with context.begin_transaction():
        context.run_migrations()


def _argument(name: str, default: Any) -> Any:
    arguments = context.get_x_argument(as_dictionary=True)
    return arguments.get(name, default)


def _options() -> dict[str, Any]:
    options: dict[str, Any] = {
        "compare_type": True,
        "render_as_batch": True,
        "include_object": _OwnTables(),
        "render_item": _render_item,
        "process_revision_directives": _drop_empty,
    }
    options.update(current_app.extensions["migrate"].configure_args)
    return options


class _OwnTables:
    """Leaves tables of others in the same database alone: they are not ours to drop.

    Ours are the models' and those that a revision of this history made.
    """

    def __init__(self) -> None:
        self.created: set[str] | None = None

    def __call__(
        self, item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any
    ) -> bool:
        if kind != "table" or not reflected or compare_to is not None:
            return True
        if self.created is None:
            versions = Path(context.script.dir) / "versions"
            text = "\n".join(path.read_text(encoding="utf-8") for path in versions.glob("*.py"))
            self.created = set(re.findall(r"create_table\(\s*[\"'](\w+)[\"']", text))
            self.created |= set(re.findall(r"rename_table\(\s*[^,]+,\s*[\"'](\w+)[\"']", text))
        return name in self.created


def _render_item(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Write Ghost's column types as what they are in the database: revisions outlive classes."""
    if kind == "type" and isinstance(item, sa.types.TypeDecorator):
        stored = item.impl_instance
        if type(item).__module__.startswith("ghost.") and hasattr(sa, type(stored).__name__):
            return f"sa.{stored!r}"
    return False


def _drop_empty(_context: Any, _revision: Any, directives: list[Any]) -> None:
    autogenerated = getattr(context.config.cmd_opts, "autogenerate", False)
    if autogenerated and directives[0].upgrade_ops.is_empty():
        directives.clear()
        logger.info("No changes in schema detected.")


@contextmanager
def _locked_connection(engine: Engine, wait_seconds: float) -> Iterator[Connection]:
    """A connection that migrates alone; the lock goes with the connection, whatever happens."""
    is_sqlite = engine.dialect.name == "sqlite"
    with _connect(engine, wait_seconds if is_sqlite else CONNECT_SECONDS) as connection:
        if is_sqlite:
            yield from _lock_sqlite(connection, wait_seconds)
        else:
            _lock_postgresql(connection, wait_seconds)
            yield connection


def _connect(engine: Engine, wait_seconds: float) -> Connection:
    """Connect, and be patient with a server that is being started along with us.

    On SQLite with a file that others switch to WAL at this moment: that fails at once.
    """
    _make_folder(engine)
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return engine.connect()
        except sa.exc.OperationalError as error:
            if time.monotonic() > deadline:
                if _is_locked(error):
                    raise CommandError(_waited_text(wait_seconds)) from error
                raise CommandError(f"The database can't be opened: {error.orig}") from error
            time.sleep(LOCK_POLL_SECONDS)


def _make_folder(engine: Engine) -> None:
    """Make the folder of an SQLite file: a new project has no `instance/` yet."""
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)


def _lock_sqlite(connection: Connection, wait_seconds: float) -> Iterator[Connection]:
    """BEGIN IMMEDIATE is the lock; here it is told how long to wait, and for what."""
    # Batch mode replaces tables. With foreign keys on, dropping the old one would delete the rows
    # that refer to it (ON DELETE CASCADE). It can't be switched inside a transaction, so it goes to
    # the driver before SQLAlchemy begins one. See sqlite.org/lang_altertable.html, section 7.
    driver: Any = connection.connection.dbapi_connection
    driver.execute(f"PRAGMA busy_timeout={int(wait_seconds * 1000)}")
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield connection
    except sa.exc.OperationalError as error:
        if not _is_locked(error):
            raise
        raise CommandError(_waited_text(wait_seconds)) from error


def _is_locked(error: sa.exc.OperationalError) -> bool:
    return "locked" in str(error.orig)


def _lock_postgresql(connection: Connection, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    # Held by the connection, not by a transaction, so that a revision may use
    # `op.get_context().autocommit_block()`. Asked for again and again instead of waited for: a
    # waiting query would be one more thing to time out.
    lock = sa.text("SELECT pg_try_advisory_lock(:key)").bindparams(key=LOCK_KEY)
    while not connection.scalar(lock):
        connection.rollback()
        if time.monotonic() > deadline:
            raise CommandError(_waited_text(wait_seconds))
        time.sleep(LOCK_POLL_SECONDS)
    # A statement that waits for a table makes everybody else wait behind it, readers too.
    connection.execute(sa.text(f"SET lock_timeout = {int(wait_seconds * 1000)}"))
    connection.commit()


def _waited_text(wait_seconds: float) -> str:
    return (
        f"Something else held the database for {wait_seconds:g} s, most likely another "
        "`flask db upgrade`. Nothing was changed here. Repeat the command when that one is done, "
        "or wait longer: `flask db -x wait=600 upgrade`."
    )


def _refuse_dangling(connection: Connection) -> None:
    """Check what SQLite did not while foreign keys were off; raising rolls everything back."""
    rows = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if rows:
        tables = ", ".join(sorted({f"{table} -> {parent}" for table, _, parent, _ in rows}))
        raise CommandError(f"{len(rows)} rows would point nowhere after this migration: {tables}.")


migrate = Migrate()
GROUPS = {"db": _guarded_commands(), "migrations": migrations}


def bind(app: Flask) -> None:
    """Put Flask-Migrate's state into an application."""
    migrate.init_app(app, db)
    app.cli.add_command(GROUPS["db"])  # Flask-Migrate has just added its own

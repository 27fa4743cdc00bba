"""Migrations: with rows in the tables, several at once, killed, and in an application."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from flask import Flask

from ghost.database import db
from ghost.migrate import LOCK_KEY
from ghost.revisions import ghost_migrations, heads, in_order, read_history, schema_state

pytestmark = pytest.mark.integration

Rows = dict[str, list[dict[str, Any]]]
Run = Callable[..., subprocess.CompletedProcess[str]]
RunInOrder = Callable[..., list[tuple[int, str]]]

WSGI = "from ghost import create_app\n\napp = create_app()\n"


@pytest.fixture
def url(empty_database: Callable[[], str]) -> str:
    """An empty database of the kind that this run tests with."""
    return empty_database()


@pytest.fixture
def ghost_app(url: str, make_app: Callable[[Mapping[str, Any]], Flask]) -> Iterator[Flask]:
    """Ghost itself on the empty database, its context open."""
    app = make_app({"database": {"url": url}})
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()


def alembic_config(app: Flask) -> AlembicConfig:
    config: AlembicConfig = app.extensions["migrate"].migrate.get_config()
    return config


# --- Rows in every table --------------------------------------------------------------------------


def reflect(engine: sa.Engine) -> sa.MetaData:
    metadata = sa.MetaData()
    metadata.reflect(engine)
    metadata.remove(metadata.tables["alembic_version"])
    return metadata


def fill(engine: sa.Engine, count: int = 2) -> None:
    """Add rows to every table, made from nothing but the reflected types and constraints."""
    metadata = reflect(engine)
    inspector = sa.inspect(engine)
    # Before the transaction: on SQLite it keeps every other connection out.
    checks = {
        name: " ".join(str(check["sqltext"]) for check in inspector.get_check_constraints(name))
        for name in metadata.tables
    }
    made: Rows = {}
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            made[table.name] = [
                make_row(table, checks[table.name], made, number) for number in range(count)
            ]
            connection.execute(table.insert(), made[table.name])


def make_row(table: sa.Table, checks: str, made: Rows, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in table.columns:
        for key in column.foreign_keys:
            parents = made.get(key.column.table.name)
            row[column.name] = parents[number][key.column.name] if parents else None
        if column.name not in row:
            allowed = re.search(rf"\b{column.name}\b[^']*\b(?:IN|ANY)\b[^']*'(\w+)'", checks)
            row[column.name] = allowed[1] if allowed else make_value(column, number)
    return row


def make_value(column: sa.Column[Any], number: int) -> Any:
    kind = column.type
    unique = f"{number}{uuid4().hex}"
    for types, value in {
        (sa.Uuid,): uuid4(),
        (sa.Boolean,): number % 2 == 0,
        (sa.Integer,): number + 1,
        (sa.Numeric, sa.Float): number + 0.5,
        (sa.DateTime,): datetime.now(UTC).replace(microsecond=number),
        (sa.Date,): date(2026, 1, number + 1),
        (sa.Time,): datetime.now(UTC).time(),
        (sa.Interval,): None,
        (sa.LargeBinary,): unique.encode(),
        (sa.JSON,): {"n": [number, None, "ü"]},
    }.items():
        if isinstance(kind, types):
            return value
    assert isinstance(kind, sa.String), f"{column} has the type {kind!r}: say how to fill it"
    return unique[: kind.length]


def snapshot(engine: sa.Engine) -> Rows:
    with engine.connect() as connection:
        return {
            table.name: sorted(
                (dict(row._mapping) for row in connection.execute(table.select())), key=repr
            )
            for table in reflect(engine).sorted_tables
        }


def assert_kept(before: Rows, after: Rows) -> None:
    """Whatever table and column is on both sides has the same values."""
    for name in before.keys() & after.keys():
        assert len(after[name]) >= len(before[name]), name
        if not before[name] or not after[name]:
            continue
        columns = before[name][0].keys() & after[name][0].keys()
        kept = [{key: row[key] for key in columns} for row in after[name]]
        for row in before[name]:
            assert {key: row[key] for key in columns} in kept, name


def test_up_down_and_up_again_keeps_the_rows(ghost_app: Flask) -> None:
    config = alembic_config(ghost_app)
    history = in_order(read_history(ghost_migrations()))

    for revision in history:
        before = snapshot_or_nothing()
        command.upgrade(config, revision.id)
        assert_kept(before, snapshot(db.engine))

        fill(db.engine)
        filled = snapshot(db.engine)
        assert all(len(rows) >= 2 for rows in filled.values())
        command.downgrade(config, "-1")
        below = snapshot_or_nothing()
        assert_kept(below, filled)
        assert_kept(before, below)

        command.upgrade(config, revision.id)
        assert_kept(below, snapshot(db.engine))
    fill(db.engine)
    assert history
    assert schema_state(db.engine) == "ok"


def snapshot_or_nothing() -> Rows:
    return snapshot(db.engine) if sa.inspect(db.engine).has_table("alembic_version") else {}


def test_down_to_nothing_leaves_no_table(ghost_app: Flask) -> None:
    config = alembic_config(ghost_app)
    command.upgrade(config, "head")
    fill(db.engine)

    command.downgrade(config, "base")

    assert sa.inspect(db.engine).get_table_names() == ["alembic_version"]


def test_the_history_is_one_line() -> None:
    history = read_history(ghost_migrations())

    assert len(heads(history)) == 1
    assert all(len(revision.down) <= 1 for revision in history.values())


def test_the_schema_is_behind_then_ok_then_ahead(ghost_app: Flask) -> None:
    states = [schema_state(db.engine)]
    command.upgrade(alembic_config(ghost_app), "head")
    states.append(schema_state(db.engine))
    with db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'from_tomorrow'"))
    states.append(schema_state(db.engine))

    assert states == ["behind", "ok", "ahead"]


def test_the_schema_of_a_database_that_is_away_is_unknown(
    make_app: Callable[[Mapping[str, Any]], Flask],
) -> None:
    app = make_app({"database": {"url": "postgresql://ghost@127.0.0.1:1/away"}})

    with app.app_context():
        assert schema_state(db.engine) == "unknown"


# --- Commands: alone, killed, at once -------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a wsgi.py and nothing else."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "wsgi.py").write_text(WSGI)
    return folder


@pytest.fixture
def environ(app_environ: dict[str, str], url: str, project: Path) -> dict[str, str]:
    return {**app_environ, "DATABASE_URL": url, "GHOST_ROOT": str(project)}


def flask(*words: str) -> list[str]:
    return [sys.executable, "-m", "flask", *words]


@pytest.fixture
def run(project: Path, environ: dict[str, str]) -> Run:
    """Run a `flask` command in the project's folder."""

    def run(
        *words: str, fails: bool = False, url: str = environ["DATABASE_URL"]
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            flask(*words), cwd=project, env={**environ, "DATABASE_URL": url},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done

    return run


IN_ORDER = """\
import contextlib, io, json, pathlib, sys

from flask.cli import cli

done = []
for words in json.loads(sys.argv[1]):
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.main(words)
        except SystemExit as end:
            code = end.code or 0
    done.append((code, said.getvalue()))
pathlib.Path(sys.argv[2]).write_text(json.dumps(done))
"""


@pytest.fixture
def run_in_order(project: Path, environ: dict[str, str], tmp_path: Path) -> RunInOrder:
    """Run several `flask` commands in one process, since starting one takes a second.

    Gives the exit code of each, and what it said.
    """

    def run(*commands: list[str]) -> list[tuple[int, str]]:
        answer = tmp_path / "answer.json"
        subprocess.run(
            [sys.executable, "-c", IN_ORDER, json.dumps(commands), str(answer)],
            cwd=project, env=environ, check=True, timeout=120,
        )  # fmt: skip
        return [(code, said) for code, said in json.loads(answer.read_text())]

    return run


def own_revision(project: Path, body: str, *, name: str = "own", down: str | None = None) -> None:
    """Write a revision of the application's own on top of its history."""
    folder = project / "migrations"
    down = down or heads(read_history(folder))[0]
    (folder / "versions" / f"{name}.py").write_text(
        "import os, pathlib, time\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n"
        f'revision = "{name}"\ndown_revision = "{down}"\n\n\n'
        f"def upgrade():\n{body}\n\n\ndef downgrade():\n    pass\n"
    )


def query(url: str, statement: str) -> list[Any]:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement))
        rows = list(result) if result.returns_rows else []
    engine.dispose()
    return rows


def tables(url: str) -> list[str]:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    names = sa.inspect(engine).get_table_names()
    engine.dispose()
    return names


def test_models_and_migrations_agree(run_in_order: RunInOrder) -> None:
    """In a process of its own: here, other tests have added models of theirs."""
    done = run_in_order(["db", "upgrade"], ["db", "check"])

    assert [code for code, _ in done] == [0, 0], done


@pytest.mark.slow
def test_five_upgrades_at_once_all_succeed(
    project: Path, environ: dict[str, str], url: str
) -> None:
    started = [
        subprocess.Popen(
            flask("db", "upgrade"), cwd=project, env=environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for _ in range(5)
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[0] for process in started]

    assert [process.returncode for process in started] == [0] * 5, "\n".join(said)
    assert len(query(url, "SELECT * FROM alembic_version")) == 1


HALFWAY = """\
    op.create_table("halfway", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO halfway VALUES (1)")
    pathlib.Path(os.environ["HALFWAY"]).touch()
    time.sleep(float(os.environ["PAUSE"]))
    op.create_table("done", sa.Column("id", sa.Integer, primary_key=True))"""


@pytest.mark.slow
def test_a_killed_upgrade_leaves_nothing_and_can_be_repeated(
    project: Path, environ: dict[str, str], url: str, run: Run, tmp_path: Path
) -> None:
    run("migrations", "install")
    own_revision(project, HALFWAY)
    environ |= {"HALFWAY": str(tmp_path / "halfway"), "PAUSE": "60"}
    process = subprocess.Popen(flask("db", "upgrade"), cwd=project, env=environ)
    wait_for(tmp_path / "halfway")

    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    # One transaction: not even the revisions before the one that was interrupted are there.
    assert tables(url) == []
    environ["PAUSE"] = "0"
    run("db", "upgrade")
    assert {"halfway", "done", "users"} <= set(tables(url))


def wait_for(path: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_an_upgrade_says_what_it_waited_for_in_vain(url: str, run: Run) -> None:
    if url.startswith("sqlite"):
        holder = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        holder.execute("PRAGMA journal_mode=WAL")
        holder.execute("BEGIN IMMEDIATE")
    else:
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
        holder = engine.connect()  # type: ignore[assignment]
        holder.execute(sa.text(f"SELECT pg_advisory_lock({LOCK_KEY})"))  # type: ignore[call-overload]
    with closing(holder):
        done = run("db", "-x", "wait=0.5", "upgrade", fails=True)

    words = done.stdout + done.stderr
    assert "another `flask db upgrade`" in words
    assert "Traceback" not in words


def test_a_new_project_needs_no_folder_for_its_database(
    project: Path, app_environ: dict[str, str]
) -> None:
    environ = {name: value for name, value in app_environ.items() if name != "DATABASE_URL"}

    done = subprocess.run(
        flask("db", "upgrade"), cwd=project, env={**environ, "GHOST_ROOT": str(project)}
    )

    assert done.returncode == 0
    assert (project / "instance" / "ghost.db").is_file()


def test_a_database_that_is_away_is_said_in_one_line(
    project: Path, app_environ: dict[str, str]
) -> None:
    environ = {**app_environ, "GHOST_ROOT": str(project)}
    environ["DATABASE_URL"] = "postgresql://ghost:secret-word@127.0.0.1:1/away"

    done = subprocess.run(
        flask("db", "upgrade"), cwd=project, env=environ, capture_output=True, text=True
    )

    words = done.stdout + done.stderr
    assert done.returncode == 1
    assert "The database can't be opened" in words
    assert "Traceback" not in words
    assert "secret-word" not in words


def test_a_revision_may_leave_the_transaction(project: Path, run: Run, postgres: Any) -> None:
    """As CREATE INDEX CONCURRENTLY demands; the lock is the connection's, so it stays."""
    url = postgres.create_database()
    run("migrations", "install")
    own_revision(
        project,
        """\
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY ix_own ON users (full_name)")""",
    )

    run("db", "upgrade", url=url)

    assert query(url, "SELECT 1 FROM pg_indexes WHERE indexname = 'ix_own'") == [(1,)]


def test_a_migration_that_leaves_rows_pointing_nowhere_is_refused(
    project: Path, url: str, run: Run
) -> None:
    """PostgreSQL does that itself; on SQLite foreign keys are off while tables are replaced."""
    run("migrations", "install")
    own_revision(
        project,
        """\
    op.create_table("parents", sa.Column("id", sa.Integer, primary_key=True))
    op.create_table(
        "children",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent_id", sa.Integer, sa.ForeignKey("parents.id", name="fk_children_parents")),
    )
    op.execute("INSERT INTO children VALUES (1, 99)")""",
    )

    done = run("db", "upgrade", fails=True)

    words = done.stdout + done.stderr
    assert "foreign key" in words or "1 rows would point nowhere" in words
    assert "children" not in tables(url)


# --- An application with a history of its own -----------------------------------------------------

ORDERS = """\
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ghost import Model, TimestampMixin


class Order(TimestampMixin, Model):
    __tablename__ = "orders"

    owner_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"))
    total: Mapped[Decimal] = mapped_column(sa.Numeric(12, 2))
"""

# Batch mode replaces the table on SQLite: the hardest thing for rows that refer to it.
FROM_TOMORROW = '''\
"""From tomorrow

Revision ID: tomorrow
Revises: {down}
"""

import sqlalchemy as sa
from alembic import op

revision = "tomorrow"
down_revision = "{down}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    recreate = "always" if op.get_bind().dialect.name == "sqlite" else "auto"
    with op.batch_alter_table("users", recreate=recreate) as batch_op:
        batch_op.add_column(sa.Column("tomorrow", sa.Integer, nullable=True))
    with op.batch_alter_table("users", recreate=recreate) as batch_op:
        batch_op.drop_column("tomorrow")


def downgrade() -> None:
    pass
'''


@pytest.fixture
def installed(tmp_path: Path, environ: dict[str, str]) -> Path:
    """Ghost as a wheel installs it, in a folder of its own: the migrations inside the package."""
    package = tmp_path / "site" / "ghost"
    here = Path(__file__).parent.parent
    shutil.copytree(here / "ghost", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(here / "migrations", package / "migrations")
    environ["PYTHONPATH"] = str(package.parent)
    return package


def from_tomorrow(installed: Path) -> None:
    """Let the installed Ghost be a newer one."""
    folder = installed / "migrations"
    [down] = heads(read_history(folder))
    (folder / "versions" / "tomorrow.py").write_text(FROM_TOMORROW.format(down=down))


@pytest.mark.slow
def test_an_application_takes_up_a_newer_ghost(
    project: Path, installed: Path, url: str, run_in_order: RunInOrder
) -> None:
    ghosts = list(read_history(installed / "migrations"))
    (project / "wsgi.py").write_text("import orders\n" + WSGI)
    (project / "orders.py").write_text(ORDERS)

    # The database has run on Ghost's own history before there was one of the application's,
    # and is shared with somebody else.
    query(url, "CREATE TABLE neighbours (id INTEGER PRIMARY KEY)")
    done = run_in_order(
        ["db", "upgrade"],
        ["db", "migrate", "-m", "Orders"],
        ["migrations", "install"],
        ["db", "upgrade"],
        ["db", "check"],
    )
    assert [code for code, _ in done] == [0] * 5, done
    assert done[2][1].startswith("This application has every revision")
    own = read_history(project / "migrations")
    [orders] = [revision for revision in own.values() if revision.id not in ghosts]
    text = orders.path.read_text()
    assert text.count("create_table(") == 1
    assert "neighbours" not in text
    assert set(ghosts) < own.keys()
    assert read_history(installed / "migrations").keys() == set(ghosts)

    query(url, "DROP TABLE neighbours")
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    fill(engine)
    before = snapshot(engine)
    assert before["orders"]

    from_tomorrow(installed)
    done = run_in_order(
        ["migrations", "install", "--check"],
        ["db", "migrate", "-m", "Never"],
        ["db", "check"],
        ["db", "upgrade"],
        ["migrations", "install"],
        ["migrations", "install", "--check"],
        ["db", "upgrade"],
        ["db", "check"],
    )
    assert [code for code, _ in done] == [1, 1, 1, 0, 0, 0, 0, 0], done
    assert "lacking: tomorrow.py" in done[0][1]
    assert all("flask migrations install" in said for _, said in done[1:4])
    assert "wrote migrations/versions/tomorrow.py" in done[4][1]
    taken = read_history(project / "migrations")["tomorrow"]
    assert taken.down == (orders.id,)
    assert f"Revises: {orders.id}" in taken.path.read_text()
    assert query(url, "SELECT version_num FROM alembic_version") == [("tomorrow",)]
    assert snapshot(engine) == before
    engine.dispose()


def test_two_heads_are_named_before_anything_is_written(project: Path, run: Run) -> None:
    run("migrations", "install")
    history = read_history(project / "migrations")
    top = in_order(history)[-1]
    own_revision(project, "    pass", name="left", down=top.id)
    own_revision(project, "    pass", name="right", down=top.id)

    done = run("migrations", "install", fails=True)

    assert "flask db merge heads" in done.stderr


def test_a_lost_revision_is_not_copied_over_what_stood_on_it(
    project: Path, installed: Path, run: Run
) -> None:
    from_tomorrow(installed)
    run("migrations", "install")
    first, *_ = in_order(read_history(project / "migrations"))
    first.path.unlink()

    done = run("migrations", "install", fails=True)

    assert first.id in done.stderr
    assert first.id not in read_history(project / "migrations")

"""The database of a test: migrated once in a run, put back to that state before each test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import psycopg2
from alembic import command
from flask import Flask
from psycopg2.extensions import connection as PsycopgConnection
from psycopg2.sql import SQL, Composable, Identifier

from ghost.database import db
from ghost.testing.servers import PostgreSQL

# How long putting a database back waits for a transaction that an earlier test left open.
LEFT_OPEN_SECONDS = 2


class TestDatabase(ABC):
    """The one database that the applications of a test run share, one test after the other."""

    __test__ = False  # not a test class, says this to pytest

    url: str

    def __init__(self) -> None:
        self._history: str | None = None

    def restore(self, app: Flask) -> None:
        """Leave in it what the application's migrations make, and nothing else."""
        with app.app_context():
            config = app.extensions["migrate"].migrate.get_config()
            history = str(config.get_main_option("script_location"))
            if history == self._history:
                self._reset()
                return
            db.engine.dispose()
            self._clear()
            command.upgrade(config, "head")
            self._remember()
            self._history = history

    @abstractmethod
    def create_empty(self) -> str:
        """Make another database, without any table, and give its URL."""

    @abstractmethod
    def _clear(self) -> None: ...

    @abstractmethod
    def _remember(self) -> None: ...

    @abstractmethod
    def _reset(self) -> None: ...


class SQLiteDatabase(TestDatabase):
    """A file, written anew from the bytes of the migrated one: a millisecond."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.path = folder / "test.db"
        self.url = f"sqlite:///{self.path}"
        self._migrated = b""
        self._count = 0

    def create_empty(self) -> str:
        self._count += 1
        return f"sqlite:///{self.folder / f'scratch_{self._count}.db'}"

    def _clear(self) -> None:
        # Removed, not overwritten: who still has the old file open keeps the old file.
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _remember(self) -> None:
        db.engine.dispose()  # the last connection to close moves the WAL into the file
        self._migrated = self.path.read_bytes()

    def _reset(self) -> None:
        db.engine.dispose()
        self._clear()
        self.path.write_bytes(self._migrated)


class PostgreSQLDatabase(TestDatabase):
    """A database emptied by DELETE, the rows that migrations made put back, in one round trip.

    Measured against a new database from a template (45 ms and more) and TRUNCATE (a new file for
    each table and index): most tables are empty, and a DELETE that finds nothing costs next to
    nothing.
    """

    def __init__(self, server: PostgreSQL, name: str = "ghost_test") -> None:
        super().__init__()
        self.server = server
        self.name = name
        self.url = server.create_database(name)
        self._connection: PsycopgConnection | None = None
        self._restoring: Composable = SQL("")

    def create_empty(self) -> str:
        return self.server.create_database()

    def _clear(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None
        self.server.drop_database(self.name)
        self.server.create_database(self.name)

    def _remember(self) -> None:
        """Keep the migrations' own rows in a schema beside, and prepare what puts them back."""
        self._connection = connection = psycopg2.connect(self.url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA ghost_seed")
            cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            tables = [name for (name,) in cursor.fetchall()]
            cursor.execute("SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'")
            sequences = [name for (name,) in cursor.fetchall()]
            steps: list[Composable] = []
            for table in map(Identifier, tables):
                steps.append(SQL("DELETE FROM {0}").format(table))
                cursor.execute(SQL("SELECT EXISTS (SELECT FROM {0})").format(table))
                if cursor.fetchone() == (True,):
                    cursor.execute(
                        SQL("CREATE TABLE ghost_seed.{0} AS TABLE public.{0}").format(table)
                    )
                    steps.append(SQL("INSERT INTO {0} TABLE ghost_seed.{0}").format(table))
            steps += [SQL("ALTER SEQUENCE {0} RESTART").format(Identifier(s)) for s in sequences]
            self._restoring = SQL("; ").join(steps)
            self._tables = tables
            # As a replica no foreign key is checked: any order will do.
            cursor.execute(
                f"SET session_replication_role = replica; SET lock_timeout = '{LEFT_OPEN_SECONDS}s'"
            )

    def _reset(self) -> None:
        assert self._connection is not None
        with self._connection.cursor() as cursor:
            try:
                cursor.execute(self._restoring)
            except psycopg2.errors.LockNotAvailable:
                # An earlier test left a transaction open, in a thread perhaps.
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                cursor.execute(self._restoring)
            self._drop_others(cursor)

    def _drop_others(self, cursor: psycopg2.extensions.cursor) -> None:
        """Drop what a test created beside the migrations' tables."""
        cursor.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL(%s)",
            (self._tables,),
        )
        for (table,) in cursor.fetchall():
            cursor.execute(SQL("DROP TABLE {0} CASCADE").format(Identifier(table)))

"""Whether the bytes of files are still those that were stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa

from ghost.database import db_manager
from ghost.files.models import StoredFile
from ghost.files.storage import current_storage
from ghost.files.storage.base import Missing, StorageUnavailable

BATCH = 500
# So many files in a row that can't be read are no files that can't be read.
UNREADABLE_IN_A_ROW = 10

Problem = Literal["missing", "damaged", "unreadable"]

_files: Any = StoredFile.__table__


@dataclass(frozen=True, slots=True)
class Finding:
    """A file that is not as it was stored."""

    id: UUID
    key: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class CategoryStats:
    """How many files there are of a kind, and how many bytes they have."""

    category: str
    count: int
    size: int
    deleted: int


def read_stats() -> list[CategoryStats]:
    """Count the files by category, deleted ones that are not purged included."""
    deleted = sa.func.count(_files.c.deleted_at)
    statement = (
        sa.select(_files.c.category, sa.func.count(), sa.func.sum(_files.c.size), deleted)
        .group_by(_files.c.category)
        .order_by(_files.c.category)
    )
    with db_manager.connection() as connection:
        return [
            CategoryStats(row[0], row[1], int(row[2]), row[3])
            for row in connection.execute(statement)
        ]


def total_size() -> int:
    """The bytes of all files together."""
    with db_manager.connection() as connection:
        return int(connection.scalar(sa.select(sa.func.sum(_files.c.size))) or 0)


def verify(advance: Callable[[int], None]) -> Iterator[Finding]:
    """Read every file, the oldest first, and give those whose bytes are gone, others or unreadable.

    :param advance: told how many bytes are dealt with.
    :raises StorageUnavailable: the storage is away.
    """
    after: UUID | None = None
    unreadable = 0
    while True:
        statement = sa.select(_files.c.id, _files.c.key, _files.c.size, _files.c.sha256)
        if after is not None:
            statement = statement.where(_files.c.id > after)
        with db_manager.connection() as connection:
            rows = connection.execute(statement.order_by(_files.c.id).limit(BATCH)).all()
        for row in rows:
            problem = _look_at(row.key, row.sha256)
            if problem is not None and _is_there(row.id):  # and not purged meanwhile
                yield Finding(row.id, row.key, problem)
            advance(row.size)
            unreadable = unreadable + 1 if problem == "unreadable" else 0
            if unreadable == UNREADABLE_IN_A_ROW:
                raise StorageUnavailable
        if len(rows) < BATCH:
            return
        after = rows[-1].id


def _look_at(key: str, sha256: str) -> Problem | None:
    digest = hashlib.sha256()
    try:
        with closing(current_storage().read(key)) as pieces:
            for piece in pieces:
                digest.update(piece)
    except Missing:
        return "missing"
    except StorageUnavailable:
        return "unreadable"
    return None if digest.hexdigest() == sha256 else "damaged"


def _is_there(file_id: UUID) -> bool:
    with db_manager.connection() as connection:
        found = connection.scalar(sa.select(_files.c.id).where(_files.c.id == file_id))
    return found is not None

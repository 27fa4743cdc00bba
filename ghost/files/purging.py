"""The end of files: their rows go, their room is given back, and then their bytes are deleted."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.files import quota
from ghost.files.models import FileVariant, StoredFile

_files: Any = StoredFile.__table__
_variants: Any = FileVariant.__table__


def purge(
    connection: sa.Connection, is_over: sa.ColumnElement[bool], limit: int
) -> tuple[list[str], int]:
    """Delete the rows of soft-deleted files and give their room back, in the caller's transaction.

    Exactly once, whoever else does the same: what counts are the rows that were deleted here. Those
    that somebody has locked are left to the next time.

    :returns: the keys of bytes to delete after the commit, and how many files it were.
    """
    found = connection.scalars(
        sa.select(_files.c.id)
        .where(_files.c.deleted_at.is_not(None), is_over)
        .order_by(_files.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not found:
        return [], 0
    variants = connection.scalars(
        sa.delete(_variants).where(_variants.c.file_id.in_(found)).returning(_variants.c.key)
    ).all()
    gone = connection.execute(
        sa.delete(_files)
        .where(_files.c.id.in_(found))
        .returning(_files.c.key, _files.c.owner_id, _files.c.size)
    ).all()
    freed: Counter[UUID] = Counter()
    for _, owner_id, size in gone:
        freed[owner_id] += size
    for owner_id in sorted(freed):  # in one order, so that nobody waits in a circle
        quota.take(connection, owner_id, -freed[owner_id])
    return [*(row.key for row in gone), *variants], len(gone)


def deleted_files_of(owner_id: UUID) -> sa.ColumnElement[bool]:
    """The condition that picks the files of one account, for `purge`."""
    condition: sa.ColumnElement[bool] = _files.c.owner_id == owner_id
    return condition

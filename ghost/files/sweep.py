"""Tidying up: deleted files whose time has come, bytes without a row, rows without bytes.

Bytes that no row names are deleted once they are old enough that none can be on its way. A row
whose bytes are gone is told of, and stays: whoever lost them has to know.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.config import current_config
from ghost.database import db_manager
from ghost.files.aftermath import discard
from ghost.files.models import FileVariant, StoredFile, Upload
from ghost.files.purging import purge
from ghost.files.storage import current_storage
from ghost.files.variant_rows import stored_name

# Longer than an upload takes from its last byte to its row.
ORPHAN_AGE = timedelta(hours=1)
# A variant that is configured no longer stays as long: another machine may still offer it.
STALE_AGE = timedelta(days=1)
# Longer than a sender may be silent while its bytes lie in a temporary file.
TEMPORARY_AGE = timedelta(hours=1)
BATCH = 500

_files: Any = StoredFile.__table__
_variants: Any = FileVariant.__table__
_uploads: Any = Upload.__table__
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# The keys that Ghost makes. What else lies there is somebody else's, and left alone.
_OURS = re.compile(rf"(?:(?:variants/)?\d{{4}}/\d{{2}}|uploads)/({_UUID})(?:[./].*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Portion:
    """What became of one stretch of the storage.

    :param last: the key that the next stretch lies behind; None when this was the last one.
    :param missing: ids of files that have a row and no bytes.
    """

    seen: int
    orphans: int
    missing: tuple[UUID, ...]
    last: str | None


def purge_deleted(now: datetime) -> int:
    """Delete some of the files whose time after their deletion is over, for good.

    In transactions of its own: none may be open.

    :returns: how many, as many as BATCH when there may be more.
    """
    before = now - timedelta(seconds=current_config().storage.keep_deleted)
    with db_manager.transaction() as connection:
        keys, count = purge(connection, _files.c.deleted_at < before, BATCH)
    if keys:
        discard(*keys)
    return count


def delete_stale_variants(now: datetime) -> int:
    """Delete some of the variants that the configuration does not name any more.

    Of what never became a variant, the claims go too. In transactions of its own, as
    `purge_deleted`.

    :returns: how many, as many as BATCH when there may be more.
    """
    settings = current_config().storage
    names = [stored_name(*named) for named in settings.variants.items()]
    is_configured = _variants.c.name.in_(names) & _variants.c.content_type.in_(
        settings.variant_types
    )
    before = now - STALE_AGE
    is_stale = sa.or_(
        sa.not_(is_configured) & (_variants.c.made_at < before),
        (_variants.c.size == 0) & (_variants.c.claimed_until < before),
    )
    found = sa.select(_variants.c.id).where(is_stale).limit(BATCH)
    statement = sa.delete(_variants).where(
        _variants.c.id.in_(found.with_for_update(skip_locked=True))
    )
    with db_manager.transaction() as connection:
        keys = connection.scalars(statement.returning(_variants.c.key)).all()
    if keys:
        discard(*keys)
    return len(keys)


def sweep_portion(now: datetime, after: str = "") -> Portion:
    """Hold a stretch of the storage against the rows, and delete what is an orphan.

    :param after: the key that it begins behind.
    :raises StorageUnavailable: the storage is away.
    """
    found = list(islice(current_storage().list(after=after), BATCH))
    last = found[-1].key if len(found) == BATCH else None
    old = [one.key for one in found if one.modified_at < now - ORPHAN_AGE]
    orphans = _without_row([key for key in old if _OURS.fullmatch(key)])
    if orphans:
        discard(*orphans)
    missing = _without_bytes({one.key for one in found}, after, last, now - ORPHAN_AGE)
    return Portion(len(found), len(orphans), missing, last)


def remove_temporary(now: datetime) -> int:
    """Remove what writers left behind that were killed.

    :returns: how many there were.
    """
    return current_storage().tidy(now - TEMPORARY_AGE)


def _without_row(keys: Collection[str]) -> list[str]:
    """Those of these keys that no row names; a piece of an upload belongs to the upload's row."""
    uploads = {key: UUID(key.split("/")[1]) for key in keys if key.startswith("uploads/")}
    with db_manager.connection() as connection:
        named = set(connection.scalars(sa.select(_files.c.key).where(_files.c.key.in_(keys))))
        named.update(
            connection.scalars(sa.select(_variants.c.key).where(_variants.c.key.in_(keys)))
        )
        open_ids = set(
            connection.scalars(
                sa.select(_uploads.c.id).where(_uploads.c.id.in_(set(uploads.values())))
            )
        )
    return [key for key in keys if key not in named and uploads.get(key) not in open_ids]


def _without_bytes(
    present: Collection[str], after: str, last: str | None, before: datetime
) -> tuple[UUID, ...]:
    """The files of one stretch of keys that were made before a time, and are not present."""
    with db_manager.connection() as connection:
        # In the order of bytes, as the storage has it, whatever the database's language.
        key = _files.c.key
        if connection.dialect.name == "postgresql":
            key = sa.collate(key, "C")
        statement = sa.select(_files.c.id, _files.c.key).where(
            key > after, _files.c.created_at < before
        )
        if last is not None:
            statement = statement.where(key <= last)
        rows = connection.execute(statement).all()
    lost = [row for row in rows if row.key not in present]
    # One that was purged meanwhile is not lost.
    return tuple(row.id for row in lost if _is_there(row.id))


def _is_there(file_id: UUID) -> bool:
    with db_manager.connection() as connection:
        found = connection.scalar(sa.select(_files.c.id).where(_files.c.id == file_id))
    return found is not None

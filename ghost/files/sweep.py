"""Tidying up: deleted files whose time has come, bytes without a row, rows without bytes.

Bytes that no row names are deleted once they are old enough that none can be on its way. A row
whose bytes are gone is told of, and stays: whoever lost them has to know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from ghost.config import current_config
from ghost.database import db_manager, dialect_insert
from ghost.errors import Conflict
from ghost.files.aftermath import discard
from ghost.files.models import FileVariant, StoredFile, Upload
from ghost.files.purging import purge
from ghost.files.storage import current_storage
from ghost.files.variant_rows import stored_name
from ghost.jobs.models import Lease

# Longer than an upload takes from its last byte to its row.
ORPHAN_AGE = timedelta(hours=1)
# A variant that is configured no longer stays as long: another machine may still offer it.
STALE_AGE = timedelta(days=1)
# Longer than a sender may be silent while its bytes lie in a temporary file.
TEMPORARY_AGE = timedelta(hours=1)
BATCH = 500
# Held for ever; the holder is the name that the storage knows this database by.
PLACE_LEASE, FOR_EVER = "files.place", datetime(9999, 1, 1, tzinfo=UTC)

_files: Any = StoredFile.__table__
_variants: Any = FileVariant.__table__
_uploads: Any = Upload.__table__
_leases: Any = Lease.__table__
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# The keys that Ghost makes. What else lies there is somebody else's, and left alone.
_OURS = re.compile(rf"(?:(?:variants/)?\d{{4}}/\d{{2}}|uploads)/({_UUID})(?:[./].*)?", re.DOTALL)


class PlaceTaken(Conflict):
    """Another database has its files in this storage."""

    message = (
        "The storage belongs to another database, so nothing was swept. Give each its own"
        " storage.url; if the other one is gone, delete the object .ghost there."
    )


@dataclass(frozen=True, slots=True)
class Portion:
    """What became of one stretch of the storage.

    :param orphans: bytes that no row named, and are deleted.
    :param failed: likewise, which could not be deleted.
    :param last: the key that the next stretch lies behind; None when this was the last one.
    :param missing: ids of files that have a row and no bytes.
    """

    seen: int
    orphans: int
    failed: int
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


def check_place() -> None:
    """Make sure that the storage is this database's: in another's all bytes would look orphaned.

    Whoever asks first has it.

    :raises PlaceTaken: it is another's.
    :raises StorageUnavailable: the storage is away.
    """
    values = {"name": PLACE_LEASE, "holder": str(uuid4()), "until": FOR_EVER}
    with db_manager.transaction() as connection:
        connection.execute(dialect_insert(_leases).values(values).on_conflict_do_nothing())
        mine = connection.scalar(sa.select(_leases.c.holder).where(_leases.c.name == PLACE_LEASE))
    if current_storage().claim(str(mine)) != mine:
        raise PlaceTaken


def sweep_portion(now: datetime, after: str = "") -> Portion:
    """Hold a stretch of the storage against the rows, and delete what is an orphan.

    :param after: the key that it begins behind.
    :raises StorageUnavailable: the storage is away.
    """
    found = list(islice(current_storage().list(after=after), BATCH))
    last = found[-1].key if len(found) == BATCH else None
    rows = _named(after, last)
    if len(rows) == BATCH:  # here there are more rows than bytes
        last = rows[-1].key
        found = [one for one in found if one.key <= last]
    before = now - ORPHAN_AGE
    old = [one.key for one in found if one.modified_at < before]
    orphans = _without_row([key for key in old if _OURS.fullmatch(key)])
    are_removed = not orphans or discard(*orphans)
    present = {one.key for one in found}
    lost = [row.id for row in rows if row.key not in present and row.created_at < before]
    return Portion(
        seen=len(found),
        orphans=len(orphans) if are_removed else 0,
        failed=0 if are_removed else len(orphans),
        missing=_still_there(lost),
        last=last,
    )


def remove_temporary(now: datetime) -> int:
    """Remove what writers left behind that were killed.

    :returns: how many there were.
    """
    return current_storage().tidy(now - TEMPORARY_AGE)


def _without_row(keys: Collection[str]) -> list[str]:
    """Those of these keys that no row names; a piece belongs to its unfinished upload."""
    uploads = {key: UUID(key.split("/")[1]) for key in keys if key.startswith("uploads/")}
    with db_manager.connection() as connection:
        named = set(connection.scalars(sa.select(_files.c.key).where(_files.c.key.in_(keys))))
        named.update(
            connection.scalars(sa.select(_variants.c.key).where(_variants.c.key.in_(keys)))
        )
        open_ids = set(
            connection.scalars(
                sa.select(_uploads.c.id).where(
                    _uploads.c.id.in_(set(uploads.values())), _uploads.c.file_id.is_(None)
                )
            )
        )
    return [key for key in keys if key not in named and uploads.get(key) not in open_ids]


def _named(after: str, last: str | None) -> Sequence[Any]:
    """The first rows of files in a stretch of keys."""
    key = _files.c.key
    statement = sa.select(_files.c.id, key, _files.c.created_at).where(key > after)
    if last is not None:
        statement = statement.where(key <= last)
    with db_manager.connection() as connection:
        return connection.execute(statement.order_by(key).limit(BATCH)).all()


def _still_there(ids: Collection[UUID]) -> tuple[UUID, ...]:
    """Those of some files that have not been purged meanwhile, in their order."""
    if not ids:
        return ()
    with db_manager.connection() as connection:
        found = set(connection.scalars(sa.select(_files.c.id).where(_files.c.id.in_(ids))))
    return tuple(file_id for file_id in ids if file_id in found)

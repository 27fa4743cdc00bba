"""What a worker does with files, and what happens to those of an account that is deleted."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.config import current_config
from ghost.database import db, db_manager, dialect_insert
from ghost.files import avatars, sweep, uploads
from ghost.files.aftermath import follow
from ghost.files.models import StoredFile, Upload
from ghost.files.upload_pieces import discard_pieces
from ghost.jobs import current_job, job
from ghost.jobs.models import Lease
from ghost.logging import logger
from ghost.models import utcnow
from ghost.retention import repair_with
from ghost.users.models import User
from ghost.users.signals import user_deleted, user_restored

SWEEP_EVERY = timedelta(hours=1)
LEASE_NAME = "files.sweep"
# One run of a job; what is left is the next one's.
RUN_SECONDS = 120.0
SHOWN_IDS = 10

_files: Any = StoredFile.__table__
_leases: Any = Lease.__table__
_uploads: Any = Upload.__table__


@job(name="files.purge", queue="low", unique="args", timeout=600)
def purge_deleted() -> int:
    """Delete the files for good whose time after their deletion is over."""
    ends_at, purged = time.monotonic() + RUN_SECONDS, 0
    while True:
        count = sweep.purge_deleted(utcnow())
        purged += count
        if count < sweep.BATCH or current_job.is_to_stop or time.monotonic() > ends_at:
            return purged  # what is left is found within a minute


@job(name="files.sweep", queue="low", unique="args", timeout=600)
def sweep_storage(after: str = "") -> dict[str, int]:
    """Delete bytes that no row names, and tell of rows whose bytes are gone.

    Variants that are configured no longer go first.

    :param after: the key that it goes on behind.
    """
    ends_at = time.monotonic() + RUN_SECONDS
    counts = {"seen": 0, "orphans": 0, "missing": 0, "temporary": 0, "variants": 0}
    try:
        sweep.check_place()
    except sweep.PlaceTaken as error:
        logger.bind(reason=error.message).error("the storage was not swept")
        return counts
    if not after:
        while count := sweep.delete_stale_variants(utcnow()):
            counts["variants"] += count
        counts["temporary"] = sweep.remove_temporary(utcnow())
    while True:
        portion = sweep.sweep_portion(utcnow(), after)
        counts["seen"] += portion.seen
        counts["orphans"] += portion.orphans
        counts["missing"] += len(portion.missing)
        if portion.missing:
            ids = [str(file_id) for file_id in portion.missing[:SHOWN_IDS]]
            logger.bind(count=len(portion.missing), ids=ids).error("files have lost their bytes")
        if portion.last is None:
            return counts
        after = portion.last
        if current_job.is_to_stop or time.monotonic() > ends_at:
            sweep_storage.enqueue(after)
            return counts


@repair_with
def _begin(connection: sa.Connection, now: datetime, _limit: int) -> int:
    """Have deleted files purged whose time is over, and once an hour the storage swept.

    Both are jobs: a storage may take its time, and the sweep of the jobs has none.
    """
    before = now - timedelta(seconds=current_config().storage.keep_deleted)
    is_over = sa.select(_files.c.id).where(_files.c.deleted_at < before).limit(1)
    if connection.scalar(is_over) is not None:
        with db_manager.session():
            purge_deleted.enqueue()
    # Where no file is, nobody looks: an application may well have none.
    if connection.scalar(sa.select(_files.c.id).limit(1)) is not None and _is_due(connection, now):
        with db_manager.session():
            sweep_storage.enqueue()
    return 0


def _is_due(connection: sa.Connection, now: datetime) -> bool:
    """Tell whether the storage has to be swept, and that it now will be: to one caller an hour."""
    values = {"holder": LEASE_NAME, "until": now + SWEEP_EVERY}
    taken = connection.execute(
        sa.update(_leases).where(_leases.c.name == LEASE_NAME, _leases.c.until < now).values(values)
    )
    if taken.rowcount:
        return True
    insert = dialect_insert(_leases).values(name=LEASE_NAME, **values)
    return connection.execute(insert.on_conflict_do_nothing()).rowcount == 1


# --- Accounts -------------------------------------------------------------------------------------


@user_deleted.connect
def _delete_with_account(_app: Any, *, user_id: UUID, deleted_at: datetime) -> None:
    """Delete the files of an account that is deleted, in the transaction that does so.

    Its unfinished uploads end, for good.
    """
    unfinished = (_uploads.c.owner_id == user_id) & _uploads.c.file_id.is_(None)
    ended = uploads.end_uploads(db.session.connection(), unfinished)
    if ended:
        follow(on_commit=lambda: discard_pieces(*ended))
    mine = (_files.c.owner_id == user_id) & _files.c.deleted_at.is_(None)
    _mark(mine, deleted_at)


@user_restored.connect
def _restore_with_account(_app: Any, *, user_id: UUID, deleted_at: datetime) -> None:
    """Take back the deletion of the files that went with an account, as far as they are there.

    Where that of its avatar was purged, it has none.
    """
    _mark((_files.c.owner_id == user_id) & (_files.c.deleted_at == deleted_at), None)
    avatars.forget_lost(db.session.get_one(User, user_id))


def _mark(which: sa.ColumnElement[bool], deleted_at: datetime | None) -> None:
    values = {"deleted_at": deleted_at, "version": _files.c.version + 1, "updated_at": utcnow()}
    db.session.execute(sa.update(_files).where(which).values(values))

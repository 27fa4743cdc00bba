"""Files: store, find, change and delete them, by the rules of who may see and change them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.access import Caller
from ghost.config import current_config
from ghost.database import db, db_manager, lock_row
from ghost.errors import Forbidden, NotFound, ValidationFailed
from ghost.files import avatars, quota
from ghost.files.aftermath import discard, follow
from ghost.files.arrivals import Arrival, receive
from ghost.files.entering import enter
from ghost.files.models import PRIVATE, PUBLIC, StoredFile
from ghost.files.names import clean_filename
from ghost.files.owners import lock_owner
from ghost.files.purging import deleted_files_of, purge
from ghost.files.signals import file_stored
from ghost.files.types import TypeRefused, check_name
from ghost.models import ordered, searched, utcnow
from ghost.signals import tell

READ_ANY, WRITE_ANY = "files:read_any", "files:write_any"
PURGED_AT_ONCE = 1000
SORTABLE = ("created_at", "filename", "size", "content_type")


# --- Storing --------------------------------------------------------------------------------------


def store(
    pieces: Iterable[bytes],
    *,
    owner_id: UUID,
    filename: str,
    declared_type: str | None = None,
    visibility: str = PRIVATE,
    details: Mapping[str, Any] | None = None,
    release: int = 0,
) -> StoredFile:
    """Store a file: its bytes at once, and its row in the transaction of `db.session`.

    What is not committed leaves no bytes. Call it before anything else of the transaction: none
    may be open while the bytes come in.

    :param pieces: the bytes, in any sizes; read once.
    :param filename: of which a label is made, see `ghost.files.names`.
    :param declared_type: what the sender says that it is; None for nothing.
    :param details: JSON to keep with it.
    :param release: bytes of the owner's that are counted for it already, and given back.
    :raises OwnerDeleted: the owner's account was deleted.
    :raises OverQuota: the owner has no room for it.
    :raises FileTooLarge, ValidationFailed, TypeRefused, NotAnImage, ImageTooLarge,
        StorageUnavailable: as `ghost.files.arrivals.receive`.
    """
    arrival = receive(pieces, filename=filename, declared_type=declared_type)
    return add(arrival, owner_id=owner_id, visibility=visibility, details=details, release=release)


def add(
    arrival: Arrival,
    *,
    owner_id: UUID,
    visibility: str = PRIVATE,
    details: Mapping[str, Any] | None = None,
    release: int = 0,
) -> StoredFile:
    """Give bytes that have arrived their row, and their part of the owner's quota; flushes.

    They are deleted if that fails, or the transaction is rolled back.

    :param release: as `store`.
    :raises OwnerDeleted: the owner's account was deleted meanwhile.
    :raises OverQuota: the owner has no room for them, also without the deleted files.
    """
    file = _new_file(arrival, owner_id, visibility, details)
    try:
        follow(
            on_commit=lambda: _tell_stored(file),
            on_rollback=lambda: discard(arrival.key),
        )
    except BaseException:  # no database: nobody would roll anything back
        discard(arrival.key)
        raise
    lock_owner(owner_id)
    take_room(owner_id, arrival.size - release)
    db.session.add(file)
    db.session.flush()
    return file


def add_and_commit(
    arrival: Arrival,
    *,
    owner_id: UUID,
    visibility: str = PRIVATE,
    details: Mapping[str, Any] | None = None,
) -> StoredFile:
    """As `add`, and commit, with whatever else the transaction of `db.session` has.

    Where it has nothing else, the row may come by one statement beside it.

    :returns: the file, maybe in no session.
    :raises OwnerDeleted, OverQuota: as `add`.
    """
    file = _new_file(arrival, owner_id, visibility, details)
    if not db.session().in_transaction() and enter(file):
        _tell_stored(file)
        return file
    file = add(arrival, owner_id=owner_id, visibility=visibility, details=details)
    db.session.commit()
    return file


def _new_file(
    arrival: Arrival, owner_id: UUID, visibility: str, details: Mapping[str, Any] | None
) -> StoredFile:
    content = arrival.content
    return StoredFile(
        id=arrival.id,
        owner_id=owner_id,
        key=arrival.key,
        filename=arrival.filename,
        content_type=content.content_type,
        category=content.category,
        size=arrival.size,
        sha256=arrival.sha256,
        visibility=visibility,
        details=dict(details or {}),
        width=content.width,
        height=content.height,
    )


def _tell_stored(file: StoredFile) -> None:
    tell(
        file_stored,
        file_id=file.id,
        owner_id=file.owner_id,
        content_type=file.content_type,
        category=file.category,
        size=file.size,
    )


def take_room(owner_id: UUID, count: int) -> None:
    """Count bytes as an account's, in the transaction of `db.session`.

    Where there is not enough room, the account's deleted files make some: they are purged.

    :param count: below zero to give them back.
    :raises OverQuota: there is not enough room even so.
    """
    connection = db.session.connection()
    keys: list[str] = []
    while not quota.take(connection, owner_id, count):
        purged, _ = purge(connection, deleted_files_of(owner_id), PURGED_AT_ONCE)
        if not purged:
            raise quota.over_quota()
        keys += purged
    if keys:
        follow(on_commit=lambda: discard(*keys))


def check_room(owner_id: UUID, count: int) -> None:
    """Refuse early what will have no room: before it is sent. Only reads; `take_room` decides.

    :raises OverQuota: there is not enough room, also without the deleted files.
    """
    limit = current_config().storage.quota_per_user
    if limit is None:
        return
    deleted = sa.select(sa.func.coalesce(sa.func.sum(StoredFile.size), 0)).where(
        StoredFile.owner_id == owner_id, StoredFile.deleted_at.is_not(None)
    )
    with db_manager.connection() as connection:
        used = quota.used_by(connection, owner_id)
        if used + count > limit and used - (connection.scalar(deleted) or 0) + count > limit:
            raise quota.over_quota()


# --- Finding --------------------------------------------------------------------------------------


def get_file(caller: Caller, file_id: UUID) -> StoredFile:
    """Return a file that somebody may see: their own, a public one, or any with a permission.

    :raises NotFound: there is none, or not for them.
    """
    statement = sa.select(StoredFile).where(
        StoredFile.id == file_id, StoredFile.deleted_at.is_(None)
    )
    if not caller.can(READ_ANY):
        mine = sa.or_(StoredFile.owner_id == caller.id, StoredFile.visibility == PUBLIC)
        statement = statement.where(mine)
    file = db.session.scalar(statement)
    if file is None:
        raise NotFound
    return file


def list_files(
    caller: Caller,
    *,
    sort: str = "-created_at",
    owner_id: UUID | None = None,
    of_everybody: bool = False,
    category: str | None = None,
    content_type: str | None = None,
    search: str | None = None,
) -> sa.Select[tuple[StoredFile]]:
    """Select somebody's own files, or those of others by a permission.

    :param sort: `created_at`, `filename`, `size` or `content_type`, with `-` in front descending.
    :param search: text that the name contains, in any case.
    :raises Forbidden: others' files, without the permission.
    """
    if (of_everybody or owner_id not in (None, caller.id)) and not caller.can(READ_ANY):
        raise Forbidden(f"Others' files need the permission {READ_ANY}.")
    statement = sa.select(StoredFile).where(StoredFile.deleted_at.is_(None))
    if not of_everybody or owner_id is not None:
        statement = statement.where(StoredFile.owner_id == (owner_id or caller.id))
    if category is not None:
        statement = statement.where(StoredFile.category == category)
    if content_type is not None:
        statement = statement.where(StoredFile.content_type == content_type)
    if search is not None:
        statement = searched(statement, StoredFile, ("filename",), search)
    return ordered(statement, StoredFile, SORTABLE, sort)


# --- Changing -------------------------------------------------------------------------------------


def lock_for_change(caller: Caller, file_id: UUID) -> StoredFile:
    """Return a file that somebody is about to change, locked: their own, or any by a permission.

    :raises NotFound: there is none, or they may not see it.
    :raises Forbidden: they may see it, and no more.
    """
    avatars.lock_wearer(file_id)
    statement = lock_row(
        sa.select(StoredFile).where(StoredFile.id == file_id, StoredFile.deleted_at.is_(None))
    )
    file = db.session.scalar(statement.execution_options(populate_existing=True))
    if file is None:
        raise NotFound
    if file.owner_id != caller.id and not caller.can(WRITE_ANY):
        if file.visibility == PUBLIC or caller.can(READ_ANY):
            raise Forbidden
        raise NotFound
    return file


def update_file(file: StoredFile, changes: Mapping[str, Any]) -> None:
    """Change a file's `filename`, `visibility` or `details`; flushes.

    An account whose avatar it is has none once the file is private.

    :param file: locked by `lock_for_change`.
    :raises ValidationFailed: the new name has an extension that contradicts the content.
    """
    for name, value in changes.items():
        if name == "filename":
            value = clean_filename(value)
            try:
                check_name(file.content_type, value)
            except TypeRefused as error:
                details = {"json": {"filename": [error.message]}}
                raise ValidationFailed(details=details) from error
        setattr(file, name, value)
    if changes.get("visibility") == PRIVATE:
        avatars.forget(file)
    db.session.flush()


def delete_file(file: StoredFile) -> None:
    """Delete a file softly; its bytes, and their part of the quota, stay until it is purged.

    An account whose avatar it is has none then.

    :param file: locked by `lock_for_change`.
    """
    file.deleted_at = utcnow()
    avatars.forget(file)
    db.session.flush()

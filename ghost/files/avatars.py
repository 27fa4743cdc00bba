"""Avatars: public files of the accounts whose URL names them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from ghost.access import Caller
from ghost.api import API_PREFIX
from ghost.config import current_config
from ghost.config_sections import StorageSection
from ghost.database import db, lock_row
from ghost.errors import Forbidden
from ghost.files.models import StoredFile
from ghost.models import utcnow
from ghost.users import services as users
from ghost.users.models import User

VARIANT: Final = "thumb"
MARKER: Final = {"purpose": "avatar"}

_URL = re.compile(rf"{API_PREFIX}/files/([0-9a-f-]{{36}})/images/{VARIANT}")


def settings_for_avatars() -> StorageSection:
    """What is taken as an avatar: a small picture, of those types that are taken at all."""
    settings = current_config().storage
    images = [name for name in settings.allowed_types if name.startswith("image/")]
    return replace(settings, allowed_types=images, max_file_size=settings.max_avatar_size)


def lock_for_avatar(caller: Caller, user_id: UUID) -> User:
    """Return an account whose avatar somebody is about to change, locked, if they may.

    :raises NotFound: there is none, or it is deleted.
    :raises Forbidden: it is somebody else's, and they have no `users:write` or it is above them.
    """
    if user_id == caller.id:
        return users.lock_user(user_id)
    if not caller.can("users:write"):
        raise Forbidden
    return users.lock_for_change(caller, user_id)


def set_avatar(user: User, file: StoredFile | None) -> None:
    """Give an account a file as its avatar, or none; the one before is deleted. Flushes.

    :param user: locked by `lock_for_avatar`.
    """
    former = _file_of(user)
    if former is not None:
        former.deleted_at = utcnow()
    user.avatar_url = None if file is None else _url_of(file.id)
    db.session.flush()


def lock_wearer(file_id: UUID) -> None:
    """Lock the account whose avatar a file is, if it is one, before the file itself is locked.

    A file is an avatar from its beginning or never becomes one. Locks are taken in one order, the
    account and then its files, as by whoever deletes an account: see `ghost.files.owners`.
    """
    owner_id = sa.select(StoredFile.owner_id).where(StoredFile.id == file_id).scalar_subquery()
    statement = sa.select(User.id).where(User.id == owner_id, User.avatar_url == _url_of(file_id))
    db.session.execute(lock_row(statement))


def forget(file: StoredFile) -> None:
    """Take a file away from the account whose avatar it is, if it is one: not all may see it.

    :param file: locked, after `lock_wearer`.
    """
    if file.category != "image":
        return
    statement = sa.select(User).where(User.id == file.owner_id, User.avatar_url == _url_of(file.id))
    user = db.session.scalar(statement.execution_options(populate_existing=True))
    if user is not None:
        user.avatar_url = None


def forget_lost(user: User) -> None:
    """Take an account's avatar away if its file is not there any more.

    :param user: locked.
    """
    if _URL.fullmatch(user.avatar_url or "") and _file_of(user) is None:
        user.avatar_url = None


def _file_of(user: User) -> StoredFile | None:
    """The file of an account's avatar, locked."""
    found = _URL.fullmatch(user.avatar_url or "")
    if found is None:
        return None
    mine = StoredFile.id == UUID(found[1]), StoredFile.owner_id == user.id
    statement = sa.select(StoredFile).where(*mine, StoredFile.deleted_at.is_(None))
    return db.session.scalar(lock_row(statement).execution_options(populate_existing=True))


def _url_of(file_id: UUID) -> str:
    return f"{API_PREFIX}/files/{file_id}/images/{VARIANT}"

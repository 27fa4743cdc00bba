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
    former = _URL.fullmatch(user.avatar_url or "")
    if former is not None:
        # Who deletes it at this moment has it locked, and waits for the account: see `forget`.
        mine = StoredFile.id == UUID(former[1]), StoredFile.owner_id == user.id
        statement = sa.select(StoredFile).where(*mine, StoredFile.deleted_at.is_(None))
        found = db.session.scalar(statement.with_for_update(skip_locked=True))
        if found is not None:
            found.deleted_at = utcnow()
    user.avatar_url = None if file is None else _url_of(file)
    db.session.flush()


def forget(file: StoredFile) -> None:
    """Take a file that is deleted away from the account whose avatar it is, if it is one."""
    if file.category != "image":
        return
    statement = sa.select(User).where(User.id == file.owner_id, User.avatar_url == _url_of(file))
    user = db.session.scalar(lock_row(statement).execution_options(populate_existing=True))
    if user is not None:
        user.avatar_url = None


def _url_of(file: StoredFile) -> str:
    return f"{API_PREFIX}/files/{file.id}/images/{VARIANT}"

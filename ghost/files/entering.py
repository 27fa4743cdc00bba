"""Giving a file that has arrived its row by one statement, which is a transaction of its own.

For uploads, which do nothing else: the account is locked for as long as the statement takes, and
not for three round trips and a commit.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from ghost.config import current_config
from ghost.database import db, db_manager
from ghost.files.aftermath import discard
from ghost.files.models import FileUsage, StoredFile
from ghost.logging import logger
from ghost.models import utcnow
from ghost.prepared import PreparedWrite
from ghost.users.models import User

_files: Any = StoredFile.__table__
_usages: Any = FileUsage.__table__
_BOUNDLESS = 2**63 - 1


def _given(column: Any) -> Any:
    """A column's value as a parameter, of its type also where PostgreSQL can't tell."""
    value = sa.bindparam(f"new_{column.name}", type_=column.type)
    return value if isinstance(column.type, sa.String) else sa.cast(value, column.type)


# Locked as `ghost.files.owners.lock_owner` does, and in the same order.
_owner = (
    sa.select(User.id)
    .where(User.id == _given(_files.c.owner_id), User.deleted_at.is_(None))
    .with_for_update(key_share=True)
    .cte("owner")
)
_size = _given(_files.c.size)
_room = (
    sa.update(_usages)
    .where(
        _usages.c.owner_id == _owner.c.id,
        _usages.c.bytes + _size <= sa.bindparam("most", type_=sa.BigInteger),
    )
    .values(bytes=_usages.c.bytes + _size)
    .returning(_usages.c.owner_id)
    .cte("room")
)
_file = (
    sa.insert(_files)
    .from_select(_files.c.keys(), sa.select(*map(_given, _files.c)).select_from(_room))
    .returning(_files.c.id)
    .cte("file")
)
_ENTER = PreparedWrite(sa.select(_file.c.id))
# By the table: to ask the mapper would configure all of them, before the application's are there.
_ATTRIBUTES = {
    f"new_{column.name}": "details" if column.name == "metadata" else column.name
    for column in _files.c
}


def enter(file: StoredFile) -> bool:
    """Insert a new file and count its bytes as its owner's, and commit; where that is easy.

    Where the server did not answer in time, it may yet come to it: then there is a file of which
    its sender does not know.

    :param file: in no session. Its bytes are deleted if this fails, and left to the sweeper where
        nobody knows whether it did.
    :returns: False where nothing was done: on SQLite, and where the owner has no account, has no
        files yet or no room. The longer way, `ghost.files.services.add`, tells which.
    """
    if db.engine.dialect.name != "postgresql":
        return False
    file.version = 1
    file.created_at = file.updated_at = utcnow()
    values = {name: getattr(file, key) for name, key in _ATTRIBUTES.items()}
    limit = current_config().storage.quota_per_user
    values["most"] = _BOUNDLESS if limit is None else limit
    is_sent = False
    try:
        with db_manager.connection() as connection:
            is_sent = True
            return _ENTER.first(connection, values) is not None
    except BaseException as error:
        is_refused = isinstance(error, DBAPIError) and not error.connection_invalidated
        if is_sent and not is_refused:
            logger.warning("whether a file was stored is not known; the sweeper will see")
        else:
            discard(file.key)
        raise

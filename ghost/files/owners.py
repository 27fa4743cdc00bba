"""Whose a file is: an account that stays there until the file's row is."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from ghost.database import db
from ghost.errors import TokenRevoked
from ghost.users.models import User

# FOR NO KEY UPDATE: new sessions, which only name the account, don't wait for it. A weaker one
# several could hold, and wait in a circle when they change the account after that. On SQLite the
# whole transaction is exclusive already.
_lock = (
    sa.select(User.deleted_at)
    .where(User.id == sa.bindparam("owner"))
    .with_for_update(key_share=True)
)


class OwnerDeleted(TokenRevoked):
    """The account was deleted while its file came in: as any later request of it, 401."""


def lock_owner(owner_id: UUID) -> None:
    """Keep an account from being deleted until the transaction of `db.session` ends.

    Whoever deletes an account locks its row first, and then deletes the files that it sees: it
    waits for us and sees ours, or we wait for it and refuse. Locks are taken in one order: the
    account, an upload, the quota, the files. What belongs to no account is anybody's.

    :raises OwnerDeleted: it is deleted.
    """
    if db.session.connection().scalar(_lock, {"owner": owner_id}) is not None:
        raise OwnerDeleted

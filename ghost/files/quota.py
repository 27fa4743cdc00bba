"""How much room an account's files take, and whether there is any left.

The figure of an account changes in the transaction that adds or deletes what takes the room, by one
statement with a condition: no two uploads get the same bytes.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.config import current_config
from ghost.database import dialect_insert
from ghost.errors import PayloadTooLarge
from ghost.files.models import FileUsage

_usages: Any = FileUsage.__table__
# Made once: every upload executes one of them.
_change_any = (
    sa.update(_usages)
    .where(_usages.c.owner_id == sa.bindparam("owner"))
    .values(bytes=_usages.c.bytes + sa.bindparam("count", type_=sa.BigInteger))
)
_change_within = _change_any.where(
    _usages.c.bytes + sa.bindparam("count", type_=sa.BigInteger) <= sa.bindparam("most")
)


class OverQuota(PayloadTooLarge):
    """The account's files would take more room than it has."""

    message = "There is not enough room left for this file."


def take(connection: sa.Connection, owner_id: UUID, count: int) -> bool:
    """Count so many bytes more as an account's, or less; in the caller's transaction.

    :param count: below zero to give bytes back, which always works.
    :returns: whether there was enough room; nothing has changed when there was not.
    """
    if count == 0:
        return True
    # First what nearly always works; the row is there from an account's first file on.
    if _change(connection, owner_id, count):
        return True
    insert = dialect_insert(_usages).values(owner_id=owner_id, bytes=0)
    connection.execute(insert.on_conflict_do_nothing(index_elements=["owner_id"]))
    return _change(connection, owner_id, count)


def _change(connection: sa.Connection, owner_id: UUID, count: int) -> bool:
    values: dict[str, Any] = {"owner": owner_id, "count": count}
    limit = current_config().storage.quota_per_user
    if limit is None or count < 0:
        changed = connection.execute(_change_any, values)
    else:
        changed = connection.execute(_change_within, values | {"most": limit})
    return changed.rowcount == 1


def used_by(connection: sa.Connection, owner_id: UUID) -> int:
    """The bytes that an account's files take."""
    found = connection.scalar(sa.select(_usages.c.bytes).where(_usages.c.owner_id == owner_id))
    return found or 0


def over_quota() -> OverQuota:
    """The error that says how much room an account may take."""
    limit = current_config().storage.quota_per_user
    return OverQuota(
        f"There is not enough room left for this file: all of yours may take {limit} bytes."
    )

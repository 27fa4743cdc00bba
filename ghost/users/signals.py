"""What the users room tells other rooms, in the transaction of what it tells of.

What a receiver writes by `db.session` is committed with it, and one that raises undoes it.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

user_deleted = _signals.signal(
    "user-deleted",
    """An account is deleted; it may be restored. The sender is the application.

    Keywords: `user_id` (UUID), `deleted_at`.
    """,
)

user_restored = _signals.signal(
    "user-restored",
    """The deletion of an account is taken back. The sender is the application.

    Keywords: `user_id` (UUID), `deleted_at`, which it was.
    """,
)

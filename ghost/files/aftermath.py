"""What follows the end of a transaction: bytes that no row names any more, or not yet, are deleted.

The rows decide. Bytes are deleted only after the commit that took their row away, or the rollback
that kept it from coming. Where that fails, and where nobody knows whether a commit that was sent
came through, they are left to the sweeper, which looks for the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import SessionTransaction

from ghost.database import Session, db
from ghost.files.storage import current_storage
from ghost.logging import logger

_KEY, _COMMITTED = "ghost_files", "ghost_files_committed"


def _nothing() -> None:
    pass


@dataclass(slots=True)
class _Aftermath:
    transaction: SessionTransaction | None
    on_commit: Callable[[], object]
    on_rollback: Callable[[], object]
    is_sent: bool = False

    def note_sending(self, _connection: sa.Connection) -> None:
        """Remember that the database has been told to commit."""
        self.is_sent = True


def follow(
    *, on_commit: Callable[[], object] = _nothing, on_rollback: Callable[[], object] = _nothing
) -> None:
    """Have one of two functions called when the transaction of `db.session` has ended.

    What they raise is logged: what they follow has happened.
    """
    session = db.session()
    connection = session.connection()  # begins the transaction, where nothing has yet
    inner = session.get_nested_transaction() or session.get_transaction()
    aftermath = _Aftermath(inner, on_commit, on_rollback)
    event.listen(connection, "commit", aftermath.note_sending)
    session.info.setdefault(_KEY, []).append(aftermath)


def discard(*keys: str) -> bool:
    """Delete bytes that no row names; what can't be deleted now is left to the sweeper.

    :returns: whether all of them are deleted.
    """
    try:
        current_storage().delete(keys)
    except Exception as error:
        logger.bind(error=str(error), keys=keys).warning(
            "bytes of files could not be deleted; the sweeper will do it"
        )
        return False
    return True


@event.listens_for(Session, "after_commit")
def _note_commit(session: Session) -> None:
    if _KEY in session.info:
        # SQLAlchemy calls this for a released savepoint too.
        inner = session.get_nested_transaction() or session.get_transaction()
        session.info[_COMMITTED] = inner


@event.listens_for(Session, "after_transaction_end")
def _pass_on(session: Session, transaction: SessionTransaction) -> None:
    """Call what waits for this transaction; a released savepoint leaves it to the one around."""
    waiting: list[_Aftermath] | None = session.info.get(_KEY)
    if waiting is None:
        return
    is_committed = session.info.pop(_COMMITTED, None) is transaction
    mine = [one for one in waiting if one.transaction is transaction]
    if is_committed and transaction.parent is not None:
        for one in mine:
            one.transaction = transaction.parent
        return
    waiting[:] = [one for one in waiting if one.transaction is not transaction]
    if not waiting:
        del session.info[_KEY]
    for one in mine:
        if one.is_sent and not is_committed:
            logger.warning("whether files were stored is not known; the sweeper will see")
            continue
        try:
            (one.on_commit if is_committed else one.on_rollback)()
        except Exception:
            logger.exception("what follows the end of a transaction failed")

"""Sessions: opened by a log-in, carried on by refresh tokens, ended at once."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.auth.models import Session
from ghost.config import current_config
from ghost.database import db, db_manager
from ghost.errors import NotFound, TokenRevoked
from ghost.logging import logger
from ghost.models import utcnow, uuid7
from ghost.users.models import User

# More refreshes within one grace than any number of tabs makes.
SPENT_KEPT = 100

_table = Session.__table__
_users = User.__table__
_STATE = sa.select(
    _table, _users.c.session_epoch, _users.c.is_active, _users.c.deleted_at
).select_from(_table.join(_users, _users.c.id == _table.c.user_id))


def _is_dead(rows: Any) -> sa.ColumnElement[bool]:
    return sa.or_(
        rows.c.expires_at <= sa.bindparam("now"),
        rows.c.revoked_at.is_not(None),
        rows.c.epoch < sa.bindparam("newer"),
    )


_live = _table.alias()
_BEYOND_LIMIT = (
    sa.select(_live.c.id)
    .where(_live.c.user_id == sa.bindparam("owner"), sa.not_(_is_dead(_live)))
    .order_by(_live.c.last_used_at.desc(), _live.c.id.desc())
    .offset(sa.bindparam("kept"))
)
_DELETE_DEAD = sa.delete(_table).where(
    _table.c.user_id == sa.bindparam("owner"),
    sa.or_(_is_dead(_table), _table.c.id.in_(_BEYOND_LIMIT)),
)
_others = _table.alias()
# The count in the statement itself: log-ins of one account take turns, and what the one before
# inserted is there by now.
_INSERT = sa.insert(_table).returning(
    sa.select(sa.func.count())
    .select_from(_others)
    .where(_others.c.user_id == sa.bindparam("owner"), _others.c.id != sa.bindparam("own"))
    .scalar_subquery()
)


@dataclass(frozen=True, slots=True)
class Client:
    """Who opens a session: shown to its owner, who may not recognise it."""

    ip_address: str | None
    user_agent: str | None


def open_session(user_id: UUID, epoch: int, client: Client) -> Session:
    """Start a session, in a transaction that has the account's row.

    Beyond `auth.max_sessions` the account's dead ones go, and the ones longest unused.

    :param epoch: the account's, as it was when the password was checked: where a reset came in
        between, the session is dead from its birth.
    :returns: a copy of the row.
    """
    now = utcnow()
    settings = current_config().auth
    values = {
        "id": uuid7(),
        "user_id": user_id,
        "epoch": epoch,
        "generation": 1,
        "spent": [],
        "created_at": now,
        "last_used_at": now,
        "expires_at": now + timedelta(seconds=settings.refresh_token_expires),
        "ip_address": client.ip_address,
        "user_agent": client.user_agent,
    }
    connection = db.session.connection()
    others = connection.scalar(_INSERT, {**values, "owner": user_id, "own": values["id"]}) or 0
    if others >= settings.max_sessions:
        limits = {"owner": user_id, "now": now, "newer": epoch, "kept": settings.max_sessions}
        connection.execute(_DELETE_DEAD, limits)
    return Session(**values)


# --- Refresh --------------------------------------------------------------------------------------


class Verdict(enum.Enum):
    """What a genuine refresh token is worth."""

    ROTATE = enum.auto()
    REPEAT = enum.auto()
    REUSED = enum.auto()
    DEAD = enum.auto()


def judge(state: Any, generation: int, now: datetime, grace_seconds: float) -> Verdict:
    """Decide what becomes of a refresh token.

    :param state: the session's row, with its user's `session_epoch`, `is_active`, `deleted_at`.
    :param generation: the token's.
    """
    if (
        state.revoked_at is not None
        or state.expires_at <= now
        or state.epoch != state.session_epoch
        or not state.is_active
        or state.deleted_at is not None
        or generation > state.generation  # of a database that was set back
    ):
        return Verdict.DEAD
    if generation == state.generation:
        return Verdict.ROTATE
    earliest = now.timestamp() - grace_seconds
    if any(number == generation and moment >= earliest for number, moment in state.spent):
        return Verdict.REPEAT
    return Verdict.REUSED


def refresh(session_id: UUID, user_id: UUID, generation: int) -> Session:
    """Spend a refresh token; of several at once one rotates, the others get what it got.

    Each step is a statement of its own, committed at once: the successor exists before anybody
    is told of it, and a revocation stays although the request is refused.

    :returns: the session, a copy, with the generation that the new tokens are for.
    :raises TokenRevoked: the session has ended, or ends now because of this token.
    """
    mine = (_table.c.id == session_id) & (_table.c.user_id == user_id)
    grace_seconds = current_config().auth.refresh_grace
    while True:
        now = utcnow()
        with db_manager.connection() as connection:
            state = connection.execute(_STATE.where(mine)).first()
        verdict = judge(state, generation, now, grace_seconds) if state else Verdict.DEAD
        if state is None or verdict is Verdict.DEAD:
            raise TokenRevoked
        if verdict is Verdict.REUSED:
            with db_manager.transaction() as connection:
                connection.execute(sa.update(_table).where(mine).values(revoked_at=now))
            logger.bind(
                event="refresh_token_reused", user_id=str(user_id), session_id=str(session_id)
            ).warning("a spent refresh token came back; its session was ended")
            raise TokenRevoked
        live = state.generation
        if verdict is Verdict.ROTATE:
            if not _rotate(mine, state, now, grace_seconds):
                continue  # another request was faster: look again
            live += 1
        return Session(id=session_id, user_id=user_id, generation=live, expires_at=state.expires_at)


def _rotate(mine: sa.ColumnElement[bool], state: Any, now: datetime, grace_seconds: float) -> bool:
    """Replace the live generation by the next, unless anything has changed since it was read."""
    moment = now.timestamp()
    spent = [entry for entry in state.spent if entry[1] >= moment - grace_seconds]
    spent = [*spent, [state.generation, moment]][-SPENT_KEPT:]
    # In this very statement, so that a log-out, a reset or a disabling wins every race.
    epoch_now = (
        sa.select(_users.c.session_epoch)
        .where(_users.c.id == _table.c.user_id, _users.c.is_active, _users.c.deleted_at.is_(None))
        .correlate(_table)
        .scalar_subquery()
    )
    with db_manager.transaction() as connection:
        result = connection.execute(
            sa.update(_table)
            .where(
                mine,
                _table.c.generation == state.generation,
                _table.c.revoked_at.is_(None),
                _table.c.expires_at > now,
                _table.c.epoch == epoch_now,
            )
            .values(generation=state.generation + 1, spent=spent, last_used_at=now)
        )
        return result.rowcount == 1


# --- Looking and ending ---------------------------------------------------------------------------


def _is_live(user_id: UUID) -> sa.ColumnElement[bool]:
    epoch = sa.select(User.session_epoch).where(User.id == user_id).scalar_subquery()
    return sa.and_(
        Session.user_id == user_id,
        Session.revoked_at.is_(None),
        Session.expires_at > utcnow(),
        Session.epoch == epoch,
    )


def is_live(session_id: UUID, user_id: UUID) -> bool:
    """Tell whether a session of an account is alive now."""
    mine = sa.select(Session.id).where(Session.id == session_id, _is_live(user_id))
    return db.session.scalar(mine) is not None


def list_sessions(user_id: UUID, current_id: UUID) -> sa.Select[*tuple[Any, ...]]:
    """Select the live sessions of an account; `is_current` marks the caller's."""
    statement: sa.Select[*tuple[Any, ...]] = sa.select(
        Session.id,
        Session.created_at,
        Session.last_used_at,
        Session.expires_at,
        Session.ip_address,
        Session.user_agent,
        (Session.id == current_id).label("is_current"),
    )
    return statement.where(_is_live(user_id))


def revoke_session(session_id: UUID, user_id: UUID) -> None:
    """End one live session of an account.

    :raises NotFound: there is none, or it is somebody else's.
    """
    revoked = db.session.execute(
        sa.update(Session)
        .where(Session.id == session_id, _is_live(user_id))
        .values(revoked_at=utcnow())
        .execution_options(synchronize_session=False)
    )
    if revoked.rowcount != 1:  # type: ignore[attr-defined]
        raise NotFound


def carry_over(session_id: UUID, epoch: int) -> None:
    """Let a live session go on in a new epoch of its account."""
    db.session.execute(
        sa.update(Session)
        .where(Session.id == session_id, Session.epoch == epoch - 1)
        .values(epoch=epoch)
        .execution_options(synchronize_session=False)
    )

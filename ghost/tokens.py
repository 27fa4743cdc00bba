"""Mailed tokens: one purpose each, used once, worth nothing to whoever reads the database.

A token is derived by HMAC from its row, so only the process that mails it ever holds it, and a
job that runs twice mails the same one.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Row
from sqlalchemy.orm import Mapped, mapped_column

from ghost.config import current_config
from ghost.database import db, db_manager
from ghost.errors import TokenUsed
from ghost.models import Model, utcnow, uuid7
from ghost.retention import delete_when
from ghost.secrets import derived_key

VERIFY_EMAIL, RESET_PASSWORD, INVITATION = "verify-email", "reset-password", "invitation"

_ID_BYTES, _MAC_BYTES = 16, 32
# A mail that is tried again late still finds its token, and carries no second one.
KEPT = timedelta(days=7)
_TEXT_LENGTH = (_ID_BYTES + _MAC_BYTES) * 4 // 3


class MailedToken(Model):
    """A token that was mailed: derived by HMAC from this row, so the row alone is worth nothing.

    It works once, for its purpose, for its user as they were: `email` and `epoch` must still be
    the user's.
    """

    __tablename__ = "mailed_tokens"

    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    purpose: Mapped[str] = mapped_column(sa.String(20))
    email: Mapped[str] = mapped_column(sa.String(254))
    epoch: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]
    # The mail that carries it: tried again, that has the same token. A job sent it by itself once;
    # to rename the column would break the processes that run on during an upgrade.
    job_id: Mapped[UUID | None] = mapped_column(unique=True)

    @property
    def is_live(self) -> bool:
        """Whether it has been neither used nor replaced, and has not expired."""
        return self.used_at is None and self.expires_at > utcnow()


_table = MailedToken.__table__
delete_when(MailedToken, lambda now: _table.c.expires_at < now - KEPT)


def issue(
    user_id: UUID,
    email: str,
    epoch: int,
    purpose: str,
    lifetime_seconds: int,
    *,
    message_id: UUID | None = None,
) -> MailedToken:
    """Make a token that replaces the user's older ones of the same purpose; flushes.

    Hold the user's row locked, or two that are issued at once don't replace each other.

    :param message_id: asked twice for one mail, the token is the same; it may have been used or
        replaced in the meantime (`is_live`), and then there is nothing to mail.
    """
    if message_id is not None and (earlier := _of_message(message_id)) is not None:
        return earlier
    now = utcnow()
    older = (_table.c.user_id == user_id) & (_table.c.purpose == purpose)
    db.session.execute(sa.delete(_table).where(older, _table.c.expires_at < now))
    db.session.execute(
        sa.update(_table).where(older, _table.c.used_at.is_(None)).values(used_at=now)
    )
    row = MailedToken(
        user_id=user_id,
        purpose=purpose,
        email=email,
        epoch=epoch,
        expires_at=now + timedelta(seconds=lifetime_seconds),
        job_id=message_id,
    )
    db.session.add(row)
    db.session.flush()
    return row


def _of_message(message_id: UUID) -> MailedToken | None:
    """The token that was issued for a mail in an earlier attempt, if it was."""
    return db.session.scalar(sa.select(MailedToken).where(MailedToken.job_id == message_id))


def text_of(row: MailedToken) -> str:
    """The token itself: 64 characters that fit into a URL."""
    return urlsafe_b64encode(row.id.bytes + _mac(row, "mailed-token")).decode()


def code_of(row: MailedToken) -> str:
    """Six digits for people who can't follow the link; a million is few, so tries are counted."""
    number = int.from_bytes(_mac(row, "mailed-code")[:8], "big")
    return f"{number % 1_000_000:06}"


def link_of(row: MailedToken) -> str:
    """The link that carries the token, built from the configuration, never from a request."""
    config = current_config()
    template = {
        VERIFY_EMAIL: config.auth.verify_link,
        RESET_PASSWORD: config.auth.reset_link,
        INVITATION: config.auth.invite_link,
    }[row.purpose]
    return template.format(public_url=config.app.public_url.rstrip("/"), token=text_of(row))


def find(text: str, *purposes: str) -> MailedToken:
    """Look at a token without using it, and beside the session: no transaction stays open.

    To use it, lock the user's row, ask `is_bound_to`, and call `use`.

    :raises TokenUsed: it was used or replaced, is too old, or never was.
    """
    token_id = _id_in(text)
    with db_manager.connection() as connection:
        found = connection.execute(sa.select(_table).where(_table.c.id == token_id)).first()
    return _checked(found, text, purposes)


def is_bound_to(row: MailedToken, email: str, epoch: int) -> bool:
    """Tell whether a token was made for an account as it is now.

    :param epoch: the account's; it is raised by whatever ends sessions, such as a new password.
    """
    return row.email == email and row.epoch == epoch


def use(row: MailedToken) -> None:
    """Mark a token as used, in the session's transaction; of two requests that try, one does.

    :raises TokenUsed: the other one was faster.
    """
    now = utcnow()
    used = db.session.execute(
        sa.update(_table)
        .where(_table.c.id == row.id, _table.c.used_at.is_(None), _table.c.expires_at > now)
        .values(used_at=now)
    )
    if used.rowcount != 1:  # type: ignore[attr-defined]
        raise TokenUsed


def find_live(user_id: UUID, purpose: str) -> MailedToken | None:
    """A user's live token of one purpose, read beside the session, to compare a code with."""
    live = (
        (_table.c.user_id == user_id)
        & (_table.c.purpose == purpose)
        & _table.c.used_at.is_(None)
        & (_table.c.expires_at > utcnow())
    )
    with db_manager.connection() as connection:
        found = connection.execute(sa.select(_table).where(live)).first()
    return _model(found) if found else None


def is_code_of(row: MailedToken | None, code: str) -> bool:
    """Compare a code with a token's, in the same time for None; the caller counts the tries."""
    compared = row or MailedToken(user_id=uuid7(), purpose="", email="", epoch=0)
    is_right = hmac.compare_digest(code_of(compared).encode(), code.encode())
    return is_right and row is not None


def _checked(
    found: Row[tuple[object, ...]] | None, text: str, purposes: tuple[str, ...]
) -> MailedToken:
    if found is None:
        raise TokenUsed
    row = _model(found)
    genuine = hmac.compare_digest(text_of(row).encode(), text.encode())
    if not (genuine and row.purpose in purposes and row.is_live):
        raise TokenUsed
    return row


def _model(found: Row[tuple[object, ...]]) -> MailedToken:
    """An object of the row that no session knows: what is read here is never written back."""
    return MailedToken(**found._mapping)


def _id_in(text: str) -> UUID:
    if len(text) != _TEXT_LENGTH or not text.isascii():
        raise TokenUsed
    try:
        return UUID(bytes=urlsafe_b64decode(text)[:_ID_BYTES])
    except ValueError as error:
        raise TokenUsed from error


def _mac(row: MailedToken, use: str) -> bytes:
    key = derived_key(current_config(), f"{use}:{row.purpose}")
    bound = (row.id, row.purpose, row.user_id, row.email, row.epoch)
    return hmac.new(key, "|".join(map(str, bound)).encode(), hashlib.sha256).digest()

"""What is asked for without a log-in; whether there is an account is found out in the worker."""

from __future__ import annotations

import sqlalchemy as sa

from ghost import tokens
from ghost.auth import mails, throttle
from ghost.database import db, lock_row
from ghost.jobs import job
from ghost.logging import logger
from ghost.users.mails import send_verification
from ghost.users.models import User

MAILS_PER_HOUR = 5
HOUR_SECONDS = 3600


@job
def send_reset(email: str) -> None:
    """Have a reset link mailed to an address, if it has an account."""
    user = _locked(email)
    if user is not None and _may_be_mailed(user, tokens.RESET_PASSWORD):
        mails.send_reset(user)


@job
def resend_verification(email: str) -> None:
    """Have a new link and code mailed to an address, if it has an account not yet confirmed."""
    user = _locked(email)
    if user is not None and not user.is_verified and _may_be_mailed(user, tokens.VERIFY_EMAIL):
        send_verification(user)


def _locked(email: str) -> User | None:
    """The active account of an address, locked: two requests are counted one after the other."""
    mine = sa.and_(User.email == email, User.is_active, User.deleted_at.is_(None))
    return db.session.scalar(lock_row(sa.select(User).where(mine)))


def _may_be_mailed(user: User, purpose: str) -> bool:
    """Count a mail: nobody can flood somebody else's mailbox.

    In the job's transaction, which makes the mail: an attempt that is rolled back did not count.
    """
    key = throttle.key_of(f"mail:{purpose}", str(user.id))
    count, _ = throttle.count(db.session.connection(), key, HOUR_SECONDS)
    if count > MAILS_PER_HOUR:
        logger.bind(event="mail_throttled", purpose=purpose, user_id=str(user.id)).warning(
            "too many mails were asked for; this one is not sent"
        )
        return False
    return True

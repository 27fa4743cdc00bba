"""The mails that are sent on demand; whether there is an account is found out in the worker."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from ghost import tokens
from ghost.auth import throttle
from ghost.config import current_config
from ghost.database import db, lock_row
from ghost.jobs import current_job, job
from ghost.logging import logger
from ghost.mail import mail_attempts
from ghost.users.jobs import MAIL_SECONDS, mail_notice, mail_token
from ghost.users.models import User

MAILS_PER_HOUR = 5
HOUR_SECONDS = 3600


@job(timeout=MAIL_SECONDS, max_attempts=mail_attempts)
def send_reset(email: str) -> None:
    """Mail a reset link to an address, if it has an account."""
    user = _locked(email)
    if user is not None and _may_be_mailed(user, tokens.RESET_PASSWORD):
        lifetime = current_config().auth.reset_token_expires
        mail_token(user, "reset-password", tokens.RESET_PASSWORD, lifetime)


@job(timeout=MAIL_SECONDS, max_attempts=mail_attempts)
def resend_verification(email: str) -> None:
    """Mail a new link and code to an address, if it has an account that is not confirmed."""
    user = _locked(email)
    if user is not None and not user.is_verified and _may_be_mailed(user, tokens.VERIFY_EMAIL):
        lifetime = current_config().auth.verification_token_expires
        mail_token(user, "verify-email", tokens.VERIFY_EMAIL, lifetime)


@job(timeout=MAIL_SECONDS, max_attempts=mail_attempts)
def send_password_changed(user_id: UUID) -> None:
    """Tell the owner of an account that its password was changed."""
    user = db.session.get(User, user_id)
    if user is not None and not user.is_deleted:
        mail_notice(user.email, "password-changed", {"full_name": user.full_name})


def _locked(email: str) -> User | None:
    """The active account of an address, locked: tokens of two jobs take turns."""
    mine = sa.and_(User.email == email, User.is_active, User.deleted_at.is_(None))
    return db.session.scalar(lock_row(sa.select(User).where(mine)))


def _may_be_mailed(user: User, purpose: str) -> bool:
    """Count a mail, but not its repetitions: nobody can flood somebody else's mailbox."""
    if tokens.of_job(current_job.id) is not None:
        return True
    key = throttle.key_of(f"mail:{purpose}", str(user.id))
    count, _ = throttle.count(db.session.connection(), key, HOUR_SECONDS)
    if count > MAILS_PER_HOUR:
        logger.bind(event="mail_throttled", purpose=purpose, user_id=str(user.id)).warning(
            "too many mails were asked for; this one is not sent"
        )
        return False
    return True

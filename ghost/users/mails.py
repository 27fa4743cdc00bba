"""The mails that an account gets: written in the worker, so that nothing stored holds a token."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from ghost import tokens
from ghost.config import current_config
from ghost.database import db, lock_row
from ghost.mail import Composition, MailMessage, composer, duration, send_secure_mail
from ghost.users.models import User


def send_invitation(user: User) -> None:
    """Mail a link by which the owner of a new account sets its first password."""
    send_secure_mail("users.invitation", user.email, {"user_id": str(user.id)})


@composer("users.invitation")
def compose_invitation(message: MailMessage) -> Composition | None:
    user = lock_recipient(message)
    if user is None or user.password_hash is not None:
        return None
    lifetime = current_config().auth.invitation_token_expires
    return with_token(message, user, "invitation", tokens.INVITATION, lifetime)


def send_verification(user: User) -> None:
    """Mail a link and a code by which an account's address is confirmed."""
    send_secure_mail("users.verification", user.email, {"user_id": str(user.id)})


@composer("users.verification")
def compose_verification(message: MailMessage) -> Composition | None:
    user = lock_recipient(message)
    if user is None or user.is_verified:
        return None
    lifetime = current_config().auth.verification_token_expires
    return with_token(message, user, "verify-email", tokens.VERIFY_EMAIL, lifetime)


def send_email_changed(user: User, former_email: str) -> None:
    """Tell the former address of an account that it has been replaced."""
    # No link in it; but nobody's suppression may keep a theft of the account from being told.
    send_secure_mail("users.email_changed", former_email, {"user_id": str(user.id)})


@composer("users.email_changed")
def compose_email_changed(message: MailMessage) -> Composition | None:
    user = find_owner(message)
    return None if user is None else ("email-changed", {"full_name": user.full_name})


def find_owner(message: MailMessage) -> User | None:
    """The account that a mail is about, deleted or not; None when it is gone for good."""
    return db.session.get(User, _user_id(message))


def lock_recipient(message: MailMessage) -> User | None:
    """The active account that a mail goes to, locked: tokens of two mails take turns.

    :returns: None when it was deleted or disabled while the mail waited, or has another address.
    """
    mine = sa.and_(User.id == _user_id(message), User.is_active, User.deleted_at.is_(None))
    user = db.session.scalar(lock_row(sa.select(User).where(mine)))
    return user if user is not None and message.to == [user.email] else None


def with_token(
    message: MailMessage, user: User, template: str, purpose: str, lifetime_seconds: int
) -> Composition | None:
    """Issue a token for an account and put it into a mail, the same in each of its attempts.

    :param user: with its row locked.
    :returns: None when it was used or replaced meanwhile, or the account changed so that it is
        worth nothing.
    """
    token = tokens.issue(
        user.id, user.email, user.session_epoch, purpose, lifetime_seconds, message_id=message.id
    )
    if not (token.is_live and tokens.is_bound_to(token, user.email, user.session_epoch)):
        return None
    return template, {
        "full_name": user.full_name,
        "link": tokens.link_of(token),
        "code": tokens.code_of(token),
        "expires": duration(lifetime_seconds),
    }


def _user_id(message: MailMessage) -> UUID:
    return UUID((message.context or {})["user_id"])

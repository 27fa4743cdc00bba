"""The mails that an account gets: rendered in the worker, so that no queue holds a usable token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost import tokens
from ghost.config import current_config
from ghost.database import db, lock_row
from ghost.jobs import current_job, job
from ghost.mail import Message, deliver, duration, mail_attempts, message_id_for, render
from ghost.users.models import User

MAIL_SECONDS = 60


@job(timeout=MAIL_SECONDS, max_attempts=mail_attempts)
def send_invitation(user_id: UUID) -> None:
    """Mail a link by which the owner of a new account sets its first password."""
    user = _locked(user_id)
    if user is not None and user.is_active and user.password_hash is None:
        lifetime = current_config().auth.invitation_token_expires
        mail_token(user, "invitation", tokens.INVITATION, lifetime)


@job(timeout=MAIL_SECONDS, max_attempts=mail_attempts)
def send_verification(user_id: UUID) -> None:
    """Mail a link and a code by which an account's address is confirmed."""
    user = _locked(user_id)
    if user is not None and user.is_active and not user.is_verified:
        lifetime = current_config().auth.verification_token_expires
        mail_token(user, "verify-email", tokens.VERIFY_EMAIL, lifetime)


@job(timeout=MAIL_SECONDS, max_attempts=mail_attempts)
def send_email_changed(user_id: UUID, former_email: str) -> None:
    """Tell the former address of an account that it has been replaced."""
    user = db.session.get(User, user_id)
    if user is not None:
        mail_notice(former_email, "email-changed", {"full_name": user.full_name})


def mail_token(user: User, template: str, purpose: str, lifetime_seconds: int) -> None:
    """Issue a token for an account and mail it to its address, in the job that is running.

    Commits, as `mail_notice` does. Nothing is sent when the job runs again after the token was used
    or replaced, or the account changed so that it is worth nothing.

    :param user: with its row locked.
    """
    token = tokens.issue(
        user.id, user.email, user.session_epoch, purpose, lifetime_seconds, job_id=current_job.id
    )
    if token.is_live and tokens.is_bound_to(token, user.email, user.session_epoch):
        context = {
            "full_name": user.full_name,
            "link": tokens.link_of(token),
            "code": tokens.code_of(token),
            "expires": duration(lifetime_seconds),
        }
        mail_notice(user.email, template, context)


def mail_notice(address: str, template: str, context: Mapping[str, Any]) -> None:
    """Render and send a mail, with the same Message-ID in each attempt of the running job.

    Commits in between: a link works before it is in a mail, and no transaction waits for the mail
    server.
    """
    rendered = render(template, context)
    db.session.commit()
    deliver(
        Message(
            to=[address],
            subject=rendered.subject,
            text=rendered.text,
            html=rendered.html,
            message_id=message_id_for(current_job.id),
        )
    )


def _locked(user_id: UUID) -> User | None:
    """The account, unless it was deleted while the job waited; two jobs' tokens take turns."""
    return db.session.scalar(
        lock_row(sa.select(User).where(User.id == user_id, User.deleted_at.is_(None)))
    )

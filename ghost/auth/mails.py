"""The mails about a password."""

from __future__ import annotations

from ghost import tokens
from ghost.config import current_config
from ghost.mail import Composition, MailMessage, composer, send_secure_mail
from ghost.users.mails import find_owner, lock_recipient, with_token
from ghost.users.models import User


def send_reset(user: User) -> None:
    """Mail a link by which a new password is set."""
    send_secure_mail("auth.reset", user.email, {"user_id": str(user.id)})


@composer("auth.reset")
def compose_reset(message: MailMessage) -> Composition | None:
    user = lock_recipient(message)
    if user is None:
        return None
    lifetime = current_config().auth.reset_token_expires
    return with_token(message, user, "reset-password", tokens.RESET_PASSWORD, lifetime)


def send_password_changed(user: User) -> None:
    """Tell the owner of an account that its password was changed."""
    send_secure_mail("auth.password_changed", user.email, {"user_id": str(user.id)})


@composer("auth.password_changed")
def compose_password_changed(message: MailMessage) -> Composition | None:
    user = find_owner(message)
    if user is None or user.is_deleted:
        return None
    return "password-changed", {"full_name": user.full_name}

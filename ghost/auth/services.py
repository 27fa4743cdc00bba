"""Registering, logging in, passwords, and the tokens that mails carry.

bcrypt works for some 200 ms: what is read before it is read on a connection beside the session,
so that no transaction is open while it works.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn
from uuid import UUID

import sqlalchemy as sa

from ghost import tokens
from ghost.auth import throttle
from ghost.auth.mails import send_password_changed
from ghost.auth.models import Session
from ghost.auth.sessions import Client, carry_over, is_live, open_session
from ghost.auth.throttle import Throttled
from ghost.config import current_config
from ghost.database import db, db_manager
from ghost.errors import (
    AccountDisabled,
    Conflict,
    EmailNotVerified,
    Forbidden,
    NotFound,
    TokenRevoked,
    TokenUsed,
    Unauthorized,
    ValidationFailed,
)
from ghost.fields import canonical_email
from ghost.logging import logger
from ghost.models import utcnow, uuid7
from ghost.passwords import hash_password, is_outdated, validate_password, verify_password
from ghost.prepared import PreparedRead
from ghost.tokens import INVITATION, RESET_PASSWORD, VERIFY_EMAIL, MailedToken
from ghost.users.mails import send_verification
from ghost.users.models import User
from ghost.users.names import username_key
from ghost.users.services import (
    add_user,
    end_sessions,
    lock_user,
    update_user,
    user_columns,
)

_users = User.__table__
# Built once: building a statement costs more than running it.
_SECRET = (_users.c.password_hash, _users.c.session_epoch)
_BY_ID = sa.select(_users.c.email, _users.c.username, _users.c.full_name, *_SECRET).where(
    _users.c.id == sa.bindparam("user_id")
)
_NAMED: sa.Select[*tuple[Any, ...]] = sa.select(*user_columns(), *_SECRET).where(
    _users.c.deleted_at.is_(None)
)
_HIDDEN = {column.key for column in _SECRET}
_BY_EMAIL = PreparedRead(_NAMED.where(_users.c.email == sa.bindparam("name")))
_BY_USERNAME = PreparedRead(_NAMED.where(_users.c.username_key == sa.bindparam("name")))
# Every condition of a log-in once more, where nothing can come in between. The version stays:
# nothing changed that an administrator could overwrite.
_LOG_IN = (
    sa.update(_users)
    .where(
        _users.c.id == sa.bindparam("user_id"),
        _users.c.session_epoch == sa.bindparam("epoch"),
        _users.c.is_active,
        _users.c.deleted_at.is_(None),
        throttle.is_below(sa.bindparam("throttle_key"), sa.bindparam("failures")),
    )
    .values(
        last_login_at=sa.bindparam("now"),
        updated_at=_users.c.updated_at,
        updated_by=_users.c.updated_by,
    )
)

CODE_TRIES = 5
WRONG = "E-mail, username or password is wrong."


class RegistrationClosed(Forbidden):
    message = "Accounts are made by administrators here."


class PasswordMovedOn(Conflict):
    message = "The password was changed by another request in the meantime."


# --- Coming in ------------------------------------------------------------------------------------


def register(
    email: str, password: str, username: str | None, full_name: str | None, client: Client
) -> tuple[User, Session]:
    """Add an account, open its first session, and have the verification mailed.

    :raises RegistrationClosed: the configuration does not allow it.
    :raises ValidationFailed: the password is a bad one.
    :raises Conflict: the address or the username is taken.
    """
    if not current_config().auth.allow_registration:
        raise RegistrationClosed
    validate_password(password, email, username, full_name)
    password_hash = hash_password(password)
    user = add_user(
        email=email, username=username, full_name=full_name, password_hash=password_hash
    )
    session = open_session(user.id, user.session_epoch, client)
    send_verification(user)
    logger.bind(event="registered", user_id=str(user.id)).info("an account was registered")
    return user, session


def log_in(identifier: str, password: str, client: Client) -> tuple[dict[str, Any], Session]:
    """Check a password and open a session.

    An unknown account, a wrong password and an account without one cost the same work and get
    the same answer.

    :param identifier: an e-mail address or a username.
    :returns: what the API shows of the account, and its new session.
    :raises Unauthorized: this is no account with this password.
    :raises Throttled: too many failures on this account.
    :raises AccountDisabled: the password is right, but the account is disabled.
    :raises EmailNotVerified: the password is right, but the configuration wants more.
    """
    settings = current_config().auth
    name, accounts = _meant_by(identifier)
    account: Any = accounts.first({"name": name})
    user_id = account.id if account else None
    key = throttle.key_of("login", str(user_id or name))
    _check_throttle(key, user_id, client)
    is_right = verify_password(password, account.password_hash if account else None)
    if account is None or not is_right:
        _count_failure(key, user_id, client)
        raise Unauthorized(WRONG)
    if not account.is_active or (settings.require_verified_email and not account.is_verified):
        _check_throttle(key, user_id, client)
        reason = EmailNotVerified if account.is_active else AccountDisabled
        _log_refusal(reason.code, account.id, client)
        raise reason
    better_hash = None
    if is_outdated(account.password_hash):
        _check_throttle(key, user_id, client)  # else the time of the answer tells more than it says
        better_hash = hash_password(password)

    # Log-ins of one account take turns from here on.
    now = utcnow()
    values = {
        "user_id": account.id,
        "epoch": account.session_epoch,
        "throttle_key": key,
        "failures": settings.throttle_failures,
        "now": now,
    }
    if not db.session.connection().execute(_LOG_IN, values).rowcount:
        # Of many guesses at once, no more than the limit may learn how they fared.
        _check_throttle(key, user_id, client)
        # While bcrypt worked: deleted, disabled, another password.
        _log_refusal("account_changed", account.id, client)
        raise Unauthorized(WRONG)
    if better_hash:
        db.session.execute(
            sa.update(_users)
            .where(_users.c.id == account.id, _users.c.password_hash == account.password_hash)
            .values(password_hash=better_hash)
        )
    session = open_session(account.id, account.session_epoch, client)
    logger.bind(
        event="login",
        user_id=str(account.id),
        session_id=str(session.id),
        ip_address=client.ip_address,
    ).info("logged in")
    shown = {name: value for name, value in account._asdict().items() if name not in _HIDDEN}
    return {**shown, "last_login_at": now}, session


def _meant_by(identifier: str) -> tuple[str, PreparedRead]:
    """The canonical form of a log-in name, and the query that finds its account."""
    if "@" not in identifier:
        return username_key(identifier), _BY_USERNAME
    try:
        return canonical_email(identifier), _BY_EMAIL
    except ValueError:  # nobody's; asked for all the same
        return identifier.casefold(), _BY_EMAIL


def _check_throttle(key: str, user_id: UUID | None, client: Client) -> None:
    """Refuse to look at a password when too many were wrong.

    :raises Throttled: with the time to wait.
    """
    try:
        throttle.check(key, current_config().auth.throttle_failures)
    except Throttled:
        _log_refusal("throttled", user_id, client)
        raise


def _count_failure(key: str, user_id: UUID | None, client: Client) -> None:
    """Count a wrong password for good, in a transaction of its own.

    :raises Throttled: it was one too many, whatever the others that came with it were told.
    """
    settings = current_config().auth
    with db_manager.transaction() as connection:
        count, expires_at = throttle.count(connection, key, settings.throttle_window)
    if count > settings.throttle_failures:
        _log_refusal("throttled", user_id, client)
        raise Throttled(settings.throttle_failures, expires_at)
    # What was typed is not logged: people type passwords into the wrong field.
    logger.bind(
        event="login_failed",
        user_id=str(user_id) if user_id else None,
        ip_address=client.ip_address,
        failures=count,
    ).warning("a log-in failed")


def _log_refusal(reason: str, user_id: UUID | None, client: Client) -> None:
    logger.bind(
        event="login_refused",
        reason=reason,
        user_id=str(user_id) if user_id else None,
        ip_address=client.ip_address,
    ).warning("a log-in was refused")


# --- One's own account ----------------------------------------------------------------------------


def end_all_sessions(user_id: UUID) -> None:
    """End every session of an account, whatever else is going on."""
    end_sessions(lock_user(user_id))
    logger.bind(event="logout_all", user_id=str(user_id)).info("all sessions were ended")


def update_profile(user_id: UUID, changes: Mapping[str, Any]) -> User:
    """Change what an account's owner may change of it.

    :param changes: `username` and `full_name`, each only if it changes; None clears it.
    :raises UsernameTaken: another account has it.
    """
    user = lock_user(user_id)
    update_user(user, changes)
    return user


def change_password(
    user_id: UUID, session_id: UUID, current_password: str, new_password: str, client: Client
) -> User:
    """Replace a password by its owner's wish; every other session and mailed token ends.

    :raises ValidationFailed: the current password is wrong, or the new one a bad one.
    :raises Throttled: too many wrong passwords on this account.
    :raises PasswordMovedOn: another change from the same session was faster.
    :raises TokenRevoked: a reset or a log-out was, or a change from another session.
    """
    key = throttle.key_of("login", str(user_id))
    with db_manager.connection() as connection:
        account = connection.execute(_BY_ID, {"user_id": user_id}).one()
    _check_throttle(key, user_id, client)
    context = (account.email, account.username, account.full_name)
    validate_password(new_password, *context, field="new_password")
    if not verify_password(current_password, account.password_hash):
        _count_failure(key, user_id, client)
        raise ValidationFailed(
            details={"json": {"current_password": ["This is not your password."]}}
        )
    _check_throttle(key, user_id, client)
    new_hash = hash_password(new_password)

    user = lock_user(user_id)
    if user.session_epoch != account.session_epoch:
        if is_live(session_id, user_id):  # carried over by the faster one
            raise PasswordMovedOn(field="current_password")
        raise TokenRevoked
    _set_password(user, new_hash)
    carry_over(session_id, user.session_epoch)
    return user


def _set_password(user: User, password_hash: str) -> None:
    """Store a hash; sessions and mailed tokens end, and the owner is told."""
    user.password_hash = password_hash
    end_sessions(user)
    send_password_changed(user)
    logger.bind(event="password_changed", user_id=str(user.id)).warning("a password was changed")


# --- Mailed tokens --------------------------------------------------------------------------------


def reset_password(token: str, new_password: str) -> User:
    """Set a password with the token of a reset mail or an invitation.

    The link was mailed to the account's address, so that is confirmed with it; failures are
    forgotten.

    :raises TokenUsed: the token is worth nothing.
    :raises ValidationFailed: the password is a bad one; the token stays good.
    """
    row = tokens.find(token, RESET_PASSWORD, INVITATION)
    with db_manager.connection() as connection:
        account = connection.execute(_BY_ID, {"user_id": row.user_id}).one()
    context = (account.email, account.username, account.full_name)
    validate_password(new_password, *context, field="new_password")
    new_hash = hash_password(new_password)

    user = _owner_of(row)
    tokens.use(row)
    was_verified, user.is_verified = user.is_verified, True
    _set_password(user, new_hash)
    throttle.forget(db.session.connection(), throttle.key_of("login", str(user.id)))
    if not was_verified:
        logger.bind(event="email_verified", user_id=str(user.id)).info("an address was confirmed")
    return user


def verify_email(token: str) -> User:
    """Confirm an address with the token that was mailed to it.

    :raises TokenUsed: the token is worth nothing.
    """
    return _confirm(tokens.find(token, VERIFY_EMAIL))


def verify_email_by_code(email: str, code: str) -> User:
    """Confirm an address with the six digits that were mailed to it.

    The try is counted for good before anything else, also where there is nothing to guess: that
    is the same work.

    :raises TokenUsed: the code is wrong, or tried too often; or there is no such account.
    """
    with db_manager.connection() as connection:
        user_id = connection.scalar(sa.select(_users.c.id).where(_users.c.email == email))
    row = tokens.find_live(user_id or uuid7(), VERIFY_EMAIL)
    key = throttle.key_of("verification code", str(row.id) if row else email)
    window_seconds = current_config().auth.verification_token_expires
    with db_manager.transaction() as connection:
        tries, _ = throttle.count(connection, key, window_seconds)
    if not tokens.is_code_of(row, code) or tries > CODE_TRIES or row is None:
        raise TokenUsed
    return _confirm(row)


def _confirm(row: MailedToken) -> User:
    user = _owner_of(row)
    tokens.use(row)
    user.is_verified = True
    db.session.flush()
    logger.bind(event="email_verified", user_id=str(user.id)).info("an address was confirmed")
    return user


def _owner_of(row: MailedToken) -> User:
    """The account of a token, locked, if address and epoch are still what the token is bound to."""
    try:
        user = lock_user(row.user_id)
    except NotFound:
        _refuse()
    if not user.is_active or not tokens.is_bound_to(row, user.email, user.session_epoch):
        _refuse()
    return user


def _refuse() -> NoReturn:
    raise TokenUsed

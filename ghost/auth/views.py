"""The routes under `/auth`: coming in, staying in, and one's own account."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import g, request

from ghost import signals
from ghost.access import Caller, authenticate, client_address, current_user, public
from ghost.access import unverified_allowed as logged_in
from ghost.api import APIResponse, Blueprint
from ghost.auth import jobs, services, sessions, tokens
from ghost.auth.callers import bearer_token
from ghost.auth.models import Session
from ghost.auth.schemas import (
    ChangePasswordSchema,
    EmailSchema,
    LoggedInSchema,
    LoginSchema,
    ProfileSchema,
    RegisterSchema,
    ResetPasswordSchema,
    SessionSchema,
    TokensSchema,
    VerifyEmailSchema,
)
from ghost.auth.sessions import Client
from ghost.database import db
from ghost.errors import Conflict, Forbidden, GhostError, TokenUsed, Unauthorized
from ghost.ratelimit import rate_limit, source
from ghost.users.models import User
from ghost.users.schemas import UserSchema

USER_AGENT_LENGTH = 300

bp = Blueprint(
    "auth",
    __name__,
    url_prefix="/auth",
    description="Registering, logging in, sessions, and one's own account.",
)


def _client() -> Client:
    """Whoever sends this request, with nothing in it that a database or a log chokes on."""
    sent = request.headers.get("User-Agent", "")
    text = "".join(char if char.isprintable() else " " for char in sent).strip()
    return Client(client_address(), text[:USER_AGENT_LENGTH] or None)


def _logged_in(user: User | dict[str, Any], session: Session) -> dict[str, Any]:
    return {"user": user, **tokens.issue_pair(session)}


# --- Coming in ------------------------------------------------------------------------------------


@bp.post("/register")
@public
@rate_limit("auth")
@bp.errors(Forbidden)
@bp.arguments(RegisterSchema)
@bp.response(201, LoggedInSchema)
def register(data: dict[str, Any]) -> dict[str, Any]:
    """Create an account and log in.

    A mail with a link and a code to confirm the address is on its way. 409 when the address or
    the username is taken; 403 when only administrators make accounts here.
    """
    user, session = services.register(**data, client=_client())
    db.session.commit()
    signals.tell(signals.user_registered, user_id=user.id)
    return _logged_in(user, session)


@bp.post("/login")
@public
@rate_limit("auth")
@bp.errors(Unauthorized, Forbidden)
@bp.arguments(LoginSchema)
@bp.response(200, LoggedInSchema)
def login(data: dict[str, Any]) -> dict[str, Any]:
    """Log in with an e-mail address or a username, and a password.

    401 does not tell whether there is such an account. After too many failures on one account,
    whoever made them, the answer is 429 until `Retry-After` has passed or the password was reset.
    With the right password, 403 says that the account is disabled or its address not confirmed.
    """
    user, session = services.log_in(data["email"], data["password"], _client())
    db.session.commit()
    return _logged_in(user, session)


def _refresh_claims() -> dict[str, Any]:
    """The verified claims of the request's refresh token, checked once."""
    if "refresh_claims" not in g:
        g.refresh_claims = tokens.verify(bearer_token(), "refresh")
    claims: dict[str, Any] = g.refresh_claims
    return claims


def _refreshed_session() -> str:
    """What the limit of refreshing counts: the token's session, else the address."""
    try:
        return f"session:{_refresh_claims()['sid']}"
    except GhostError:
        return source()


@bp.post("/refresh")
@public
@rate_limit("refresh", key=_refreshed_session)
@bp.errors(Unauthorized)
@bp.doc(security=[{"bearer": []}])
@bp.response(200, TokensSchema)
def refresh() -> dict[str, Any]:
    """Exchange the refresh token, sent as the bearer token, for a new pair.

    Each refresh token is spent by its first use. For some seconds it still gives the tokens that
    it gave then; used later, it ends the session. A session's end is not put off by refreshing.
    """
    claims = _refresh_claims()
    session = sessions.refresh(claims["sid"], claims["sub"], claims["gen"])
    return tokens.issue_pair(session)


@bp.post("/forgot-password")
@public
@rate_limit("auth")
@bp.arguments(EmailSchema)
@bp.response(202)
def forgot_password(data: dict[str, Any]) -> APIResponse:
    """Have a link to set a new password mailed.

    The answer is the same whether the address has an account or not.
    """
    jobs.send_reset.enqueue(data["email"])
    db.session.commit()
    return APIResponse(message="If there is such an account, a mail is on its way.")


@bp.post("/reset-password")
@public
@rate_limit("auth")
@bp.errors(TokenUsed)
@bp.arguments(ResetPasswordSchema)
@bp.response(200)
def reset_password(data: dict[str, Any]) -> APIResponse:
    """Set a password with the token of a mailed link.

    Every session of the account ends, and its owner is told by mail. The token works once, and
    not after the password was changed in another way: then the answer is 410. A password that is
    refused does not use it up.
    """
    user = services.reset_password(**data)
    db.session.commit()
    signals.tell(signals.password_changed, user_id=user.id)
    return APIResponse(message="The password was changed. Please log in.")


@bp.post("/verify-email")
@public
@rate_limit("auth")
@bp.errors(TokenUsed)
@bp.arguments(VerifyEmailSchema)
@bp.response(200)
def verify_email(data: dict[str, Any]) -> APIResponse:
    """Confirm an address with the mailed token, or with the address and the mailed code.

    410 when they are wrong, used, or too old; after five wrong codes only the link of that mail
    works.
    """
    if "token" in data:
        user = services.verify_email(data["token"])
    else:
        user = services.verify_email_by_code(**data)
    db.session.commit()
    signals.tell(signals.user_verified, user_id=user.id)
    return APIResponse(message="The address is confirmed.")


@bp.post("/resend-verification")
@public
@rate_limit("auth")
@bp.arguments(EmailSchema)
@bp.response(202)
def resend_verification(data: dict[str, Any]) -> APIResponse:
    """Have a new link and code to confirm an address mailed.

    The answer is the same whether there is anything to confirm or not.
    """
    jobs.resend_verification.enqueue(data["email"])
    db.session.commit()
    return APIResponse(message="If there is anything to confirm, a mail is on its way.")


# --- Logged in ------------------------------------------------------------------------------------


@bp.post("/logout")
@logged_in
@bp.response(200)
def logout() -> APIResponse:
    """End this session: its tokens are worth nothing from now on."""
    sessions.revoke_session(current_user.session_id, current_user.id)
    db.session.commit()
    return APIResponse(message="Logged out.")


@bp.post("/logout-all")
@logged_in
@bp.response(200)
def logout_all() -> APIResponse:
    """End every session of the account, this one too, and every mailed link."""
    services.end_all_sessions(current_user.id)
    db.session.commit()
    return APIResponse(message="Logged out everywhere.")


@bp.get("/me")
@logged_in
@bp.response(200, UserSchema)
def show_me() -> Caller:
    """Return one's own account."""
    return authenticate()


@bp.patch("/me")
@logged_in
@bp.arguments(ProfileSchema)
@bp.response(200, UserSchema)
def update_me(data: dict[str, Any]) -> User:
    """Change one's own name and username; null removes them."""
    user = services.update_profile(current_user.id, data)
    db.session.commit()
    return user


@bp.post("/change-password")
@logged_in
@rate_limit("auth")
@bp.errors(Conflict)
@bp.arguments(ChangePasswordSchema)
@bp.response(200)
def change_password(data: dict[str, Any]) -> APIResponse:
    """Replace one's own password; every other session ends, and a mail tells about it.

    A wrong current password is a validation error of `current_password`, and counts as a failed
    log-in. Of two changes at once one is made, and the other is a conflict (409).
    """
    user = services.change_password(
        current_user.id, current_user.session_id, **data, client=_client()
    )
    db.session.commit()
    signals.tell(signals.password_changed, user_id=user.id)
    return APIResponse(message="The password was changed.")


@bp.get("/sessions")
@logged_in
@bp.paginated(SessionSchema, sort=("created_at", "last_used_at"), default_sort="-created_at")
def list_sessions() -> sa.Select[*tuple[Any, ...]]:
    """List one's own sessions that are alive, the newest first."""
    return sessions.list_sessions(current_user.id, current_user.session_id)


@bp.delete("/sessions/<uuid:session_id>")
@logged_in
@bp.response(204)
def revoke_session(session_id: UUID) -> None:
    """End one of one's own sessions, this one or another."""
    sessions.revoke_session(session_id, current_user.id)
    db.session.commit()

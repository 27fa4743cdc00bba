"""The test client: Flask's, and calls in the name of a user."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from ghost.auth.sessions import Client as Device
from ghost.auth.sessions import open_session
from ghost.auth.tokens import issue_pair
from ghost.database import db
from ghost.users.models import User

DEVICE = Device(ip_address="127.0.0.1", user_agent="pytest")


class Client(FlaskClient):
    """Flask's test client; `as_user` gives one that is logged in."""

    def as_user(self, user: User) -> Client:
        """A client of its own that sends this user's access token with each request.

        The session is a new one, as a log-in opens it; `tokens` has both of its tokens.
        """
        client = Client(self.application, self.response_wrapper)
        client.tokens = log_in(self.application, user)
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {client.tokens['access_token']}"
        return client

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tokens: dict[str, Any] = {}


def log_in(app: Flask, user: User) -> dict[str, Any]:
    """Open a session without a password.

    :returns: `{access_token, refresh_token, token_type, expires_in}`.
    """
    with app.app_context():
        epoch = db.session.scalars(sa.select(User.session_epoch).where(User.id == user.id)).one()
        session = open_session(user.id, epoch, DEVICE)
        db.session.commit()
        return issue_pair(session)

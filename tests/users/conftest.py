"""What the tests of accounts share: people who are logged in, with any roles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from ghost.database import db
from ghost.jobs.ledger import jobs
from ghost.mail import MailMessage
from ghost.testing.clients import log_in
from ghost.testing.factories import UserFactory
from ghost.users.models import Role, RolePermission, User

API = "/api/v1"


class Person:
    """An account with a session of its own; calls go to `/api/v1`."""

    def __init__(self, app: Flask, user_id: UUID, token: str) -> None:
        self.app, self.id, self.token = app, user_id, token
        self.path = f"/users/{user_id}"

    def call(self, method: str, path: str, **options: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        client = self.app.test_client()
        return client.open(API + path, method=method, headers=headers, **options)

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.call("GET", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> TestResponse:
        return self.call("POST", path, json=json, **options)

    def patch(self, path: str, json: Any, **options: Any) -> TestResponse:
        return self.call("PATCH", path, json=json, **options)

    def put(self, path: str, json: Any, **options: Any) -> TestResponse:
        return self.call("PUT", path, json=json, **options)

    def delete(self, path: str, **options: Any) -> TestResponse:
        return self.call("DELETE", path, **options)

    def is_logged_in(self) -> bool:
        return self.get("/auth/sessions").status_code == 200


MakePerson = Callable[..., Person]


@pytest.fixture
def person(app: Flask, make_user: UserFactory) -> MakePerson:
    """Make an account with roles and a session: `person("ADMIN", username="ada")`."""

    def make(*roles: str, **values: Any) -> Person:
        user = make_user(roles=roles or ("USER",), **values)
        return Person(app, user.id, log_in(app, user)["access_token"])

    return make


@pytest.fixture
def boss(person: MakePerson) -> Person:
    """A SUPER_ADMIN."""
    return person("SUPER_ADMIN", email="boss@example.org")


@pytest.fixture
def admin(person: MakePerson) -> Person:
    return person("ADMIN", email="admin@example.org")


@pytest.fixture
def user(person: MakePerson) -> Person:
    return person("USER", email="user@example.org")


@pytest.fixture
def make_role(app: Flask) -> Callable[..., str]:
    """Add a role: `make_role("SUPPORT", "users:read")`."""

    def make(name: str, *permissions: str) -> str:
        with app.app_context():
            grants = [RolePermission(permission=permission) for permission in permissions]
            db.session.add(Role(name=name, description="", grants=grants))
            db.session.commit()
        return name

    return make


@pytest.fixture
def row(app: Flask) -> Callable[[UUID], User]:
    """Read an account as the database has it, with its roles."""

    def read(user_id: UUID) -> User:
        with app.app_context():
            return db.session.get_one(User, user_id)

    return read


@pytest.fixture
def enqueued(app: Flask) -> Callable[[], list[tuple[str, dict[str, Any]]]]:
    """Name and arguments of every job so far."""

    def read() -> list[tuple[str, dict[str, Any]]]:
        with app.app_context():
            rows = db.session.execute(sa.select(jobs.c.name, jobs.c.args).order_by(jobs.c.id))
            return [(name, args) for name, args in rows]

    return read


@pytest.fixture
def mails(app: Flask) -> Callable[[], list[tuple[str | None, list[str]]]]:
    """Composer and addresses of every mail so far."""

    def read() -> list[tuple[str | None, list[str]]]:
        with app.app_context():
            statement = sa.select(MailMessage.composer, MailMessage.to).order_by(MailMessage.id)
            return [(composer, to) for composer, to in db.session.execute(statement)]

    return read

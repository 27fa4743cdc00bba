"""Factories for tests: what is not said has a default that works."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from flask import Flask, has_app_context

from ghost.access import USER
from ghost.database import db
from ghost.fields import canonical_email
from ghost.passwords import hash_password
from ghost.users.models import Role, RolePermission, User
from ghost.users.services import add_user


class UserFactory:
    """`make_user(...)`: an account in the database, committed."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._numbers = itertools.count(1)

    def __call__(
        self,
        *,
        email: str | None = None,
        password: str | None = None,
        roles: Sequence[str] = (USER,),
        permissions: Sequence[str] = (),
        is_verified: bool = True,
        **values: Any,
    ) -> User:
        """Add an account.

        With a context open (the fixture `session`) it belongs to that session; else it is
        detached, everything on it loaded.

        :param email: another one for each account when None.
        :param password: None for an account that cannot log in by password; `client.as_user`
            needs none.
        :param permissions: granted through a role that is made for this account alone.
        :param values: further columns of `User`.
        """
        if not has_app_context():
            with self._app.app_context():
                user = self(
                    email=email, password=password, roles=roles, permissions=permissions,
                    is_verified=is_verified, **values,
                )  # fmt: skip
                db.session.expunge_all()
                return user
        number = next(self._numbers)
        if permissions:
            roles = [*roles, self._make_role(number, permissions)]
        user = add_user(
            email=canonical_email(email or f"user{number}@example.org"),
            username=values.pop("username", None),
            full_name=values.pop("full_name", None),
            password_hash=hash_password(password) if password else None,
            roles=roles,
            is_verified=is_verified,
        )
        for name, value in values.items():
            if not hasattr(User, name):
                raise TypeError(f"an account has no {name}")
            setattr(user, name, value)
        db.session.commit()
        return user

    def _make_role(self, number: int, permissions: Sequence[str]) -> str:
        name = f"TEST_{number}"
        grants = [RolePermission(permission=permission) for permission in permissions]
        db.session.add(Role(name=name, description="Made by make_user", grants=grants))
        db.session.flush()
        return name

"""Who may: the decorators, the caller, and what a route declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from flask import Flask
from test_http import is_error

from ghost.access import Access, authenticate, current_user, identity, implied
from ghost.errors import Unauthorized
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.lab

LAB = "/api/v1/lab"
Make = Callable[[Mapping[str, Any]], Flask]


def test_nobody_gets_401_with_a_challenge(client: Client) -> None:
    for path in ("me", "admins", "writers"):
        response = client.get(f"{LAB}/{path}")

        assert is_error(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Bearer  x", "Basic YTpi", "bearer x.y.z", "Bearer a b", "x",
     "Bearer x,y",     "Bearer " + "a" * 10_000, "Bearer a.b.c.d", "Token x"],
)  # fmt: skip
def test_a_header_that_is_no_token_is_401(client: Client, header: str) -> None:
    response = client.get(f"{LAB}/me", headers={"Authorization": header})

    assert response.status_code == 401
    assert response.json["error"]["code"] in ("token_invalid", "unauthorized")


def test_a_token_in_the_query_is_no_login(client: Client, make_user: UserFactory) -> None:
    token = client.as_user(make_user()).tokens["access_token"]

    for name in ("token", "access_token", "jwt", "authorization"):
        assert client.get(f"{LAB}/me?{name}={token}").status_code == 401


def test_the_caller_is_who_logged_in(client: Client, make_user: UserFactory) -> None:
    ada = make_user(email="ada@example.org", roles=["ADMIN"])

    data = client.as_user(ada).get(f"{LAB}/me").json["data"]

    assert data == {"email": "ada@example.org", "roles": ["ADMIN"]}


@pytest.mark.parametrize(
    ("roles", "status"),
    [(["USER"], 403), (["ADMIN"], 200), (["SUPER_ADMIN"], 200), (["USER", "ADMIN"], 200)],
)
def test_a_role_implies_the_ones_before_it(
    client: Client, make_user: UserFactory, roles: list[str], status: int
) -> None:
    response = client.as_user(make_user(roles=roles)).get(f"{LAB}/admins")

    assert response.status_code == status
    if status == 403:
        assert is_error(response, 403, "forbidden")


@pytest.mark.parametrize(
    ("permissions", "status"),
    [([], 403), (["users:read"], 403), (["things:write"], 403),
     (["things:write", "users:read"], 200)],
)  # fmt: skip
def test_all_of_the_permissions_are_needed(
    client: Client, make_user: UserFactory, permissions: list[str], status: int
) -> None:
    response = client.as_user(make_user(permissions=permissions)).get(f"{LAB}/writers")

    assert response.status_code == status


def test_a_super_admin_has_the_applications_own_permissions_too(
    client: Client, make_user: UserFactory
) -> None:
    assert client.as_user(make_user(roles=["SUPER_ADMIN"])).get(f"{LAB}/writers").status_code == 200
    assert client.as_user(make_user(roles=["ADMIN"])).get(f"{LAB}/writers").status_code == 403


def test_access_is_asked_for_before_the_body_is_read(client: Client) -> None:
    response = client.post(f"{LAB}/orders", data=b"{", content_type="application/json")

    assert response.status_code == 401


class TestUnverified:
    @pytest.fixture
    def app_config(self) -> Mapping[str, Any]:
        return {"auth": {"require_verified_email": True}}

    def test_is_403_until_the_address_is_confirmed(
        self, client: Client, make_user: UserFactory
    ) -> None:
        unverified = client.as_user(make_user(is_verified=False, roles=["SUPER_ADMIN"]))
        verified = client.as_user(make_user())

        for path in ("me", "admins", "writers"):
            assert is_error(unverified.get(f"{LAB}/{path}"), 403, "email_not_verified")
        assert unverified.get("/api/v1/auth/me").status_code == 200
        assert verified.get(f"{LAB}/me").status_code == 200


def test_the_caller_is_read_once_in_a_request(
    app: Flask, client: Client, make_user: UserFactory
) -> None:
    token = client.as_user(make_user()).tokens["access_token"]
    with app.test_request_context("/", headers={"Authorization": f"Bearer {token}"}):
        assert authenticate() is authenticate()
        assert current_user.id == authenticate().id
        assert identity() == str(current_user.id)
        assert current_user.has_role("USER")
        assert not current_user.can("users:read")
        assert current_user.permissions == frozenset()


def test_without_credentials_there_is_no_caller(app: Flask) -> None:
    with app.test_request_context("/"):
        assert identity() is None
        with pytest.raises(Unauthorized):
            _ = current_user.id


def test_permissions_of_a_super_admin_are_all_that_are_declared(
    app: Flask, client: Client, make_user: UserFactory
) -> None:
    token = client.as_user(make_user(roles=["SUPER_ADMIN"])).tokens["access_token"]
    with app.test_request_context("/", headers={"Authorization": f"Bearer {token}"}):
        assert {"things:write", "users:read", "roles:write"} <= current_user.permissions


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ([], {"USER"}),
        (["ADMIN"], {"USER", "ADMIN"}),
        (["SUPER_ADMIN"], {"USER", "ADMIN", "SUPER_ADMIN"}),
        (["EDITOR"], {"USER", "EDITOR"}),
    ],
)
def test_everybody_is_at_least_a_user(roles: list[str], expected: set[str]) -> None:
    assert implied(roles) == expected


@pytest.mark.parametrize(
    ("access", "text"),
    [
        (Access(public=True), ""),
        (Access(), ""),
        (Access(roles=("ADMIN", "EDITOR")), "Needs the role `ADMIN` or `EDITOR`."),
        (Access(permissions=("a:b", "c:d")), "Needs the permission `a:b` and `c:d`."),
    ],
)
def test_a_declaration_reads_as_a_sentence(access: Access, text: str) -> None:
    assert access.text == text

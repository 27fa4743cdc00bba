"""Who is let in by a bearer token, and that a revocation counts from the next request on."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import jwt
import pytest
from auth_steps import Account, Api
from flask import Flask

from ghost.auth import tokens

Claims = dict[str, Any]
RunSql = Callable[..., list[Any]]


HASHES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "HS256": lambda key, data: hmac.digest(key, data, "sha256"),
    "HS384": lambda key, data: hmac.digest(key, data, "sha384"),
    "HS512": lambda key, data: hmac.digest(key, data, "sha512"),
    "none": lambda key, data: b"",
}


def without_none(values: Claims) -> Claims:
    return {name: value for name, value in values.items() if value is not None}


@pytest.fixture
def forge(app: Flask, ada: Account) -> Callable[..., str]:
    """Sign a token like Ada's, with changes: `forge({"type": "refresh"})`; None removes a claim.

    Signed by hand, since PyJWT refuses to make what attackers make.
    """

    def make(
        changes: Claims | None = None,
        *,
        key: Any = None,
        algorithm: str = "HS256",
        headers: Claims | None = None,
        base: str = ada.access_token,
    ) -> str:
        with app.app_context():
            ours = tokens.keys()
        claims = {
            **jwt.decode(base, options={"verify_signature": False, "verify_aud": False}),
            **(changes or {}),
        }
        head = {"alg": algorithm, "typ": "JWT", "kid": ours.kid, **(headers or {})}
        parts = [
            urlsafe_b64encode(json.dumps(without_none(part)).encode()).rstrip(b"=")
            for part in (head, claims)
        ]
        signature = HASHES[algorithm](ours.signing if key is None else key, b".".join(parts))
        parts.append(urlsafe_b64encode(signature).rstrip(b"="))
        return b".".join(parts).decode()

    return make


def test_the_forge_makes_good_tokens_when_nothing_is_changed(
    api: Api, forge: Callable[..., str]
) -> None:
    assert api.is_logged_in(forge())


LATER, EARLIER = int(time.time()) + 10_000, int(time.time()) - 10_000


@pytest.mark.parametrize(
    "options",
    [
        {"key": b"x" * 32},
        {"key": b"x" * 32, "headers": {"kid": "unknown"}},
        {"headers": {"kid": None}},
        {"headers": {"kid": ["list"]}},
        {"headers": {"kid": "../../dev/null"}},
        {"algorithm": "none", "key": b""},
        {"algorithm": "HS512"},
        {"algorithm": "HS384"},
        {"changes": {"exp": None}},
        {"changes": {"exp": EARLIER}},
        {"changes": {"exp": "tomorrow"}},
        {"changes": {"nbf": LATER}},
        {"changes": {"iat": None}},
        {"changes": {"iat": LATER}},
        {"changes": {"iss": None}},
        {"changes": {"iss": "somebody"}},
        {"changes": {"aud": None}},
        {"changes": {"aud": "somebody"}},
        {"changes": {"jti": None}},
        {"changes": {"sub": None}},
        {"changes": {"sub": 7}},
        {"changes": {"sub": "not a uuid"}},
        {"changes": {"sub": str(uuid4())}},
        {"changes": {"sid": None}},
        {"changes": {"sid": ["x"]}},
        {"changes": {"sid": str(uuid4())}},
        {"changes": {"type": None}},
        {"changes": {"type": "refresh"}},
        {"changes": {"type": "Access"}},
        {"changes": {"type": "reset"}},
        {"changes": {"type": ["access"]}},
    ],
    ids=str,
)
def test_a_forged_access_token_opens_nothing(
    api: Api, forge: Callable[..., str], options: dict[str, Any]
) -> None:
    token = forge(**options)

    answer = api.get("/me", token)

    assert answer.status_code == 401
    assert answer.json["error"]["code"] in ("token_invalid", "token_expired", "token_revoked")
    assert "WWW-Authenticate" in answer.headers
    assert api.get("/sessions", token).status_code == 401
    assert api.post("/logout-all", token=token).status_code == 401


@pytest.mark.parametrize("generation", [None, "1", 1.0, True, 0, -1, 2, 10**30])
def test_a_refresh_token_needs_a_generation_that_there_was(
    api: Api, ada: Account, forge: Callable[..., str], generation: Any
) -> None:
    token = forge({"gen": generation}, base=ada.refresh_token)

    assert api.refresh(token).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "bearer  two  spaces",
        "Token {}",
        "{}",
        "Bearer {}, Bearer {}",
        "Bearer {} {}",
        "Bearer " + "x" * 10_000,
        "Bearer \xff\xfe",
    ],
)
def test_another_header_opens_nothing(api: Api, ada: Account, header: str) -> None:
    answer = api.call(
        "GET", "/me", headers={"Authorization": header.replace("{}", ada.access_token)}
    )

    assert answer.status_code == 401


def test_a_token_counts_only_in_the_authorization_header(api: Api, ada: Account) -> None:
    client = api.app.test_client()
    client.set_cookie("access_token_cookie", ada.access_token)

    answers = [
        client.get("/api/v1/auth/me"),
        client.get("/api/v1/auth/sessions", headers={"X-Access-Token": ada.access_token}),
        client.post("/api/v1/auth/logout", json={"access_token": ada.access_token}),
        client.get(f"/api/v1/auth/me?jwt={ada.access_token}"),
    ]

    # 422 for a field that the query hasn't got.
    assert [answer.status_code for answer in answers] == [401, 401, 401, 422]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE users SET is_active = :no",
        "UPDATE users SET deleted_at = created_at WHERE :no = :no",
        "UPDATE users SET session_epoch = session_epoch + 1 WHERE :no = :no",
        "UPDATE sessions SET revoked_at = created_at WHERE :no = :no",
        "UPDATE sessions SET expires_at = created_at WHERE :no = :no",
        "DELETE FROM sessions WHERE :no = :no",
    ],
    ids=["disabled", "deleted", "a new epoch", "revoked", "expired", "purged"],
)
def test_whatever_ends_a_session_counts_from_the_next_request_on(
    api: Api, ada: Account, run_sql: RunSql, change: str
) -> None:
    assert api.is_logged_in(ada.access_token)

    run_sql(change, no=False)

    answer = api.get("/me", ada.access_token)
    assert answer.status_code == 401
    assert answer.json["error"]["code"] == "token_revoked"


def test_a_role_counts_and_stops_counting_from_the_next_request_on(
    app: Flask, api: Api, ada: Account, run_sql: RunSql
) -> None:
    def users() -> int:
        headers = {"Authorization": f"Bearer {ada.access_token}"}
        return app.test_client().get("/api/v1/users", headers=headers).status_code

    assert users() == 403

    run_sql("INSERT INTO user_roles (user_id, role_name) SELECT id, 'SUPER_ADMIN' FROM users")
    assert users() == 200
    assert api.get("/me", ada.access_token).json["data"]["roles"] == ["SUPER_ADMIN", "USER"]

    run_sql("DELETE FROM user_roles WHERE role_name = 'SUPER_ADMIN'")
    assert users() == 403


def test_what_a_token_says_of_roles_is_not_asked(
    app: Flask, ada: Account, forge: Callable[..., str]
) -> None:
    token = forge({"roles": ["SUPER_ADMIN"], "is_admin": True})

    answer = app.test_client().get("/api/v1/users", headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code == 403


def test_tokens_hold_no_personal_data(ada: Account) -> None:
    for token in (ada.access_token, ada.refresh_token):
        claims = jwt.decode(token, options={"verify_signature": False})
        assert set(claims) <= {
            "iss", "aud", "sub", "jti", "iat", "nbf", "exp", "type", "fresh", "sid", "gen", "csrf",
        }  # fmt: skip
        assert ada.email not in str(claims)


def test_answers_to_a_caller_are_not_kept_by_caches(api: Api, ada: Account) -> None:
    assert api.get("/me", ada.access_token).headers["Cache-Control"] == "no-store"
    assert api.login(ada.email).headers["Cache-Control"] == "no-store"

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
import sqlalchemy as sa
from auth_steps import Account, Api
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from flask import Flask
from flask_jwt_extended import jwt_required

from ghost.auth import tokens
from ghost.database import db

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

    Signed by hand, since PyJWT refuses to make what attackers make. Tokens with a header letter for
    letter like ours (`like_ours`) have a way of their own through the checks.
    """

    def make(
        changes: Claims | None = None,
        *,
        key: Any = None,
        algorithm: str = "HS256",
        headers: Claims | None = None,
        base: str = ada.access_token,
        like_ours: bool = False,
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
        if like_ours and algorithm == "HS256" and not headers:
            parts[0] = base.split(".")[0].encode()
        signature = HASHES[algorithm](ours.signing if key is None else key, b".".join(parts))
        parts.append(urlsafe_b64encode(signature).rstrip(b"="))
        return b".".join(parts).decode()

    return make


@pytest.mark.parametrize("like_ours", [False, True])
def test_the_forge_makes_good_tokens_when_nothing_is_changed(
    api: Api, forge: Callable[..., str], like_ours: bool
) -> None:
    assert api.is_logged_in(forge(like_ours=like_ours))


LATER, EARLIER = int(time.time()) + 10_000, int(time.time()) - 10_000


@pytest.mark.parametrize("like_ours", [False, True])
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
    api: Api, forge: Callable[..., str], options: dict[str, Any], like_ours: bool
) -> None:
    token = forge(**options, like_ours=like_ours)

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

    assert [answer.status_code for answer in answers] == [401] * 4


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


def test_whoever_reads_the_database_has_no_token_and_no_password(
    app: Flask, api: Api, ada: Account, run_sql: RunSql
) -> None:
    pair = api.refresh(ada.refresh_token).json["data"]
    secrets = [ada.password]
    for token in (ada.access_token, ada.refresh_token, *pair.values()):
        secrets += str(token).split(".")[1:]
    assert len(secrets) == 9

    with app.app_context():
        tables = sa.inspect(db.engine).get_table_names()
    rows = [str(row) for table in tables for row in run_sql(f'SELECT * FROM "{table}"')]

    assert any(ada.id in row for row in rows)
    assert not [secret for secret in secrets if any(secret in row for row in rows)]


def test_answers_to_a_caller_are_not_kept_by_caches(api: Api, ada: Account) -> None:
    assert api.get("/me", ada.access_token).headers["Cache-Control"] == "no-store"
    assert api.login(ada.email).headers["Cache-Control"] == "no-store"


# --- Keys -----------------------------------------------------------------------------------------


def pem_pair() -> tuple[str, str]:
    private = Ed25519PrivateKey.generate()
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    )


def me(app: Flask, token: str) -> int:
    return Api(app).get("/me", token).status_code


def test_an_earlier_key_is_accepted_while_it_is_listed_so_nobody_is_logged_out(
    make_app: Callable[..., Flask], ada: Account
) -> None:
    old, new = "the first signing key, long enough", "the second signing key, long enough"
    token = (
        Api(make_app({"auth": {"jwt_secret_key": old}}))
        .login(ada.email)
        .json["data"]["access_token"]
    )

    rotated = make_app({"auth": {"jwt_secret_key": new, "jwt_previous_secret_keys": [old]}})
    dropped = make_app({"auth": {"jwt_secret_key": new}})

    assert (me(rotated, token), me(dropped, token)) == (200, 401)
    fresh = Api(rotated).login(ada.email).json["data"]["access_token"]
    assert me(dropped, fresh) == 200  # the new key signs


def test_tokens_can_be_signed_with_a_key_pair_that_is_rotated_by_its_id(
    make_app: Callable[..., Flask], ada: Account
) -> None:
    (private, public), (newer_private, newer_public) = pem_pair(), pem_pair()
    settings = {"jwt_algorithm": "EdDSA", "jwt_private_key": private}
    first = make_app({"auth": {**settings, "jwt_public_keys": {"first": public}}})
    token = Api(first).login(ada.email).json["data"]["access_token"]
    both = {"first": public, "second": newer_public}
    second = make_app(
        {"auth": {**settings, "jwt_private_key": newer_private, "jwt_public_keys": both}}
    )

    newer = Api(second).login(ada.email).json["data"]["access_token"]

    assert jwt.get_unverified_header(token)["kid"] == "first"
    assert jwt.get_unverified_header(newer)["kid"] == "second"
    assert [me(second, token), me(second, newer)] == [200, 200]
    assert me(first, newer) == 401


def test_a_public_key_can_not_be_used_as_a_secret(
    make_app: Callable[..., Flask], ada: Account, forge: Callable[..., str]
) -> None:
    private, public = pem_pair()
    app = make_app(
        {
            "auth": {
                "jwt_algorithm": "EdDSA",
                "jwt_private_key": private,
                "jwt_public_keys": {"first": public},
            }
        }
    )

    assert me(app, forge(key=public.encode(), headers={"kid": "first"})) == 401


def test_flask_jwt_extendeds_own_decorator_has_the_same_rules(
    make_app: Callable[..., Flask], ada: Account, run_sql: RunSql
) -> None:
    app = make_app({})
    app.add_url_rule("/plain", view_func=jwt_required()(lambda: "in"), endpoint="plain")

    def call(token: str | None) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return app.test_client().get("/plain", headers=headers)

    assert call(ada.access_token).text == "in"
    for bad in (None, "garbage", ada.refresh_token):
        answer = call(bad)
        assert answer.status_code == 401, bad
        assert answer.json["success"] is False
    run_sql("UPDATE users SET session_epoch = session_epoch + 1")
    assert call(ada.access_token).json["error"]["code"] == "token_revoked"

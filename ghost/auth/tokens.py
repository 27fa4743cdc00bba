"""Access and refresh tokens: JWTs of one algorithm, each with its exact type.

Flask-JWT-Extended makes them and serves an application's own `@jwt_required()`; it only tells
refresh tokens from everything else and accepts tokens without an expiry, so the checks that count
are here.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime, timedelta
from typing import Any, Literal, cast
from uuid import UUID

import jwt as pyjwt
import orjson
from flask import Flask, current_app
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token

from ghost.auth.models import Session
from ghost.config import Config, current_config
from ghost.errors import TokenExpired, TokenInvalid
from ghost.models import utcnow
from ghost.secrets import signing_key

ISSUER, AUDIENCE = "ghost", "ghost-api"
MAX_TOKEN_LENGTH = 4096
REQUIRED = ["iss", "aud", "sub", "jti", "iat", "exp", "sid", "type"]

TokenType = Literal["access", "refresh"]


class Keys:
    """The key that signs, and the ones that are accepted, by their `kid`."""

    def __init__(self, config: Config) -> None:
        settings = config.auth
        self.algorithm = settings.jwt_algorithm
        self.accepted: dict[str, Any] = {}
        self.headers: dict[str, bytes] = {}
        if self.algorithm.startswith("HS"):
            self.signing: Any = signing_key(config)
            former = (secret.encode() for secret in settings.jwt_previous_secret_keys)
            for key in (*former, self.signing):
                self.accepted[hashlib.sha256(b"kid:" + key).hexdigest()[:16]] = key
            self.kid = list(self.accepted)[-1]
            # How PyJWT writes the header of a token of ours.
            self.headers = {
                pyjwt.encode({}, key, self.algorithm, headers={"kid": kid}).split(".")[0]: key
                for kid, key in self.accepted.items()
                if self.algorithm == "HS256"
            }
        else:
            self.signing = settings.jwt_private_key
            self.accepted = dict(settings.jwt_public_keys)
            self.kid = self._kid_of_the_private_key()

    def _kid_of_the_private_key(self) -> str:
        """Find which of the public keys belongs to the private one."""
        algorithm = pyjwt.get_algorithm_by_name(self.algorithm)
        token = algorithm.sign(b"kid", algorithm.prepare_key(self.signing))
        for kid, public in self.accepted.items():
            if algorithm.verify(b"kid", algorithm.prepare_key(public), token):
                return kid
        raise RuntimeError("none of auth.jwt_public_keys belongs to auth.jwt_private_key")


def keys() -> Keys:
    """The application's keys, made when they are first needed."""
    state = current_app.extensions["ghost"]
    if state.keys is None:
        state.keys = Keys(state.config)
    return cast(Keys, state.keys)


def init_app(app: Flask, jwt: JWTManager) -> None:
    """Make Flask-JWT-Extended sign with our keys and check by our rules."""
    settings = app.extensions["ghost"].config.auth
    app.config.update(
        JWT_ALGORITHM=settings.jwt_algorithm,
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(seconds=settings.access_token_expires),
        JWT_ENCODE_ISSUER=ISSUER,
        JWT_DECODE_ISSUER=ISSUER,
        JWT_ENCODE_AUDIENCE=AUDIENCE,
        JWT_DECODE_AUDIENCE=AUDIENCE,
        JWT_TOKEN_LOCATION=["headers"],
        JWT_COOKIE_CSRF_PROTECT=False,  # no cookies: no claim for them
    )
    jwt.init_app(app)
    jwt.encode_key_loader(lambda _identity: keys().signing)
    jwt.decode_key_loader(lambda header, _payload: keys().accepted.get(header.get("kid"), ""))


def issue_pair(session: Session, now: datetime | None = None) -> dict[str, Any]:
    """Make the access token and the live refresh token of a session.

    :returns: `{access_token, refresh_token, token_type, expires_in}`, the last in seconds.
    """
    now = now or utcnow()
    settings = current_config().auth
    identity, sid = str(session.user_id), str(session.id)
    headers = {"kid": keys().kid}
    left = session.expires_at - now
    lifetime = min(timedelta(seconds=settings.access_token_expires), left)
    return {
        "access_token": create_access_token(
            identity,
            expires_delta=lifetime,
            additional_claims={"sid": sid},
            additional_headers=headers,
        ),
        "refresh_token": create_refresh_token(
            identity,
            expires_delta=left,
            additional_claims={"sid": sid, "gen": session.generation},
            additional_headers=headers,
        ),
        "token_type": "Bearer",
        "expires_in": int(lifetime.total_seconds()),
    }


def verify(token: str, kind: TokenType) -> dict[str, Any]:
    """Check a token's signature, times, issuer, audience and exact type.

    :returns: its claims; `sub` and `sid` are UUIDs.
    :raises TokenExpired: it was genuine.
    :raises TokenInvalid: everything else.
    """
    if len(token) > MAX_TOKEN_LENGTH:
        raise TokenInvalid
    ours = keys()
    try:
        claims = _read_own(token, ours) or _read_any(token, ours)
        claims["sub"], claims["sid"] = UUID(claims["sub"]), UUID(claims["sid"])
    except pyjwt.ExpiredSignatureError as error:
        raise TokenExpired from error
    except (pyjwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
        raise TokenInvalid from error
    if claims["type"] != kind or (kind == "refresh" and type(claims.get("gen")) is not int):
        raise TokenInvalid
    return claims


def _read_any(token: str, ours: Keys) -> dict[str, Any]:
    """Read a token with PyJWT."""
    kid = pyjwt.get_unverified_header(token).get("kid")
    key = ours.accepted.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise pyjwt.InvalidKeyError
    claims: dict[str, Any] = pyjwt.decode(
        token,
        key,
        algorithms=[ours.algorithm],
        issuer=ISSUER,
        audience=AUDIENCE,
        options={"require": REQUIRED},
    )
    return claims


def _read_own(token: str, ours: Keys) -> dict[str, Any] | None:
    """Read a token with exactly the header that we give ours, by HS256, in a tenth of the time.

    The rules are those of `_read_any`; whatever is not as we write it is left to that one.
    """
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    key = ours.headers.get(header)
    if key is None or not token.isascii():
        return None
    digest = urlsafe_b64encode(hmac.digest(key, signed.encode(), "sha256")).rstrip(b"=")
    if not hmac.compare_digest(digest, signature.encode()):
        raise pyjwt.InvalidSignatureError
    claims: dict[str, Any] = orjson.loads(urlsafe_b64decode(payload + "=="))
    now = time.time()
    if not all(name in claims for name in REQUIRED):
        raise pyjwt.InvalidTokenError
    if claims["iss"] != ISSUER or claims["aud"] != AUDIENCE:
        raise pyjwt.InvalidTokenError
    if claims["iat"] > now + 1 or claims.get("nbf", 0) > now + 1:
        raise pyjwt.ImmatureSignatureError
    if claims["exp"] <= now:
        raise pyjwt.ExpiredSignatureError
    return claims

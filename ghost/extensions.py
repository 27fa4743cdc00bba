"""The extension objects, made here and bound in `create_app`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flask_jwt_extended import JWTManager
from flask_limiter import Limiter
from flask_mail import Mail

from ghost.access import Loader
from ghost.config import Config
from ghost.database import db
from ghost.openapi import Api

jwt = JWTManager()
mail = Mail()


@dataclass
class State:
    """What one application of Ghost keeps: `app.extensions["ghost"]`."""

    config: Config
    permissions: dict[str, str] = field(default_factory=dict)
    loader: Loader | None = None
    api: Api | None = None
    limiter: Limiter | None = None
    keys: Any = None  # the signing keys of the auth room, made when first needed
    storage: Any = None  # where the files room keeps bytes, opened when first needed


__all__ = ["State", "db", "jwt", "mail"]

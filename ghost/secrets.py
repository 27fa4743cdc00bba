"""The keys that Ghost signs with: the configured ones, or those that development makes itself."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import json
import os
import secrets
import tempfile
import threading
from pathlib import Path

from ghost.config import Config, ConfigError

_NAMES = ("secret_key", "jwt_secret_key")
_SHORTEST = 32
_lock = threading.Lock()


def signing_key(config: Config) -> bytes:
    """Return the key that signs access tokens with HMAC.

    In development a missing one is made on first use and kept in `instance/secrets.json`; in
    testing it lives as long as the process.

    :raises ConfigError: the instance's secrets cannot be read or made.
    """
    return _find(config, "jwt_secret_key", config.auth.jwt_secret_key)


def derived_key(config: Config, purpose: str) -> bytes:
    """Return a key of 32 bytes for one purpose; it tells nothing about that of another.

    :param purpose: a word such as "password-reset", the same for as long as the key is to be.
    :raises ConfigError: as `signing_key` does.
    """
    secret = _find(config, "secret_key", config.app.secret_key)
    return hmac.new(secret, b"ghost:" + purpose.encode(), hashlib.sha256).digest()


def flask_secret_key(config: Config) -> bytes:
    """Return what Flask itself signs with, its session cookie for one."""
    return derived_key(config, "flask")


def _find(config: Config, name: str, configured: str | None) -> bytes:
    if configured is not None:
        return configured.encode()
    if config.is_development:
        return _instance_secrets(config.instance / "secrets.json")[name].encode()
    if config.is_production:  # HS256 is not in use, or Config would have refused
        raise ConfigError([f"{name}: must be set (in production)"])
    return _passing_secrets()[name].encode()


@functools.cache
def _passing_secrets() -> dict[str, str]:
    return _make()


def _make() -> dict[str, str]:
    return {name: secrets.token_hex(_SHORTEST) for name in _NAMES}


_known: dict[Path, dict[str, str]] = {}


def _instance_secrets(path: Path) -> dict[str, str]:
    with _lock:
        if path not in _known:
            if not path.exists():
                _create(path)
            _known[path] = _read(path)
        return _known[path]


def _create(path: Path) -> None:
    """Write new secrets, unless another process is there first: then its secrets count."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Complete before it has its name, and linked, not renamed: of several processes that
        # start together one wins, and none ever reads half a file.
        handle, draft = tempfile.mkstemp(prefix=".secrets-", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(_make(), file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            Path(draft).unlink()
    except OSError as error:
        raise ConfigError(
            [
                f"{path}: cannot be made ({error.strerror}); "
                "make its folder writable, or set SECRET_KEY and JWT_SECRET_KEY"
            ]
        ) from None


def _read(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {name: content[name] for name in _NAMES}
        if all(isinstance(text, str) and len(text) >= _SHORTEST for text in found.values()):
            return found
        reason = "a secret in it is too short"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except (ValueError, LookupError, TypeError, RecursionError):
        reason = "not what Ghost wrote"
    raise ConfigError(
        [
            f"{path}: damaged ({reason}). Restore it, or delete it: new secrets are made then, "
            "everybody has to log in again and mailed links stop working"
        ]
    )

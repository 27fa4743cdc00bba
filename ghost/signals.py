"""What Ghost tells whoever listens about accounts, and how anything is told: after the commit."""

from __future__ import annotations

from typing import Any

from blinker import NamedSignal, Namespace
from flask import current_app

from ghost.logging import logger

_signals = Namespace()

user_registered = _signals.signal(
    "user-registered", "Somebody made an account. The sender is the application; `user_id`."
)
user_verified = _signals.signal(
    "user-verified", "An address was confirmed. The sender is the application; `user_id`."
)
password_changed = _signals.signal(
    "password-changed",
    "A password was changed or reset. The sender is the application; `user_id`.",
)


def tell(signal: NamedSignal, **values: Any) -> None:
    """Send a signal; a receiver that fails is logged, since what it is told of has happened."""
    try:
        signal.send(current_app._get_current_object(), **values)  # type: ignore[attr-defined]
    except Exception:
        logger.bind(signal=signal.name).exception("a receiver of a signal failed")

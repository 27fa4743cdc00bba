"""Where the bytes of files lie."""

from __future__ import annotations

from typing import cast

from flask import current_app

from ghost.extensions import State
from ghost.files.storage.base import Storage
from ghost.files.storage.opening import open_storage

__all__ = ["current_storage"]


def current_storage() -> Storage:
    """The storage of the application, opened when it is first needed.

    :raises StorageUnavailable: it can't be used.
    """
    state: State = current_app.extensions["ghost"]
    if state.storage is None:
        # Two threads may do this at once: each gets a good one, and the last one is kept.
        state.storage = open_storage(state.config)
    return cast(Storage, state.storage)

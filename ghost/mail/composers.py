"""Who writes the mails that are rendered in the worker: stored, they would open accounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ghost.jobs import Permanent
from ghost.mail.models import MailMessage

Composition = tuple[str, Mapping[str, Any]]
Composer = Callable[[MailMessage], Composition | None]

_composers: dict[str, Composer] = {}


class UnknownComposer(Permanent):
    """A message names a composer that this process doesn't have."""


def composer(name: str) -> Callable[[Composer], Composer]:
    """Register a function that says what a security mail holds, when it is about to leave.

    It is called in the worker with the message, in the transaction that claims it, and again in
    each attempt: by the message's id it finds again what it made before. It returns the template
    and its context, or None when the mail is worth nothing any more.

    :param name: `users.verification`, as the rows have it: it outlives a renamed function.
    :raises ValueError: the name is another function's.
    """

    def register(function: Composer) -> Composer:
        known = _composers.setdefault(name, function)
        if (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            raise ValueError(f"two functions claim the composer name {name!r}")
        _composers[name] = function
        return function

    return register


def find_composer(name: str) -> Composer:
    """Return the function registered under a name.

    :raises UnknownComposer: there is none.
    """
    try:
        return _composers[name]
    except KeyError:
        raise UnknownComposer(f"no composer of mails is registered as {name!r}") from None

"""Two ways out: the second takes what the first takes nothing of."""

from __future__ import annotations

import time

from loguru import logger

from ghost.mail.messages import Message
from ghost.mail.providers.base import Closing, Delivery, Provider, Unreachable

AWAY_SECONDS = 60.0

# What could not be reached -> until when (time.monotonic) it is not asked first. The process's:
# each mail of a batch, and each small job, would wait for its time-out again.
_away_until: dict[str, float] = {}


class FailoverProvider(Closing):
    """Ask the first provider, and the second when the first can't be reached, and only then.

    What was refused is refused, and what may have been taken is not sent by another one.

    :param key: what names the first provider in this process.
    """

    name = "failover"

    def __init__(self, first: Provider, second: Provider, *, key: str) -> None:
        self.first = first
        self.second = second
        self.key = key

    def send(self, message: Message) -> Delivery:
        is_away = time.monotonic() < _away_until.get(self.key, 0.0)
        order = (self.second, self.first) if is_away else (self.first, self.second)
        try:
            return self._send_by(order[0], message)
        except Unreachable as error:
            failure = error
        try:
            return self._send_by(order[1], message)
        except Unreachable as error:
            raise Unreachable(f"{failure}; {error}") from error

    def _send_by(self, provider: Provider, message: Message) -> Delivery:
        try:
            delivery = provider.send(message)
        except Unreachable as error:
            if provider is self.first:
                _away_until[self.key] = time.monotonic() + AWAY_SECONDS
            logger.bind(provider=provider.name, reason=str(error)).warning(
                "the mail provider can't be reached"
            )
            raise
        if provider is self.first:
            _away_until.pop(self.key, None)
        return delivery

    def close(self) -> None:
        self.first.close()
        self.second.close()

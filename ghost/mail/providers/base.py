"""What every way out for mail can do, and what it says of a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from ghost.jobs import Permanent
from ghost.mail.messages import Message


class NotSent(Exception):
    """A mail could not be handed over this time; a later attempt may succeed.

    :param refused: address -> the provider's words, for those that were refused for good even so.
    """

    def __init__(self, reason: str = "", refused: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.refused = dict(refused or {})


class Unreachable(NotSent):
    """The provider takes no mail at all now: this says nothing about the message.

    It cannot be connected to, does not serve us, or was lost before it had the message. Nothing
    of the message can have been taken, so that another provider may be asked.
    """


class Refused(Permanent):
    """Every recipient was refused for good.

    :param refused: address -> the provider's words.
    """

    def __init__(self, reason: str, refused: Mapping[str, str]) -> None:
        super().__init__(reason)
        self.refused = dict(refused)


@dataclass(frozen=True)
class Delivery:
    """What became of one message, address by address.

    :param accepted: the addresses that the provider took.
    :param refused: address -> the provider's words, for those that were refused for good (5xx).
    :param deferred: address -> the provider's words, for those to be tried again (4xx).
    :param provider: the name of the provider that took it.
    """

    accepted: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    deferred: Mapping[str, str] = field(default_factory=dict)
    provider: str = ""


class Provider(Protocol):
    """A way out, opened with the first message and kept open until it is closed.

    `message` has its sender and its Message-ID.
    """

    name: str

    def send(self, message: Message) -> Delivery:
        """Hand one message over.

        :returns: at least one address was accepted.
        :raises Refused: every recipient was refused for good.
        :raises Permanent: the mail itself was.
        :raises Unreachable: nothing of it was taken, and nothing was said about it.
        :raises NotSent: anything else went wrong.
        """

    def close(self) -> None:
        """Give the connection back; never raises."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...


class Closing:
    """`with provider:` for providers, and nothing to close for those that hold nothing."""

    def close(self) -> None:
        """Give the connection back; never raises."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


def printable(text: str) -> str:
    """Take out what would steer a terminal."""
    return re.sub(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]", "", text)

"""Ways out on this machine: a folder, the console, or a list in memory."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

from flask import current_app

from ghost.mail.messages import Message
from ghost.mail.providers.base import Closing, Delivery, NotSent, printable


class MemoryProvider(Closing):
    """Keep the messages of an application in a list, for tests: see `outbox()`."""

    name = "memory"

    def send(self, message: Message) -> Delivery:
        outbox().append(message)
        return Delivery(message.destinations, provider=self.name)


def outbox() -> list[Message]:
    """The messages that the current application sent to `memory://`, oldest first."""
    messages: list[Message] = current_app.extensions.setdefault("ghost.mail.outbox", [])
    return messages


class ConsoleProvider(Closing):
    """Print the text of each mail where the process prints, with its links whole.

    Not through the logger: it masks tokens, and this is where a developer clicks on them.
    """

    name = "console"

    def send(self, message: Message) -> Delivery:
        lines = [
            "",
            "=" * 72,
            f"From:    {message.sender_address}",
            f"To:      {', '.join(str(address) for address in message.addresses)}",
            f"Subject: {message.subject}",
            "-" * 72,
            message.text.strip("\n"),
            "=" * 72,
            "",
        ]
        text = printable("\n".join(lines) + "\n")
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
        return Delivery(message.destinations, provider=self.name)


class FileProvider(Closing):
    """Write one `.eml` file per message, which any mail program opens.

    The name comes from the Message-ID, so that a repeated attempt replaces its own file.
    """

    name = "file"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def send(self, message: Message) -> Delivery:
        content = message.as_bytes(readable=True)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # mkstemp makes it 0600: these mails hold links that open accounts.
            descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(self.folder / self._name(message))
            except BaseException:
                Path(temporary).unlink()
                raise
        except OSError as error:
            raise NotSent(f"the mail could not be written to {self.folder}: {error}") from error
        return Delivery(message.destinations, provider=self.name)

    def _name(self, message: Message) -> str:
        message_id = (message.message_id or "").strip("<>")
        name = re.sub(r"[^A-Za-z0-9.@_-]", "_", message_id).lstrip(".")
        if name != message_id or len(name) > 150:
            name = f"{name[:100]}-{hashlib.sha256(message_id.encode()).hexdigest()[:16]}"
        return name + ".eml"

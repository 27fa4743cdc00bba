"""What the mail room tells whoever listens, after what it tells of is committed.

`mail_sent` and `mail_failed` in the worker, `mail_event` in the request that brings it.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

mail_sent = _signals.signal(
    "mail-sent",
    """A mail was sent: at least one address took it, and none is left to try. The sender is the
    application.

    Keywords: `message` (the Message, of a security mail too), `row_id` (UUID), `delivery` (of all
    attempts together).
    """,
)

mail_failed = _signals.signal(
    "mail-failed",
    """Nobody gets a mail. The sender is the application.

    Keywords: `row_id` (UUID), `error` (text).
    """,
)

mail_event = _signals.signal(
    "mail-event",
    """A mail service told what became of a mail that it took. The sender is the application. One
    event may be told more than once: services repeat what was not answered in time.

    Keywords: `kind` ("delivered", "bounced", which is any mail that did not arrive, or
    "complained"), `email` (canonical), `row_id` (UUID; None when the message is not known, or not
    any more), `details` (the service's words, or None).
    """,
)

"""The development mailbox: every mail that was sent, to be read at /dev/mail."""

from __future__ import annotations

from flask import Flask

from ghost.mail.mailbox.store import keep
from ghost.mail.mailbox.views import bp
from ghost.mail.signals import mail_sent


def init_app(app: Flask) -> None:
    """Keep the mails of this application from now on, and serve the pages that show them.

    For development alone: whoever reads the pages can use every mailed link.
    """
    app.register_blueprint(bp)
    mail_sent.connect(keep, sender=app)

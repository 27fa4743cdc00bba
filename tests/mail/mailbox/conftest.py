"""A development application on the foundation alone, and mails in its mailbox."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from ghost.app import create_app
from ghost.config import Config
from ghost.mail import Delivery, Message
from ghost.mail.signals import mail_sent

Send = Callable[..., str]


@pytest.fixture
def dev_app(tmp_path: Path) -> Flask:
    (tmp_path / "mails").mkdir()
    settings = {
        "app": {"env": "development", "name": "Acme"},
        "mail": {"url": "memory://", "templates": "mails"},
    }
    return create_app(Config.load(settings, root=tmp_path, environ={}))


@pytest.fixture
def visitor(dev_app: Flask) -> FlaskClient:
    return dev_app.test_client()


@pytest.fixture
def send(dev_app: Flask) -> Send:
    """Tell the mailbox of a mail, as the worker does; gives its name in the mailbox."""

    def tell(
        subject: str = "Hello",
        text: str = "A text",
        html: str | None = None,
        row: UUID | None = None,
    ) -> str:
        row = row or uuid4()
        message = Message(
            "Ada <ada@example.org>", subject, text, html,
            message_id=f"<{row}@example.org>", sender="Acme <no-reply@example.org>",
        )  # fmt: skip
        with dev_app.app_context():
            delivery = Delivery(message.recipients)
            mail_sent.send(dev_app, message=message, row_id=row, delivery=delivery)
        return str(row)

    return tell


@pytest.fixture
def place(dev_app: Flask) -> Path:
    folder = Path(dev_app.instance_path) / "mailbox"
    folder.parent.mkdir(exist_ok=True)
    return folder

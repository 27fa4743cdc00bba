"""Mail without a database, SMTP servers, and rows of mails that events are about."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from recorded import MakeMessage
from sinks import Scripted, Sink

from ghost.config import Config
from ghost.database import db
from ghost.extensions import State
from ghost.mail.models import MailMessage
from ghost.mail.signals import mail_event

Configured = Callable[..., Flask]


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Configured]:
    """Enter the context of an application with these settings of the mail section."""
    with ExitStack() as stack:

        def enter(*, app_settings: Mapping[str, Any] | None = None, **mail: Any) -> Flask:
            settings = {
                "app": {"env": "testing", "public_url": "https://app.example.com"}
                | dict(app_settings or {}),
                "mail": {"url": "memory://"} | mail,
            }
            app = Flask("mail")
            app.extensions["ghost"] = State(Config.load(settings, root=tmp_path, environ={}))
            stack.enter_context(app.app_context())
            return app

        yield enter


@pytest.fixture
def make_sink() -> Iterator[Callable[..., Sink]]:
    """Start an SMTP server: `make_sink(answers={"DATA": "554 spam"})`."""
    with ExitStack() as stack:

        def make(**options: Any) -> Sink:
            sink = Sink(**options)
            stack.callback(sink.close)
            return sink

        yield make


@pytest.fixture
def make_scripted() -> Iterator[Callable[[Callable[[socket.socket], None]], Scripted]]:
    """Start a server that does with each connection what the given function does."""
    with ExitStack() as stack:

        def make(serve: Callable[[socket.socket], None]) -> Scripted:
            server = Scripted(serve)
            stack.callback(server.close)
            return server

        yield make


@pytest.fixture
def make_message(app: Flask) -> MakeMessage:
    """Make the row of a mail that was sent: `make_message("ada@example.org", subject="Hi")`."""

    def make(*to: str, **values: Any) -> UUID:
        addresses = list(to) or ["ada@example.org"]
        sent = {"status": "sent", "to": addresses, "accepted": addresses, "subject": "Hi"}
        with app.app_context():
            row = MailMessage(**sent | values)
            db.session.add(row)
            db.session.commit()
            return row.id

    return make


@pytest.fixture
def told(app: Flask) -> Iterator[list[dict[str, Any]]]:
    """Collect what `mail_event` tells; what it is about has to be committed by then."""
    heard: list[dict[str, Any]] = []

    def hear(_app: Flask, **keywords: Any) -> None:
        assert not db.session().in_transaction()
        heard.append(keywords)

    with mail_event.connected_to(hear, sender=app):
        yield heard

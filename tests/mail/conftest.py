"""Mail without a database: a bare application that has a configuration, and SMTP servers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sinks import Scripted, Sink

from ghost.config import Config
from ghost.extensions import State

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

"""Callers of the API, the mails that they get, and a look behind it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from auth_steps import PASSWORD, Account, Api
from flask import Flask
from loguru import logger

from ghost.database import db_manager
from ghost.jobs import runner
from ghost.mail import Message, outbox


@pytest.fixture
def api(app: Flask) -> Api:
    """The API of the application under test."""
    return Api(app)


@pytest.fixture
def register(api: Api) -> Callable[..., Account]:
    """Register an account: `register(email=..., username=...)`."""
    numbers = itertools.count(1)

    def make(**overrides: Any) -> Account:
        body = {"email": f"person{next(numbers)}@example.org", "password": PASSWORD, **overrides}
        answer = api.post("/register", body)
        assert answer.status_code == 201, answer.json
        data = answer.json["data"]
        return Account(
            data["user"]["id"],
            data["user"]["email"],
            data["access_token"],
            data["refresh_token"],
            body["password"],
        )

    return make


@pytest.fixture
def ada(register: Callable[..., Account]) -> Account:
    """A registered account."""
    return register(email="ada@example.org", username="ada", full_name="Ada Lovelace")


@pytest.fixture
def run_sql(app: Flask) -> Callable[..., list[Any]]:
    """Run a statement behind the API's back: `run_sql("UPDATE ... :x", x=1)`; gives the rows."""

    def run(statement: str | sa.Executable, **values: Any) -> list[Any]:
        with app.app_context(), db_manager.transaction() as connection:
            text = sa.text(statement) if isinstance(statement, str) else statement
            result = connection.execute(text, values)
            return list(result) if result.returns_rows else []

    return run


@pytest.fixture
def work(app: Flask) -> Callable[[], list[str]]:
    """Run every waiting job, and those that they enqueue; gives their outcomes."""

    def work() -> list[str]:
        with app.app_context():
            return [outcome for _, outcome in runner.run_waiting()]

    return work


@pytest.fixture
def new_mails(app: Flask, work: Callable[[], list[str]]) -> Callable[[], list[Message]]:
    """Run the waiting jobs and give the mails that they sent."""

    def read() -> list[Message]:
        with app.app_context():
            before = len(outbox())
            outcomes = work()
            assert set(outcomes) <= {"finished"}, outcomes
            return outbox()[before:]

    return read


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """The log records that tell of a security event: what is bound to them, and the message."""
    found: list[dict[str, Any]] = []

    def keep(message: Any) -> None:
        record = message.record
        if "event" in record["extra"]:
            found.append({**record["extra"], "message": record["message"]})

    sink = logger.add(keep, level=0)
    yield found
    logger.remove(sink)

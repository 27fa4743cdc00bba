"""Calls of the API under `/auth`, and what is found in its mails."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from ghost.mail import Message

PASSWORD = "correct horse battery"
OTHER_PASSWORD = "another fine staple"


class Api:
    """Calls under `/api/v1/auth`, each with a client of its own, so that threads may share it."""

    def __init__(self, app: Flask) -> None:
        self.app = app

    def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **options: Any
    ) -> TestResponse:
        headers = {**options.pop("headers", {})}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            options["json"] = body
        return self.app.test_client().open(
            f"/api/v1/auth{path}", method=method, headers=headers, **options
        )

    def get(self, path: str, token: str | None = None, **options: Any) -> TestResponse:
        return self.call("GET", path, token=token, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> TestResponse:
        return self.call("POST", path, body, **options)

    def patch(self, path: str, body: Any, **options: Any) -> TestResponse:
        return self.call("PATCH", path, body, **options)

    def delete(self, path: str, token: str) -> TestResponse:
        return self.call("DELETE", path, token=token)

    def login(
        self, email: str, password: str = PASSWORD, expect: int = 200, **options: Any
    ) -> TestResponse:
        answer = self.post("/login", {"email": email, "password": password}, **options)
        assert answer.status_code == expect, answer.json
        return answer

    def refresh(self, token: str) -> TestResponse:
        return self.post("/refresh", token=token)

    def is_logged_in(self, token: str) -> bool:
        return self.get("/me", token).status_code == 200


@dataclass
class Account:
    """A registered account and its first session."""

    id: str
    email: str
    access_token: str
    refresh_token: str
    password: str = PASSWORD


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Make calls in as many threads, let off together; gives their results in order."""
    barrier = Barrier(count)

    def run(number: int) -> Any:
        barrier.wait(timeout=10)
        return call(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def meanwhile(call: Callable[[], Any]) -> Any:
    """Let another request come in while one is answered: in a thread, as it would."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result(timeout=30)


def token_in(mail: Message) -> str:
    """The token of the link in a mail."""
    return mail.text.split("#token=")[1].split()[0]


def code_in(mail: Message) -> str:
    """The six digits in a mail."""
    return next(word for word in mail.text.split() if len(word) == 6 and word.isdigit())

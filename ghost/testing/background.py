"""What happens in the background, brought into the test: jobs that wait, and mails that left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping

import sqlalchemy as sa
from flask import Flask

from ghost.database import db_manager
from ghost.jobs import runner
from ghost.jobs.ledger import jobs
from ghost.jobs.models import WAITING
from ghost.mail import Message


class Jobs:
    """The ledger's jobs, run in this process, or by a real worker.

    :param environ: of the worker's process.
    """

    def __init__(self, app: Flask, environ: Mapping[str, str]) -> None:
        self._app = app
        self._environ = environ

    def names(self) -> list[str]:
        """Names of the jobs that wait, in the order they were enqueued; only committed ones."""
        statement = sa.select(jobs.c.name).where(jobs.c.status.in_(WAITING)).order_by(jobs.c.id)
        with self._app.app_context(), db_manager.connection() as connection:
            return list(connection.scalars(statement))

    def run_all(self, *, may_fail: bool = False) -> list[tuple[str, str]]:
        """Run every job that is due, those that they enqueue included, until none is left.

        :param may_fail: give the outcome "failed" or "retrying" back instead of raising.
        :returns: name and outcome of each, in the order they ran.
        :raises AssertionError: one failed; with what the ledger noted.
        """
        with self._app.app_context():
            done = runner.run_waiting()
        failed = [name for name, outcome in done if outcome != "finished"]
        if failed and not may_fail:
            raise AssertionError(f"{', '.join(failed)} failed: {'; '.join(self._errors())}")
        return done

    def work(self, *, timeout: float = 60) -> None:
        """Have a real worker, in a process of its own, run what waits until nothing is left.

        The application needs a Redis: `{"redis": {"url": redis_server.url}}` in `app_config`.

        :param timeout: seconds until the worker is given up.
        :raises AssertionError: the worker did not end well; with what it said.
        """
        done = subprocess.run(
            [sys.executable, "-m", "flask", "worker", "--burst"],
            env=dict(self._environ), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip
        if done.returncode:
            said = f"{done.stdout}{done.stderr}"
            raise AssertionError(f"the worker ended with {done.returncode}:\n{said}")

    def _errors(self) -> list[str]:
        statement = sa.select(jobs.c.error).where(jobs.c.error.is_not(None)).order_by(jobs.c.id)
        with self._app.app_context(), db_manager.connection() as connection:
            return list(connection.scalars(statement))


class Mailbox:
    """The mails that the application sent to `memory://`, oldest first."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    @property
    def messages(self) -> list[Message]:
        found: list[Message] = self._app.extensions.get("ghost.mail.outbox", [])
        return found

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)

    def to(self, address: str) -> Message:
        """The last mail to an address.

        :raises AssertionError: there is none.
        """
        for message in reversed(self.messages):
            if address.lower() in (recipient.lower() for recipient in message.recipients):
                return message
        sent = ", ".join(f"{m.subject!r} to {' '.join(m.recipients)}" for m in self.messages)
        raise AssertionError(f"no mail to {address}; sent: {sent or 'nothing'}")

    def clear(self) -> None:
        """Forget the mails so far."""
        self.messages.clear()

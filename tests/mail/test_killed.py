"""A worker that is killed while it sends a mail: the real process, server and signal."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sinks import Sink

from ghost.jobs.models import Job
from ghost.mail import MailMessage, send_text
from ghost.models import utcnow
from ghost.testing.background import Jobs
from ghost.testing.servers import Redis

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks into Linux's /proc"),
]


class KillingSink(Sink):
    """Takes a mail and kills whoever sent it, before it says so; the first time only."""

    has_killed = False

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        answer = await super().handle_DATA(server, session, envelope)
        if not self.has_killed:
            self.has_killed = True
            os.kill(process_at(session.peer[1]), signal.SIGKILL)
        return answer


def process_at(port: int) -> int:
    """The process that has a local port, of a connection by IPv4."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].partition(":")[2], 16) == port:
            wanted = f"socket:[{fields[9]}]"
            break
    else:
        raise LookupError(port)
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) == wanted:
                return int(re.findall(r"\d+", str(link))[0])
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
    raise LookupError(wanted)


@pytest.fixture
def sink() -> Iterator[KillingSink]:
    server = KillingSink()
    yield server
    server.close()


@pytest.fixture
def app_config(redis_server: Redis, sink: KillingSink) -> Mapping[str, Any]:
    return {"redis": {"url": redis_server.url}, "mail": {"url": f"smtp://127.0.0.1:{sink.port}"}}


def test_a_kill_costs_one_repeat_with_the_same_id_at_most(
    session: Any, jobs: Jobs, sink: KillingSink, run_due: Callable[[], None]
) -> None:
    row = send_text("ada@example.org", "Hello", "It works.")
    session.commit()

    jobs.work()
    between = session.get(MailMessage, row.id, populate_existing=True).status
    session.rollback()
    run_due()

    after = session.get(MailMessage, row.id, populate_existing=True)
    assert sink.has_killed
    assert between == "sending"
    assert (after.status, after.attempts, after.accepted) == ("sent", 2, ["ada@example.org"])
    assert len(sink.received) == 2
    assert len({mail["Message-ID"] for mail in sink.received}) == 1


@pytest.fixture
def run_due(session: Any, jobs: Jobs) -> Callable[[], None]:
    """Have a worker run what waits for its next attempt, without the wait."""

    def run() -> None:
        session.execute(sa.update(Job).where(Job.status == "retrying").values(run_at=utcnow()))
        session.commit()
        jobs.work()

    return run

"""Send COUNT mails as one batch to 127.0.0.1:PORT: send.py PORT COUNT -> two kinds of seconds.

What is measured, in seconds and in those of the processor, is the job, from its claim to the mark
that it finished, with every status of every mail in the ledger; the batch was accepted before, as
by a request.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import flask_migrate

from ghost import create_app, db
from ghost.jobs import runner
from ghost.mail.batches import look_at, send_bulk

FOLDER = Path(__file__).parent


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(port: str, count: int) -> None:
    os.environ["MAIL_URL"] = f"smtp://127.0.0.1:{port}"
    app = create_app()
    with app.app_context():
        flask_migrate.upgrade()
        batch = send_bulk(
            "confirm",
            [(f"user{number}@example.com", {"number": number}) for number in range(count)],
            sender="app@example.com",
        )
        db.session.commit()
        started, used = time.perf_counter(), cpu_seconds()
        outcome = runner.run(batch.job_id, 1)
        seconds, used = time.perf_counter() - started, cpu_seconds() - used
        state = look_at(batch.id)
    if outcome != "finished" or state.sent != count:
        raise SystemExit(f"{outcome}: {state.sent} of {count} sent, {state.failed} failed")
    print(json.dumps({"s": seconds, "cpu_s": used}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

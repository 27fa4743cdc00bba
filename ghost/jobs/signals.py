"""What the job machinery tells whoever listens."""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

job_finished = _signals.signal(
    "job-finished",
    """An attempt is over, whatever its outcome. The sender is the application, in the process that
    lives on (the worker's parent), so that counters keep. Be quick: it looks after no process
    meanwhile, and what takes longer than a moment is work for a job.

    Keywords: `name`, `queue`, `outcome` ("finished", "retrying", "failed", "released" or "lost"),
    `seconds`.
    """,
)

job_failed = _signals.signal(
    "job-failed",
    """A job failed for good. The sender is the application; an application context of its own is
    open, and the receiver commits what it writes.

    Keywords: `job_id` (UUID), `name`, `error` (redacted text).
    """,
)

job_canceled = _signals.signal(
    "job-canceled",
    """A job is canceled, in the transaction of whoever does it: what a receiver writes by
    `db.session` is committed with it, and a receiver that raises undoes it. The sender is the
    application.

    Keywords: `job_id` (UUID), `name`.
    """,
)

"""Keeping the leases of what a worker's processes run, whatever else the worker does meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from ghost.jobs import runner
from ghost.jobs.runner import Claim
from ghost.logging import logger

_Key = tuple[UUID, int]


@dataclass(slots=True, eq=False)
class _Held:
    attempt: Claim
    renewal_at: float
    strikes: int = 0
    is_lost: bool = False


class LeaseKeeper:
    """Renews the leases of a worker's attempts in a thread of its own.

    So neither a sweep that takes long nor somebody's receiver of a signal lets the lease of a
    healthy job end, and have it run twice. A process must not fork while a thread of it may hold
    a lock: `stop` before, `start` after.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._held: dict[_Key, _Held] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, attempt: Claim, began: float) -> None:
        """Keep an attempt from now on.

        :param began: when it was claimed, by the monotonic clock.
        """
        with self._lock:
            self._held[_key(attempt)] = _Held(attempt, began + runner.HEARTBEAT_SECONDS)

    def remove(self, attempt: Claim) -> None:
        """Keep an attempt no longer; the lease is left as it is."""
        with self._lock:
            self._held.pop(_key(attempt), None)

    def has_lost(self, attempt: Claim) -> bool:
        """Tell whether an attempt is somebody else's, or was canceled: its process must end."""
        with self._lock:
            held = self._held.get(_key(attempt))
        return held is not None and held.is_lost

    def start(self) -> None:
        """Begin to renew, or go on."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Wait until the thread has ended: no longer than a statement may take."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        with self._app.app_context():
            while not self._stopping.wait(timeout=self._seconds_to_wait()):
                self._renew_due()

    def _seconds_to_wait(self) -> float:
        """How long until a renewal can be due: one that is added later is due later, too."""
        now = time.monotonic()
        with self._lock:
            due = [held.renewal_at - now for held in self._held.values()]
        return max(0.0, min([*due, runner.HEARTBEAT_SECONDS / 2]))

    def _renew_due(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [held for held in self._held.values() if held.renewal_at <= now]
        if not due:
            return
        try:
            self._renew(due)
        except SQLAlchemyError as error:
            logger.bind(error=str(error), count=len(due)).warning(
                "The leases of running jobs could not be renewed."
            )
        except Exception:  # without this thread every lease would end
            logger.exception("The leases of running jobs could not be renewed.")
        for held in due:
            held.renewal_at = now + runner.HEARTBEAT_SECONDS

    def _renew(self, due: Sequence[_Held]) -> None:
        """Renew; an attempt that is no longer ours may be one that its process has just settled.

        So it has until its next renewal to end, unless it was canceled.
        """
        renewed = runner.renew([held.attempt for held in due])
        gone = [held for held in due if _key(held.attempt) not in renewed]
        canceled = runner.canceled_of([held.attempt.job_id for held in gone])
        for held in due:
            held.strikes = held.strikes + 1 if held in gone else 0
            held.is_lost = held.strikes > 1 or held.attempt.job_id in canceled


def _key(attempt: Claim) -> _Key:
    return attempt.job_id, attempt.attempt

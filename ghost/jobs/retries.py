"""What happens after an attempt that failed: the decision, apart from what carries it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ghost.jobs.models import FAILED, RETRYING

LONGEST_WAIT_AFTER_KILL_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 365 * 24 * 3600.0


class Permanent(Exception):
    """Raised by a job that would fail each time: it is not tried again."""


class RetryLater(Exception):
    """Raised by a job that knows when to try again.

    :param seconds: how long to wait, a year at most; the attempt counts as any other.
    """

    def __init__(self, seconds: float, message: str = "") -> None:
        if not 0 <= seconds <= LONGEST_WAIT_SECONDS:
            raise ValueError("a job can wait between 0 seconds and a year")
        super().__init__(message or f"asked to be tried again in {seconds:g} s")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a job whose attempt failed; `run_at` is None when it failed for good."""

    status: str
    run_at: datetime | None


def backoff_seconds(attempt: int, base: float, cap: float, random: float) -> float:
    """Return how long to wait after an attempt: doubling from `base` up to `cap`, with jitter.

    :param attempt: the number of the attempt that failed, 1 for the first.
    :param random: between 0 and 1; it makes the wait half to all of what it would be, so that
        jobs that failed together don't come back together.
    """
    # 2 ** 60 is more than any cap; larger powers would overflow a float in the end.
    return min(cap, base * 2.0 ** min(attempt - 1, 60)) * (0.5 + random / 2)


def after_failure(
    error: BaseException | None,
    *,
    attempt: int,
    max_attempts: int,
    kills: int = 0,
    max_kills: int = 1,
    base: float,
    cap: float,
    now: datetime,
    random: Callable[[], float],
) -> Verdict:
    """Decide what becomes of a job whose attempt failed.

    :param error: what it raised; None when its process was killed.
    :param kills: how many of its attempts ended with their process, this one included.
    :param max_kills: with so many it is put aside, before it does more harm.
    """
    is_poison = error is None and kills >= max_kills
    if isinstance(error, Permanent) or attempt >= max_attempts or is_poison:
        return Verdict(FAILED, None)
    if isinstance(error, RetryLater):
        seconds = error.seconds
    else:
        seconds = backoff_seconds(attempt, base, cap, random())
    if error is None:
        # The lease was waited for already, and most often the job is not to blame.
        seconds = min(seconds, LONGEST_WAIT_AFTER_KILL_SECONDS)
    return Verdict(RETRYING, now + timedelta(seconds=seconds))

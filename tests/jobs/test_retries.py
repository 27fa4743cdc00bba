from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ghost.jobs.models import FAILED, RETRYING
from ghost.jobs.retries import Permanent, RetryLater, after_failure, backoff_seconds

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("attempt", "random", "seconds"),
    [
        (1, 1.0, 1.0),
        (2, 1.0, 2.0),
        (3, 1.0, 4.0),
        (10, 1.0, 512.0),
        (11, 1.0, 600.0),
        (2000, 1.0, 600.0),
        (1, 0.0, 0.5),
        (3, 0.0, 2.0),
        (11, 0.0, 300.0),
        (3, 0.5, 3.0),
    ],
)
def test_the_wait_doubles_up_to_the_cap_with_jitter(attempt, random, seconds):
    assert backoff_seconds(attempt, 1.0, 600.0, random) == seconds


@pytest.mark.parametrize(
    ("error", "attempt", "status", "seconds"),
    [
        (ValueError(), 1, RETRYING, 1.0),
        (ValueError(), 2, RETRYING, 2.0),
        (ValueError(), 3, FAILED, None),
        (ValueError(), 4, FAILED, None),
        (None, 2, RETRYING, 2.0),
        (None, 3, FAILED, None),
        (Permanent(), 1, FAILED, None),
        (RetryLater(30), 1, RETRYING, 30.0),
        (RetryLater(30), 3, FAILED, None),
    ],
    ids=repr,
)
def test_what_becomes_of_a_failed_attempt(error, attempt, status, seconds):
    verdict = after_failure(
        error, attempt=attempt, max_attempts=3, base=1.0, cap=600.0, now=NOW, random=lambda: 1.0
    )

    assert verdict.status == status
    assert verdict.run_at == (None if seconds is None else NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), 10**10])
def test_a_wait_without_sense_is_refused(seconds):
    with pytest.raises(ValueError, match="a year"):
        RetryLater(seconds)

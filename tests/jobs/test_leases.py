"""Keeping leases: what a worker's own thread renews, and what it finds lost."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import job_samples as samples
import pytest
from job_helpers import wait_until
from sqlalchemy.exc import OperationalError

from ghost import db
from ghost.jobs import control, runner
from ghost.jobs.leases import LeaseKeeper
from ghost.models import utcnow

pytestmark = pytest.mark.integration


@pytest.fixture
def keeper(app, monkeypatch):
    monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 0.1)
    keeper = LeaseKeeper(app)
    keeper.start()
    yield keeper
    keeper.stop()


@pytest.fixture
def take(app, enqueue):
    """Enqueue a job and claim it."""

    def claim():
        job_id = enqueue(samples.write, "x")
        with app.app_context():
            return runner.claim(job_id, 1)

    return claim


def seconds_left(ledger, attempt):
    return (ledger.get(attempt.job_id).lease_until - utcnow()).total_seconds()


def hold(keeper, attempt):
    keeper.add(attempt, time.monotonic())


def test_all_leases_of_a_worker_are_renewed_until_they_are_given_up(keeper, take, ledger):
    first, second, third = take(), take(), take()
    ledger.update(lease_until=utcnow() + timedelta(seconds=1))
    hold(keeper, first), hold(keeper, second)

    wait_until(lambda: min(seconds_left(ledger, first), seconds_left(ledger, second)) > 20)

    assert seconds_left(ledger, third) < 1
    keeper.remove(first)
    assert not keeper.has_lost(first)


def test_an_attempt_whose_job_was_claimed_again_is_lost_after_two_beats(app, keeper, take, ledger):
    late = take()
    ledger.update(status="retrying", lease_until=None, sent_at=None)
    with app.app_context():
        again = runner.claim(late.job_id, 2)
    # Both by one worker: a child that was cut off, and the one that took the repetition.
    hold(keeper, late), hold(keeper, again)

    wait_until(lambda: keeper.has_lost(late))

    assert not keeper.has_lost(again)


def test_a_canceled_attempt_is_lost_at_the_first_beat(app, keeper, take):
    attempt = take()
    with app.app_context():
        control.cancel(attempt.job_id)
        db.session.commit()
    hold(keeper, attempt)

    wait_until(lambda: keeper.has_lost(attempt))


@pytest.mark.parametrize(
    "error", [OperationalError("UPDATE", {}, OSError("away")), RuntimeError("unforeseen")]
)
def test_nothing_that_goes_wrong_ends_the_keeping(keeper, take, ledger, monkeypatch, error):
    attempt, renew, failures = take(), runner.renew, []

    def fail_at_first(attempts):
        if len(failures) < 3:
            failures.append(error)
            raise error
        return renew(attempts)

    monkeypatch.setattr(runner, "renew", fail_at_first)
    ledger.update(lease_until=utcnow() + timedelta(seconds=5))
    hold(keeper, attempt)

    wait_until(lambda: seconds_left(ledger, attempt) > 20)

    assert len(failures) == 3
    assert not keeper.has_lost(attempt)


def test_no_thread_is_left_while_the_keeping_is_stopped(keeper, take, ledger):
    attempt = take()
    hold(keeper, attempt)
    keeper.stop()

    assert "leases" not in [thread.name for thread in threading.enumerate()]
    keeper.stop()  # a second time is nothing

    ledger.update(lease_until=utcnow() + timedelta(seconds=1))
    keeper.start()
    wait_until(lambda: seconds_left(ledger, attempt) > 20)

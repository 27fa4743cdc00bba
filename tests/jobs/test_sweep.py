from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import job_samples as samples
import pytest
import sqlalchemy as sa

from ghost import db
from ghost.auth.models import Session, Throttle
from ghost.config import current_config
from ghost.database import db_manager
from ghost.idempotency import IdempotencyKey
from ghost.jobs import outbox, runner, sweep
from ghost.jobs.ledger import mark_sent
from ghost.jobs.sweep import Sweeper, make_sweeper
from ghost.jobs.transport import Entry
from ghost.models import utcnow
from ghost.tokens import MailedToken

pytestmark = pytest.mark.integration


@pytest.fixture
def sweeper(app):
    with app.app_context():
        yield make_sweeper("this")


@pytest.fixture
def unsent(app, redis_server):
    """A job that was committed while Redis was away."""
    redis_server.stop()
    with app.app_context():
        job_id = samples.write.enqueue("/dev/null")
        db.session.commit()
        redis_server.start()
        outbox.transport()._paused_until = 0.0
    return job_id


@pytest.fixture
def sent(app):
    with app.app_context():
        job_id = samples.write.enqueue("/dev/null")
        db.session.commit()
    return job_id


def test_what_was_not_handed_over_is_sent(unsent, sweeper, ledger, redis):
    assert sweeper.sweep(grace_seconds=0) == 1

    assert redis.lrange("rq:queue:default", 0, -1) == [Entry(unsent, "default", 1).rq_id]
    assert ledger.get(unsent).sent_at is not None
    assert sweeper.sweep(grace_seconds=0) == 0


def test_who_enqueued_a_job_has_a_second_to_hand_it_over(unsent, sweeper, ledger):
    assert sweeper.sweep() == 0

    ledger.update(updated_at=utcnow() - timedelta(seconds=2))
    assert sweeper.sweep() == 1


def test_a_job_is_sent_when_its_time_has_come(app, sweeper, ledger, redis):
    job_id = samples.write.enqueue_in(3600, "/dev/null")
    db.session.commit()

    assert sweeper.sweep() == 0
    ledger.update(run_at=utcnow() - timedelta(seconds=1))
    assert sweeper.sweep() == 1

    row = ledger.get(job_id)
    assert row.status == "queued"
    assert runner.run(job_id, 1) == "finished"


def test_a_late_mark_does_not_keep_a_repetition_from_being_sent(sent, sweeper, ledger):
    # A worker was faster than the note of who sent the job: it has failed once by then.
    claim = runner.claim(sent, 1)
    runner.settle(claim, ValueError(), "ValueError")
    ledger.update(run_at=utcnow())

    mark_sent([Entry(sent, "default", 1)], utcnow())

    assert ledger.get(sent).sent_at is None
    assert sweeper.send_due(utcnow()) == 1


def test_more_jobs_than_a_batch_are_sent_in_one_sweep(sweeper, ledger, redis, monkeypatch):
    monkeypatch.setattr(sweep, "BATCH", 3)
    for _ in range(7):
        samples.write.enqueue_in(3600, "/dev/null")
    db.session.commit()
    ledger.update(run_at=utcnow())

    assert sweeper.sweep() == 7
    assert redis.llen("rq:queue:default") == 7


def test_the_sweep_goes_on_when_redis_is_back(redis_server, app, sweeper, ledger):
    redis_server.stop()
    samples.write.enqueue("/dev/null")
    db.session.commit()
    outbox.transport()._paused_until = 0.0

    assert sweeper.sweep(grace_seconds=0) == 0
    redis_server.start()
    assert sweeper.sweep(grace_seconds=0) == 0  # still pausing
    outbox.transport()._paused_until = 0.0
    assert sweeper.sweep(grace_seconds=0) == 1


def test_what_redis_forgot_is_sent_again(sent, sweeper, ledger, redis, redis_server):
    redis_server.flush()
    assert sweeper.send_lost(utcnow()) == 0  # it may be on its way

    ledger.update(sent_at=utcnow() - timedelta(seconds=16))
    assert sweeper.send_lost(utcnow()) == 1

    assert redis.lrange("rq:queue:default", 0, -1) == [Entry(sent, "default", 1).rq_id]
    assert sweeper.send_lost(utcnow()) == 0


def test_an_entry_that_was_taken_and_never_claimed_is_sent_again(sent, sweeper, ledger, redis):
    redis.lpop("rq:queue:default")  # and the worker was killed: the hash is still there
    ledger.update(sent_at=utcnow() - timedelta(seconds=16))

    assert sweeper.send_lost(utcnow()) == 1


def test_what_waits_in_redis_is_not_sent_again(app, sweeper, ledger, redis, monkeypatch):
    monkeypatch.setattr("ghost.jobs.transport.PAGE", 10)
    for _ in range(35):
        samples.write.enqueue("/dev/null")
    db.session.commit()
    ledger.update(sent_at=utcnow() - timedelta(hours=1))

    assert sweeper.send_lost(utcnow()) == 0
    assert redis.llen("rq:queue:default") == 35


def test_what_was_lost_is_found_behind_what_waits(app, sweeper, ledger, redis, monkeypatch):
    monkeypatch.setattr(sweep, "BATCH", 2)
    for _ in range(9):
        samples.write.enqueue("/dev/null")
    db.session.commit()
    ledger.update(sent_at=utcnow() - timedelta(hours=1))
    for place in (4, 5, 8):
        redis.lset("rq:queue:default", place, "gone")

    assert sweeper.send_lost(utcnow()) == 3
    assert len(set(redis.lrange("rq:queue:default", 0, -1)) - {b"gone", "gone"}) == 9


def test_a_running_job_is_neither_lost_nor_taken_back(sent, sweeper, ledger):
    runner.claim(sent, 1)
    ledger.update(sent_at=utcnow() - timedelta(hours=1))

    assert sweeper.send_lost(utcnow()) == 0
    assert sweeper.take_back(utcnow()) == 0
    assert ledger.get(sent).status == "started"


def test_a_job_whose_worker_is_gone_is_repeated(sent, sweeper, ledger):
    runner.claim(sent, 1)
    ledger.update(lease_until=utcnow() - timedelta(seconds=1))

    assert sweeper.take_back(utcnow()) == 1

    row = ledger.get(sent)
    assert (row.status, row.attempts, row.sent_at) == ("retrying", 1, None)
    assert row.error == "the worker gave no more sign of life"
    assert row.run_at > utcnow()


def test_a_job_whose_workers_are_always_gone_fails_in_the_end(sent, sweeper, ledger):
    ledger.update(max_attempts=1)
    runner.claim(sent, 1)
    ledger.update(lease_until=utcnow() - timedelta(seconds=1))

    sweeper.take_back(utcnow())

    assert ledger.get(sent).status == "failed"


def test_a_lease_that_is_renewed_in_the_last_moment_is_kept(sent, app, ledger):
    claim = runner.claim(sent, 1) if app else None
    before = utcnow()
    runner.renew([claim])

    assert sweep.settle_killed(claim, "gone", lease_ended_before=before) == "lost"
    assert ledger.get(sent).status == "started"


@pytest.fixture(autouse=True)
def _context(app):
    with app.app_context():
        yield


def test_one_process_sweeps_at_a_time(app, unsent, ledger):
    transport = outbox.transport()
    one, other = Sweeper("one", transport), Sweeper("other", transport)

    assert one._hold_lease(2.0)
    assert not other._hold_lease(2.0)
    assert one._hold_lease(2.0)
    one.release()
    assert other._hold_lease(2.0)


def test_a_dead_sweeper_is_followed_by_another(app):
    transport = outbox.transport()
    assert Sweeper("dead", transport)._hold_lease(-10.0)  # ended long ago

    assert Sweeper("alive", transport)._hold_lease(2.0)


@pytest.mark.parametrize(
    ("status", "setting"),
    [
        ("finished", "retention_finished"),
        ("failed", "retention_failed"),
        ("canceled", "retention_failed"),
    ],
)
def test_old_rows_are_deleted_and_newer_ones_kept(app, sweeper, ledger, status, setting):
    seconds = getattr(current_config().jobs, setting)
    samples.write.enqueue("/dev/null")
    db.session.commit()
    ledger.update(status=status, finished_at=utcnow() - timedelta(seconds=seconds - 60))

    assert sweeper.delete_old(utcnow()) == 0
    assert sweeper.delete_old(utcnow() + timedelta(seconds=120)) == 1
    assert ledger.rows() == []


def test_waiting_jobs_are_never_too_old(app, sweeper, ledger):
    samples.write.enqueue("/dev/null")
    db.session.commit()

    assert sweeper.delete_old(utcnow() + timedelta(days=3650)) == 0
    assert len(ledger.rows()) == 1


# --- Rows of the rooms ----------------------------------------------------------------------------


def expiring_rows(user_id: UUID, moment: datetime) -> list[Any]:
    """A row of each table whose rows end, made so that it ended, or ends, at a time."""
    return [
        IdempotencyKey(
            user_id=user_id,
            key=moment.isoformat(),
            fingerprint="",
            created_at=moment - timedelta(hours=24),
        ),
        Session(user_id=user_id, epoch=1, expires_at=moment),
        Throttle(key=moment.isoformat(), count=1, expires_at=moment),
        MailedToken(
            user_id=user_id,
            purpose="reset-password",
            email="ada@example.org",
            epoch=1,
            expires_at=moment - timedelta(days=7),
        ),
    ]


MODELS = (IdempotencyKey, Session, Throttle, MailedToken)


def counted_rows() -> list[int | None]:
    with db_manager.connection() as connection:
        return [
            connection.scalar(sa.select(sa.func.count()).select_from(model.__table__))
            for model in MODELS
        ]


def test_rows_that_are_worth_nothing_any_more_are_deleted_and_others_kept(sweeper, make_user):
    user_id = make_user().id
    for seconds in (-60, 60):
        db.session.add_all(expiring_rows(user_id, utcnow() + timedelta(seconds=seconds)))
    db.session.commit()
    assert counted_rows() == [2, 2, 2, 2]

    sweeper.sweep()

    assert counted_rows() == [1, 1, 1, 1]
    sweeper.sweep()  # at once: it is not looked again for a minute
    assert sweeper.delete_declared(utcnow() + timedelta(seconds=120)) == 4
    assert counted_rows() == [0, 0, 0, 0]


def test_old_rows_are_deleted_in_batches_until_the_sweep_has_taken_its_time(
    sweeper, make_user, monkeypatch
):
    monkeypatch.setattr(sweep, "BATCH", 3)
    monkeypatch.setattr(sweep, "RETENTION_EVERY_SECONDS", 0)
    user_id = make_user().id
    for number in range(8):
        db.session.add_all(expiring_rows(user_id, utcnow() - timedelta(seconds=60 + number)))
    db.session.commit()

    monkeypatch.setattr(sweep, "BUDGET_SECONDS", 0)
    sweeper.sweep()
    assert counted_rows() == [5, 5, 5, 5]

    monkeypatch.setattr(sweep, "BUDGET_SECONDS", 60)
    sweeper.sweep()
    assert counted_rows() == [0, 0, 0, 0]

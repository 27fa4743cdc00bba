from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from threading import Thread
from uuid import UUID

import job_samples as samples
import pytest
import sqlalchemy as sa
from job_helpers import wait_until

from ghost import db, db_manager
from ghost.database import ReadOnlyRequest
from ghost.jobs import current_job, outbox, runner
from ghost.jobs.models import Job
from ghost.jobs.transport import Entry
from ghost.logging import request_id_var, user_id_var
from ghost.models import utcnow

pytestmark = pytest.mark.integration


@pytest.fixture
def queue(redis):
    """What is on the default queue."""
    return lambda: redis.lrange("rq:queue:default", 0, -1)


def test_a_committed_job_is_handed_to_rq(session, ledger, queue, redis):
    job_id = samples.write.enqueue("x")

    assert queue() == []
    session.commit()

    assert queue() == [Entry(job_id, "default", 1).rq_id]
    row = ledger.get(job_id)
    assert (row.status, row.name, row.args) == ("queued", "job_samples.write", {"path": "x"})
    assert row.sent_at is not None
    assert redis.smembers("rq:queues") == {"rq:queue:default"}


def test_an_entry_that_a_waiting_worker_takes_at_once_is_marked_by_its_claim(
    session, ledger, queue, redis
):
    worker = Thread(target=lambda: redis.blpop("rq:queue:default", 10))
    worker.start()
    wait_until(lambda: redis.info("clients")["blocked_clients"] == 1)
    job_id = samples.write.enqueue("x")

    session.commit()

    worker.join()
    assert queue() == []
    assert ledger.get(job_id).sent_at is None
    runner.claim(job_id, 1)
    assert ledger.get(job_id).sent_at is not None


def test_an_entry_in_redis_carries_the_id_and_nothing_else(session, redis):
    job_id = samples.write.enqueue("/a/secret/path")
    session.commit()

    entry = redis.hgetall(f"rq:job:{Entry(job_id, 'default', 1).rq_id}")

    assert entry.pop("created_at") == entry.pop("enqueued_at")
    assert entry == {
        "data": f'["ghost.jobs.run", null, ["{job_id}"], {{}}]',
        "origin": "default",
        "status": "queued",
    }


def test_nothing_is_left_of_a_job_that_is_rolled_back(session, ledger, queue):
    samples.write.enqueue("x")
    session.rollback()
    session.commit()

    assert ledger.rows() == []
    assert queue() == []


def test_a_session_that_is_closed_without_a_commit_leaves_nothing(session, ledger, queue):
    samples.write.enqueue("x")
    session.close()
    session.execute(sa.select(1))
    session.commit()

    assert ledger.rows() == []
    assert queue() == []


def test_a_savepoint_that_is_rolled_back_takes_its_job_with_it(session, ledger, queue):
    kept = samples.write.enqueue("kept")
    with session.begin_nested() as savepoint:
        samples.write.enqueue("lost")
        savepoint.rollback()
    session.commit()

    assert [row.id for row in ledger.rows()] == [kept]
    assert queue() == [Entry(kept, "default", 1).rq_id]


def test_a_released_savepoint_sends_nothing_before_the_commit(session, ledger, queue):
    with session.begin_nested():
        job_id = samples.write.enqueue("x")

    assert queue() == []
    session.commit()
    assert queue() == [Entry(job_id, "default", 1).rq_id]


def test_a_rollback_after_a_released_savepoint_takes_its_job_too(session, ledger, queue):
    with session.begin_nested(), session.begin_nested():
        samples.write.enqueue("x")
    session.rollback()
    session.commit()

    assert ledger.rows() == []
    assert queue() == []


def test_an_inner_job_is_lost_with_the_savepoint_around_it(session, ledger, queue):
    with session.begin_nested() as outer:
        with session.begin_nested():
            samples.write.enqueue("lost")
        outer.rollback()
    kept = samples.write.enqueue("kept")
    session.commit()

    assert [row.id for row in ledger.rows()] == [kept]
    assert queue() == [Entry(kept, "default", 1).rq_id]


def test_each_commit_sends_its_own_jobs_once(session, queue):
    first = samples.write.enqueue("1")
    session.commit()
    second = samples.write.enqueue("2")
    session.commit()
    session.commit()

    assert queue() == [Entry(each, "default", 1).rq_id for each in (first, second)]


def test_pending_objects_are_flushed_first(session, ledger):
    pending = Job(
        name="a", queue="default", args={}, max_attempts=1, timeout_seconds=1, run_at=utcnow()
    )
    session.add(pending)

    samples.write.enqueue("x")

    assert sa.inspect(pending).persistent


def test_jobs_can_be_enqueued_without_a_request(app, queue):
    with db_manager.session():
        job_id = samples.write.enqueue("x")
        assert queue() == []

    assert queue() == [Entry(job_id, "default", 1).rq_id]


def test_wrong_arguments_are_refused_before_anything_is_written(session, ledger):
    with pytest.raises(TypeError, match="'key' must be a UUID"):
        samples.receive.enqueue("x", "not-a-uuid", utcnow(), utcnow().date(), None)
    session.commit()

    assert ledger.rows() == []


def test_a_job_knows_who_enqueued_it_and_in_which_request(session, ledger):
    user_id = UUID("01902f2c-0000-7000-8000-000000000001")
    tokens = user_id_var.set(str(user_id)), request_id_var.set("req-1")
    try:
        job_id = samples.write.enqueue("x")
    finally:
        user_id_var.reset(tokens[0])
        request_id_var.reset(tokens[1])
    session.commit()

    row = ledger.get(job_id)
    assert (row.created_by, row.request_id) == (user_id, "req-1")


def test_a_delayed_job_waits_in_the_ledger(session, ledger, queue):
    at = datetime(2126, 1, 1, tzinfo=UTC)
    samples.write.enqueue_at(at, "1")
    samples.write.enqueue_in(timedelta(hours=1), "2")
    samples.write.enqueue_in(90, "3")
    session.commit()

    assert queue() == []
    rows = ledger.rows()
    assert [row.status for row in rows] == ["scheduled"] * 3
    assert rows[0].run_at == at
    assert 3595 < (rows[1].run_at - utcnow()).total_seconds() <= 3600
    assert 85 < (rows[2].run_at - utcnow()).total_seconds() <= 90
    assert {row.sent_at for row in rows} == {None}


def test_a_time_that_has_passed_means_at_once(session, queue):
    samples.write.enqueue_at(datetime(2020, 1, 1, tzinfo=UTC), "x")
    session.commit()

    assert len(queue()) == 1


def test_a_time_without_a_zone_is_refused(session):
    with pytest.raises(ValueError, match="aware datetime"):
        samples.write.enqueue_at(datetime(2026, 1, 1), "x")  # noqa: DTZ001


def test_outside_a_worker_there_is_no_current_job(session):
    with pytest.raises(RuntimeError, match="No job is running here"):
        current_job.id  # noqa: B018


@pytest.fixture
def slow_redis(redis_server):
    """A Redis that accepts connections and never answers."""
    redis_server.pause()
    yield
    redis_server.resume()


def test_enqueueing_with_a_hanging_redis_is_slow_once_and_then_quick(slow_redis, session, ledger):
    started = time.monotonic()
    samples.write.enqueue("1")
    session.commit()
    first = time.monotonic() - started
    samples.write.enqueue("2")
    session.commit()
    second = time.monotonic() - started - first

    assert first < 2.0
    assert second < 0.5
    assert [row.sent_at for row in ledger.rows()] == [None, None]


def test_enqueueing_without_redis_succeeds_at_once(redis_server, session, ledger):
    redis_server.stop()
    try:
        started = time.monotonic()
        samples.write.enqueue("1")
        session.commit()
        assert time.monotonic() - started < 1.0
    finally:
        redis_server.start()

    assert [(row.status, row.sent_at) for row in ledger.rows()] == [("queued", None)]


def test_after_redis_is_back_jobs_are_handed_over_again(redis_server, session, ledger, queue):
    redis_server.stop()
    samples.write.enqueue("1")
    session.commit()
    redis_server.start()
    outbox.transport()._paused_until = 0.0  # the three seconds are over

    samples.write.enqueue("2")
    session.commit()

    assert [row.sent_at is None for row in ledger.rows()] == [True, False]
    assert len(queue()) == 1


def test_an_application_without_redis_keeps_its_jobs(make_app, app, ledger):
    with make_app({"redis": {"url": None}}).app_context():
        samples.write.enqueue("x")
        db.session.commit()

    assert [(row.status, row.sent_at) for row in ledger.rows()] == [("queued", None)]


def test_many_jobs_leave_in_parts(session, ledger, queue, monkeypatch):
    monkeypatch.setattr(outbox, "BATCH", 3)
    for _ in range(7):
        samples.write.enqueue("x")
    session.commit()

    assert queue() == [Entry(row.id, "default", 1).rq_id for row in ledger.rows()]
    assert all(row.sent_at for row in ledger.rows())


def test_one_connection_is_enough(make_app, app, ledger):
    small = make_app({"database": {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}})
    with small.app_context():
        samples.write.enqueue("x")
        db.session.commit()
        db.engine.dispose()

    assert ledger.rows()[0].sent_at is not None


def test_a_safe_request_can_enqueue_nothing(app, ledger):
    with app.test_request_context(method="GET"), pytest.raises(ReadOnlyRequest):
        samples.write.enqueue("x")

    assert ledger.rows() == []

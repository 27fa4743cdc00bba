from __future__ import annotations

import json
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import job_samples as samples
import pytest
import sqlalchemy as sa

from ghost import db
from ghost.jobs import job_failed, job_finished, outbox, runner
from ghost.jobs.models import Job
from ghost.logging import logger, request_id_var
from ghost.models import utcnow

pytestmark = pytest.mark.integration


@pytest.fixture
def enqueue(app):
    """Enqueue a job in a transaction of its own."""

    def add(function, *args, **kwargs):
        with app.app_context():
            job_id = function.enqueue(*args, **kwargs)
            db.session.commit()
        return job_id

    return add


def test_a_job_runs_and_is_finished(enqueue, run, ledger, out):
    job_id = enqueue(samples.identify, str(out))

    assert run(job_id) == "finished"

    row = ledger.get(job_id)
    assert out.read_text() == f"{job_id} job_samples.identify 1\n"
    assert (row.status, row.attempts, row.lease_until) == ("finished", 1, None)
    assert row.created_at <= row.started_at <= row.finished_at


def test_arguments_arrive_with_their_types(enqueue, run, out):
    key, at = uuid4(), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    job_id = enqueue(
        samples.receive, str(out), key, at, day=date(2026, 1, 2), price=Decimal("9.90")
    )

    run(job_id)

    assert out.read_text() == f"{(key, at, date(2026, 1, 2), Decimal('9.90'))!r}\n"


def test_a_job_runs_once_however_often_it_is_sent(enqueue, run, out):
    job_id = enqueue(samples.write, str(out))

    assert [run(job_id), run(job_id), run(job_id, 2)] == ["finished", None, None]
    assert out.read_text() == "ran\n"


def test_one_of_many_workers_claims_a_job(app, enqueue):
    job_id = enqueue(samples.write, "x")
    claims, start = [], threading.Barrier(8)

    def claim():
        with app.app_context():
            start.wait()
            claims.append(runner.claim(job_id, 1))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(claims) == 8
    assert sum(claim is not None for claim in claims) == 1


def test_a_job_is_not_claimed_before_it_is_due(app, run, ledger):
    with app.app_context():
        job_id = samples.write.enqueue_in(3600, "x")
        db.session.commit()

    assert run(job_id) is None
    assert ledger.get(job_id).status == "scheduled"


def test_a_failing_job_is_tried_again_and_fails_in_the_end(enqueue, run, ledger, out):
    job_id = enqueue(samples.fail, str(out))

    assert [run(job_id, number) for number in (1, 2, 3, 4)] == [
        "retrying", "retrying", "failed", None,
    ]  # fmt: skip

    row = ledger.get(job_id)
    assert out.read_text() == "attempt 1\nattempt 2\nattempt 3\n"
    assert (row.status, row.attempts) == ("failed", 3)
    assert row.finished_at is not None


def test_a_failed_attempt_waits_for_the_sweep_to_send_it(enqueue, run, ledger):
    job_id = enqueue(samples.fail_slowly)

    assert run(job_id) == "retrying"

    row = ledger.get(job_id)
    wait = (row.run_at - utcnow()).total_seconds()
    assert 28 < wait <= 60
    assert (row.sent_at, row.lease_until, row.finished_at) == (None, None, None)
    assert run(job_id, 2) is None


def test_the_kept_error_is_redacted_and_bounded(enqueue, run, ledger, out):
    job_id = enqueue(samples.fail, str(out))

    run(job_id)

    assert ledger.get(job_id).error == "ValueError: password=***  was wrong"
    assert len(runner.describe(ValueError("x" * 10_000))) == runner.ERROR_LIMIT
    assert runner.describe(ValueError("half \ud800")) == "ValueError: half ?"


def test_the_kept_error_of_a_statement_shows_neither_it_nor_its_values(app):
    with app.app_context(), pytest.raises(sa.exc.DBAPIError) as caught:
        db.session.execute(sa.text("SELECT secrets FROM nowhere WHERE x = :x"), {"x": "hidden"})

    kept = runner.describe(caught.value)

    assert "nowhere" in kept  # the database's own words
    assert "SELECT" not in kept
    assert "hidden" not in kept
    without_cause = sa.exc.StatementError("no cause", "SELECT 1", {}, None)
    assert runner.describe(without_cause) == "sqlalchemy.exc.StatementError: no cause"


def test_a_permanent_error_is_not_tried_again(enqueue, run, ledger):
    job_id = enqueue(samples.give_up)

    assert run(job_id) == "failed"
    assert ledger.get(job_id).error == "ghost.jobs.retries.Permanent: there is no such account"


def test_a_job_can_say_when_to_try_again(enqueue, run, ledger):
    job_id = enqueue(samples.postpone, 120.0)

    assert run(job_id) == "retrying"
    assert 115 < (ledger.get(job_id).run_at - utcnow()).total_seconds() <= 120


def test_what_a_failed_job_wrote_and_enqueued_is_undone(enqueue, run, ledger, redis):
    job_id = enqueue(samples.write_row_and_fail)

    assert run(job_id) == "retrying"

    assert [row.id for row in ledger.rows()] == [job_id]
    assert ledger.get(job_id).queue == "default"
    assert redis.llen("rq:queue:default") == 1


def test_what_a_job_enqueues_leaves_with_its_own_end(enqueue, run, ledger, redis, out):
    job_id = enqueue(samples.enqueue_another, str(out))

    assert run(job_id) == "finished"

    assert [(row.name, row.status) for row in ledger.rows()] == [
        ("job_samples.enqueue_another", "finished"),
        ("job_samples.write", "queued"),
    ]
    assert redis.llen("rq:queue:default") == 2


def test_an_unknown_name_fails_with_words(app, run, ledger):
    with app.app_context():
        job_id = outbox.add(
            None, name="os.system", queue="default", args={"command": "true"},
            max_attempts=5, timeout_seconds=5,
        )  # fmt: skip
        db.session.commit()

    assert run(job_id) == "failed"
    assert "no job function is registered as 'os.system'" in ledger.get(job_id).error


def test_arguments_that_fit_no_more_fail_with_words(enqueue, run, ledger):
    job_id = enqueue(samples.write, "x")
    ledger.update(args={"folder": "x"})

    assert run(job_id) == "failed"
    assert "missing a required argument: 'path'" in ledger.get(job_id).error


def test_sys_exit_is_a_failure_like_others(enqueue, run, ledger):
    job_id = enqueue(samples.leave_politely)

    assert run(job_id) == "retrying"
    assert ledger.get(job_id).error == "SystemExit: 3"


def test_a_worker_that_lost_its_lease_changes_nothing(app, enqueue, ledger, out):
    job_id = enqueue(samples.enqueue_another, str(out))
    with app.app_context():
        late = runner.claim(job_id, 1)
        ledger.update(status="retrying", lease_until=None, sent_at=None)
        again = runner.claim(job_id, 2)

        assert runner.execute(app, late) == "lost"
        assert runner.renew([late]) == set()
        assert runner.settle(late, ValueError(), "late") == "lost"
        assert runner.renew([late, again]) == {(job_id, 2)}
        assert runner.execute(app, again) == "finished"

    assert [row.name for row in ledger.rows()] == [
        "job_samples.enqueue_another", "job_samples.write",
    ]  # fmt: skip
    assert ledger.get(job_id).attempts == 2


def test_renewing_moves_the_end_of_the_lease(app, enqueue, ledger):
    job_id = enqueue(samples.write, "x")
    with app.app_context():
        claim = runner.claim(job_id, 1)
        ledger.update(lease_until=utcnow() + timedelta(seconds=1))

        assert runner.renew([claim]) == {(job_id, 1)}

    assert (ledger.get(job_id).lease_until - utcnow()).total_seconds() > 25


def test_every_line_of_a_job_names_the_request_and_the_job(enqueue, run):
    token = request_id_var.set("req-42")
    try:
        job_id = enqueue(samples.say)
    finally:
        request_id_var.reset(token)
    lines = []
    sink = logger.add(lambda message: lines.append(message.record), level="INFO")
    try:
        run(job_id)
    finally:
        logger.remove(sink)

    said = [line for line in lines if line["message"] == "A line of the job."]
    assert len(said) == 1
    assert [line["message"] for line in lines] == [
        "Job started.", "A line of the job.", "Job finished.",
    ]  # fmt: skip
    for line in lines:
        assert (line["extra"]["request_id"], line["extra"]["job_id"]) == ("req-42", str(job_id))
    assert request_id_var.get() is None


def test_signals_tell_of_each_attempt_and_of_the_failure(enqueue, run, out):
    told = []

    def finished(sender, name, queue, outcome, seconds):
        told.append((name, queue, outcome))

    def failed(sender, job_id, name, error):
        told.append((job_id, name, error))

    job_id = enqueue(samples.give_up)
    with job_finished.connected_to(finished), job_failed.connected_to(failed):
        run(job_id)

    assert told == [
        (job_id, "job_samples.give_up", "ghost.jobs.retries.Permanent: there is no such account"),
        ("job_samples.give_up", "default", "failed"),
    ]


def test_a_receiver_has_a_session_of_its_own(enqueue, run, ledger):
    def retry_by_hand(sender, job_id, **values):
        samples.write.enqueue("/dev/null")
        db.session.commit()

    enqueue(samples.give_up)
    with job_failed.connected_to(retry_by_hand):
        run(ledger.rows()[0].id)

    assert [row.status for row in ledger.rows()] == ["failed", "queued"]


def test_a_failing_receiver_of_a_signal_changes_nothing(enqueue, run, ledger):
    def broken(sender, **values):
        raise ZeroDivisionError

    job_id = enqueue(samples.write, "/dev/null")
    with job_finished.connected_to(broken):
        assert run(job_id) == "finished"


def test_waiting_jobs_can_be_run_without_a_worker(app, enqueue, out):
    enqueue(samples.enqueue_another, str(out))
    enqueue(samples.give_up)

    with app.app_context():
        assert runner.run_waiting() == [
            ("job_samples.enqueue_another", "finished"),
            ("job_samples.give_up", "failed"),
            ("job_samples.write", "finished"),
        ]
    assert out.read_text() == "from a job\n"


def test_the_ledger_refuses_a_status_that_is_none(session):
    values = {"max_attempts": 1, "timeout_seconds": 1, "run_at": utcnow()}
    session.add(Job(name="a", queue="b", args={}, status="done", **values))

    with pytest.raises(sa.exc.IntegrityError, match="ck_jobs_status"):
        session.flush()


def test_the_ledger_holds_arguments_as_a_json_object(enqueue, ledger, out):
    job_id = enqueue(samples.receive, "x", UUID(int=1), utcnow(), date(2026, 1, 2), None)

    args = ledger.get(job_id).args

    assert json.loads(json.dumps(args)) == args
    assert args["price"] is None

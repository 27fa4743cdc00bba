from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from datetime import timedelta

import job_samples as samples
import pytest
import sqlalchemy as sa
from job_helpers import Bomb, forge, has_begun, is_running, run_burst, wait_until
from rq.job import Job as RQJob
from rq.queue import Queue as RQQueue
from rq.serializers import JSONSerializer

from ghost import db
from ghost.jobs import control, entries, job_finished, runner
from ghost.jobs.entries import GhostJob, Refused
from ghost.jobs.sweep import Sweeper
from ghost.jobs.worker import GhostWorker
from ghost.logging import logger
from ghost.models import utcnow

pytestmark = pytest.mark.integration


@pytest.fixture
def log(tmp_path):
    """The file that gets the log of this process and of those that it forks."""
    path = tmp_path / "log"
    sink = logger.add(path, format="{message}", level="INFO")
    yield path
    logger.remove(sink)


def test_a_forking_worker_runs_each_job_in_a_process_of_its_own(
    app, redis_server, keep_signals, enqueue, ledger, out, redis
):
    enqueue(samples.last, str(out), 0)
    enqueue(samples.last, str(out), 0)

    run_burst(app, redis_server)

    ledger.wait_for("finished")
    pids = {int(line.split()[1]) for line in out.read_text().splitlines()}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert redis.keys("rq:job:*") == []


def test_queues_are_emptied_in_their_order(enqueue, work, out):
    enqueue(samples.rest, str(out))
    enqueue(samples.write, str(out), "default")
    enqueue(samples.hurry, str(out))

    work()

    assert out.read_text().split() == ["high", "default", "low"]


def test_a_burst_also_runs_what_was_never_handed_over(app, redis_server, work, ledger, out):
    redis_server.stop()
    with app.app_context():
        samples.write.enqueue(str(out))
        db.session.commit()
    redis_server.start()
    app.extensions["ghost_jobs"]._paused_until = 0.0

    work()

    assert out.read_text() == "ran\n"


def test_repetitions_run_until_the_last_one_fails(enqueue, work, ledger, out):
    enqueue(samples.fail, str(out))

    work()

    assert out.read_text() == "attempt 1\nattempt 2\nattempt 3\n"
    assert ledger.statuses() == ["failed"]


def test_a_job_that_overruns_is_ended_by_an_exception(enqueue, work, ledger):
    job_id = enqueue(samples.overrun)

    started = time.monotonic()
    work()

    assert time.monotonic() - started < 4
    assert ledger.get(job_id).status == "failed"
    assert "exceeded maximum timeout value (1 seconds)" in ledger.get(job_id).error


@pytest.mark.slow
def test_a_job_that_swallows_that_exception_is_killed_with_its_children(enqueue, work, ledger, out):
    job_id = enqueue(samples.never_end, str(out))

    started = time.monotonic()
    work()

    assert time.monotonic() - started < 12
    assert ledger.get(job_id).error == "the job overran its 1 s and was killed"
    child = int(out.read_text())
    wait_until(lambda: not is_running(child), 2)


def test_a_job_whose_process_is_killed_is_repeated(enqueue, work, ledger, out):
    job_id = enqueue(samples.die, str(out))

    work()

    assert out.read_text() == "attempt 1\nattempt 2\n"
    row = ledger.get(job_id)
    assert (row.status, row.attempts) == ("finished", 2)


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_ends_its_own_process_is_not_taken_for_finished(
    enqueue, work, ledger, out, code
):
    job_id = enqueue(samples.leave, str(out), code)

    work()

    assert out.read_text() == "attempt 1\nattempt 2\n"
    assert ledger.get(job_id).attempts == 2


def test_the_parent_tells_of_each_attempt(enqueue, work, out):
    told = []

    def listen(sender, name, queue, outcome, seconds):
        told.append((os.getpid(), name, outcome, 0 < seconds < 20))

    enqueue(samples.die, str(out))
    with job_finished.connected_to(listen):
        work()

    assert told == [
        (os.getpid(), "job_samples.die", "retrying", True),
        (os.getpid(), "job_samples.die", "finished", True),
    ]


def test_a_job_does_not_share_the_parents_database_connection(
    make_app, postgres, redis_server, keep_signals, out
):
    app = make_app({"database": {"url": postgres.create_database()}})
    own = set()
    with app.app_context():
        db.create_all()

        @sa.event.listens_for(db.engine, "checkout")
        def note(_connection, record, _proxy):
            own.add(record.dbapi_connection.info.backend_pid)

        samples.name_connection.enqueue(str(out))
        samples.name_connection.enqueue(str(out))
        db.session.commit()
    run_burst(app, redis_server)

    theirs = {int(line) for line in out.read_text().split()}
    assert len(theirs) == 2
    assert own
    assert not own & theirs


def test_no_sqlite_database_is_open_when_a_worker_forks(
    make_app, tmp_path, redis_server, keep_signals, out
):
    app = make_app({"database": {"url": f"sqlite:///{tmp_path / 'own.db'}"}})
    with app.app_context():
        db.create_all()
        samples.list_open_files.enqueue(str(out))
        db.session.commit()
    run_burst(app, redis_server)

    assert str(tmp_path / "own.db") not in out.read_text()


def test_a_job_does_not_share_the_parents_redis_connection(enqueue, work, ledger, out, redis):
    enqueue(samples.enqueue_another, str(out))
    before = redis.info("stats")["total_connections_received"]

    work()

    # The worker's, the sweep's that handed over nothing (none), and the child's own.
    assert redis.info("stats")["total_connections_received"] >= before + 2
    assert ledger.statuses() == ["finished", "finished"]


def test_a_worker_is_registered_while_it_works(app, redis, redis_server):
    transport = app.extensions["ghost_jobs"]
    assert transport.live_workers() == 0

    worker = GhostWorker(["default"], connection=transport.client, application=app)
    worker.heartbeat()
    assert transport.live_workers() == 1

    redis_server.flush()
    assert transport.live_workers() == 0
    worker.heartbeat()
    assert transport.live_workers() == 1
    assert [found.name for found in GhostWorker.all(connection=transport.client)] == [worker.name]


def test_the_lease_of_a_running_job_is_renewed(enqueue, work, ledger, out, monkeypatch):
    monkeypatch.setattr(runner, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 0.5)
    job_id = enqueue(samples.last, str(out), 4.0)

    work()

    row = ledger.get(job_id)
    assert (row.status, row.attempts) == ("finished", 1)


def test_a_sweep_that_takes_long_lets_no_lease_end(enqueue, work, ledger, out, monkeypatch):
    monkeypatch.setattr(runner, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 0.5)
    job_id = enqueue(samples.last, str(out), 5.0)
    left = []

    def take_long(_sweeper):
        if not left and ledger.get(job_id).status == "started":
            time.sleep(3)
            left.append(ledger.get(job_id).lease_until - utcnow())

    monkeypatch.setattr(Sweeper, "tick", take_long)
    work()

    assert left[0].total_seconds() > 0
    assert (ledger.get(job_id).status, ledger.get(job_id).attempts) == ("finished", 1)


@pytest.mark.slow
def test_a_running_job_that_is_canceled_is_stopped_with_the_next_heartbeat(
    app, enqueue, work, ledger, out, monkeypatch
):
    monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 0.5)
    job_id = enqueue(samples.last, str(out), 30.0)

    def cancel():
        wait_until(lambda: ledger.get(job_id).status == "started")
        with app.app_context():
            control.cancel(job_id)
            db.session.commit()

    threading.Thread(target=cancel).start()
    started = time.monotonic()
    work()

    row = ledger.get(job_id)
    assert time.monotonic() - started < 10
    assert (row.status, [entry["outcome"] for entry in row.history]) == ("canceled", ["canceled"])


@pytest.mark.slow
def test_a_job_whose_lease_is_lost_is_killed(enqueue, work, ledger, out, app, monkeypatch):
    monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 0.3)
    enqueue(samples.last, str(out), 30.0)

    def take_away(_attempts):
        ledger.update(status="canceled", lease_until=None, finished_at=utcnow())
        return set()

    monkeypatch.setattr(runner, "renew", take_away)
    started = time.monotonic()
    work()

    assert time.monotonic() - started < 10
    assert ledger.statuses() == ["canceled"]
    assert "end" not in out.read_text()


# --- What somebody else wrote into Redis ----------------------------------------------------------


FORGERIES = {
    "json": {},
    "pickle": {"serializer": "pickle"},
    "callbacks": {
        "success_callback_name": "os.system",
        "failure_callback_name": "os.system",
        "stopped_callback_name": "os.system",
    },
    "pickled meta and result": {"meta": pickle.dumps(1), "result": pickle.dumps(1)},
    "webhook": {
        "webhooks": '[{"url": "http://127.0.0.1:9/", "job_status": "failed", "method": "GET"}]'
    },
    "nonsense": {"timeout": "soon", "created_at": "never", "status": "odd", "ttl": "x"},
    "dependencies": {"dependency_ids": '["a", "b"]', "retries_left": "9", "repeats_left": "9"},
    "limit": {"rate_limit_key": "x", "rate_limit_concurrency": "0"},
}


@pytest.mark.parametrize("fields", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("rq_id", ["5f0c7a52-1111-4222-8333-444455556666", "x" * 32, "a:b"])
def test_a_forged_entry_does_nothing_but_a_log_line(
    redis, enqueue, work, out, tmp_path, log, ledger, rq_id, fields
):
    forged = tmp_path / "forged"
    forge(redis, rq_id, forged, **fields)
    enqueue(samples.write, str(out))

    work()

    assert not forged.exists()
    assert out.read_text() == "ran\n"
    assert "An entry that Ghost did not write was dropped from a queue." in log.read_text()
    assert ledger.statuses() == ["finished"]


@pytest.mark.parametrize("fields", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_entry_under_a_real_id_runs_the_ledgers_job_or_none(
    redis, enqueue, work, out, tmp_path, fields
):
    forged = tmp_path / "forged"
    job_id = enqueue(samples.write, str(out))
    forge(redis, f"{job_id.hex}-1", forged, **fields)
    forge(redis, f"{'0' * 32}-1", forged, **fields)

    work()

    assert not forged.exists()
    assert out.read_text() == "ran\n"


def test_rubbish_in_redis_does_not_stop_a_worker(redis_server, redis, enqueue, work, out):
    for rubbish in (b"\xff\xfe", b"", b"x" * 1_000_000, b"*" * 32 + b"-1", b"0" * 32 + b"-0"):
        redis.rpush("rq:queue:default", rubbish)
    redis.set("rq:workers:default", "no set") if not redis.exists("rq:workers:default") else None
    redis.hset("rq:wip:default", "no", "zset")
    redis.set("rq:queue:default:intermediate", "no list")
    enqueue(samples.write, str(out))

    work()

    assert out.read_text() == "ran\n"


def test_foreign_entries_cannot_fill_the_log(redis, enqueue, work, out, log, monkeypatch):
    monkeypatch.setattr(entries, "_foreign_entries", entries._Sparing(limit=3))
    for number in range(50):
        redis.rpush("rq:queue:default", f"foreign-{number}")
    enqueue(samples.write, str(out))

    work()

    assert out.read_text() == "ran\n"
    assert log.read_text().count("did not write") == 3


def test_rqs_own_way_to_run_a_job_is_closed(app):
    transport = app.extensions["ghost_jobs"]
    job = GhostJob("0" * 32 + "-1", connection=transport.client)
    job.restore({b"data": pickle.dumps(Bomb("/nowhere")), b"origin": b"default"})

    assert job.serializer is JSONSerializer
    assert (job.origin, job.func_name, list(job.args)) == ("default", "ghost.jobs.run", [])
    with pytest.raises(Refused):
        job.perform()
    with pytest.raises(Refused):
        job.func  # noqa: B018


def test_a_worker_takes_no_other_classes(app):
    client = app.extensions["ghost_jobs"].client
    worker = GhostWorker(
        [RQQueue("default", connection=client)],
        connection=client,
        application=app,
        job_class=RQJob,
        queue_class=RQQueue,
        serializer="pickle",
        exception_handlers=[os.system],
    )

    assert worker.job_class is GhostJob
    assert worker.serializer is JSONSerializer
    assert worker._exc_handlers == []
    assert [type(queue).__name__ for queue in worker.queues] == ["GhostQueue"]
    assert worker.queues[0].job_class is GhostJob


def test_a_worker_has_no_command_channel(app, redis):
    client = app.extensions["ghost_jobs"].client
    worker = GhostWorker(["default"], connection=client, application=app)

    worker.subscribe()

    assert redis.pubsub_channels() == []


# --- As processes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stopped_worker_finishes_its_job_and_takes_no_more(start_worker, enqueue, ledger, out):
    worker = start_worker()
    enqueue(samples.last, str(out), 2.0)
    wait_until(lambda: has_begun(out))
    enqueue(samples.write, str(out))

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert [line.split()[0] for line in out.read_text().splitlines()] == ["begin", "end"]
    assert ledger.statuses() == ["finished", "queued"]


@pytest.mark.slow
def test_sigterm_for_all_its_processes_ends_no_job_either(start_worker, enqueue, ledger, out):
    worker = start_worker()
    enqueue(samples.last, str(out), 2.0)
    wait_until(lambda: has_begun(out))

    for pid in (worker.pid, *worker.children()):
        os.kill(pid, signal.SIGTERM)

    assert worker.wait() == 0
    assert ledger.statuses() == ["finished"]


@pytest.mark.slow
def test_a_job_can_see_that_its_worker_stops(start_worker, enqueue, ledger, out):
    worker = start_worker()
    enqueue(samples.heed, str(out))
    wait_until(lambda: has_begun(out))

    for pid in (worker.pid, *worker.children()):
        os.kill(pid, signal.SIGTERM)

    assert worker.wait(20) == 0
    assert out.read_text().split() == ["begin", "told"]
    assert ledger.statuses() == ["finished"]


@pytest.mark.slow
def test_a_second_signal_gives_the_running_job_back(start_worker, enqueue, ledger, out):
    worker = start_worker()
    job_id = enqueue(samples.last, str(out), 60.0)
    wait_until(lambda: has_begun(out))

    worker.signal(signal.SIGTERM)
    time.sleep(1.2)
    worker.signal(signal.SIGTERM)

    assert worker.wait(10) == 0
    row = ledger.get(job_id)
    assert (row.status, row.error) == ("queued", None)
    assert row.max_attempts - row.attempts == 5  # as many as before


@pytest.mark.slow
def test_a_job_that_outlasts_the_wait_of_a_stopped_worker_is_given_back(
    start_worker, enqueue, ledger, out
):
    worker = start_worker(GHOST_JOBS__STOP_TIMEOUT="1")
    job_id = enqueue(samples.last, str(out), 4.0)
    wait_until(lambda: has_begun(out))
    child = int(out.read_text().split()[1])

    worker.signal(signal.SIGTERM)

    assert worker.wait(10) == 0
    assert not is_running(child)
    row = ledger.get(job_id)
    assert (row.status, row.error, row.lease_until) == ("queued", None, None)
    start_worker()
    ledger.wait_for("finished", seconds=15)  # at once, not when a lease ends
    row = ledger.get(job_id)
    assert (row.attempts, row.max_attempts) == (2, 6)
    assert "the job is given back" in worker.says()


@pytest.mark.slow
def test_an_idle_worker_stops_at_once(start_worker, redis):
    worker = start_worker()
    worker.wait_for("Worker started.")

    worker.signal(signal.SIGTERM)

    assert worker.wait(5) == 0
    assert redis.smembers("rq:workers") == set()


@pytest.mark.slow
def test_the_job_of_a_killed_worker_runs_again_after_its_lease(start_worker, enqueue, ledger, out):
    worker = start_worker()
    job_id = enqueue(samples.last, str(out), 3.0)
    wait_until(lambda: has_begun(out))
    for pid in (*worker.children(), worker.pid):
        os.kill(pid, signal.SIGKILL)
    worker.wait()

    other = start_worker()
    other.wait_for("Worker started.")
    time.sleep(2)
    assert ledger.get(job_id).status == "started"  # not before its lease ends
    ledger.update(lease_until=utcnow() - timedelta(seconds=1))

    ledger.wait_for("finished", seconds=30)
    assert ledger.get(job_id).attempts == 2
    assert out.read_text().count("begin") == 2
    assert out.read_text().count("end") == 1


@pytest.mark.slow
def test_a_job_ends_with_its_worker(start_worker, enqueue, out):
    worker = start_worker()
    enqueue(samples.last, str(out), 60.0)
    wait_until(lambda: has_begun(out))
    (child,) = worker.children()

    worker.signal(signal.SIGKILL)

    # Nobody renews its lease any more: it must not run beside its own repetition.
    wait_until(lambda: not is_running(child), 5)


@pytest.mark.slow
def test_two_workers_never_run_one_job_at_the_same_time(start_worker, enqueue, ledger, redis, out):
    workers = [start_worker() for _ in range(2)]
    for worker in workers:
        worker.wait_for("Worker started.")
    for _ in range(10):
        job_id = enqueue(samples.last, str(out), 0.1)
        for _ in range(3):
            redis.rpush("rq:queue:default", f"{job_id.hex}-1")

    ledger.wait_for("finished", seconds=60)
    wait_until(lambda: redis.llen("rq:queue:default") == 0)
    time.sleep(0.5)

    assert out.read_text().count("begin") == 10
    assert {row.attempts for row in ledger.rows()} == {1}


@pytest.mark.slow
def test_a_worker_outlives_redis(start_worker, enqueue, ledger, out, redis_server):
    worker = start_worker()
    enqueue(samples.last, str(out), 3.0)
    wait_until(lambda: has_begun(out))

    redis_server.stop()  # in mid-job
    ledger.wait_for("finished")
    time.sleep(3)
    enqueue(samples.write, str(out))
    redis_server.start()
    started = time.monotonic()

    ledger.wait_for("finished", seconds=15)
    assert time.monotonic() - started < 10
    assert worker.says().count("Redis can't be used") <= 2
    assert worker.says().count("\n") < 60
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.mark.slow
def test_a_worker_outlives_a_hanging_redis(start_worker, enqueue, ledger, out, redis_server):
    worker = start_worker()
    worker.wait_for("Worker started.")
    redis_server.pause()
    try:
        enqueue(samples.write, str(out))
        time.sleep(7)
    finally:
        redis_server.resume()

    ledger.wait_for("finished", seconds=10)
    assert out.read_text() == "ran\n"


@pytest.mark.slow
def test_a_worker_that_starts_before_redis_waits_for_it(
    start_worker, enqueue, ledger, out, redis_server
):
    redis_server.stop()
    worker = start_worker()
    worker.wait_for("Redis is away; the worker waits for it.")
    enqueue(samples.write, str(out))
    redis_server.start()

    ledger.wait_for("finished", seconds=10)


@pytest.mark.slow
def test_what_stands_in_the_place_of_a_queue_is_removed(start_worker, enqueue, ledger, out, redis):
    redis.set("rq:queue:default", "no list")
    start_worker()
    wait_until(lambda: redis.type("rq:queue:default") != "string")

    enqueue(samples.write, str(out))

    ledger.wait_for("finished")


@pytest.mark.slow
def test_jobs_survive_flushall(start_worker, enqueue, ledger, out, redis_server):
    enqueue(samples.write, str(out))
    redis_server.flush()
    ledger.update(sent_at=utcnow() - timedelta(seconds=60))

    start_worker()

    ledger.wait_for("finished", seconds=30)
    assert out.read_text() == "ran\n"


@pytest.mark.slow
def test_a_job_survives_kill_9_between_the_commit_and_the_hand_over(
    start, start_worker, ledger, out, redis, tmp_path
):
    program = tmp_path / "enqueue.py"
    program.write_text(
        "import os, signal, sqlalchemy as sa, job_samples\n"
        "from flask.cli import ScriptInfo\n"
        "from ghost import db\n"
        "from ghost.database import Session\n"
        "app = ScriptInfo(os.environ.get('FLASK_APP')).load_app()\n"
        "sa.event.listen(Session, 'after_commit', lambda _: os.kill(os.getpid(), 9))\n"
        "with app.app_context():\n"
        f"    job_samples.write.enqueue({str(out)!r})\n"
        "    db.session.commit()\n"
    )
    killed = start("python", str(program))
    assert killed.wait() == -signal.SIGKILL
    assert redis.keys("rq:job:*") == []
    assert [(row.status, row.sent_at) for row in ledger.rows()] == [("queued", None)]

    start_worker()

    ledger.wait_for("finished")
    assert out.read_text() == "ran\n"

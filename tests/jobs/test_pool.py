"""What a pool does beside what every worker does, which test_worker has."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import job_samples as samples
import pytest
from job_helpers import has_begun, is_running, wait_until
from redis import Redis

from ghost import db
from ghost.jobs.child import Orders
from ghost.jobs.pool import PoolWorker, read_orders, write_orders
from ghost.logging import request_id_var
from ghost.models import utcnow

pytestmark = pytest.mark.integration


@pytest.fixture
def make_pool(app, redis_server, keep_signals):
    """Make a pool whose parent is this process."""

    def make(processes=1, **options):
        client = Redis.from_url(redis_server.url)
        queues = ["high", "default", "low"]
        return PoolWorker(
            queues, connection=client, application=app, processes=processes, **options
        )

    return make


def pids(out: Path) -> list[int]:
    """The first word of each line: samples write the process in which they ran."""
    return [int(line.split()[0]) for line in out.read_text().splitlines()]


def test_jobs_follow_each_other_in_one_process(enqueue, make_pool, out, ledger, redis):
    for _ in range(3):
        enqueue(samples.look_around, str(out), 0.0)

    make_pool().work(burst=True)

    assert len(set(pids(out))) == 1
    assert os.getpid() not in pids(out)
    assert ledger.statuses() == ["finished"] * 3
    assert redis.keys("rq:job:*") == []


def test_jobs_run_side_by_side(enqueue, make_pool, out):
    for _ in range(2):
        enqueue(samples.last, str(out), 0.5)

    make_pool(processes=2).work(burst=True)

    assert [line.split()[0] for line in out.read_text().splitlines()] == [
        *("begin", "begin"),
        *("end", "end"),
    ]


def test_no_sqlite_database_is_open_when_a_pool_forks(
    make_app, tmp_path, redis_server, keep_signals, out, monkeypatch
):
    app = make_app({"database": {"url": f"sqlite:///{tmp_path / 'own.db'}"}})
    with app.app_context():
        db.create_all()

    def look(*_details):
        samples.list_open_files(str(out))
        raise KeyboardInterrupt

    monkeypatch.setattr(PoolWorker, "_fork", look)
    client = Redis.from_url(redis_server.url)
    with pytest.raises(KeyboardInterrupt):
        PoolWorker(["default"], connection=client, application=app).work()

    assert str(tmp_path / "own.db") not in out.read_text()


def test_only_rqs_own_command_counts_jobs(make_pool):
    with pytest.raises(ValueError, match="only GhostWorker counts"):
        make_pool().work(max_jobs=3)


def test_orders_survive_the_command_line():
    orders = Orders(["high", "low"], 7, 4711, True, 1000)

    assert read_orders(write_orders(orders)) == orders


# --- What a job leaves behind ---------------------------------------------------------------------


def test_what_a_job_changes_in_its_process_is_put_right(enqueue, make_pool, out):
    enqueue(samples.wander, str(out))
    enqueue(samples.look_around, str(out), 1.5)  # longer than the alarm that was left

    make_pool().work(burst=True)

    wanderer, line = out.read_text().splitlines()
    assert line == f"{wanderer} {Path.cwd()} _stop"


def test_a_program_that_a_failed_job_started_ends_with_it(enqueue, make_pool, out):
    enqueue(samples.start_program, str(out), True)
    enqueue(samples.look_around, str(out), 0.0)

    make_pool().work(burst=True)

    first, second = pids(out)
    program = int(out.read_text().split()[1])
    assert first != second
    wait_until(lambda: not is_running(program), 2)


def test_a_program_that_a_finished_job_started_lives_on(enqueue, make_pool, out):
    enqueue(samples.start_program, str(out), False)
    enqueue(samples.start_program, str(out), True)

    make_pool().work(burst=True)

    finished, failed = (int(line.split()[1]) for line in out.read_text().splitlines())
    wait_until(lambda: not is_running(failed), 2)
    assert is_running(finished)
    os.kill(finished, signal.SIGKILL)


def test_a_thread_that_a_failed_job_started_ends_with_its_process(enqueue, make_pool, out):
    enqueue(samples.start_thread, str(out))
    enqueue(samples.look_around, str(out), 0.0)

    make_pool().work(burst=True)

    first, second = pids(out)
    assert first != second


def test_a_job_that_overran_leaves_its_process_for_the_next_one(enqueue, make_pool, out, ledger):
    enqueue(samples.look_around, str(out), 0.0)
    enqueue(samples.overrun)
    enqueue(samples.look_around, str(out), 0.0)

    make_pool().work(burst=True)

    assert len(set(pids(out))) == 1
    assert ledger.statuses() == ["finished", "failed", "finished"]


# --- As processes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_child_takes_only_its_own_job_with_it(start, enqueue, ledger, out, tmp_path):
    worker = start("flask", "worker", "--processes", "2")
    other_out = tmp_path / "other"
    doomed = enqueue(samples.last, str(out), 2.0)
    other = enqueue(samples.last, str(other_out), 2.0)
    wait_until(lambda: has_begun(out) and has_begun(other_out))
    victim = int(out.read_text().split()[1])

    os.kill(victim, signal.SIGKILL)

    wait_until(lambda: len(worker.children()) == 2 and victim not in worker.children(), 5)
    ledger.wait_for("finished")
    assert (ledger.get(other).attempts, ledger.get(doomed).attempts) == (1, 2)
    assert "the job's process was killed by SIGKILL" in worker.says()


@pytest.mark.slow
def test_a_job_that_can_only_be_killed_does_not_hold_up_the_other_place(
    start, enqueue, ledger, out, tmp_path
):
    start("flask", "worker", "--processes", "2")
    stubborn = enqueue(samples.never_end, str(out))
    wait_until(lambda: has_begun(out))
    for _ in range(20):
        enqueue(samples.last, str(tmp_path / "others"), 0.1)
    wait_until(lambda: ledger.statuses().count("finished") == 20, 6)
    assert ledger.get(stubborn).status == "started"

    wait_until(lambda: ledger.get(stubborn).status == "failed", 12)

    assert ledger.get(stubborn).error == "the job overran its 1 s and was killed"
    wait_until(lambda: not is_running(int(out.read_text())), 2)


@pytest.mark.slow
def test_a_child_that_does_not_respond_is_replaced(start, enqueue, ledger, out, tmp_path):
    program = tmp_path / "impatient.py"
    program.write_text(
        "import sys\n"
        "from flask.cli import main\n"
        "from ghost.jobs import pool\n"
        "pool.SILENCE_SECONDS = 2.5\n"
        "sys.argv = ['flask', 'worker', '--processes', '1']\n"
        "main()\n"
    )
    worker = start("python", str(program))
    worker.wait_for("Worker started.")
    wait_until(lambda: len(worker.children()) == 1)
    (child,) = worker.children()
    time.sleep(1)

    os.kill(child, signal.SIGSTOP)

    wait_until(lambda: worker.children() not in ([], [child]), 10)
    enqueue(samples.write, str(out))
    ledger.wait_for("finished")
    assert "it did not respond" in worker.says()


@pytest.mark.slow
def test_the_jobs_of_a_killed_pool_run_again_after_their_leases(start, enqueue, ledger, out):
    worker = start("flask", "worker", "--processes", "2")
    for _ in range(2):
        enqueue(samples.last, str(out), 3.0)
    wait_until(lambda: out.exists() and out.read_text().count("begin") == 2)
    children = worker.children()

    worker.signal(signal.SIGKILL)

    wait_until(lambda: not any(is_running(pid) for pid in children), 5)
    start("flask", "worker", "--processes", "2").wait_for("Worker started.")
    time.sleep(1)
    assert ledger.statuses() == ["started", "started"]  # not before their leases end
    ledger.update(lease_until=utcnow() - timedelta(seconds=1))
    ledger.wait_for("finished", seconds=30)
    assert [row.attempts for row in ledger.rows()] == [2, 2]


@pytest.mark.slow
def test_the_lines_of_a_job_carry_its_ids(app, start, ledger, out):
    with app.app_context():
        token = request_id_var.set("the-request")
        said = samples.say.enqueue()
        died = samples.die.enqueue(str(out))
        request_id_var.reset(token)
        db.session.commit()

    worker = start("flask", "worker", "--burst")

    assert worker.wait() == 0
    lines = worker.says().splitlines()
    for text, job_id in (("A line of the job.", said), ("Job failed; it will", died)):
        (line,) = (line for line in lines if text in line)
        assert f"job_id={job_id}" in line
        assert "request_id=the-request" in line


@pytest.mark.slow
def test_a_process_makes_room_for_a_new_one_after_its_share(start, enqueue, out):
    for _ in range(5):
        enqueue(samples.look_around, str(out), 0.0)

    words = ("flask", "worker", "--processes", "1", "--burst")
    worker = start(*words, GHOST_JOBS__RECYCLE_AFTER="2")

    assert worker.wait() == 0
    first, second, third, fourth, fifth = pids(out)
    assert first == second != third == fourth != fifth


@pytest.mark.slow
def test_processes_can_be_started_anew_instead_of_forked(start, enqueue, ledger, out):
    worker = start("flask", "worker", "--spawn", "--processes", "2")
    enqueue(samples.die, str(out))
    enqueue(samples.enqueue_another, str(out))

    ledger.wait_for("finished", seconds=30)
    enqueue(samples.last, str(out), 1.0)
    wait_until(lambda: "begin" in out.read_text())
    children = worker.children()
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert len(children) == 2
    assert ledger.statuses() == ["finished"] * 4
    assert not any(is_running(pid) for pid in children)


@pytest.mark.slow
def test_children_that_were_started_anew_end_with_their_parent(start, enqueue, out):
    worker = start("flask", "worker", "--spawn", "--processes", "1")
    enqueue(samples.last, str(out), 60.0)
    wait_until(lambda: has_begun(out))
    (child,) = worker.children()

    worker.signal(signal.SIGKILL)

    wait_until(lambda: not is_running(child), 5)


@pytest.mark.slow
def test_forking_for_each_job_and_a_number_of_processes_exclude_each_other(start):
    worker = start("flask", "worker", "--fork", "--processes", "3")

    assert worker.wait() == 2
    assert "start more workers instead" in worker.says()

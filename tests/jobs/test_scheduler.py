"""`flask scheduler` as its operator sees it: real processes, signals, and servers that go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa
from job_helpers import ROOT, wait_until

from ghost.database import db, db_manager
from ghost.jobs import clock
from ghost.jobs.models import SCHEDULER_LEASES, Lease, Schedule, ScheduleRun
from ghost.jobs.scheduler import GhostScheduler
from ghost.jobs.schedules import Declaration
from ghost.logging import logger
from ghost.models import utcnow
from ghost.testing.servers import PostgreSQL

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.each_database]


@pytest.fixture
def start_scheduler(start, out):
    """Start `flask scheduler` with an every-second schedule, and wait until it says so."""

    def run(**variables):
        samples = {"GHOST_JOBS__MODULES": '["schedule_samples"]', "BEAT_FILE": str(out)}
        process = start("flask", "scheduler", **(samples | variables))
        process.wait_for("Scheduler started.")
        return process

    return run


@pytest.fixture
def log_lines():
    lines = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    yield lines
    logger.remove(sink)


@pytest.fixture
def read(app):
    """Read the rows of a model in the order of its key."""

    def rows(model):
        with app.app_context(), db_manager.connection() as connection:
            table = model.__table__
            return connection.execute(sa.select(table).order_by(*table.primary_key)).all()

    return rows


@pytest.fixture
def own_postgres(make_app, postgres):
    """A PostgreSQL server that no other test uses, and the URL of a database with all tables."""
    server = PostgreSQL()
    url = server.create_database()
    with make_app({"database": {"url": url}}).app_context():
        db.create_all()
        db.engine.dispose()
    yield server, url
    server.close()


def seconds_left_out(runs):
    """The seconds between the first and the last firing that have none."""
    seconds = {int(run.due_at.timestamp()) for run in runs}
    return sorted(set(range(min(seconds), max(seconds) + 1)) - seconds)


def live_schedulers(read):
    return [row for row in read(Lease) if row.name.startswith(SCHEDULER_LEASES)]


def test_a_scheduler_fires_each_second_and_a_worker_runs_the_jobs(
    start_scheduler, start, read, out
):
    scheduler = start_scheduler()
    worker = start(
        "flask", "worker", GHOST_JOBS__MODULES='["schedule_samples"]', BEAT_FILE=str(out)
    )

    wait_until(lambda: len(read(ScheduleRun)) >= 4)
    wait_until(lambda: out.exists() and out.read_text().count("beat") >= 3, describe=worker.says)

    assert seconds_left_out(read(ScheduleRun)) == []
    assert [row.name for row in read(Schedule)] == ["beat"]
    assert "Schedules were taken up." in scheduler.says()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_within_two_seconds(start_scheduler, read, number):
    scheduler = start_scheduler()
    wait_until(lambda: len(live_schedulers(read)) == 1)

    began = time.monotonic()
    scheduler.signal(number)

    assert scheduler.wait() == 0
    assert time.monotonic() - began < 2
    assert "Scheduler stopped." in scheduler.says()
    assert live_schedulers(read) == []


def test_a_database_that_hangs_does_not_keep_it_from_stopping(own_postgres, start_scheduler):
    server, url = own_postgres
    scheduler = start_scheduler(DATABASE_URL=url)
    scheduler.wait_for("Schedules were taken up.")
    server.pause()
    try:
        time.sleep(1.0)  # by then it asks the server that hangs
        began = time.monotonic()
        scheduler.signal(signal.SIGTERM)

        assert scheduler.wait() == 0
        assert time.monotonic() - began < 5
    finally:
        server.resume()


def test_redis_away_does_not_stop_the_firing(start_scheduler, read, redis_server, redis):
    scheduler = start_scheduler()
    wait_until(lambda: len(read(ScheduleRun)) >= 1)

    redis_server.stop()
    before = len(read(ScheduleRun))
    wait_until(lambda: len(read(ScheduleRun)) >= before + 4)
    redis_server.start()

    # What was fired meanwhile is handed over by the sweep, which the scheduler runs too.
    wait_until(lambda: redis.llen("rq:queue:default") >= len(read(ScheduleRun)) - 1, 30)
    assert seconds_left_out(read(ScheduleRun)) == []
    assert scheduler.says().count("The scheduler can't use Redis; it goes on.") <= 1
    assert not scheduler.has_ended()


def test_it_starts_while_redis_is_away(start_scheduler, read, redis_server):
    redis_server.stop()

    try:
        start_scheduler()

        wait_until(lambda: len(read(ScheduleRun)) >= 2)
    finally:
        redis_server.start()


def test_the_database_may_go_away_and_come_back(own_postgres, start_scheduler):
    server, url = own_postgres
    name = url.rpartition("/")[2]

    def seconds() -> list[int]:
        text = "SELECT extract(epoch FROM due_at)::int FROM schedule_runs ORDER BY 1"
        return [int(line) for line in server.execute(text, name).splitlines()]

    scheduler = start_scheduler(DATABASE_URL=url)
    wait_until(lambda: len(seconds()) >= 2)

    server.stop()
    scheduler.wait_for("The scheduler can't use the database; it goes on.")
    server.start()
    before = len(seconds())
    wait_until(lambda: len(seconds()) >= before + 4, 30)

    found = seconds()
    assert found == list(range(found[0], found[-1] + 1))
    assert scheduler.says().count("The scheduler can't use the database; it goes on.") == 1
    assert "The scheduler can use the database again." in scheduler.says()


def test_a_schedule_of_an_unknown_job_stops_the_start_in_clear_words(start):
    entry = '{"nightly": {"job": "shop.clse", "cron": "0 3 * * *"}}'

    scheduler = start("flask", "scheduler", GHOST_JOBS__SCHEDULES=entry)

    assert scheduler.wait() == 1
    assert (
        scheduler.says()
        .strip()
        .splitlines()[-1]
        .startswith("Error: jobs.schedules.nightly: no job function is registered as 'shop.clse'")
    )
    assert "Traceback" not in scheduler.says()


def test_without_redis_it_says_what_to_set(start):
    scheduler = start("flask", "scheduler", REDIS_URL="")

    assert scheduler.wait() == 1
    assert "set REDIS_URL" in scheduler.says()


def test_what_stands_in_rq_schedulers_own_set_is_not_read(app, redis, tmp_path, keep_signals):
    redis.zadd("rq:scheduler:scheduled_jobs", {"forged": 1})
    redis.hset("rq:job:forged", mapping={"data": b"cos\nsystem\n(S'touch x'\ntR.", "origin": "low"})
    redis.set("rq:scheduler_lock", "held by the dead")

    with app.app_context():
        GhostScheduler({}).run(burst=True)

    assert redis.zrange("rq:scheduler:scheduled_jobs", 0, -1) == ["forged"]
    assert redis.keys("rq:queue:*") == []


def test_a_schedule_that_cannot_be_fired_is_told_once(app, log_lines):
    gone = Declaration("gone", "shop.gone", "every 1", "UTC", "once", {}, "code")
    with app.app_context():
        clock.reconcile({"gone": gone}, utcnow() - timedelta(seconds=10))
        scheduler = GhostScheduler({"gone": gone})

        for _ in range(3):
            scheduler.enqueue_jobs()

    assert log_lines.count("The scheduler can't fire the schedule gone; it goes on.") == 1


def test_a_killed_scheduler_is_counted_until_its_lease_ends(start_scheduler, read):
    scheduler = start_scheduler()
    wait_until(lambda: len(live_schedulers(read)) == 1)

    scheduler.signal(signal.SIGKILL)
    scheduler.wait()

    [left] = live_schedulers(read)
    assert left.holder.endswith(f":{scheduler.pid}")


def test_nothing_of_the_web_side_imports_rq_scheduler():
    heavy = ("rq", "rq_scheduler", "croniter")
    program = f"import sys, wsgi; print([name for name in {heavy} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)

    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_three_schedulers_that_are_killed_at_random_fire_each_due_time_once():
    """The short form of the trial; see scripts/faults/schedules.py for the long one."""
    trial = ROOT / "scripts/faults/schedules.py"
    kind = os.environ.get("GHOST_TEST_DATABASE") or "sqlite"

    done = subprocess.run(
        [sys.executable, str(trial), "--minutes", "0.4", "--seed", "7", "--database", kind],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Each due time was fired once." in done.stdout

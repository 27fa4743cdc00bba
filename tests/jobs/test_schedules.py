"""What is declared, what becomes of it in the database, and what is fired."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from ghost import cron, db, every, job
from ghost.config_schedules import ScheduleSetting
from ghost.database import db_manager
from ghost.errors import NotFound
from ghost.jobs import clock, schedule_services, schedules
from ghost.jobs.clock import fire_due, reconcile
from ghost.jobs.models import Lease, Schedule, ScheduleRun
from ghost.jobs.registry import UnknownJob
from ghost.jobs.schedules import CONFIG, Declaration, ScheduleMistake, declared
from ghost.jobs.sweep import make_sweeper
from ghost.models import utcnow

pytestmark = pytest.mark.integration

START = datetime(2026, 5, 1, 12, 0, 30, tzinfo=UTC)


@job(name="schedule_tests.greet")
def greet(name: str = "nobody", key: UUID | None = None) -> None:
    """Do nothing, for somebody."""


def tidy() -> str:
    """A function that is no job yet."""
    return "tidy"


@pytest.fixture(autouse=True)
def no_others(monkeypatch):
    """Only what a test declares is on the clock."""
    monkeypatch.setattr(schedules, "_on_clock", {})


@pytest.fixture
def context(app):
    with app.app_context():
        yield


def make(name="greet", **overrides):
    values = {
        "job": "schedule_tests.greet", "timing": "every 60", "timezone": "UTC", "missed": "once",
        "args": {}, "source": "code",
    }  # fmt: skip
    return {name: Declaration(name, **(values | overrides))}


def rows(model=Schedule):
    with db_manager.connection() as connection:
        table = model.__table__
        return connection.execute(sa.select(table).order_by(*table.primary_key)).all()


def fired():
    """The due times that were fired, as seconds after START."""
    return [(row.due_at - START).total_seconds() for row in rows(ScheduleRun)]


def after(seconds):
    return START + timedelta(seconds=seconds)


# --- Declaring ------------------------------------------------------------------------------------


def test_a_function_on_the_clock_is_a_job_with_the_options_of_one():
    sweep_up = cron("0 3 * * *", timezone="Europe/Berlin", missed="skip", queue="low")(tidy)

    assert (sweep_up.name, sweep_up.queue, sweep_up()) == ("test_schedules.tidy", "low", "tidy")
    assert declared({}) == {
        "test_schedules.tidy": Declaration(
            "test_schedules.tidy", "test_schedules.tidy", "cron 0 3 * * *", "Europe/Berlin",
            "skip", {}, "code",
        )
    }  # fmt: skip


def test_a_job_can_be_put_on_the_clock_twice_under_two_names(context):
    cron("0 3 * * *", name="early")(greet)
    every(hours=1, name="hourly", args={"name": "Ada"})(greet)

    found = declared({})

    assert {name: (one.timing, one.args) for name, one in found.items()} == {
        "early": ("cron 0 3 * * *", {}),
        "hourly": ("every 3600", {"name": "Ada"}),
    }


def test_a_schedule_has_the_name_of_its_job():
    every(minutes=5)(greet)

    assert declared({})["schedule_tests.greet"].job == "schedule_tests.greet"


def test_two_schedules_of_one_name_are_refused():
    cron("0 3 * * *")(greet)

    with pytest.raises(ValueError, match=r"two schedules claim .* give one of them name="):
        cron("0 15 * * *")(greet)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: cron("0 3 * *")(greet), "is not five fields"),
        (lambda: cron("0 3 * * *", timezone="Mars")(greet), "is not the name of a time zone"),
        (lambda: cron("0 3 * * *", missed="all")(greet), "missed must be once or skip"),
        (lambda: cron("0 3 * * *", name="a b")(greet), "can't be the name of a schedule"),
        (lambda: every()(greet), "a whole number of seconds from 1"),
        (lambda: every(seconds=0.5)(greet), "a whole number of seconds from 1"),
        (lambda: every(days=-1)(greet), "a whole number of seconds from 1"),
    ],
    ids=["expression", "zone", "missed", "name", "nothing", "tiny", "negative"],
)
def test_a_wrong_schedule_is_refused_where_it_is_declared(declare, message):
    with pytest.raises(ValueError, match=message):
        declare()


def test_options_of_a_job_are_refused_for_what_is_a_job_already():
    with pytest.raises(TypeError, match="is a job already: queue is for @job"):
        every(minutes=5, queue="low")(greet)


def test_arguments_that_the_job_does_not_take_are_refused():
    every(minutes=5, args={"nmae": "Ada"})(greet)

    with pytest.raises(ScheduleMistake, match=r"the schedule schedule_tests\.greet: .*nmae"):
        declared({})


def test_a_schedule_of_the_configuration_stands_for_the_one_in_code():
    every(minutes=5, name="beat")(greet)
    setting = ScheduleSetting("schedule_tests.greet", "every 60", "UTC", "skip", {"name": "Ada"})

    assert declared({"beat": setting}) == {
        "beat": Declaration(
            "beat", "schedule_tests.greet", "every 60", "UTC", "skip", {"name": "Ada"}, CONFIG
        )
    }


@pytest.mark.parametrize(
    ("job_name", "args", "message"),
    [
        ("shop.nothing", {}, "no job function is registered as 'shop.nothing'"),
        ("schedule_tests.greet", {"key": "no uuid"}, "'key' must be"),
        ("schedule_tests.greet", {"nmae": "x"}, "nmae"),
        ("schedule_tests.greet", {"name": "x" * 70_000}, "64 KiB"),
    ],
)
def test_a_schedule_of_the_configuration_names_a_registered_job_and_its_arguments(
    job_name, args, message
):
    setting = ScheduleSetting(job_name, "every 60", "UTC", "once", args)

    with pytest.raises(ScheduleMistake, match=f"jobs.schedules.beat.*{message}"):
        declared({"beat": setting})


# --- Reconciling ----------------------------------------------------------------------------------


def test_new_schedules_appear_changed_ones_change_and_removed_ones_vanish(context):
    first = reconcile(make("a") | make("b") | make("c"), START)
    second = reconcile(make("a") | make("b", timing="every 5") | make("d"), after(100))

    assert (first.added, first.changed, first.removed) == (["a", "b", "c"], [], [])
    assert (second.added, second.changed, second.removed) == (["d"], ["b"], ["c"])
    assert [(row.name, row.timing, row.handled_until) for row in rows()] == [
        ("a", "every 60", START),
        ("b", "every 5", after(100)),
        ("d", "every 60", after(100)),
    ]
    assert not reconcile(make("a") | make("b", timing="every 5") | make("d"), after(200))


@pytest.mark.parametrize(
    "change", [{"args": {"name": "Ada"}}, {"missed": "skip"}, {"source": "config"}]
)
def test_a_change_that_leaves_the_due_times_forgets_none_of_them(context, change):
    reconcile(make(), START)

    reconcile(make(**change), after(45))

    assert rows()[0].handled_until == START
    assert getattr(rows()[0], next(iter(change))) == next(iter(change.values()))


def test_a_schedule_that_an_operator_disabled_stays_disabled(context):
    reconcile(make(), START)
    schedule_services.set_enabled("greet", False)
    db.session.commit()

    reconcile(make(timing="every 5"), after(45))

    assert not rows()[0].enabled
    assert fire_due(after(600)).fired == 0


def test_several_processes_may_reconcile_at_once(app):
    wanted = make("a") | make("b") | make("c")
    barrier = threading.Barrier(4)
    problems = []

    def start():
        with app.app_context():
            barrier.wait()
            try:
                reconcile(wanted, START)
            except Exception as error:
                problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    with app.app_context():
        assert [row.name for row in rows()] == ["a", "b", "c"]


# --- Firing ---------------------------------------------------------------------------------------


def test_each_due_time_is_fired_once_however_often_one_looks(context, jobs):
    reconcile(make(args={"name": "Ada"}), START)

    counts = [fire_due(after(seconds)).fired for seconds in (29, 30, 30, 31, 89, 90, 91)]

    assert counts == [0, 1, 0, 0, 0, 1, 0]
    assert fired() == [30, 90]
    assert jobs.names() == ["schedule_tests.greet"] * 2
    jobs.run_all()


def test_the_job_has_the_arguments_of_the_schedule_and_the_run_its_id(context, ledger):
    reconcile(make(args={"name": "Ada"}), START)

    fire_due(after(30))

    [row] = ledger.rows()
    assert (row.name, row.args) == ("schedule_tests.greet", {"name": "Ada"})
    assert rows(ScheduleRun)[0].job_id == row.id


def test_a_job_that_fired_is_handed_over_at_once(context, redis):
    reconcile(make(), START)

    fire_due(after(30))

    assert redis.llen("rq:queue:default") == 1


def test_due_times_of_the_last_minute_are_all_fired(context):
    reconcile(make(timing="every 10"), START)

    assert fire_due(after(65)).fired == 6
    assert fired() == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize(
    ("missed", "looked_at", "expected"),
    [
        ("once", 3700, [3570]),
        ("skip", 3700, []),
        # One that was not missed makes up for those that were.
        ("once", 3600, [3570]),
        ("skip", 3600, [3570]),
    ],
)
def test_of_missed_due_times_only_the_latest_is_fired_or_none(context, missed, looked_at, expected):
    reconcile(make(timing="every 300", missed=missed), START)

    fire_due(after(looked_at))

    assert fired() == expected
    assert fire_due(after(looked_at)).fired == 0


def test_a_clock_that_steps_back_fires_nothing_again(context):
    reconcile(make(), START)
    fire_due(after(95))
    before = fired()

    for seconds in (-3600, 0, 35, 94):
        assert fire_due(after(seconds)).fired == 0

    assert fired() == before
    assert rows()[0].handled_until == after(90)


def test_a_due_time_that_was_fired_is_not_fired_again_after_a_reset(context):
    reconcile(make(), START)
    fire_due(after(30))
    with db_manager.transaction() as connection:
        connection.execute(sa.update(Schedule.__table__).values(handled_until=START))

    assert fire_due(after(90)).fired == 1
    assert fired() == [30, 90]


def test_a_schedule_whose_job_is_unknown_keeps_no_other_from_firing(context):
    reconcile(make("a", job="shop.gone") | make("b"), START)

    tick = fire_due(after(30))

    assert tick.fired == 1
    assert isinstance(tick.failures["a"], UnknownJob)
    # It is still due for a process that knows the function.
    assert rows()[0].handled_until == START


def test_a_firing_that_fails_is_undone_as_a_whole_and_keeps_no_other_from_firing(
    context, ledger, monkeypatch
):
    reconcile(make("a") | make("b"), START)
    enqueue = clock._run_once

    def fail(session, name, *rest):
        enqueue(session, name, *rest)
        if name == "a":
            raise OSError("the disk is full")
        return True

    monkeypatch.setattr(clock, "_run_once", fail)

    tick = fire_due(after(30))

    assert (tick.fired, list(tick.failures)) == (1, ["a"])
    assert [row.schedule for row in rows(ScheduleRun)] == ["b"]
    assert len(ledger.rows()) == 1
    monkeypatch.undo()
    assert fire_due(after(31)).fired == 1


def test_many_schedulers_at_once_fire_each_due_time_once(app, ledger):
    with app.app_context():
        reconcile(make("a", timing="every 1") | make("b", timing="every 2"), START)
    barrier = threading.Barrier(4)
    problems = []

    def look():
        with app.app_context():
            for second in range(1, 11):
                barrier.wait()
                problems.extend(fire_due(after(second)).failures.values())

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    with app.app_context():
        assert len(rows(ScheduleRun)) == 10 + 5
    assert len(ledger.rows()) == 10 + 5


@pytest.mark.only_on("postgresql")
def test_a_schedule_that_another_process_is_at_is_not_waited_for(context):
    reconcile(make("a") | make("b"), START)
    with db_manager.transaction() as other:
        other.execute(sa.select(Schedule.__table__).where(Schedule.name == "a").with_for_update())

        tick = fire_due(after(30))

    assert (tick.fired, tick.failures) == (1, {})
    assert fire_due(after(31)).fired == 1


# --- What an operator does ------------------------------------------------------------------------


def test_a_schedule_can_be_run_now_beside_the_clock(context, ledger):
    reconcile(make(args={"name": "Ada"}), START)

    job_id = schedule_services.run_now("greet")
    db.session.commit()

    assert ledger.get(job_id).args == {"name": "Ada"}
    assert rows()[0].handled_until == START
    assert rows(ScheduleRun) == []


def test_what_was_due_while_a_schedule_was_disabled_is_not_run(context):
    reconcile(make(timing="every 1"), utcnow() - timedelta(seconds=30))
    schedule_services.set_enabled("greet", False)
    db.session.commit()
    assert fire_due(utcnow()).fired == 0

    schedule_services.set_enabled("greet", True)
    db.session.commit()

    assert fire_due(utcnow()).fired <= 1


def test_the_list_tells_when_a_schedule_was_and_will_be_due(context):
    reconcile(make("a") | make("b", timing="cron 0 3 * * *"), START)
    schedule_services.set_enabled("b", False)
    db.session.commit()
    fire_due(after(30))

    first, second = schedule_services.list_schedules()

    assert (first.name, first.last_due_at) == ("a", after(30))
    assert timedelta(0) < first.next_due_at - utcnow() <= timedelta(seconds=60)
    assert (second.name, second.last_due_at, second.next_due_at) == ("b", None, None)


@pytest.mark.parametrize(
    "ask", [schedule_services.run_now, lambda name: schedule_services.set_enabled(name, True)]
)
def test_a_schedule_that_is_not_there_is_not_found(context, ask):
    with pytest.raises(NotFound, match="There is no schedule nightly"):
        ask("nightly")


def test_the_command_lists_disables_enables_and_runs(app, ledger):
    with app.app_context():
        reconcile(make("greet", timezone="UTC"), utcnow())
    runner = app.test_cli_runner()

    def flask(*words):
        result = runner.invoke(args=["schedules", *words])
        assert result.exit_code == 0, result.output
        return result.output

    assert "greet  schedule_tests.greet  every 60  UTC   once    code  -" in flask("list")
    assert flask("disable", "greet") == "Disabled greet.\n"
    assert flask("list").rstrip().endswith("disabled")
    assert flask("enable", "greet") == "Enabled greet.\n"
    assert flask("run", "greet") == f"Enqueued greet as the job {ledger.rows()[0].id}.\n"


def test_the_command_says_what_is_not_there(app):
    runner = app.test_cli_runner()

    assert "There are no schedules" in runner.invoke(args=["schedules", "list"]).output
    result = runner.invoke(args=["schedules", "run", "nightly"])
    assert (result.exit_code, result.output) == (1, "Error: There is no schedule nightly.\n")


# --- Retention ------------------------------------------------------------------------------------


def test_firings_are_kept_for_thirty_days_and_leases_of_the_dead_for_an_hour(context):
    now = utcnow()
    for age in (timedelta(days=29), timedelta(days=31)):
        db.session.add(ScheduleRun(schedule="greet", due_at=now - age, job_id=UUID(int=1)))
    for minutes in (59, 61):
        until = now - timedelta(minutes=minutes)
        db.session.add(Lease(name=f"scheduler.{minutes}", holder="host:1", until=until))
    db.session.commit()

    make_sweeper("this").delete_declared(now)

    assert [row.due_at for row in rows(ScheduleRun)] == [now - timedelta(days=29)]
    assert [row.name for row in rows(Lease)] == ["scheduler.59"]

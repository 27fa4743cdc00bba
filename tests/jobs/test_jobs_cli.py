"""`flask jobs`, as an operator types it."""

from __future__ import annotations

from uuid import uuid4

import job_samples as samples
import pytest

from ghost import db
from ghost.jobs import runner

pytestmark = pytest.mark.integration


@pytest.fixture
def cli(app):
    """Type `flask jobs ...`."""
    runner = app.test_cli_runner()
    return lambda *words: runner.invoke(args=["jobs", *words])


@pytest.fixture
def failed(app):
    """Three jobs that failed for good, the oldest first."""
    with app.app_context():
        found = [samples.give_up.enqueue() for _ in range(3)]
        db.session.commit()
        for job_id in found:
            runner.run(job_id, 1)
    return found


def test_jobs_are_listed_the_newest_first(cli, failed):
    lines = cli("list").output.splitlines()

    assert [line.split()[0] for line in lines] == [str(job_id) for job_id in reversed(failed)]
    assert "failed" in lines[0]
    assert "job_samples.give_up" in lines[0]
    assert len(cli("list", "--limit", "2").output.splitlines()) == 2


def test_lists_are_filtered(cli, failed):
    assert str(failed[0]) in cli("list", "--status", "failed", "--queue", "default").output
    assert "No jobs." in cli("list", "--name", "nothing").output
    assert cli("list", "--status", "lost").exit_code == 2


def test_a_job_is_shown_with_its_attempts(cli, failed):
    output = cli("show", str(failed[0])).output

    assert "job_samples.give_up" in output
    assert "attempt 1         failed" in output
    assert "there is no such account" in output


@pytest.mark.parametrize("words", [("show",), ("cancel",), ("retry",)])
def test_an_unknown_job_is_told_in_words(cli, app, words):
    result = cli(*words, str(uuid4()))

    assert result.exit_code == 1
    assert "There is nothing here." in result.output
    assert cli(*words, "no-id").exit_code == 2


def test_a_job_is_canceled(app, cli, ledger):
    with app.app_context():
        job_id = samples.one_of_each.enqueue("a")
        db.session.commit()

    assert f"{job_id} is canceled." in cli("cancel", str(job_id)).output
    assert ledger.get(job_id).status == "canceled"
    assert cli("cancel", str(job_id)).exit_code == 1


def test_a_job_is_tried_again(cli, failed, ledger):
    assert "is tried again" in cli("retry", str(failed[0])).output
    assert ledger.get(failed[0]).status == "queued"
    assert ledger.get(failed[1]).status == "failed"


def test_all_failed_jobs_are_tried_again(cli, failed, ledger):
    result = cli("retry", "--all", "--name", "job_samples.give_up")

    assert "3 of 3 jobs are tried again." in result.output
    assert set(ledger.statuses()) == {"queued"}


def test_what_to_try_again_has_to_be_said(cli, failed):
    assert cli("retry").exit_code == 2
    assert cli("retry", "--all", str(failed[0])).exit_code == 2


def test_figures_are_told(app, cli, failed):
    with app.app_context():
        samples.one_of_each.enqueue("a")
        db.session.commit()

    output = cli("stats").output

    assert "3 failed" in output
    assert "queue default" in output
    assert "1 waiting, 0 running, the oldest since" in output


def test_a_database_without_tables_is_told_in_words(make_app, empty_database):
    bare = make_app({"database": {"url": empty_database()}})

    result = bare.test_cli_runner().invoke(args=["jobs", "list"])

    assert result.exit_code == 1
    assert "flask db upgrade" in result.output

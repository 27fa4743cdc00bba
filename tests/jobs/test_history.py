"""What the ledger keeps of a job: its attempts, its result, its progress."""

from __future__ import annotations

import logging
from datetime import datetime

import job_samples as samples
import pytest

from ghost.jobs import runner
from ghost.jobs.sweep import settle_killed
from ghost.models import utcnow

pytestmark = pytest.mark.integration


@pytest.fixture
def kill(app):
    """Claim an attempt, and find its process dead."""

    def claim_and_settle(job_id, attempt):
        with app.app_context():
            return settle_killed(runner.claim(job_id, attempt), "killed by SIGKILL")

    return claim_and_settle


def test_every_attempt_is_kept_with_its_times_outcome_and_error(enqueue, run, kill, ledger, out):
    before = utcnow()
    job_id = enqueue(samples.fail, str(out))

    run(job_id, 1)
    kill(job_id, 2)
    run(job_id, 3)

    history = ledger.get(job_id).history
    assert [entry["attempt"] for entry in history] == [1, 2, 3]
    assert [entry["outcome"] for entry in history] == ["failed", "killed", "failed"]
    assert history[1]["error"] == "killed by SIGKILL"
    assert "hunter2" not in str(history)
    moments = [datetime.fromisoformat(entry[key]) for entry in history
               for key in ("started_at", "finished_at")]  # fmt: skip
    assert moments == sorted(moments)
    assert abs((moments[0] - before).total_seconds()) < 5


def test_a_success_is_an_attempt_too(enqueue, run, ledger, out):
    job_id = enqueue(samples.write, str(out))

    run(job_id)

    [entry] = ledger.get(job_id).history
    assert (entry["outcome"], entry["error"]) == ("finished", None)


def test_a_result_is_kept_as_json_without_secrets(enqueue, run, ledger):
    job_id = enqueue(samples.give_back, "Bearer abc.def.123")

    run(job_id)

    assert ledger.get(job_id).result == {
        "value": "Bearer ***", "id": str(job_id), "api_key": "***", "at": "2026-01-02",
    }  # fmt: skip


def test_a_result_that_is_too_long_is_left_out_and_the_job_finished(enqueue, run, ledger, caplog):
    job_id = enqueue(samples.give_back_too_much)

    with caplog.at_level(logging.WARNING):
        assert run(job_id) == "finished"

    assert ledger.get(job_id).result is None


@pytest.mark.parametrize("first_writes", [False, True])
def test_progress_is_kept_and_too_frequent_reports_are_not(enqueue, run, ledger, out, first_writes):
    job_id = enqueue(samples.report, str(out), first_writes=first_writes)

    assert run(job_id) == "finished"

    row = ledger.get(job_id)
    assert (row.progress, row.progress_message) == (40, "half way")


def test_a_progress_message_has_no_secrets_and_can_be_stored(enqueue, run, ledger):
    job_id = enqueue(samples.report_a_secret)

    assert run(job_id) == "finished"

    assert ledger.get(job_id).progress_message == "password=***  ?"


@pytest.mark.parametrize("percent", [-1, 101, float("nan")])
def test_progress_is_a_percentage(percent):
    running = runner.RunningJob(None, "x", "default", 1, 1, None, None)

    with pytest.raises(ValueError, match="0 to 100"):
        running.progress(percent)


def test_a_job_that_kills_its_process_is_put_aside_after_three_times(enqueue, kill, ledger, out):
    job_id = enqueue(samples.write, str(out))

    outcomes = [kill(job_id, number) for number in (1, 2, 3)]

    row = ledger.get(job_id)
    assert outcomes == ["retrying", "retrying", "failed"]
    assert (row.status, row.attempts, row.max_attempts, row.kills) == ("failed", 3, 5, 3)
    assert "put aside after 3 attempts" in row.error


def test_attempts_that_raise_are_no_kills(enqueue, run, kill, ledger, out):
    job_id = enqueue(samples.fail, str(out))

    kill(job_id, 1)
    run(job_id, 2)

    assert ledger.get(job_id).kills == 1

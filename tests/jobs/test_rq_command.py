from __future__ import annotations

import job_samples as samples
import pytest
from job_helpers import forge

from ghost import db

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_the_plain_rq_command_runs_jobs_and_never_unpickles(
    app, start, ledger, redis, out, tmp_path
):
    forged = tmp_path / "forged"
    forge(redis, "5f0c7a52-1111-4222-8333-444455556666", forged, serializer="pickle")
    forge(redis, "6f0c7a52-1111-4222-8333-444455556666", forged)
    with app.app_context():
        samples.last.enqueue(str(out), 0.0)
        db.session.commit()

    worker = start("rq", "worker", "-c", "ghost.worker", "--burst")

    assert worker.wait() == 0, worker.says()
    assert ledger.statuses() == ["finished"]
    assert not forged.exists()
    assert worker.says().count("An entry that Ghost did not write") == 2
    # The command was completed in the same process, whose child ran the job.
    assert f"pid={worker.pid} " in worker.says()


@pytest.mark.parametrize(
    "words",
    [
        ("worker", "--burst", "--config", "ghost.worker", "low", "default"),
        ("worker", "-c", "ghost.worker", "-S", "json", "-b", "--", "default"),
        ("worker", "-b", "-S", "json", "-w", "ghost.worker.GhostWorker", "-c", "ghost.worker"),
        ("worker-pool", "-b", "-n", "1", "-c", "ghost.worker"),
    ],
    ids=" ".join,
)
def test_the_command_is_completed_however_it_is_written(
    app, start, ledger, redis, out, words, tmp_path
):
    forged = tmp_path / "forged"
    forge(redis, "5f0c7a52-1111-4222-8333-444455556666", forged, serializer="pickle")
    with app.app_context():
        samples.write.enqueue(str(out))
        db.session.commit()

    worker = start("rq", *words)

    assert worker.wait() == 0, worker.says()
    assert out.read_text() == "ran\n"
    assert not forged.exists()


@pytest.mark.parametrize(
    "option", [("-S", "pickle"), ("-w", "rq.SimpleWorker"), ("-j", "rq.job.Job")], ids=" ".join
)
def test_other_classes_are_refused_with_the_right_command(app, start, option):
    worker = start("rq", "worker", *option, "-c", "ghost.worker")

    assert worker.wait() == 2
    assert "Leave it out: rq worker -c ghost.worker" in worker.says()


def test_classes_in_the_environment_are_overruled(app, start, ledger, redis, out, tmp_path):
    forged = tmp_path / "forged"
    forge(redis, "5f0c7a52-1111-4222-8333-444455556666", forged, serializer="pickle")
    worker = start("rq", "worker", "-b", "-c", "ghost.worker", RQ_WORKER_CLASS="rq.SimpleWorker")

    assert worker.wait() == 0, worker.says()
    assert not forged.exists()


def test_the_other_rq_commands_do_not_unpickle_either(app, start, redis, tmp_path):
    forged = tmp_path / "forged"
    forge(redis, "5f0c7a52-1111-4222-8333-444455556666", forged, serializer="pickle")

    for words in (("info",), ("requeue", "--all", "--queue", "default"), ("info", "-R")):
        command = start("rq", *words, "-c", "ghost.worker")
        assert command.wait() == 0, command.says()

    assert not forged.exists()


def test_without_a_redis_url_the_words_are_clear(app, start):
    for words in (("rq", "worker", "-c", "ghost.worker"), ("flask", "worker")):
        worker = start(*words, REDIS_URL="")

        assert worker.wait() == 1
        assert "set REDIS_URL" in worker.says()
        assert "Traceback" not in worker.says()


def test_an_unknown_queue_is_refused(app, start):
    worker = start("flask", "worker", "--queues", "high,defautl")

    assert worker.wait() == 2
    assert "'defautl' is not one of jobs.queues: high, default, low" in worker.says()

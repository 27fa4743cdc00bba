"""Unique jobs: one at a time waits or runs, and a second one is the first."""

from __future__ import annotations

import threading

import job_samples as samples
import pytest

from ghost import db, job
from ghost.jobs import registry, runner

pytestmark = pytest.mark.integration


def test_the_second_of_the_same_arguments_is_the_first(enqueue, ledger):
    first = enqueue(samples.one_of_each, "a")

    assert enqueue(samples.one_of_each, "a") == first
    assert enqueue(samples.one_of_each, key="a") == first
    assert enqueue(samples.one_of_each, "b") != first
    assert len(ledger.rows()) == 2


def test_a_function_says_what_is_the_same(enqueue, ledger):
    first = enqueue(samples.one_of_a_kind, "a", number=1)

    assert enqueue(samples.one_of_a_kind, "A", number=2) == first
    assert enqueue(samples.one_of_a_kind, "any") != enqueue(samples.one_of_a_kind, "any")


def test_a_running_one_counts_and_a_finished_one_does_not(app, enqueue):
    first = enqueue(samples.one_of_each, "a")
    with app.app_context():
        claimed = runner.claim(first, 1)
    assert enqueue(samples.one_of_each, "a") == first

    runner.execute(app, claimed)

    assert enqueue(samples.one_of_each, "a") != first


def test_one_that_was_rolled_back_was_never_there(app, enqueue):
    with app.app_context():
        lost = samples.one_of_each.enqueue("a")
        db.session.rollback()

    assert enqueue(samples.one_of_each, "a") != lost


def test_of_many_at_once_there_is_one(app, enqueue, ledger):
    start, ids = threading.Barrier(8), []

    def add():
        start.wait()
        ids.append(enqueue(samples.one_of_each, "a"))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert len(ledger.rows()) == 1


def test_within_one_transaction_too(app, ledger):
    with app.app_context():
        assert samples.one_of_each.enqueue("a") == samples.one_of_each.enqueue("a")
        db.session.commit()

    assert len(ledger.rows()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [({"unique": "key"}, "unique"), ({"permission": "x:y"}, "public=True")],
)
def test_options_that_mean_nothing_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        job(name="tests.never", **options)(lambda: None)

    assert "tests.never" not in {function.name for function in registry.registered()}

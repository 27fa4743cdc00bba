"""One template for many: what is accepted, what leaves, and what survives a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sinks import Sink
from sqlalchemy.exc import OperationalError

from ghost.database import db
from ghost.errors import Conflict, ValidationFailed
from ghost.jobs import control, runner
from ghost.jobs.models import Job
from ghost.jobs.sweep import make_sweeper, settle_killed
from ghost.mail import MailBatch, MailMessage, batch_jobs, mail_failed, mail_sent
from ghost.mail.batch_ledger import BatchLedger
from ghost.mail.batches import cancel_batch, get_batch, send_bulk
from ghost.mail.suppression import suppress
from ghost.models import utcnow
from ghost.testing.background import Jobs, Mailbox
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration

URL = "/api/v1/mail"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    (folder / "news.subject.txt").write_text("News for {{ name }}\n")
    (folder / "news.txt").write_text("Hello {{ name }},\n\nthere are news.\n")
    return folder


@pytest.fixture
def mail_settings() -> Mapping[str, Any]:
    return {}


@pytest.fixture
def app_config(templates: Path, mail_settings: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"mail": {"templates": str(templates), **mail_settings}}


@pytest.fixture
def sink() -> Any:
    found = Sink()
    yield found
    found.close()


@pytest.fixture
def to_sink(sink: Sink) -> Mapping[str, Any]:
    return {"url": sink.url(), "timeout": 2.0}


def people(*names: str) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{name}@example.org", {"name": name.title()}) for name in names]


def messages_of(batch: MailBatch) -> list[MailMessage]:
    statement = sa.select(MailMessage).where(MailMessage.batch_id == batch.id)
    statement = statement.order_by(MailMessage.id).execution_options(populate_existing=True)
    found = list(db.session.scalars(statement))
    db.session.commit()  # on SQLite a transaction keeps everybody else from writing
    return found


def statuses(batch: MailBatch) -> list[str]:
    return [message.status for message in messages_of(batch)]


def make_due() -> None:
    """Let the time pass until whatever waits is due."""
    past = utcnow() - timedelta(seconds=1)
    db.session.execute(
        sa.update(MailMessage).where(MailMessage.send_at.is_not(None)).values(send_at=past)
    )
    db.session.execute(sa.update(Job).where(Job.finished_at.is_(None)).values(run_at=past))
    db.session.commit()


def job_of(batch: MailBatch) -> Job:
    db.session.rollback()
    found = db.session.get(MailBatch, batch.id, populate_existing=True)
    assert found is not None
    job = db.session.get(Job, found.job_id, populate_existing=True)
    assert job is not None
    db.session.commit()  # on SQLite a transaction keeps everybody else from writing
    return job


def claim(batch: MailBatch) -> runner.Claim:
    """Take the batch's job, as a worker does that is killed before it has done it."""
    job = job_of(batch)
    taken = runner.claim(job.id, job.attempts + 1)
    assert taken is not None
    return taken


# --- What is accepted -----------------------------------------------------------------------------


def test_everybody_gets_a_mail_of_their_own(session: Any, jobs: Jobs, mailbox: Mailbox) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    before = jobs.names()
    session.commit()

    jobs.run_all()

    assert before == []
    assert [mail.recipients for mail in mailbox] == [("ada@example.org",), ("grace@example.org",)]
    assert mailbox.to("ada@example.org").subject == "News for Ada"
    ids = [str(message.id) for message in messages_of(batch)]
    assert [str(mail.message_id)[1:37] for mail in mailbox] == ids
    found = get_batch(batch.id)
    assert (found.status, found.total, found.sent) == ("finished", 2, 2)
    assert found.finished_at is not None


def test_the_images_of_a_template_travel_with_each_mail(
    session: Any, jobs: Jobs, mailbox: Mailbox, templates: Path
) -> None:
    (templates / "gallery.subject.txt").write_text("Pictures for {{ name }}\n")
    (templates / "gallery.html").write_text("<img src=\"{{ inline_image('logo.png') }}\">")
    (templates / "logo.png").write_bytes(PNG)

    send_bulk("gallery", people("ada", "grace"))
    session.commit()
    jobs.run_all()

    assert [[file.content for file in message.attachments] for message in mailbox] == [[PNG]] * 2


def test_a_rollback_leaves_nothing(session: Any, jobs: Jobs) -> None:
    send_bulk("news", people("ada"))

    session.rollback()

    assert jobs.run_all() == []
    assert session.query(MailBatch).count() == session.query(MailMessage).count() == 0


def test_an_address_that_is_named_twice_gets_the_first_mail(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    twice = [*people("ada"), ("Ada <ADA@Example.org>", {"name": "Second"})]

    batch = send_bulk("news", twice)
    session.commit()
    jobs.run_all()

    assert batch.total == 1
    assert [mail.subject for mail in mailbox] == ["News for Ada"]


@pytest.mark.parametrize("mail_settings", [{"max_batch": 2}])
@pytest.mark.parametrize(
    ("template", "recipients", "details"),
    [
        ("news", [], {"recipients": ["There is nobody to send it to."]}),
        ("news", people("a", "b", "c"), {"recipients": ["There are more than 2."]}),
        (
            "news",
            [*people("ada"), ("nobody", {})],
            {"recipients": {"1": {"to": ["Not a valid e-mail address."]}}},
        ),
        (
            "news",
            [("a@example.org\r\nBcc: b@example.org", {})],
            {"recipients": {"0": {"to": ["Not a valid e-mail address."]}}},
        ),
        (
            "reset-password",
            people("ada"),
            {"template": ["This template is for security mails only."]},
        ),
    ],
    ids=["nobody", "too many", "no address", "a header in an address", "a security template"],
)
def test_is_refused_as_a_whole(
    session: Any, template: str, recipients: list[Any], details: Mapping[str, Any]
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        send_bulk(template, recipients)

    assert caught.value.details == {"json": details}
    assert session.query(MailMessage).count() == 0


@pytest.mark.parametrize(
    ("template", "context", "field"),
    [
        ("news", {}, "context"),
        ("missing", {}, "template"),
        ("../news", {}, "template"),
        ("news", {"name": "A\r\nBcc: b@example.org"}, "subject"),
    ],
    ids=["a missing variable", "no template", "a path", "a header in a variable"],
)
def test_the_first_mail_is_made_before_anything_is_accepted(
    session: Any, template: str, context: Mapping[str, Any], field: str
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        send_bulk(template, [("ada@example.org", context)])

    assert caught.value.details is not None
    assert list(caught.value.details["json"]) == [field]


def test_a_missing_variable_is_named(session: Any) -> None:
    with pytest.raises(ValidationFailed, match="name"):
        send_bulk("news", [("ada@example.org", {})])


def test_a_full_batch_takes_seconds(session: Any) -> None:
    started = utcnow()

    batch = send_bulk("news", people(*(f"reader{number}" for number in range(10_000))))
    session.commit()

    assert batch.total == 10_000
    assert (utcnow() - started).total_seconds() < 20


# --- What leaves ----------------------------------------------------------------------------------


def test_a_suppressed_address_gets_nothing(session: Any, jobs: Jobs, mailbox: Mailbox) -> None:
    suppress("grace@example.org", "bounced")
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()

    jobs.run_all()

    assert len(mailbox) == 1
    message = messages_of(batch)[1]
    assert (message.status, message.error) == ("failed", "Every recipient is suppressed.")
    assert message.refused == {"grace@example.org": "suppressed: bounced"}
    assert get_batch(batch.id).status == "finished"


def test_a_mail_that_can_not_be_made_fails_alone(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    batch = send_bulk("news", [*people("ada"), ("grace@example.org", {}), *people("alan")])
    session.commit()

    jobs.run_all()

    assert statuses(batch) == ["sent", "failed", "sent"]
    assert "name" in (messages_of(batch)[1].error or "")


def test_a_mail_whose_making_breaks_fails_alone(
    session: Any, jobs: Jobs, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = send_bulk("news", people("ada", "bob", "grace"))
    session.commit()
    real = batch_jobs.render

    def render(template: str, context: Mapping[str, Any], **options: Any) -> Any:
        if context["name"] == "Bob":
            raise MemoryError
        return real(template, context, **options)

    monkeypatch.setattr(batch_jobs, "render", render)
    jobs.run_all()

    assert statuses(batch) == ["sent", "failed", "sent"]
    assert messages_of(batch)[1].error == "This mail could not be made."


@pytest.mark.parametrize("value", [utcnow(), float("nan"), {1}])
def test_a_context_that_can_not_be_stored_is_refused(session: Any, value: object) -> None:
    with pytest.raises(ValidationFailed) as raised:
        send_bulk("news", [*people("ada"), ("bob@example.org", {"name": value})])

    assert raised.value.details == {"json": {"recipients": {"1": {"context": ["Not JSON."]}}}}


def test_who_only_reads_when_told_of_a_failure_holds_nothing_up(
    app: Flask, session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    suppress("ada@example.org", "manual")
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()

    def read(_app: Any, *, row_id: Any, **_values: Any) -> None:
        assert db.session.get(MailMessage, row_id) is not None

    began = time.monotonic()
    with mail_failed.connected_to(read):
        jobs.run_all()

    assert statuses(batch) == ["failed", "sent"]
    assert time.monotonic() - began < 5


def test_every_outcome_is_told(session: Any, app: Flask, jobs: Jobs) -> None:
    told = []

    def hear(_app: Any, *, row_id: Any, **_more: Any) -> None:
        told.append(row_id)

    batch = send_bulk("news", [*people("ada"), ("grace@example.org", {}), *people("alan")])
    session.commit()
    with mail_sent.connected_to(hear), mail_failed.connected_to(hear):
        jobs.run_all()

    assert sorted(told) == [message.id for message in messages_of(batch)]


class TestAgainstAServer:
    @pytest.fixture
    def mail_settings(self, to_sink: Mapping[str, Any]) -> Mapping[str, Any]:
        return to_sink

    def test_what_is_refused_for_good_has_failed_in_the_servers_words(
        self, session: Any, jobs: Jobs, sink: Sink
    ) -> None:
        sink.answers["grace@example.org"] = "550 5.1.1 no such user"
        batch = send_bulk("news", people("ada", "grace", "alan"))
        session.commit()

        jobs.run_all()

        assert statuses(batch) == ["sent", "failed", "sent"]
        assert "550 5.1.1 no such user" in (messages_of(batch)[1].error or "")
        assert get_batch(batch.id).status == "finished"

    def test_what_is_put_off_comes_after_the_others(
        self, session: Any, jobs: Jobs, sink: Sink
    ) -> None:
        sink.answers["ada@example.org"] = "451 come again"
        batch = send_bulk("news", people("ada", "grace"))
        session.commit()

        jobs.run_all()
        first = messages_of(batch)[0]
        before = (first.status, first.attempts, get_batch(batch.id).finished_at)
        assert first.send_at is not None
        waits = (first.send_at - utcnow()).total_seconds()
        del sink.answers["ada@example.org"]
        make_due()
        jobs.run_all()

        assert before == ("queued", 1, None)
        assert 5 < waits <= 30
        assert statuses(batch) == ["sent", "sent"]
        assert sink.recipients == ["grace@example.org", "ada@example.org"]
        assert get_batch(batch.id).status == "finished"

    def test_who_is_always_put_off_has_failed_in_the_end(
        self, session: Any, app: Flask, jobs: Jobs, sink: Sink
    ) -> None:
        sink.answers["ada@example.org"] = "451 never"
        batch = send_bulk("news", people("ada"))
        session.commit()

        for _ in range(5):
            jobs.run_all()
            make_due()

        message = messages_of(batch)[0]
        assert (message.status, message.attempts) == ("failed", 5)
        assert "451 never" in (message.error or "")
        assert jobs.names() == []
        assert get_batch(batch.id).status == "finished"

    def test_one_connection_serves_all(self, session: Any, jobs: Jobs, sink: Sink) -> None:
        send_bulk("news", people(*(f"reader{number}" for number in range(250))))
        session.commit()

        jobs.run_all()

        assert len(sink.recipients) == len(set(sink.recipients)) == 250


class TestWhileTheServerIsAway:
    @pytest.fixture
    def mail_settings(self) -> Mapping[str, Any]:
        return {"url": "smtp://127.0.0.1:9", "timeout": 1.0}

    def test_each_round_costs_one_mail_one_attempt(self, session: Any, jobs: Jobs) -> None:
        batch = send_bulk("news", people("ada", "grace", "alan", "emmy"))
        session.commit()

        for _ in range(4):
            jobs.run_all()
            make_due()

        assert [message.attempts for message in messages_of(batch)] == [1, 1, 1, 1]
        assert statuses(batch) == ["queued"] * 4

    def test_the_attempts_of_one_mail_take_minutes(self, session: Any, jobs: Jobs) -> None:
        batch = send_bulk("news", people("ada"))
        session.commit()
        jobs.run_all()

        again_at = messages_of(batch)[0].send_at

        assert again_at is not None
        assert 10 < (again_at - utcnow()).total_seconds() <= 30

    def test_the_wait_between_rounds_grows(self, session: Any, jobs: Jobs) -> None:
        batch = send_bulk("news", people(*"abcdefgh"))
        session.commit()
        waits = []

        for _ in range(6):
            jobs.run_all()
            waits.append((job_of(batch).run_at - utcnow()).total_seconds())
            make_due()

        assert waits[0] <= 1
        assert 10 < waits[-1] <= 32


# --- Kills ----------------------------------------------------------------------------------------


def interrupt(batch: MailBatch) -> None:
    """Leave the first waiting message as a killed process does."""
    first = next(message for message in messages_of(batch) if message.status == "queued")
    first.status, first.attempts = "sending", first.attempts + 1
    db.session.commit()


def test_a_mail_that_was_being_sent_is_sent_again_under_its_message_id(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()
    taken = claim(batch)
    interrupt(batch)
    settle_killed(taken, "killed")
    make_due()

    jobs.run_all()

    first = messages_of(batch)[0]
    assert statuses(batch) == ["sent", "sent"]
    assert (first.attempts, len(mailbox)) == (2, 2)
    assert str(mailbox.to("ada@example.org").message_id).startswith(f"<{first.id}@")


@pytest.mark.parametrize("mail_settings", [{"max_attempts": 20}])
def test_a_batch_outlives_more_kills_than_a_job(session: Any, jobs: Jobs, mailbox: Mailbox) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()

    for _ in range(7):
        taken = claim(batch)
        interrupt(batch)
        settle_killed(taken, "killed")
        make_due()
        runner_job = job_of(batch)
        runner.run(runner_job.id, runner_job.attempts + 1)  # gives what was left to a new job
        make_due()
    jobs.run_all()

    assert statuses(batch) == ["sent", "sent"]
    assert get_batch(batch.id).status == "finished"


@pytest.mark.parametrize("mail_settings", [{"max_attempts": 2}])
def test_a_mail_that_kills_its_worker_each_time_fails_alone(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()
    for _ in range(2):
        taken = claim(batch)
        interrupt(batch)
        settle_killed(taken, "killed")
        make_due()
        runner_job = job_of(batch)
        runner.run(runner_job.id, runner_job.attempts + 1)
        make_due()

    jobs.run_all()

    assert statuses(batch) == ["failed", "sent"]
    assert messages_of(batch)[0].error.startswith("Its worker ended while it was being sent")


def put_aside(batch: MailBatch, jobs: Jobs) -> None:
    """Kill the batch's job as often as the ledger allows."""
    job_id = job_of(batch).id
    for number in range(1, 4):
        taken = runner.claim(job_id, number)
        assert taken is not None
        outcome = settle_killed(taken, "killed")
        make_due()
    assert outcome == "failed"


def end_job(batch: MailBatch, end: str) -> None:
    """End the batch's job, as a process does that is killed before it can tell anybody."""
    of_batch = Job.id == batch.job_id
    values = {"status": "failed", "finished_at": utcnow(), "error": "it was killed"}
    db.session.execute(sa.update(Job).where(of_batch).values(values))
    if end == "deleted":
        db.session.execute(sa.delete(Job).where(of_batch))
    db.session.commit()


def test_when_its_job_is_put_aside_what_is_left_has_failed(session: Any, jobs: Jobs) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()

    put_aside(batch, jobs)

    assert statuses(batch) == ["failed", "failed"]
    assert "job failed: killed" in (messages_of(batch)[0].error or "")
    assert get_batch(batch.id).status == "finished"


@pytest.mark.parametrize("end", ["failed", "deleted"])
def test_the_sweep_ends_a_batch_whose_job_is_over_and_told_nobody(session: Any, end: str) -> None:
    lost, other = send_bulk("news", people("ada")), send_bulk("news", people("grace"))
    end_job(lost, end)

    make_sweeper("test").repair(utcnow())

    assert (statuses(lost), statuses(other)) == (["failed"], ["queued"])
    assert get_batch(lost.id).status == "finished"
    words = "it was killed" if end == "failed" else "it was over before the batch was"
    assert messages_of(lost)[0].error == f"The batch's job failed: {words}"


def test_the_sweep_goes_on_with_a_batch_whose_job_is_gone_in_the_middle_of_a_mail(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()
    interrupt(batch)
    end_job(batch, "failed")

    make_sweeper("test").repair(utcnow())
    jobs.run_all()

    assert statuses(batch) == ["sent", "sent"]


def test_when_its_job_is_put_aside_for_one_mail_the_others_are_sent(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()
    interrupt(batch)

    put_aside(batch, jobs)
    jobs.run_all()

    assert statuses(batch) == ["sent", "sent"]


def test_a_job_that_is_not_the_batchs_any_more_does_nothing(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    batch = send_bulk("news", people("ada"))
    session.commit()
    old = job_of(batch).id
    session.execute(sa.update(MailBatch).values(job_id=batch.id))
    session.commit()

    outcome = runner.run(old, 1)

    assert outcome == "finished"
    assert len(mailbox) == 0
    assert statuses(batch) == ["queued"]


def test_a_long_batch_goes_on_in_another_job(
    session: Any, jobs: Jobs, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()
    first = job_of(batch).id
    with monkeypatch.context() as patch:
        patch.setattr("ghost.mail.batch_jobs.SLICE_SECONDS", 0.0)
        runner.run(first, 1)

    assert job_of(batch).id != first
    assert statuses(batch) == ["queued", "queued"]
    jobs.run_all()
    assert statuses(batch) == ["sent", "sent"]


def test_a_worker_that_stops_gives_the_batch_back(
    session: Any, jobs: Jobs, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()
    first = job_of(batch).id
    with monkeypatch.context() as patch:
        patch.setattr("ghost.jobs.context._is_stopping", True)
        runner.run(first, 1)

    assert len(mailbox) == 0
    jobs.run_all()
    assert statuses(batch) == ["sent", "sent"]


@pytest.mark.only_on("postgresql")
def test_an_outcome_outlives_the_connection_to_the_database(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    batch = send_bulk("news", people("ada", "grace", "alan"))
    session.commit()
    cut = []

    def cut_it(_app: Any, **_values: Any) -> None:
        if not cut:
            others = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'EXECUTE ghost%'"
            )
            cut.append(len(db.session.execute(sa.text(others)).all()))

    with mail_sent.connected_to(cut_it):
        jobs.run_all()

    assert cut[0] >= 1
    assert [message.attempts for message in messages_of(batch)] == [1, 1, 1]
    assert len(mailbox) == 3


# --- Canceling ------------------------------------------------------------------------------------


def test_an_outcome_outlives_a_failure_of_what_comes_after_it(
    session: Any, jobs: Jobs, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()
    real = BatchLedger.fresh

    def fresh(self: BatchLedger, after: Any) -> Any:
        if after != batch_jobs.FIRST and len(mailbox) == 2:
            raise OperationalError("SELECT", {}, Exception("the server is shutting down"))
        return real(self, after)

    monkeypatch.setattr(BatchLedger, "fresh", fresh)
    jobs.run_all(may_fail=True)

    assert statuses(batch) == ["sent", "sent"]


def test_a_claim_whose_answer_is_lost_costs_no_attempt(
    session: Any, jobs: Jobs, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = send_bulk("news", people("ada", "bob", "grace"))
    session.commit()
    real, calls = BatchLedger.claim, []

    def claim(self: BatchLedger, *values: Any) -> Any:
        answer = real(self, *values)
        calls.append(values)
        if len(calls) == 2:
            raise OperationalError("UPDATE", {}, Exception("server closed the connection"))
        return answer

    monkeypatch.setattr(BatchLedger, "claim", claim)
    monkeypatch.setattr(batch_jobs, "RECORD_PAUSE_SECONDS", 0.01)
    jobs.run_all()

    assert len(mailbox) == 3
    assert [(one.status, one.attempts) for one in messages_of(batch)] == [("sent", 1)] * 3
    assert get_batch(batch.id).status == "finished"


def test_a_canceled_batch_sends_nothing_more(session: Any, jobs: Jobs, mailbox: Mailbox) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()

    cancel_batch(batch.id)
    session.commit()
    jobs.run_all()

    assert len(mailbox) == 0
    assert statuses(batch) == ["failed", "failed"]
    assert messages_of(batch)[0].error == "The batch was canceled."
    found = get_batch(batch.id)
    assert (found.status, found.failed) == ("canceled", 2)
    assert found.finished_at is not None


def cancel_with_the_first(batch: MailBatch, how: Callable[[], object]) -> Callable[..., None]:
    """A receiver of `mail_sent` that cancels when the first mail has left."""

    def hear(_app: Any, **_values: Any) -> None:
        if get_batch(batch.id).canceled_at is None:
            how()
            db.session.commit()

    return hear


def test_what_is_being_sent_when_a_batch_is_canceled_keeps_its_outcome(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    batch = send_bulk("news", people("ada", "grace", "alan"))
    session.commit()

    # Told of the first, the second is begun.
    with mail_sent.connected_to(cancel_with_the_first(batch, lambda: cancel_batch(batch.id))):
        jobs.run_all()

    assert statuses(batch) == ["sent", "sent", "failed"]
    assert get_batch(batch.id).finished_at is not None


def test_canceling_its_job_cancels_the_batch(session: Any, jobs: Jobs, mailbox: Mailbox) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()

    control.cancel(job_of(batch).id)
    session.commit()

    assert jobs.run_all() == []
    assert get_batch(batch.id).status == "canceled"
    assert statuses(batch) == ["failed", "failed"]


def test_canceling_its_running_job_cancels_the_batch(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    batch = send_bulk("news", people("ada", "grace", "alan"))
    session.commit()
    job_id = job_of(batch).id

    with mail_sent.connected_to(cancel_with_the_first(batch, lambda: control.cancel(job_id))):
        jobs.run_all(may_fail=True)

    assert statuses(batch) == ["sent", "sent", "failed"]
    assert get_batch(batch.id).finished_at is not None


def test_a_mail_whose_worker_was_killed_by_the_cancel_does_not_stay_open(
    session: Any, jobs: Jobs
) -> None:
    batch = send_bulk("news", people("ada", "grace"))
    session.commit()
    claim(batch)
    interrupt(batch)

    control.cancel(job_of(batch).id)
    session.commit()
    before = statuses(batch)
    make_due()
    jobs.run_all()

    assert before == ["sending", "failed"]
    assert statuses(batch) == ["failed", "failed"]
    assert "not known" in (messages_of(batch)[0].error or "")
    assert get_batch(batch.id).finished_at is not None


def test_a_batch_is_canceled_once(session: Any, jobs: Jobs) -> None:
    batch = send_bulk("news", people("ada"))
    session.commit()
    cancel_batch(batch.id)
    session.commit()

    with pytest.raises(Conflict, match="canceled already"):
        cancel_batch(batch.id)


# --- Over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def boss(client: Client, make_user: UserFactory) -> Client:
    return client.as_user(make_user(roles=("ADMIN",)))


def body(*names: str, **more: Any) -> dict[str, Any]:
    recipients = [{"to": to, "context": context} for to, context in people(*names)]
    return {"template": "news", "recipients": recipients, **more}


def test_a_batch_is_accepted_followed_and_over(boss: Client, jobs: Jobs, mailbox: Mailbox) -> None:
    accepted = boss.post(f"{URL}/bulk", json=body("ada", "grace", "ada"))
    place = accepted.headers["Location"]
    before = boss.get(place).json["data"]
    jobs.run_all()
    after = boss.get(place).json["data"]
    listed = boss.get(f"{URL}/batches").json

    assert accepted.status_code == 202
    data = accepted.json["data"]
    assert (data["queued"], data["duplicates"]) == (2, 1)
    assert data["batch_id"] == before["id"]
    assert data["job_id"] == before["job_id"]
    assert (before["status"], before["queued"], before["finished_at"]) == ("queued", 2, None)
    assert (after["status"], after["sent"], after["total"]) == ("finished", 2, 2)
    assert [one["id"] for one in listed["data"]] == [data["batch_id"]]
    assert len(mailbox) == 2


def test_a_wrong_recipient_is_named_by_its_place(boss: Client) -> None:
    wrong = body("ada")
    wrong["recipients"] += [{"to": "nobody"}, {"to": 7}]

    first = boss.post(f"{URL}/bulk", json=wrong)
    wrong["recipients"].pop()
    second = boss.post(f"{URL}/bulk", json=wrong)

    assert first.status_code == second.status_code == 422
    assert list(first.json["error"]["details"]["json"]["recipients"]) == ["2"]
    assert second.json["error"]["details"]["json"] == {
        "recipients": {"1": {"to": ["Not a valid e-mail address."]}}
    }


def test_a_batch_needs_the_permission(client: Client, make_user: UserFactory) -> None:
    someone = client.as_user(make_user())

    assert someone.post(f"{URL}/bulk", json=body("ada")).status_code == 403
    assert someone.get(f"{URL}/batches").status_code == 403


def test_a_full_batch_fits_into_a_body_and_more_does_not(boss: Client) -> None:
    full = body(*(f"reader{number}" for number in range(10_000)))
    full["recipients"][0]["context"]["more"] = "x" * 1_100_000

    fits = boss.post(f"{URL}/bulk", json=full, headers={"Idempotency-Key": "one"})
    full["recipients"][0]["context"]["more"] = "x" * 10_300_000
    too_long = boss.post(f"{URL}/bulk", json=full)
    elsewhere = boss.post("/api/v1/jobs", json={"name": "x" * 1_100_000})

    assert fits.status_code == 202
    assert fits.json["data"]["queued"] == 10_000
    assert too_long.status_code == 413
    assert elsewhere.status_code == 413


def test_too_many_recipients_are_refused_unread(boss: Client) -> None:
    began = time.monotonic()

    response = boss.post(f"{URL}/bulk", json={"template": "news", "recipients": [{}] * 1_000_000})

    assert response.status_code == 422
    assert response.json["error"]["details"] == {
        "json": {"recipients": ["There are more than 10,000."]}
    }
    assert time.monotonic() - began < 10


def test_a_batch_is_canceled_over_http(boss: Client) -> None:
    place = boss.post(f"{URL}/bulk", json=body("ada")).headers["Location"]

    canceled = boss.post(f"{place}/cancel")
    again = boss.post(f"{place}/cancel")

    assert canceled.json["data"]["status"] == "canceled"
    assert canceled.json["data"]["failed"] == 1
    assert again.status_code == 409


class TestWithLimits:
    @pytest.fixture
    def app_config(self, templates: Path) -> Mapping[str, Any]:
        return {
            "mail": {"templates": str(templates), "send_limit": "2/minute"},
            "ratelimit": {"enabled": True},
        }

    def test_callers_have_a_limit_to_send(self, boss: Client) -> None:
        answers = [boss.post(f"{URL}/bulk", json=body("ada")) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [202, 202, 429]


def test_no_such_batch_is_404(boss: Client) -> None:
    nobody = "01900000-0000-7000-8000-000000000000"

    assert boss.get(f"{URL}/batches/{nobody}").status_code == 404
    assert boss.post(f"{URL}/batches/{nobody}/cancel").status_code == 404

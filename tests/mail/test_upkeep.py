"""What becomes of mails whose job ends without them, and of old ones."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
import sqlalchemy as sa

from ghost.database import db
from ghost.jobs.control import cancel
from ghost.jobs.models import Job
from ghost.jobs.signals import job_failed
from ghost.jobs.sweep import make_sweeper
from ghost.mail import Delivery, MailBatch, MailMessage, delivery, mail_failed, mail_sent, send_text
from ghost.mail.models import FAILED, QUEUED, SENDING, SENT
from ghost.mail.services import retry
from ghost.mail.suppression import suppress
from ghost.models import first_uuid7, utcnow, uuid7
from ghost.retention import deletions
from ghost.testing.background import Jobs, Mailbox

MONTH = timedelta(days=31)


def put_aside(app: Any, row: MailMessage) -> None:
    job_failed.send(app, job_id=row.job_id, name="mail.deliver", error="its process was killed")


def test_a_mail_fails_with_the_job_that_is_put_aside(app: Any, session: Any) -> None:
    row = send_text("ada@example.org", "Hello", "It works.")
    row.status = SENDING
    session.commit()
    told: list[Any] = []

    def note(_app: Any, **values: Any) -> None:
        told.append(values["row_id"])

    with mail_failed.connected_to(note):
        put_aside(app, row)

    session.refresh(row)
    assert (row.status, row.error) == (FAILED, "its process was killed")
    assert told == [row.id]


def test_who_got_a_mail_before_its_job_was_put_aside_has_got_it(app: Any, session: Any) -> None:
    row = send_text(["ada@example.org", "bob@example.org"], "Hello", "It works.")
    row.status, row.accepted = SENDING, ["ada@example.org"]
    session.commit()

    put_aside(app, row)

    session.refresh(row)
    assert row.status == SENT
    assert row.sent_at is not None


def test_a_mail_fails_with_the_job_that_is_canceled(session: Any) -> None:
    row = send_text("ada@example.org", "Hello", "It works.")
    session.commit()

    cancel(session.get_one(Job, row.job_id).id)
    session.commit()

    session.refresh(row)
    assert row.status == FAILED
    assert "canceled" in row.error


@pytest.mark.parametrize("end", ["failed", "canceled", "deleted"])
def test_the_sweep_fails_mails_whose_jobs_are_over_and_told_nobody(
    app: Any, session: Any, end: str
) -> None:
    orphan, other, half = (
        send_text(["ada@example.org", "bob@example.org"], "Hello", "It works.") for _ in range(3)
    )
    orphan.status = half.status = SENDING
    half.accepted = ["ada@example.org"]
    jobs = sa.update(Job).where(Job.id.in_([orphan.job_id, half.job_id]))
    session.execute(jobs.values(status="failed", finished_at=utcnow(), error="it was killed"))
    if end == "canceled":
        session.execute(jobs.values(status="canceled", error=None))
    if end == "deleted":
        session.execute(sa.delete(Job).where(Job.id.in_([orphan.job_id, half.job_id])))
    session.commit()
    told: list[Any] = []

    def note(_app: Any, **values: Any) -> None:
        told.append((values["row_id"], values["error"]))

    with mail_failed.connected_to(note):
        make_sweeper("test").repair(utcnow())

    for row in (orphan, other, half):
        session.refresh(row)
    words = "it was killed" if end == "failed" else "Its job was over before the mail was sent."
    assert [row.status for row in (orphan, other, half)] == [FAILED, QUEUED, SENT]
    assert (orphan.error, half.error) == (words, words)
    assert told == [(orphan.id, words)]


def test_a_mail_that_was_sent_while_its_job_was_canceled_was_sent(session: Any) -> None:
    row = send_text("ada@example.org", "Hello", "It works.")
    session.commit()
    attempt = delivery.take(row.id, cast(UUID, row.job_id))
    session.commit()
    assert isinstance(attempt, delivery.Attempt)

    cancel(cast(UUID, row.job_id))
    session.commit()
    session.refresh(row)
    between = (row.status, row.error)
    outcome = delivery.after_delivery(attempt, Delivery(("ada@example.org",)), is_last=False)
    recorded = delivery.record(attempt, outcome)
    session.commit()

    session.refresh(row)
    assert between[0] == FAILED
    assert "whether it arrived is not known" in between[1]
    assert recorded
    assert (row.status, row.error) == (SENT, None)


def test_what_is_canceled_and_retried_while_it_is_sent_is_sent_once(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    row = send_text("ada@example.org", "Hello", "It works.")
    session.commit()
    attempt = delivery.take(row.id, cast(UUID, row.job_id))
    session.commit()
    assert isinstance(attempt, delivery.Attempt)

    cancel(cast(UUID, row.job_id))
    session.commit()
    retried = retry(row.id)
    session.commit()
    assert jobs.run_all() == []  # it waits until the first process has surely ended
    outcome = delivery.after_delivery(attempt, Delivery(("ada@example.org",)), is_last=False)
    delivery.record(attempt, outcome)
    session.execute(sa.update(Job).values(run_at=utcnow()))
    session.commit()
    jobs.run_all()

    session.refresh(row)
    assert (row.status, row.error, row.job_id) == (SENT, None, retried.job_id)
    assert len(mailbox) == 0


def test_who_got_a_mail_that_was_canceled_does_not_get_it_again(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    row = send_text(["ada@example.org", "bob@example.org"], "Hello", "It works.")
    session.commit()
    attempt = delivery.take(row.id, cast(UUID, row.job_id))
    session.commit()
    assert isinstance(attempt, delivery.Attempt)

    cancel(cast(UUID, row.job_id))
    session.commit()
    partly = Delivery(("ada@example.org",), {}, {"bob@example.org": "450 4.2.0 later"})
    delivery.record(attempt, delivery.after_delivery(attempt, partly, is_last=False))
    session.commit()
    retry(row.id)
    session.execute(sa.update(Job).values(run_at=utcnow()))
    session.commit()
    jobs.run_all()

    assert [message.destinations for message in mailbox] == [("bob@example.org",)]
    session.refresh(row)
    assert (row.status, row.accepted) == (SENT, ["ada@example.org", "bob@example.org"])


def test_a_mail_is_said_to_be_sent_when_nobody_is_left_to_get_it(
    app: Any, session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    row = send_text(["ada@example.org", "bob@example.org"], "Hello", "It works.")
    row.accepted = ["ada@example.org"]
    suppress("bob@example.org", "manual")
    session.commit()
    told: list[Any] = []

    def note(_app: Any, *, message: Any, delivery: Delivery, **_values: Any) -> None:
        told.append((message.recipients, delivery.accepted))

    with mail_sent.connected_to(note):
        jobs.run_all()

    session.refresh(row)
    assert (row.status, row.error) == (SENT, None)
    assert told == [(("ada@example.org", "bob@example.org"), ("ada@example.org",))]
    assert len(mailbox) == 0


def test_the_first_key_of_a_time_is_below_all_that_are_made_from_then_on() -> None:
    now = utcnow()

    assert first_uuid7(now) <= uuid7()
    assert first_uuid7(now + timedelta(seconds=1)) > uuid7()


@pytest.mark.parametrize(
    ("status", "age", "stays"),
    [
        (SENT, MONTH, False),
        (FAILED, MONTH, False),
        (QUEUED, MONTH, True),
        (SENDING, MONTH, True),
        (SENT, timedelta(days=29), True),
    ],
)
def test_old_mails_are_deleted_once_they_are_over(
    session: Any, status: str, age: timedelta, stays: bool
) -> None:
    then: datetime = utcnow() - age
    row = MailMessage(id=first_uuid7(then), to=["ada@example.org"], status=status, updated_at=then)
    month_ago = utcnow() - MONTH
    batch = MailBatch(id=first_uuid7(month_ago), template="shipped", total=1, updated_at=month_ago)
    session.add_all([row, batch])
    session.commit()

    for statement in deletions(utcnow(), 100):
        session.execute(statement)
    session.commit()

    assert db.session.scalar(sa.select(sa.func.count()).select_from(MailMessage)) == int(stays)
    assert db.session.scalar(sa.select(sa.func.count()).select_from(MailBatch)) == 0


def test_a_mail_that_waited_long_for_its_time_is_kept_after_it_was_sent(session: Any) -> None:
    then = utcnow() - 2 * MONTH
    row = MailMessage(id=first_uuid7(then), to=["ada@example.org"], status=SENT, created_at=then)
    session.add(row)
    session.commit()

    for statement in deletions(utcnow(), 100):
        session.execute(statement)
    session.commit()

    assert db.session.get(MailMessage, row.id) is not None

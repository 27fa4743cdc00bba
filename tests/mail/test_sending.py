"""Sending mail from code: a row and a job in the caller's transaction, then one honest attempt."""

from __future__ import annotations

from typing import Any

from ghost.database import db
from ghost.mail import MailMessage, send_text
from ghost.testing.background import Jobs, Mailbox


def test_a_mail_is_a_row_and_a_job_and_leaves_after_the_commit(
    session: Any, jobs: Jobs, mailbox: Mailbox
) -> None:
    row = send_text("Ada <ada@example.org>", "Hello", "It works.")
    before = jobs.names()
    session.commit()

    jobs.run_all()

    mail = mailbox.to("ada@example.org")
    sent = session.get(MailMessage, row.id, populate_existing=True)
    assert before == []
    assert (mail.subject, mail.text) == ("Hello", "It works.")
    assert mail.message_id == f"<{row.id}@{mail.sender_address.domain}>"
    assert (sent.status, sent.accepted, sent.attempts) == ("sent", ["ada@example.org"], 1)
    assert sent.job_id is not None
    assert sent.sent_at is not None


def test_a_rollback_leaves_neither_row_nor_mail(session: Any, jobs: Jobs, mailbox: Mailbox) -> None:
    send_text("ada@example.org", "Hello", "It works.")

    session.rollback()

    assert jobs.run_all() == []
    assert len(mailbox) == 0
    assert db.session.query(MailMessage).count() == 0

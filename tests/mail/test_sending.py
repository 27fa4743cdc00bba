"""Sending mail from code: a row and a job in the caller's transaction, then one honest attempt."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import ghost
from ghost.database import db
from ghost.jobs.models import Job
from ghost.logging import request_id_var, user_id_var
from ghost.mail import Attachment, InvalidMessage, MailMessage, mail_sent, send_mail, send_text
from ghost.models import utcnow
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


def test_files_are_kept_and_sent_as_they_were_when_the_mail_was_made(
    session: Any, jobs: Jobs, mailbox: Mailbox, tmp_path: Path
) -> None:
    bill = tmp_path / "bill.pdf"
    bill.write_bytes(b"%PDF-1.7")
    files = [bill, ("data.csv", b"a;b"), Attachment("x", b"x", "application/x-own")]
    send_text("ada@example.org", "Files", "Here.", attachments=files)
    session.commit()
    bill.unlink()

    jobs.run_all()

    sent = mailbox.to("ada@example.org").attachments
    assert [(file.filename, file.kind, file.content) for file in sent] == [
        ("bill.pdf", "application/pdf", b"%PDF-1.7"),
        ("data.csv", "text/csv", b"a;b"),
        ("x", "application/x-own", b"x"),
    ]


def test_a_mail_knows_who_wanted_it_and_by_which_request(session: Any, make_user: Any) -> None:
    user = make_user()
    tokens = user_id_var.set(str(user.id)), request_id_var.set("request-1")
    try:
        row = send_text("ada@example.org", "Hello", "It works.")
    finally:
        user_id_var.reset(tokens[0])
        request_id_var.reset(tokens[1])

    assert (row.created_by, row.request_id) == (user.id, "request-1")
    assert session.get(Job, row.job_id).request_id == "request-1"


def test_an_html_mail_has_a_text_made_of_it(session: Any) -> None:
    row = send_text("ada@example.org", "Hello", html="<p>It <b>works</b>.</p>")

    assert (row.text or "").strip() == "It works."


def test_a_mail_for_later_is_a_job_for_later(session: Any, jobs: Jobs, mailbox: Mailbox) -> None:
    tomorrow = utcnow() + timedelta(days=1)
    row = send_text("ada@example.org", "Hello", "It works.", send_at=tomorrow)
    session.commit()

    jobs.run_all()

    assert len(mailbox) == 0
    assert session.get(Job, row.job_id).run_at == tomorrow


def test_a_time_without_a_zone_is_refused(session: Any) -> None:
    naive = utcnow().replace(tzinfo=None)

    with pytest.raises(InvalidMessage, match="send_at"):
        send_text("ada@example.org", "Hello", "It works.", send_at=naive)


class TestLimits:
    @pytest.fixture
    def app_config(self) -> dict[str, Any]:
        return {"mail": {"max_recipients": 3, "max_attachments": 1, "max_size": 1024}}

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"cc": ["b@example.org", "c@example.org"], "bcc": ["d@example.org"]}, "to"),
            ({"attachments": [("a", b""), ("b", b"")]}, "attachments"),
            ({"attachments": [("a", b"x" * 1024)]}, "attachments"),
            ({"html": "ä" * 510}, "attachments"),
        ],
        ids=["recipients", "files", "a large file", "bytes, not characters"],
    )
    def test_what_passes_a_limit_is_refused(
        self, session: Any, options: dict[str, Any], field: str
    ) -> None:
        send_text("ada@example.org", "Hello", "It works.", cc=["b@example.org", "c@example.org"])

        with pytest.raises(InvalidMessage) as caught:
            send_text("ada@example.org", "Hello", "It works.", **options)

        assert list((caught.value.details or {})["json"]) == [field]


def test_applications_have_it_by_its_name() -> None:
    assert ghost.send_mail is send_mail
    assert ghost.mail_sent is mail_sent

"""One attempt at a mail, and what is recorded of it: against servers that behave in all ways."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from sinks import Scripted, Sink, drip, stay_silent

from ghost.database import db
from ghost.jobs import control, runner
from ghost.jobs.models import Job
from ghost.mail import MailMessage, mail_failed, mail_sent, send_secure_mail, send_text
from ghost.mail.composers import UnknownComposer, composer
from ghost.mail.delivery import has_no_mailbox
from ghost.mail.models import MailSuppression
from ghost.mail.services import retry
from ghost.mail.suppression import suppress, suppressed
from ghost.models import utcnow

ADA, BOB, EVE = "ada@example.org", "bob@example.org", "eve@example.org"

MakeSink = Callable[..., Sink]


@pytest.fixture
def entered(app: Flask, make_app: Any) -> Iterator[Callable[..., Flask]]:
    """Enter the context of an application that sends to a URL: `entered(sink.url())`."""
    contexts = []

    def enter(url: str, **mail: Any) -> Flask:
        made: Flask = make_app({"mail": {"url": url, "timeout": 0.5, "max_attempts": 2, **mail}})
        context = made.app_context()
        context.push()
        contexts.append(context)
        return made

    yield enter
    for context in reversed(contexts):
        context.pop()


def work() -> list[str]:
    """Run what is due, and then what waits for another attempt; gives all outcomes."""
    db.session.commit()
    outcomes = [outcome for _, outcome in runner.run_waiting()]
    while db.session.scalar(sa.select(Job.id).where(Job.status == "retrying").limit(1)):
        db.session.execute(sa.update(Job).where(Job.status == "retrying").values(run_at=utcnow()))
        db.session.commit()
        outcomes += [outcome for _, outcome in runner.run_waiting()]
    return outcomes


def fresh(row: MailMessage) -> MailMessage:
    """The row as it is now."""
    return db.session.get_one(MailMessage, row.id, populate_existing=True)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


# --- Servers in trouble ---------------------------------------------------------------------------


def test_a_server_that_is_down_is_tried_again_until_the_last_attempt(entered: Any) -> None:
    entered(f"smtp://127.0.0.1:{closed_port()}")
    row = send_text(ADA, "Hello", "It works.")

    outcomes = work()

    after = fresh(row)
    assert outcomes == ["retrying", "failed"]
    assert (after.status, after.attempts) == ("failed", 2)
    assert "refused" in (after.error or "").lower()
    assert after.refused.keys() == {ADA}


@pytest.mark.parametrize("behave", [stay_silent, drip], ids=["silent", "slow"])
def test_a_server_that_never_comes_to_the_point_is_given_up_and_tried_again(
    entered: Any,
    make_scripted: Callable[..., Scripted],
    behave: Callable[[socket.socket], None],
) -> None:
    server = make_scripted(behave)
    entered(f"smtp://127.0.0.1:{server.port}", timeout=0.1)
    row = send_text(ADA, "Hello", "It works.")

    outcomes = work()

    after = fresh(row)
    assert outcomes == ["retrying", "failed"]
    assert (after.status, after.attempts) == ("failed", 2)
    assert after.error


def test_a_mail_that_failed_for_the_moment_says_why_while_it_waits(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink(answers={"DATA": "451 4.3.0 come back later"})
    entered(sink.url())
    row = send_text(ADA, "Hello", "It works.")
    db.session.commit()

    outcomes = [outcome for _, outcome in runner.run_waiting()]

    after = fresh(row)
    assert outcomes == ["retrying"]
    assert (after.status, after.refused) == ("sending", {})
    assert "come back later" in (after.error or "")


def test_a_mail_keeps_its_id_in_each_attempt_and_forgets_the_trouble(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink(answers={"DATA": "451 4.3.0 come back later"})
    entered(sink.url())
    row = send_text(ADA, "Hello", "It works.")
    db.session.commit()
    runner.run_waiting()
    sink.answers.clear()

    work()

    after = fresh(row)
    first, second = (mail["Message-ID"] for mail in sink.received)
    assert first == second
    assert str(row.id) in first
    assert (after.status, after.error, after.accepted) == ("sent", None, [ADA])


def test_a_5xx_ends_a_mail_at_once_in_the_servers_words(entered: Any, make_sink: MakeSink) -> None:
    sink = make_sink(answers={"DATA": "554 5.7.1 this is spam"})
    entered(sink.url())
    row = send_text(ADA, "Hello", "It works.")

    outcomes = work()

    after = fresh(row)
    assert outcomes == ["failed"]
    assert (after.status, after.attempts) == ("failed", 1)
    assert "554 5.7.1 this is spam" in (after.error or "")
    assert suppressed([ADA]) == {}


# --- Some of several ------------------------------------------------------------------------------


def test_one_of_three_that_is_refused_for_good_keeps_nobody_else_from_it(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink(answers={BOB: "550 5.7.1 not from you"})
    entered(sink.url())
    row = send_text([ADA, BOB], "Hello", "It works.", bcc=[EVE])

    outcomes = work()

    after = fresh(row)
    assert outcomes == ["finished"]
    assert (after.status, after.accepted, after.provider) == ("sent", [ADA, EVE], "smtp")
    assert after.refused == {BOB: "550 5.7.1 not from you"}
    assert sink.recipients == [ADA, EVE]


def test_one_of_three_that_is_put_off_is_tried_again_alone(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink(answers={BOB: "451 4.7.1 greylisted"})
    entered(sink.url())
    row = send_text([ADA, BOB], "Hello", "It works.", cc=[EVE])
    db.session.commit()

    runner.run_waiting()
    between = fresh(row)
    half = (between.status, between.accepted, between.refused)
    sink.answers.clear()
    work()

    after = fresh(row)
    assert half == ("sending", [ADA, EVE], {})
    assert (after.status, after.accepted) == ("sent", [ADA, EVE, BOB])
    assert sink.recipients == [ADA, EVE, BOB]
    assert [mail["To"] for mail in sink.received] == [f"{ADA}, {BOB}"] * 2
    assert [mail["Cc"] for mail in sink.received] == [EVE] * 2


def test_one_of_three_that_is_put_off_to_the_end_is_refused(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink(answers={BOB: "451 4.7.1 greylisted"})
    entered(sink.url())
    row = send_text([ADA, BOB, EVE], "Hello", "It works.")

    outcomes = work()

    after = fresh(row)
    assert outcomes == ["retrying", "finished"]
    assert (after.status, after.accepted) == ("sent", [ADA, EVE])
    assert after.refused == {BOB: "the mail server took no recipient: 451 4.7.1 greylisted"}
    assert sink.recipients == [ADA, EVE]


def test_who_is_refused_for_good_is_not_asked_again_where_the_others_are_put_off(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink(answers={ADA: "550 5.1.1 no such user", BOB: "451 4.7.1 greylisted"})
    entered(sink.url())
    row = send_text([ADA, BOB], "Hello", "It works.")
    db.session.commit()

    runner.run_waiting()
    between = dict(fresh(row).refused)
    sink.answers.clear()
    work()

    after = fresh(row)
    assert between == {ADA: "550 5.1.1 no such user"}
    assert (after.status, after.accepted) == ("sent", [BOB])
    assert sink.recipients == [BOB]


# --- Who gets no more -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "is_gone"),
    [
        ("550 5.1.1 user unknown", True),
        ("550-5.1.1 The email account that you tried to reach does not exist", True),
        ("553 5.1.3 bad address syntax", True),
        ("556 5.1.10 recipient address has null MX", True),
        ("551 user not local", True),
        ("550 5.7.1 rejected by policy", False),
        ("551 5.7.1 not from this host", False),
        ("550 5.2.1 mailbox disabled", False),
        ("552 5.2.2 mailbox full", False),
        ("550 5.1.0 address rejected", False),
        ("550 5.1.2 host unknown", False),
        ("550 5.1.11 something new", False),
        ("550 mailbox unavailable", False),
        ("553 mailbox name not allowed", False),
        ("451 5.1.1 misconfigured", False),
        ("the mail server took no recipient: 550 5.1.1 user unknown", False),
    ],
)
def test_only_an_answer_that_denies_the_mailbox_says_that_there_is_none(
    words: str, is_gone: bool
) -> None:
    assert has_no_mailbox(words) is is_gone


def test_a_mailbox_that_does_not_exist_gets_no_further_mail(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink(answers={ADA: "550 5.1.1 no such user"})
    entered(sink.url())
    first = send_text(ADA, "Hello", "It works.")
    work()

    second = send_text([ADA, BOB], "Hello", "It works.")
    third = send_text("Ada@Example.org", "Hello", "It works.")
    work()

    assert (fresh(first).status, fresh(first).refused) == (
        "failed",
        {ADA: "550 5.1.1 no such user"},
    )
    assert db.session.scalars(sa.select(MailSuppression.details)).all() == [
        "550 5.1.1 no such user"
    ]
    assert (fresh(second).accepted, fresh(second).refused) == ([BOB], {ADA: "suppressed: bounced"})
    assert (fresh(third).status, fresh(third).error) == ("failed", "Every recipient is suppressed.")
    assert sink.recipients == [BOB]


@composer("tests.hello")
def compose_hello(message: MailMessage) -> Any:
    """A security mail of this file; worth nothing when it is told so."""
    context = message.context or {}
    return None if context["is_over"] else ("password-changed", {"full_name": context["name"]})


def test_a_security_mail_reaches_a_suppressed_address_and_is_never_stored(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink()
    entered(sink.url())
    suppress(ADA, "complained")
    row = send_secure_mail("tests.hello", ADA, {"is_over": False, "name": "Ada"})

    work()

    after = fresh(row)
    assert (after.status, after.accepted) == ("sent", [ADA])
    assert (after.subject, after.text, after.html) == (None, None, None)
    assert "password" in sink.received[0]["Subject"]


def test_a_security_mail_that_is_worth_nothing_any_more_is_not_sent(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink()
    entered(sink.url())
    row = send_secure_mail("tests.hello", ADA, {"is_over": True})

    outcomes = work()

    after = fresh(row)
    assert outcomes == ["finished"]
    assert (after.status, after.error) == ("failed", "It was no longer needed.")
    assert sink.received == []


@composer("tests.broken")
def compose_broken(_message: MailMessage) -> Any:
    return "no-such-template", {}


def test_a_security_mail_that_can_not_be_made_fails_and_says_why(
    entered: Any, make_sink: MakeSink
) -> None:
    entered(make_sink().url())
    row = send_secure_mail("tests.broken", ADA, {})

    outcomes = work()

    assert outcomes == ["failed"]
    assert fresh(row).status == "failed"
    assert "'no-such-template'" in (fresh(row).error or "")


def test_a_composer_that_is_not_there_is_noticed_by_who_sends(session: Any) -> None:
    with pytest.raises(UnknownComposer, match=r"tests\.nobody"):
        send_secure_mail("tests.nobody", ADA, {})


# --- Again ----------------------------------------------------------------------------------------


def test_a_failed_mail_is_tried_again_by_a_job_of_its_own(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink(answers={"DATA": "554 5.7.1 this is spam"})
    entered(sink.url())
    row = send_text(ADA, "Hello", "It works.")
    former = row.job_id
    work()
    sink.answers.clear()

    again = retry(row.id)
    queued = (again.status, again.error, again.refused)
    work()

    after = fresh(row)
    assert queued == ("queued", None, {})
    assert (after.status, after.accepted, after.attempts) == ("sent", [ADA], 2)
    assert after.job_id != former


def test_the_retry_of_a_job_sends_the_mail_that_it_left(entered: Any, make_sink: MakeSink) -> None:
    sink = make_sink(answers={"DATA": "554 5.7.1 this is spam"})
    entered(sink.url())
    row = send_text(ADA, "Hello", "It works.")
    work()
    sink.answers.clear()

    retry_job(row.job_id)
    outcomes = work()

    assert outcomes == ["finished"]
    assert fresh(row).status == "sent"


def retry_job(job_id: UUID | None) -> None:
    assert job_id is not None
    control.retry(job_id)


def test_a_job_sends_only_the_mail_that_is_still_its_own(entered: Any, make_sink: MakeSink) -> None:
    sink = make_sink(answers={"DATA": "554 5.7.1 this is spam"})
    entered(sink.url())
    row = send_text(ADA, "Hello", "It works.")
    former = row.job_id
    work()
    sink.answers.clear()
    retry(row.id)
    retry_job(former)

    work()

    assert len(sink.received) == 2  # the refused one, and one
    assert fresh(row).attempts == 2


def test_a_mail_that_was_sent_is_not_sent_by_a_job_that_runs_again(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink()
    entered(sink.url())
    row = send_text(ADA, "Hello", "It works.")
    work()
    job = db.session.get_one(Job, row.job_id)
    job.status, job.finished_at, job.sent_at = "queued", None, None

    assert work() == ["finished"]
    assert len(sink.received) == 1


def test_a_mail_whose_worker_was_killed_is_repeated_once_with_the_same_id(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink()
    entered(sink.url())
    row = send_text(ADA, "Hello", "It works.")
    work()
    # As if it had been killed between the server's yes and the record of it.
    after = fresh(row)
    after.status, after.accepted, after.sent_at = "sending", [], None
    job = db.session.get_one(Job, row.job_id)
    job.status, job.finished_at, job.sent_at = "retrying", None, None

    work()
    again = work()

    first, second = (mail["Message-ID"] for mail in sink.received)
    assert first == second
    assert again == []
    assert (fresh(row).status, fresh(row).attempts) == ("sent", 2)


# --- Told -----------------------------------------------------------------------------------------


def test_listeners_are_told_after_the_commit_and_may_fail(
    entered: Any, make_sink: MakeSink
) -> None:
    sink = make_sink(answers={BOB: "550 5.7.1 not from you"})
    app = entered(sink.url())
    told: list[Any] = []

    def note_sent(_app: Flask, *, message: Any, row_id: UUID, delivery: Any) -> None:
        told.append((row_id, fresh_status(row_id), message.subject, delivery.accepted))
        raise RuntimeError("a receiver broke")

    def note_failed(_app: Flask, *, row_id: UUID, error: str) -> None:
        told.append((row_id, fresh_status(row_id), error))

    with mail_sent.connected_to(note_sent, app), mail_failed.connected_to(note_failed, app):
        good, bad = send_text(ADA, "Hello", "It works."), send_text(BOB, "Hello", "It works.")
        outcomes = work()

    assert outcomes == ["finished", "failed"]
    assert told[0] == (good.id, "sent", "Hello", (ADA,))
    assert told[1][:2] == (bad.id, "failed")
    assert "550 5.7.1 not from you" in told[1][2]


def fresh_status(row_id: UUID) -> str:
    """The status as other connections see it."""
    with db.engine.connect().execution_options(readonly=True) as connection:
        found: str = connection.scalar(
            sa.select(MailMessage.status).where(MailMessage.id == row_id)
        )
    return found


def test_no_transaction_is_open_while_a_server_is_waited_for(
    entered: Any, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make_sink()
    entered(sink.url())
    engine = db.engine
    seen: list[bool] = []
    usual = sink.handle_DATA

    async def look(*arguments: Any) -> str:
        # SQLite has one writer: this one would have to wait for a transaction that is open.
        with engine.connect() as connection:
            connection.exec_driver_sql("UPDATE mail_messages SET error = 'seen'")
            connection.rollback()
        seen.append(True)
        return await usual(*arguments)

    monkeypatch.setattr(sink, "handle_DATA", look)
    send_text(ADA, "Hello", "It works.")

    assert work() == ["finished"]
    assert seen == [True]

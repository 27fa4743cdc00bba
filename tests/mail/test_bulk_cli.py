"""`flask mail send-bulk`, as an operator types it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask

from ghost.database import db
from ghost.mail import MailBatch
from ghost.mail.batch_cli import read_rows
from ghost.mail.batches import cancel_batch
from ghost.models import uuid7
from ghost.testing.background import Jobs, Mailbox

pytestmark = pytest.mark.integration


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    (folder / "news.subject.txt").write_text("News for {{ name }}\n")
    (folder / "news.txt").write_text("Hello {{ name }},\n\nthere are news.\n")
    return folder


@pytest.fixture
def app_config(templates: Path) -> Mapping[str, Any]:
    return {"mail": {"templates": str(templates), "max_batch": 5}}


@pytest.fixture
def send(app: Flask, tmp_path: Path) -> Callable[..., Result]:
    """Type `flask mail send-bulk` for a table of this content."""
    runner = app.test_cli_runner()

    def run(table: str | bytes, *words: str, template: str = "news") -> Result:
        file = tmp_path / "table.csv"
        file.write_bytes(table.encode() if isinstance(table, str) else table)
        words = words or ("--no-wait",)
        return runner.invoke(args=["mail", "send-bulk", str(file), "--template", template, *words])

    return run


@pytest.fixture
def count_batches(app: Flask) -> Callable[[], int]:
    def count() -> int:
        with app.app_context():
            return db.session.query(MailBatch).count()

    return count


GOOD = "to,name\nada@example.org,Ada\nGrace <grace@example.org>,Grace\n"


def test_everybody_in_the_table_gets_a_mail(
    send: Callable[..., Result], jobs: Jobs, mailbox: Mailbox
) -> None:
    result = send(GOOD)
    jobs.run_all()

    assert result.exit_code == 0, result.output
    assert "2 mails queued as batch " in result.output
    assert {mail.subject for mail in mailbox} == {"News for Ada", "News for Grace"}


def test_one_is_said_as_one_and_repetitions_are_told(send: Callable[..., Result]) -> None:
    result = send("to,name\nada@example.org,Ada\nADA@example.org,Ada\n")

    assert "1 mail queued as batch " in result.output
    assert "1 left out, whose address came before." in result.output


@pytest.mark.parametrize(
    "table",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        b'name,to\n"A, B\nC",ada@example.org\n\n,\nGrace,grace@example.org\n',
    ],
    ids=["a byte order mark", "line ends of Windows", "other order, quotes, empty lines"],
)
def test_tables_of_many_programs_are_read(send: Callable[..., Result], table: bytes) -> None:
    result = send(table, "--dry-run")

    if b'"' in table:  # a value of two lines can't be in a subject
        assert "line 2: subject:" in result.output
    else:
        assert result.output == "2 mails would be sent.\n"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("name\nAda\n", "line 1: There is no column 'to'."),
        ("to,name,name\n", "line 1: Two columns have the same name."),
        ("to,\n", "line 1: A column has no name."),
        ("to,name\n", "The table has no rows."),
        ("", "There is no column 'to'."),
        ("to,name\nada@example.org,Ada\nnobody,N\n", "line 3: 'nobody' is no e-mail address."),
        ("to,name\nada@example.org\n", "line 2: 1 values for 2 columns."),
        ('to,name\n"a@example.org\n', "line 2: "),
        (b"to,name\nada@example.org,\xff\n", "The file is not UTF-8."),
        ("to,name\n" + "ada@example.org,A\n" * 6, "line 7: There are more than 5 mails"),
        ('to,name\nada@example.org,"A\nB"\nnobody,N\n', "line 4: 'nobody'"),
    ],
    ids=[
        "no address", "a column twice", "no name", "no rows", "nothing", "a bad address",
        "a short row", "an open quote", "another encoding", "too many", "after a long row",
    ],
)  # fmt: skip
def test_a_wrong_table_is_told_by_line_and_nothing_is_sent(
    send: Callable[..., Result],
    count_batches: Callable[[], int],
    table: str | bytes,
    words: str,
) -> None:
    result = send(table)

    assert result.exit_code == 1
    assert "nothing was sent." in result.output
    assert words in result.output
    assert count_batches() == 0


def test_a_column_that_the_template_needs_is_named(send: Callable[..., Result]) -> None:
    result = send("to,nickname\nada@example.org,A\n")

    assert result.exit_code == 1
    assert "context:" in result.output
    assert "name" in result.output


def test_a_dry_run_makes_every_mail_and_sends_none(
    send: Callable[..., Result], count_batches: Callable[[], int]
) -> None:
    good = send(GOOD, "--dry-run")
    bad = send(GOOD, "--dry-run", template="missing")

    assert good.output == "2 mails would be sent.\n"
    assert bad.exit_code == 1
    assert "line 2: template: " in bad.output
    assert count_batches() == 0


@pytest.fixture
def in_background(app: Flask, jobs: Jobs) -> Any:
    """Do something as soon as a job waits."""
    threads: list[threading.Thread] = []

    def begin(act: Callable[[], object]) -> None:
        def run() -> None:
            deadline = time.monotonic() + 20
            while not jobs.names() and time.monotonic() < deadline:
                time.sleep(0.02)
            act()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join(30)


def test_the_batch_is_followed_until_it_is_over(
    send: Callable[..., Result], jobs: Jobs, mailbox: Mailbox, in_background: Any
) -> None:
    in_background(jobs.run_all)

    result = send(GOOD, "--wait")

    assert result.exit_code == 0, result.output
    assert result.output.endswith("2 mails sent.\n")
    assert len(mailbox) == 2


def test_an_unknown_batch_can_not_be_canceled(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["mail", "cancel-bulk", str(uuid7())])

    assert result.exit_code == 1
    assert "There is no such batch." in result.output


def test_what_failed_is_an_exit_status(
    send: Callable[..., Result], app: Flask, jobs: Jobs, in_background: Any
) -> None:
    def cancel() -> None:
        with app.app_context():
            # Not by the command: two of them at once would share one standard output.
            cancel_batch(db.session.scalars(sa.select(MailBatch.id)).one())
            db.session.commit()

    in_background(cancel)

    result = send(GOOD, "--wait")

    assert result.exit_code == 1
    assert "0 mails sent, 2 failed." in result.output


def test_ctrl_c_leaves_the_batch_running_and_says_how_to_cancel_it(
    send: Callable[..., Result],
    app: Flask,
    jobs: Jobs,
    mailbox: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ghost.mail.batch_cli.time.sleep", interrupt)
        result = send(GOOD, "--wait")
    jobs.run_all()

    assert result.exit_code == 0
    with app.app_context():
        batch_id = db.session.scalar(sa.select(MailBatch.id))
    assert f"To cancel it: flask mail cancel-bulk {batch_id}" in result.output
    assert len(mailbox) == 2


def test_a_batch_is_canceled(send: Callable[..., Result], app: Flask, jobs: Jobs) -> None:
    batch_id = send(GOOD).output.split()[5].rstrip(".")
    runner = app.test_cli_runner()

    result = runner.invoke(args=["mail", "cancel-bulk", batch_id])
    again = runner.invoke(args=["mail", "cancel-bulk", batch_id])

    assert result.output.endswith("The batch is canceled; 0 mails sent, 2 failed.\n")
    assert again.exit_code == 1
    assert "canceled already" in again.output


def test_rows_know_where_they_begin(app: Flask, tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text('to,name\na@example.org,"A\nB"\nb@example.org,C\n')

    with app.app_context():
        rows = read_rows(file)

    assert [row.line for row in rows] == [2, 4]

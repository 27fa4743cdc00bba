"""`flask mail send-bulk`: a table of recipients becomes a batch, and one watches it leave."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from flask.cli import with_appcontext

from ghost.commands import said_in_words
from ghost.config import current_config
from ghost.database import db_manager
from ghost.errors import GhostError, NotFound
from ghost.mail import batches
from ghost.mail.messages import Address
from ghost.mail.suppression import canonical

ADDRESS_COLUMN = "to"
LOOK_SECONDS = 0.5
MISTAKES_SHOWN = 20


@dataclass(frozen=True)
class Row:
    """One recipient, and the line of the file where it begins."""

    line: int
    to: str
    context: Mapping[str, str]


class BadTable(click.ClickException):
    """What is wrong with a file, line by line."""

    def __init__(self, mistakes: list[str]) -> None:
        shown = mistakes[:MISTAKES_SHOWN]
        if more := len(mistakes) - len(shown):
            shown.append(f"and {more} more.")
        super().__init__("\n  ".join(["nothing was sent.", *shown]))


@click.command("send-bulk")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--template", required=True, help="The name of the mail template.")
@click.option("--locale", help="Whose files are taken where there are any: de-AT, then de.")
@click.option("--dry-run", is_flag=True, help="Make all mails, and send none.")
@click.option(
    "--wait/--no-wait", "is_waited_for", default=True, show_default=True,
    help="Follow the batch until it is over.",
)  # fmt: skip
@with_appcontext
def send_bulk_command(
    file: Path, template: str, locale: str | None, dry_run: bool, is_waited_for: bool
) -> None:
    """Send a template to everybody in FILE, a CSV table in UTF-8.

    Its first line names the columns: `to` for the address, as ada@example.org or
    "Ada <ada@example.org>", and the template's variables. If one row is wrong nothing is sent.
    The mails are sent by a worker, which has to run.
    """
    rows = read_rows(file)
    if dry_run:
        _try_all(rows, template, locale)
        return
    with _said_in_words(), db_manager.session():
        batch = batches.send_bulk(template, [(row.to, row.context) for row in rows], locale=locale)
    left_out = len(rows) - batch.total
    click.echo(
        f"{_mails(batch.total)} queued as batch {batch.id}"
        + (f"; {left_out} left out, whose address came before." if left_out else ".")
    )
    if is_waited_for:
        _follow(batch.id, batch.total)


@click.command("cancel-bulk")
@click.argument("batch_id", type=click.UUID)
@with_appcontext
def cancel_bulk_command(batch_id: UUID) -> None:
    """Cancel a batch: what was not sent yet is not sent."""
    with _said_in_words():
        try:
            with db_manager.session():
                batches.cancel_batch(batch_id)
        except NotFound as error:
            raise click.ClickException("There is no such batch.") from error
        state = batches.look_at(batch_id)
    click.echo(f"The batch is canceled; {_said_of(state)}.")


@contextmanager
def _said_in_words() -> Iterator[None]:
    """As every command, with all that is wrong with a batch, a line each."""
    with said_in_words():
        try:
            yield
        except GhostError as error:
            words = list(_flat((error.details or {}).get("json", {})))
            raise click.ClickException("\n  ".join(words) or error.message) from error


def _flat(details: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, found in details.items():
        if isinstance(found, Mapping):
            yield from _flat(found, f"{path}{name}.")
        else:
            yield f"{path}{name}: {' '.join(found)}"


# --- The table ------------------------------------------------------------------------------------


def read_rows(file: Path) -> list[Row]:
    """Read a table of recipients.

    :raises BadTable: a row is wrong, or there is none; with the numbers of the lines.
    """
    mistakes: list[str] = []
    try:
        # Excel marks UTF-8 by a byte order mark.
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(_rows(csv.reader(stream, strict=True), mistakes))
    except UnicodeDecodeError as error:
        raise BadTable(["The file is not UTF-8."]) from error
    if not (rows or mistakes):
        mistakes.append("The table has no rows.")
    if mistakes:
        raise BadTable(mistakes)
    return rows


def _rows(reader: Any, mistakes: list[str]) -> Iterator[Row]:
    """Go through the rows that are right; what is wrong with others is added to the mistakes."""
    try:
        columns = [name.strip() for name in next(reader, [])]
        if mistake := _mistake_in(columns):
            mistakes.append(f"line 1: {mistake}")
            return
        most = current_config().mail.max_batch
        end, count = reader.line_num, 0
        for values in reader:
            line, end = end + 1, reader.line_num  # a row may go over several lines
            if not any(value.strip() for value in values):
                continue
            count += 1
            if count > most:
                mistakes.append(f"line {line}: There are more than {_mails(most)} in this table.")
                return
            if len(values) != len(columns):
                mistakes.append(f"line {line}: {len(values)} values for {len(columns)} columns.")
                continue
            context = dict(zip(columns, values, strict=True))
            to = context.pop(ADDRESS_COLUMN).strip()
            if _is_address(to):
                yield Row(line, to, context)
            else:
                mistakes.append(f"line {line}: {to!r} is no e-mail address.")
    except csv.Error as error:
        mistakes.append(f"line {reader.line_num}: {error}.")


def _mistake_in(columns: list[str]) -> str | None:
    if ADDRESS_COLUMN not in columns:
        return f"There is no column {ADDRESS_COLUMN!r}."
    if "" in columns:
        return "A column has no name."
    if len(set(columns)) < len(columns):
        return "Two columns have the same name."
    return None


def _is_address(text: str) -> bool:
    try:
        canonical(Address.parse(text).email)
    except ValueError:  # InvalidMessage is one, too
        return False
    return True


def _try_all(rows: list[Row], template: str, locale: str | None) -> None:
    """Make each mail and say what would be sent."""
    mistakes = []
    for row in rows:
        try:
            batches.try_out(template, Address.parse(row.to), row.context, locale)
        except GhostError as error:
            words = list(_flat((error.details or {}).get("json", {}))) or [error.message]
            mistakes.append(f"line {row.line}: {'; '.join(words)}")
    if mistakes:
        raise BadTable(mistakes)
    count = len({canonical(Address.parse(row.to).email) for row in rows})
    click.echo(f"{_mails(count)} would be sent.")


# --- Following a batch ----------------------------------------------------------------------------


def _follow(batch_id: UUID, total: int) -> None:
    """Show how far a batch is, until it is over.

    :raises click.ClickException: not all of its mails were sent.
    """
    try:
        with _said_in_words(), click.progressbar(length=total, label="Sending") as bar:
            shown = 0
            while (state := batches.look_at(batch_id)).finished_at is None:
                done = state.sent + state.failed
                bar.update(done - shown)
                shown = done
                time.sleep(LOOK_SECONDS)
            bar.update(total - shown)
    except KeyboardInterrupt:
        click.echo(f"\nThe batch goes on. To cancel it: flask mail cancel-bulk {batch_id}")
        return
    if state.failed:
        raise click.ClickException(f"{_said_of(state)}.")
    click.echo(f"{_said_of(state)}.")


def _said_of(state: Any) -> str:
    words = f"{_mails(state.sent)} sent"
    return f"{words}, {state.failed} failed" if state.failed else words


def _mails(count: int) -> str:
    return "1 mail" if count == 1 else f"{count} mails"

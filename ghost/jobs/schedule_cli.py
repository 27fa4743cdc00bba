"""`flask schedules`: what an operator does with the jobs on the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from zoneinfo import ZoneInfo

import click
from flask.cli import AppGroup

from ghost.commands import said_in_words
from ghost.database import db_manager
from ghost.jobs import schedule_services as services
from ghost.jobs.registry import UnknownJob

schedules_group = AppGroup("schedules", help="List, run, enable and disable schedules.")


@schedules_group.command("list")
def list_command() -> None:
    """List the schedules with their last and next due times, in their own zones."""
    with _said_in_words(), db_manager.session():
        found = services.list_schedules()
    if not found:
        click.echo("There are no schedules; `flask scheduler` takes up what is declared.")
        return
    rows = [
        (
            state.name,
            state.job,
            state.timing,
            state.timezone,
            state.missed,
            state.source,
            _said(state.last_due_at, state.timezone),
            _said(state.next_due_at, state.timezone) if state.enabled else "disabled",
        )
        for state in found
    ]
    table = [("NAME", "JOB", "TIMING", "ZONE", "MISSED", "FROM", "LAST", "NEXT"), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@schedules_group.command("run")
@click.argument("name")
def run_command(name: str) -> None:
    """Enqueue a schedule's job once, now; its due times stay as they are."""
    with _said_in_words(), db_manager.session():
        job_id = services.run_now(name)
    click.echo(f"Enqueued {name} as the job {job_id}.")


@schedules_group.command("enable")
@click.argument("name")
def enable_command(name: str) -> None:
    """Let a schedule run again, from now on."""
    with _said_in_words(), db_manager.session():
        services.set_enabled(name, True)
    click.echo(f"Enabled {name}.")


@schedules_group.command("disable")
@click.argument("name")
def disable_command(name: str) -> None:
    """Keep a schedule from running until it is enabled."""
    with _said_in_words(), db_manager.session():
        services.set_enabled(name, False)
    click.echo(f"Disabled {name}.")


def _said(moment: datetime | None, timezone: str) -> str:
    return f"{moment.astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M:%S}" if moment else "-"


@contextmanager
def _said_in_words() -> Iterator[None]:
    """As every command; here jobs and their arguments may be wrong, too."""
    with said_in_words():
        try:
            yield
        except (UnknownJob, TypeError) as error:
            raise click.ClickException(str(error)) from error

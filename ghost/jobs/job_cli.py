"""`flask jobs`: what an operator does with jobs."""

from __future__ import annotations

from uuid import UUID

import click
from flask.cli import AppGroup

from ghost.commands import said_in_words
from ghost.database import db_manager
from ghost.jobs import control, queues
from ghost.jobs.models import AGAIN, STATUSES, Job

jobs_group = AppGroup("jobs", help="Look at background jobs, cancel them, try them again.")

_status = click.Choice(STATUSES)


@jobs_group.command("list")
@click.option("--status", type=_status, help="Only jobs of this status.")
@click.option("--queue", help="Only jobs of this queue.")
@click.option("--name", help="Only runs of this function, such as mail.deliver.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
def list_command(status: str | None, queue: str | None, name: str | None, limit: int) -> None:
    """List jobs, the newest first."""
    wanted = {"status": status, "queue": queue, "name": name}
    statement = control.list_jobs().filter_by(
        **{key: value for key, value in wanted.items() if value is not None}
    )
    with said_in_words(), db_manager.session() as session:
        jobs = session.scalars(statement.order_by(Job.id.desc()).limit(limit)).all()
    for job in jobs:
        click.echo(_line(job))
    if not jobs:
        click.echo("No jobs.", err=True)


@jobs_group.command("show")
@click.argument("job_id", type=click.UUID)
def show_command(job_id: UUID) -> None:
    """Show one job, and its attempts so far."""
    with said_in_words(), db_manager.session():
        job = control.get_job(job_id)
    for title in (
        "id", "name", "queue", "status", "progress", "progress_message", "attempts",
        "max_attempts", "run_at", "created_at", "started_at", "finished_at", "created_by",
        "request_id", "result", "error",
    ):  # fmt: skip
        value = getattr(job, title)
        if value is not None:
            click.echo(f"{title:<17} {value}")
    for entry in job.history:
        click.echo(
            f"attempt {entry['attempt']:<9} {entry['outcome']}, {entry['started_at']} to"
            f" {entry['finished_at']}" + (f": {entry['error']}" if entry["error"] else "")
        )


@jobs_group.command("cancel")
@click.argument("job_ids", type=click.UUID, nargs=-1, required=True, metavar="JOB_ID...")
def cancel_command(job_ids: tuple[UUID, ...]) -> None:
    """Cancel jobs: those that wait never start, those that run are stopped."""
    for job_id in job_ids:
        with said_in_words(), db_manager.session():
            job = control.cancel(job_id)
        click.echo(f"{job.id} is canceled.")


@jobs_group.command("retry")
@click.argument("job_ids", type=click.UUID, nargs=-1, metavar="[JOB_ID]...")
@click.option("every", "--all", is_flag=True, help="All jobs of --status, instead of ids.")
@click.option("--status", type=click.Choice(AGAIN), default=AGAIN[0], show_default=True)
@click.option("--queue", help="With --all: only jobs of this queue.")
@click.option("--name", help="With --all: only runs of this function.")
def retry_command(
    job_ids: tuple[UUID, ...], every: bool, status: str, queue: str | None, name: str | None
) -> None:
    """Try failed or canceled jobs again, now."""
    if every == bool(job_ids):
        raise click.UsageError("Name jobs by their ids, or say --all.")
    if every:
        _retry_all(status, name, queue)
        return
    for job_id in job_ids:
        with said_in_words(), db_manager.session():
            control.retry(job_id)
        click.echo(f"{job_id} is tried again.")


def _retry_all(status: str, name: str | None, queue: str | None) -> None:
    with said_in_words(), db_manager.session():
        found = control.find_failed(status=status, name=name, queue=queue)
        count = 0
        with click.progressbar(length=len(found), label="Trying again") as bar:
            for _ in control.retry_many(found):
                count += 1
                bar.update(1)
    click.echo(f"{count} of {len(found)} jobs are tried again.")


@jobs_group.command("stats")
def stats_command() -> None:
    """Count jobs by function and status, and show the queues."""
    with said_in_words(), db_manager.session():
        counts = control.count_by_status()
        states = queues.list_queues()
    for name in sorted(counts):
        numbers = ", ".join(f"{count} {status}" for status, count in sorted(counts[name].items()))
        click.echo(f"{name:<30} {numbers}")
    for state in states:
        since = f", the oldest since {state.oldest:%Y-%m-%d %H:%M:%S}Z" if state.oldest else ""
        click.echo(
            f"queue {state.name:<24} {state.depth} waiting, {state.running} running{since}"
            + (" (paused)" if state.paused else "")
        )


def _line(job: Job) -> str:
    return (
        f"{job.id}  {job.status:<9}  {job.created_at:%Y-%m-%d %H:%M:%S}Z  {job.queue:<8}"
        f"  {job.attempts}/{job.max_attempts}  {job.name}"
    )

"""`flask files`: what an operator does with files."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import click
from flask.cli import AppGroup

from ghost.commands import said_in_words
from ghost.files import sweep, verifying
from ghost.models import utcnow

files_group = AppGroup("files", help="Look after the files that people have uploaded.")


@files_group.command("stats")
def stats_command() -> None:
    """Tell how many files there are, and how much room they take."""
    with said_in_words():
        stats = verifying.read_stats()
    for one in stats:
        click.echo(_line(one.category, one.count, one.size, one.deleted))
    sums = (sum(one.count for one in stats), sum(one.size for one in stats))
    click.echo(_line("all", *sums, sum(one.deleted for one in stats)))


def _line(title: str, count: int, size: int, deleted: int) -> str:
    line = f"{title:<10} {count:>10} files {size:>18} bytes"
    return f"{line}   {deleted} of them deleted" if deleted else line


@files_group.command("verify")
def verify_command() -> None:
    """Read all files, and name those whose bytes are gone, damaged or unreadable.

    Exit status 1 if there are any.
    """
    findings: list[verifying.Finding] = []
    try:
        with said_in_words():
            total = verifying.total_size()
            with click.progressbar(length=total, label="Verifying") as progress:
                for finding in verifying.verify(progress.update):
                    findings.append(finding)
    finally:  # also what was found before something went wrong
        for finding in findings:
            click.echo(f"{finding.id} {finding.problem}: {finding.key}")
    if findings:
        raise click.ClickException(f"{len(findings)} of the files are not as they were stored.")
    click.echo("All files are as they were stored.")


@files_group.command("sweep")
def sweep_command() -> None:
    """Purge deleted files whose time is over, and delete bytes that belong to no file.

    Workers do the same by themselves, about once an hour. Files whose bytes are gone are named,
    and stay; exit status 1 if there are any, or something could not be deleted.
    """
    purged = stale = orphans = failed = 0
    missing: list[UUID] = []
    with said_in_words():
        sweep.check_place()
        temporary = sweep.remove_temporary(utcnow())
        while count := sweep.purge_deleted(utcnow()):
            purged += count
        while count := sweep.delete_stale_variants(utcnow()):
            stale += count
        # How much lies there is not known before it was looked at.
        with click.progressbar(_portions(), label="Sweeping") as portions:
            for portion in portions:
                orphans += portion.orphans
                failed += portion.failed
                missing.extend(portion.missing)
    click.echo(
        f"{purged} deleted files purged, {stale} variants, {orphans} orphans and {temporary} "
        "temporary files removed."
    )
    for file_id in missing:
        click.echo(f"{file_id} missing")
    if failed:
        click.echo(f"{failed} orphans could not be deleted.")
    if missing:
        raise click.ClickException(f"{len(missing)} files have lost their bytes.")
    if failed:
        raise click.ClickException("Not all could be swept; the log says why.")


def _portions() -> Iterator[sweep.Portion]:
    after = ""
    while True:
        portion = sweep.sweep_portion(utcnow(), after)
        yield portion
        if portion.last is None:
            return
        after = portion.last

"""`flask mail`: what a developer and an operator do with mails."""

from __future__ import annotations

import json
from typing import Any, TextIO

import click
from flask.cli import AppGroup

from ghost.errors import ValidationFailed
from ghost.mail import previews
from ghost.mail.batch_cli import cancel_bulk_command, send_bulk_command
from ghost.mail.rendering import is_locale

mail_group = AppGroup("mail", help="Preview and send mails.")
mail_group.add_command(send_bulk_command)
mail_group.add_command(cancel_bulk_command)


@mail_group.command("preview")
@click.argument("name")
@click.option("--locale", help="Whose files are taken where there are any: de-AT, then de.")
@click.option(
    "--context", "context_file", type=click.File(encoding="utf-8"),
    help="A JSON file with the variables; NAME.sample.json beside the template when left out.",
)  # fmt: skip
@click.option("--html", "is_html", is_flag=True, help="Print the HTML alone, for a browser.")
def preview_command(
    name: str, locale: str | None, context_file: TextIO | None, is_html: bool
) -> None:
    """Print what the template NAME makes of its sample data, or of other data."""
    if locale is not None and not is_locale(locale):
        raise click.BadParameter("It must look like de or de-AT.", param_hint="--locale")
    try:
        context = previews.sample_of(name) if context_file is None else _read(context_file)
        rendered = previews.preview(name, context, locale=locale)
    except ValidationFailed as error:
        raise click.ClickException(error.message) from error
    except ValueError as error:
        raise click.ClickException(f"{error}.") from error
    if is_html:
        if rendered.html is None:
            raise click.ClickException(f"The mail template {name!r} has no HTML.")
        click.echo(rendered.html)
    else:
        click.echo(f"Subject: {rendered.subject}\n\n{rendered.text}", nl=False)


def _read(file: TextIO) -> dict[str, Any]:
    try:
        context = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is no valid JSON") from error
    if not isinstance(context, dict):
        raise ValueError(f"{file.name} holds no object")
    return context

"""The flask command groups that belong to no room."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
from flask.cli import ScriptInfo, pass_script_info

from ghost.config import Config, ConfigError, Reading, Row

config_group = click.Group("config", help="Show and check the configuration.")


@config_group.command("show")
@pass_script_info
def show_config(info: ScriptInfo) -> None:
    """Print every key with its value and source, secrets masked."""
    reading = _read(info)
    click.echo(f"Project folder: {reading.root}\n")
    for line in _table(reading.rows()):
        click.echo(line)
    if reading.mistakes:
        click.echo(f"\n{ConfigError(reading.mistakes).format_message()}", err=True)


@config_group.command("check")
@pass_script_info
def check_config(info: ScriptInfo) -> None:
    """Exit 1 with the list of mistakes, if there are any."""
    reading = _read(info)
    if reading.mistakes:
        raise ConfigError(reading.mistakes)
    click.echo(f"The configuration is right ({reading.get('app.env')}).")


def _read(info: ScriptInfo) -> Reading:
    # What wsgi.py passes to create_app() counts too, and only the application knows it. An
    # application that cannot be loaded must not keep these commands from their work.
    try:
        config = info.load_app().extensions["ghost"].config
    except ConfigError as error:
        return error.reading or Reading()
    except Exception as error:
        message = error.format_message() if isinstance(error, click.ClickException) else repr(error)
        reason = message.strip().splitlines()[-1]  # Flask puts a stack trace above it
        click.echo(f"Without the application, which cannot be loaded: {reason}\n", err=True)
        return Reading()
    return config.reading if isinstance(config, Config) else Reading()


def _table(rows: Iterable[Row]) -> list[str]:
    cells = [(row.name, _shown(row.value), row.source) for row in rows]
    widths = [min(60, max(len(line[column]) for line in cells)) for column in (0, 1)]
    return [
        f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}".rstrip()
        for name, value, source in [("key", "value", "source"), *cells]
    ]


def _shown(value: object) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(item)}" for name, item in value.items())
    if isinstance(value, str | Path):
        text = str(value)
        return text if text.isprintable() else repr(text)
    return repr(value)

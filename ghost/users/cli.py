"""`flask users`: what an operator does with accounts, the first administrator before all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import marshmallow as ma
from flask.cli import AppGroup
from marshmallow import fields
from sqlalchemy.exc import DBAPIError

from ghost.access import SUPER_ADMIN, USER
from ghost.commands import said_in_words
from ghost.database import db, db_manager
from ghost.errors import GhostError, NotFound
from ghost.fields import Email
from ghost.passwords import hash_password, validate_password
from ghost.users import services
from ghost.users.models import User
from ghost.users.roles import require_other_super_admin, require_roles
from ghost.users.schemas import FullName, RoleName, Username

users_group = AppGroup("users", help="Create, list and change accounts.")

Check = Callable[[click.Context, click.Parameter, Any], Any]


def _by(field: fields.Field) -> Check:
    """Check an option or argument as the API checks the same value."""

    def check(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        if value is None:
            return None
        try:
            if isinstance(value, tuple):
                return tuple(field.deserialize(one) for one in value)
            return field.deserialize(value)
        except ma.ValidationError as error:
            raise click.BadParameter(" ".join(map(str, error.messages))) from error

    return check


@users_group.command("create")
@click.argument("email", callback=_by(Email()))
@click.option("--username", callback=_by(Username()), help="A second name to log in with.")
@click.option("--full-name", callback=_by(FullName()))
@click.option(
    "roles", "--role", multiple=True, callback=_by(RoleName()),
    help="A role to assign; may be given more than once. USER when none is.",
)  # fmt: skip
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input, not a prompt."
)
def create_command(
    email: str,
    username: str | None,
    full_name: str | None,
    roles: tuple[str, ...],
    password_stdin: bool,
) -> None:
    """Create an account; its address counts as verified.

    The password is asked for, never an argument: others could read it in the list of processes.
    """
    roles = roles or (USER,)
    with _said_in_words():
        with db_manager.session():
            require_roles(roles)  # before anybody types a password twice
        if password_stdin:
            password = sys.stdin.readline().removesuffix("\n")
        else:
            password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        validate_password(password, email, username, full_name)
        password_hash = hash_password(password)
        with db_manager.session():
            services.add_user(
                email=email,
                username=username,
                full_name=full_name,
                password_hash=password_hash,
                roles=roles,
                is_verified=True,
            )
    click.echo(f"Created {email} with {_listed(roles)}.")


@users_group.command("list")
@click.option("--role", callback=_by(RoleName()), help="Only accounts with this role.")
@click.option("--search", help="Only accounts whose address, username or name contains this.")
def list_command(role: str | None, search: str | None) -> None:
    """List the accounts, the oldest first."""
    statement = services.list_users(sort="created_at", role=role, search=search)
    with _said_in_words(), db_manager.connection() as connection:
        rows = [
            (
                row.email,
                row.username or "-",
                ", ".join(row.roles) or "-",
                "active" if row.is_active else "disabled",
                "verified" if row.is_verified else "unverified",
                f"{row.created_at:%Y-%m-%d}",
            )
            for row in connection.execute(statement)
        ]
    table = [("E-MAIL", "USERNAME", "ROLES", "STATE", "ADDRESS", "CREATED"), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@users_group.command("disable")
@click.argument("email", callback=_by(Email()))
def disable_command(email: str) -> None:
    """Disable an account and end its sessions."""
    with _said_in_words(), db_manager.session():
        user = _locked(email)
        require_other_super_admin(user)
        services.update_user(user, {"is_active": False})
    click.echo(f"Disabled {email}; its sessions have ended.")


@users_group.command("set-roles")
@click.argument("email", callback=_by(Email()))
@click.argument("roles", nargs=-1, required=True, callback=_by(RoleName()))
def set_roles_command(email: str, roles: tuple[str, ...]) -> None:
    """Replace the roles of an account."""
    with _said_in_words(), db_manager.session():
        user = _locked(email)
        if SUPER_ADMIN not in roles:
            require_other_super_admin(user)
        services.replace_roles(user, roles)
    click.echo(f"{email} now has {_listed(roles)}.")


def _locked(email: str) -> User:
    found = services.find_by_login(email)
    if found is None:
        raise NotFound(f"There is no account {email}.")
    return services.lock_user(found.id)


def _listed(roles: tuple[str, ...]) -> str:
    names = sorted(set(roles))
    return f"the role{'s' if len(names) > 1 else ''} {', '.join(names)}"


@contextmanager
def _said_in_words() -> Iterator[None]:
    """As every command, with all that is wrong with an account."""
    with said_in_words():
        try:
            yield
        except GhostError as error:
            details = (error.details or {}).get("json") or {}
            lines = [message for messages in details.values() for message in messages]
            raise click.ClickException(" ".join(lines) or error.message) from error
        except DBAPIError:
            db.session.rollback()
            raise

"""What the commands of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy.exc import DBAPIError

from ghost.errors import GhostError


@contextmanager
def said_in_words() -> Iterator[None]:
    """Turn what went wrong into a line for people, and exit status 1."""
    try:
        yield
    except GhostError as error:
        raise click.ClickException(error.message) from error
    except DBAPIError as error:
        reason = str(error.orig).strip().partition("\n")[0]
        raise click.ClickException(
            f"The database says: {reason}. Is it there, and migrated (flask db upgrade)?"
        ) from error

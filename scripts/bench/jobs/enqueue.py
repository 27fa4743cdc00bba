"""What the side-by-side benchmark enqueues and Ghost's worker runs: `jobs.modules` names this."""

from __future__ import annotations

from functools import cache

import mark  # the benchmark's own: waits if asked to, and writes the times into a file
from flask import Flask

from ghost import create_app, db, job


@job
def run(kind: str, number: int) -> None:
    """Do what every peer's job does."""
    mark.run(kind, number)


@cache
def _app() -> Flask:
    return create_app()


def enqueue(kind: str, number: int) -> None:
    """Enqueue one job as a request would: in a transaction that commits durably."""
    with _app().app_context():
        run.enqueue(kind, number)
        db.session.commit()

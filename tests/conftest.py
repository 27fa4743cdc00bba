"""What tests in every folder share: the lab, an application on the foundation alone."""

from __future__ import annotations

import os
import signal

import pytest
from flask import Flask
from hypothesis import settings
from lab import build_lab, create_tables

from ghost.testing.applications import Factory

# The same examples in every run, and no folder for those that failed.
settings.register_profile("ghost", derandomize=True, database=None, deadline=None)
settings.load_profile("ghost")


def pytest_configure(config: pytest.Config) -> None:
    # Ended by SIGTERM, the run takes its servers down as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "lab: `app` is the application of tests/lab.py")
    config.addinivalue_line("markers", "only_on(name): about one kind of database alone")
    config.addinivalue_line("markers", "each_database: reads GHOST_TEST_DATABASE by itself")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is no part of this run: it is about the other database, or about none."""
    name = os.environ.get("GHOST_TEST_DATABASE") or "sqlite"
    others = [item for item in items if not _belongs_to(item, name)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _belongs_to(item, name)]


def _belongs_to(item: pytest.Item, database: str) -> bool:
    if any(marker.args != (database,) for marker in item.iter_markers("only_on")):
        return False
    # What asks for no database gives the same on either, and runs with SQLite.
    asked = {"_database", "postgres"} & set(getattr(item, "fixturenames", ()))
    return database == "sqlite" or bool(asked) or bool(item.get_closest_marker("each_database"))


@pytest.fixture
def app_factory(request: pytest.FixtureRequest, app_factory: Factory) -> Factory:
    return build_lab if request.node.get_closest_marker("lab") else app_factory


@pytest.fixture
def app(request: pytest.FixtureRequest, app: Flask) -> Flask:
    if request.node.get_closest_marker("lab"):
        create_tables(app)
    return app

"""The application under test: the one of wsgi.py, built with a configuration for tests."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask

from ghost.app import create_app
from ghost.config import set_config
from ghost.config_sources import SHORT_NAMES
from ghost.database import db, db_manager

Settings = Mapping[str, Any]
Factory = Callable[[Settings], Flask]

DEFAULTS: Settings = {
    "app": {"env": "testing"},
    "auth": {"bcrypt_rounds": 4},
    "mail": {"url": "memory://"},
    "ratelimit": {"enabled": False},
    "redis": {"url": None},
}


def merged(*layers: Settings) -> dict[str, Any]:
    """Join settings section by section, later ones over earlier ones."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if isinstance(value, Mapping):
                value = merged(result.get(name, {}), value)
            result[name] = value
    return result


def environ_for(settings: Settings, root: Path | None = None) -> dict[str, str]:
    """The environment of a process that is to run with these settings.

    Every variable that sets something for Ghost is left out: a test run must not depend on the
    developer's shell, and never reach the developer's database.

    :param root: the folder of wsgi.py; None leaves it to Ghost to find.
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in SHORT_NAMES and (not name.startswith("GHOST_") or name == "GHOST_CONFIG")
    }
    if root:
        environ["GHOST_ROOT"] = str(root)
    short: dict[tuple[str, ...], str] = {key: name for name, key in SHORT_NAMES.items()}
    for key, value in _flat(settings):
        name = short.get(key) or "GHOST_" + "__".join(key).upper()
        environ[name] = value if isinstance(value, str) else json.dumps(value)
    return environ


def _flat(settings: Settings) -> Iterator[tuple[tuple[str, ...], Any]]:
    for section, values in settings.items():
        if not isinstance(values, Mapping):
            yield (section,), values
            continue
        for name, value in values.items():
            yield (section, name), value


@contextmanager
def _environ(environ: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def from_wsgi(path: Path) -> Factory:
    """A factory that runs a wsgi.py, with the settings in the environment, and takes its `app`."""

    def factory(settings: Settings) -> Flask:
        with _environ(environ_for(settings, path.parent)):
            names = runpy.run_path(str(path), run_name="wsgi")
        app = names.get("app") or names.get("application")
        if not isinstance(app, Flask):
            raise RuntimeError(f"{path} makes no `app`: app = create_app(blueprints=[...])")
        return app

    return factory


class Applications:
    """Builds applications, and gives the last one again as long as the settings stay the same."""

    def __init__(self) -> None:
        self._key: tuple[Factory, str] | None = None
        self._app: Flask | None = None

    def get(self, factory: Factory, settings: Settings) -> Flask:
        """An application with these settings, made the process's own."""
        key = (factory, json.dumps(settings, sort_keys=True, default=str))
        if self._app is None or key != self._key:
            if self._app is not None:
                close(self._app)
            self._app = build(factory, settings)
            self._key = key
        # Another one may have been made since: get_config() and db_manager answer for the newest.
        set_config(self._app.extensions["ghost"].config)
        db_manager.init_app(self._app)
        return self._app


def build(factory: Factory, settings: Settings) -> Flask:
    """Make an application, and be sure that it will not touch a database that is not the test's.

    :raises RuntimeError: the factory chose another database.
    """
    app = factory(settings)
    used, meant = app.extensions["ghost"].config.database.url, settings["database"]["url"]
    if _name(used) != _name(meant):
        raise RuntimeError(
            "The application under test names its own database in its code, where a test can't "
            "replace it: move database.url to config.yaml or DATABASE_URL."
        )
    return app


def close(app: Flask) -> None:
    """Close the connections of an application that is not needed any more: a server has few."""
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


def _name(url: str) -> str:
    return url.partition("://")[2]


def default_factory(root: Path) -> Factory:
    """What builds the application of a project: its wsgi.py, else `create_app` alone."""
    wsgi = root / "wsgi.py"
    return from_wsgi(wsgi) if wsgi.is_file() else create_app

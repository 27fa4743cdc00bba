"""The factory: what it builds, what it refuses, and that it touches nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import flask
import pytest
from flask import Flask
from lab import Name

from ghost import create_app, get_config
from ghost.access import public
from ghost.api import Blueprint
from ghost.config import Config
from ghost.testing.applications import environ_for

# Tells what create_app() opens for writing, connects to, or starts, before the test's line "done".
WATCH = """
import os, socket, sys

touched = []

def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        if (flags or 0) & writes and "__pycache__" not in str(path):
            touched.append(f"open {path}")
    elif event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.mkdir",
                   "os.remove", "os.rename", "sqlite3.connect", "os.system", "tempfile.mkdtemp",
                   "tempfile.mkstemp", "os.chmod", "os.truncate"):
        touched.append(f"{event} {arguments}")

"""


def run(folder: Path, code: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(WATCH + textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, "-B", str(script)],
        cwd=folder,
        env=dict(environ) | {"GHOST_ROOT": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("env", ["development", "testing", "production"])
def test_building_an_application_writes_nothing_and_opens_nothing(tmp_path: Path, env: str) -> None:
    settings: dict[str, Any] = {"app": {"env": env}}
    if env == "production":
        settings = {
            "app": {"env": env, "secret_key": "7c1fd0e2b9a8463f5e6d7c8b9a0f1e2d",
                    "public_url": "https://api.example.org"},
            "auth": {"jwt_secret_key": "0f9e8d7c6b5a49382716f5e4d3c2b1a0"},
            "database": {"url": "postgresql://nobody@127.0.0.1:1/nothing"},
            "redis": {"url": "redis://127.0.0.1:1/0"},
            "mail": {"url": "smtps://someone:secret@mail.example.org"},
        }  # fmt: skip
    code = """
        import ghost.app  # its modules are not what is watched
        import json

        settings = json.loads(os.environ["SETTINGS"])
        sys.addaudithook(watch)
        first = ghost.app.create_app(settings)
        second = ghost.app.create_app(settings)
        found = list(touched)
        open("control", "w").close()
        socket.socket().connect_ex(("127.0.0.1", 1))
        print(json.dumps([found, len(touched) - len(found)]))
    """
    before = {path.name for path in tmp_path.iterdir()}
    environ = environ_for({}) | {"SETTINGS": json.dumps(settings)}
    environ.pop("COVERAGE_PROCESS_CONFIG", None)
    environ.pop("COVERAGE_PROCESS_START", None)

    done = run(tmp_path, code, environ)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[], 2]
    assert {path.name for path in tmp_path.iterdir()} - before == {"script.py", "control"}


def test_models_may_name_others_that_are_made_after_ghost_was_imported(tmp_path: Path) -> None:
    """Until an application runs, nothing has asked what a model's relationships are."""
    code = """
        from uuid import UUID

        import sqlalchemy as sa
        from sqlalchemy.orm import Mapped, mapped_column, relationship

        from ghost import Model

        class Order(Model):
            __tablename__ = "orders"

            customer_id: Mapped[UUID] = mapped_column(sa.ForeignKey("customers.id"))
            customer: Mapped["Customer"] = relationship()

        from ghost import create_app, store_file

        class Customer(Model):
            __tablename__ = "customers"

        with create_app().app_context():
            print(sa.select(Order).join(Order.customer))
    """

    done = run(tmp_path, code, environ_for({}, tmp_path))

    assert "JOIN customers" in done.stdout, done.stderr


def test_building_an_application_works_in_a_folder_that_is_read_only(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.touch()
    tmp_path.chmod(0o555)
    try:
        code = "import ghost.app; ghost.app.create_app(); print('built')"
        done = subprocess.run(
            [sys.executable, "-B", "-c", code],
            cwd=tmp_path,
            env=environ_for({}, tmp_path),
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        tmp_path.chmod(0o755)

    assert done.stdout == "built\n", done.stderr


def bp_with_a_view(name: str) -> Blueprint:
    bp = Blueprint(name, __name__, url_prefix=f"/{name}")

    @bp.get("/")
    @public
    @bp.response(200, Name)
    def look() -> dict[str, str]:
        """Look."""
        return {"name": name}

    return bp


def test_two_applications_share_no_routes_and_no_document(app_settings: Mapping[str, Any]) -> None:
    shared = bp_with_a_view("shared")
    first = create_app(app_settings, blueprints=[shared, bp_with_a_view("first")])
    second = create_app(app_settings, blueprints=[shared, bp_with_a_view("second")])
    statuses = {
        (number, name): other.test_client().get(f"/api/v1/{name}").status_code
        for number, other in enumerate((first, second), 1)
        for name in ("shared", "first", "second")
    }

    assert statuses == {
        (1, "shared"): 200, (1, "first"): 200, (1, "second"): 404,
        (2, "shared"): 200, (2, "first"): 404, (2, "second"): 200,
    }  # fmt: skip
    paths = [
        set(other.test_client().get("/openapi.json").json["paths"]) for other in (first, second)
    ]
    assert paths[0] ^ paths[1] == {"/api/v1/first", "/api/v1/second"}


def test_two_applications_have_databases_of_their_own(
    app: Flask, app_settings: Mapping[str, Any], empty_database: Callable[[], str]
) -> None:
    settings = dict(app_settings) | {"database": {"url": empty_database()}}

    other = create_app(settings)

    assert other.test_client().get("/health/ready").status_code == 503
    assert app.test_client().get("/health/ready").status_code == 200


def test_the_newest_application_is_the_processs_configuration(
    app_settings: Mapping[str, Any],
) -> None:
    created = create_app(dict(app_settings) | {"app": {"env": "testing", "name": "Newest"}})

    assert get_config() is created.extensions["ghost"].config
    assert get_config().app.name == "Newest"


def test_a_config_object_is_taken_as_it_is(app_settings: Mapping[str, Any]) -> None:
    config = Config.load(app_settings)

    assert create_app(config).extensions["ghost"].config is config


def test_a_plain_flask_blueprint_works_beside(app_settings: Mapping[str, Any]) -> None:
    plain = flask.Blueprint("plain_one", __name__)

    @plain.get("/plain-one")
    def look() -> dict[str, str]:
        flask.session["seen"] = "yes"
        return {"url": flask.url_for("plain_one.look")}

    client = create_app(app_settings, blueprints=[plain]).test_client()
    response = client.get("/plain-one")

    assert response.json == {"url": "/plain-one"}
    assert response.headers["X-Request-ID"]
    assert "HttpOnly" in response.headers["Set-Cookie"]
    assert "/plain-one" not in client.get("/openapi.json").json["paths"]


# --- `blueprints:` and `models:` ------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that an application may name, and some that it may not."""
    package = tmp_path / "shopping"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "views.py").write_text(
        "from ghost import Blueprint, public\n"
        "bp = Blueprint('shopping', __name__, url_prefix='/shopping')\n"
        "other = 1\n"
        "@bp.get('/')\n@public\n@bp.response(200)\ndef look():\n    'Look.'\n"
    )
    (package / "broken.py").write_text("import no_such_library_at_all\n")
    (package / "failing.py").write_text("raise RuntimeError('its own mistake')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == "shopping"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["shopping.views:bp", "shopping.views"])
def test_blueprints_are_named_in_the_configuration(
    shop: Path, app_settings: Mapping[str, Any], name: str
) -> None:
    app = create_app(dict(app_settings) | {"blueprints": [name], "models": ["shopping"]})

    assert app.test_client().get("/api/v1/shopping").status_code == 200


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blueprints": ["shopping.nothing:bp"]}, "'shopping.nothing'.* no such module"),
        ({"blueprints": ["nowhere.views:bp"]}, "'nowhere.views'.* no such module"),
        ({"blueprints": ["shopping.views:missing"]}, "'shopping.views:missing'.* no blueprint"),
        ({"blueprints": ["shopping.views:other"]}, "'shopping.views:other'.* no blueprint"),
        ({"models": ["shopping.nothing"]}, "'shopping.nothing'.* no such module"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_without_a_stack(
    shop: Path, app_settings: Mapping[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(click.ClickException, match=message):
        create_app(dict(app_settings) | settings)


@pytest.mark.parametrize(
    ("name", "error"),
    [("shopping.broken", ModuleNotFoundError), ("shopping.failing", RuntimeError)],
)
def test_a_modules_own_mistake_keeps_its_stack(
    shop: Path, app_settings: Mapping[str, Any], name: str, error: type[Exception]
) -> None:
    for section in ("blueprints", "models"):
        with pytest.raises(error):
            create_app(dict(app_settings) | {section: [name]})

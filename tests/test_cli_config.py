"""`flask config show` and `flask config check`, run as a user runs them."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # each starts the flask command

WSGI = """
from types import SimpleNamespace
from flask import Flask
from ghost.config import Config

app = Flask("shop")
app.extensions["ghost"] = SimpleNamespace(config=Config.load({overrides}))
"""


@pytest.fixture
def flask(tmp_path):
    """Run a flask command in a project's folder and return what it did."""
    (tmp_path / "wsgi.py").write_text(WSGI.format(overrides={}))

    def flask(*arguments, **env):
        path = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        done = subprocess.run(
            [sys.executable, "-m", "flask", *arguments],
            cwd=tmp_path,
            env=path | env,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return flask


def row(done, name):
    """Return the value and the source that the table shows for a key."""
    line = next(line for line in done.stdout.splitlines() if line.startswith(f"{name} "))
    value, *source = line.removeprefix(name).split("  ")[1:]
    return (value or next(part for part in source if part)).strip(), line.rpartition("  ")[
        2
    ].strip()


def test_check_says_that_all_is_well(flask):
    done = flask("config", "check")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The configuration is right (development).\n"


def test_check_exits_1_with_the_list_of_mistakes(flask, tmp_path):
    (tmp_path / "config.yaml").write_text("databse: {url: x}\napp: {port: http}")

    done = flask("config", "check")

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "Error: The configuration cannot be used:",
        "  - databse.url (config.yaml): unknown section; did you mean database?",
        "  - app.port (config.yaml): expected a whole number from 1 to 65535, got the text 'http'",
    ]


def test_check_names_what_production_refuses(flask):
    done = flask("config", "check", GHOST_ENV="production", SECRET_KEY="changeme")

    assert done.returncode == 1
    assert "app.secret_key (environment SECRET_KEY): in production it must not be" in done.stderr
    assert "redis.url: in production it must be set" in done.stderr
    assert "changeme" not in done.stderr


def test_check_needs_no_application(flask, tmp_path):
    (tmp_path / "wsgi.py").write_text("import nothing_of_this_name")

    assert flask("config", "check").returncode == 0
    assert flask("config", "check", API_PORT="x").returncode == 1


def test_show_names_the_source_of_every_value(flask, tmp_path):
    (tmp_path / "wsgi.py").write_text(WSGI.format(overrides={"app": {"name": "Shop"}}))
    (tmp_path / "config.yaml").write_text("database: {pool_size: 5}\nshop: {currency: EUR}")
    (tmp_path / "config.json").write_text('{"jobs": {"timeout": 60}}')
    # The flask command has put this into the environment when Ghost looks.
    (tmp_path / ".env").write_text("LOG_LEVEL=DEBUG\nREDIS_URL=redis://dotenv/0\n")

    done = flask("config", "show", API_PORT="9000", REDIS_URL="redis://environment/0")

    assert (done.returncode, done.stderr) == (0, "")
    assert row(done, "app.name") == ("Shop", "program")
    assert row(done, "app.port") == ("9000", "environment API_PORT")
    assert row(done, "redis.url") == ("redis://environment/0", "environment REDIS_URL")
    assert row(done, "logging.level") == ("DEBUG", ".env LOG_LEVEL")
    assert row(done, "database.pool_size") == ("5", "config.yaml")
    assert row(done, "jobs.timeout") == ("60", "config.json")
    assert row(done, "shop.currency") == ("EUR", "config.yaml")
    assert row(done, "app.env") == ("development", "default")
    assert row(done, "health.token") == ("none", "default")


def test_show_masks_secrets(flask):
    done = flask(
        "config", "show",
        SECRET_KEY="hunter2hunter2", DATABASE_URL="postgresql://u:hunter2@h/d",
        GHOST_SHOP__API_TOKEN="hunter2",
    )  # fmt: skip

    assert "hunter2" not in done.stdout + done.stderr
    assert row(done, "app.secret_key") == ("***", "environment SECRET_KEY")
    assert row(done, "database.url")[0] == "postgresql+psycopg2://u:***@h/d"


def test_show_works_with_mistakes_and_lists_them_last(flask):
    done = flask("config", "show", API_PORT="http", LOG_LEVEL="ERROR")

    assert row(done, "app.port") == ("(wrong)", "environment API_PORT")
    assert row(done, "logging.level") == ("ERROR", "environment LOG_LEVEL")
    assert "app.port (environment API_PORT): expected a whole number" in done.stderr


def test_other_commands_give_the_list_instead_of_a_stack_trace(flask):
    for arguments in (["routes"], ["--help"], ["run", "--port", "0"]):
        done = flask(*arguments, API_PORT="http", LOG_LEVEL="loud")

        assert "app.port (environment API_PORT): expected a whole number" in done.stderr
        assert "logging.level (environment LOG_LEVEL): expected one of" in done.stderr
        assert done.returncode == (0 if arguments == ["--help"] else 1)

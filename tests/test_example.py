"""docs/extending.md, done as it says: a separate application, in a new folder, with the wheel."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ghost.testing.applications import environ_for
from ghost.testing.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.each_database]

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
API_PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
FILE = re.compile(r"^```\w+\n(# (\S+\.(?:py|yaml))\n.*?)^```$", re.MULTILINE | re.DOTALL)
STEP = re.compile(r"^<!-- step: (\w+) -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

FILES = {name: text for text, name in FILE.findall(PAGE)}
STEPS: dict[str, str] = dict(STEP.findall(PAGE))

START_SECONDS = 60
COMMAND_SECONDS = 120


class Shop:
    """The page's folder, and an environment in which Ghost is the wheel."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ

    def run(self, commands: str, **environ: str) -> str:
        """Type commands of the page, and give back what they print.

        :raises AssertionError: one of them failed; with all output.
        """
        done = subprocess.run(
            ["sh", "-e", "-c", commands], cwd=self.folder, env={**self.environ, **environ},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=COMMAND_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    @contextmanager
    def serving(self, command: str, **environ: str) -> Iterator[Server]:
        """Type a command that serves, wait until it is ready, and end it by Ctrl-C."""
        port = free_port()
        log = self.folder / f"{port}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command.split(), cwd=self.folder, stdout=output, stderr=output,
                env={**self.environ, "API_PORT": str(port), **environ}, start_new_session=True,
            )  # fmt: skip
        server = Server(port)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not server.is_ready():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield server
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Server:
    """The shop, called as any program would."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def call(self, method: str, path: str, token: str = "", body: Any = None) -> tuple[int, Any]:
        """Send a request; the status, and the JSON of the answer."""
        request = urllib.request.Request(self.url + path, method=method)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def is_ready(self) -> bool:
        try:
            return self.call("GET", "/health/ready")[0] == 200
        except (OSError, ValueError):
            return False

    def register(self, email: str) -> str:
        """Make an account, and return its access token."""
        status, answer = self.call(
            "POST", "/api/v1/auth/register", body={"email": email, "password": "a long walk home"}
        )
        assert status == 201, answer
        return str(answer["data"]["access_token"])


def read_answers(printed: str) -> list[Any]:
    """The JSON answers in what curl printed, in order."""
    decoder = json.JSONDecoder()
    starts = [match.start() for match in re.finditer(r'\{"success":', printed)]
    return [decoder.raw_decode(printed, start)[0] for start in starts]


def build_wheel(folder: Path) -> Path:
    """Build Ghost's wheel from a copy, so that nothing is left in the repository."""
    source = folder / "source"
    for name in ("ghost", "migrations"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(folder: Path, wheel: Path) -> None:
    """A virtual environment with the wheel, and the packages of this one below it.

    The page downloads them instead. Ghost's own source is not among them: what makes it importable
    here is a .pth file, and those count only in an environment's own folder.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
         "--no-index", "--disable-pip-version-check", wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(packages) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("flask", "gunicorn", "pytest"):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{python}" -m {name} "$@"\n')
        script.chmod(0o755)


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Shop]:
    """The page followed up to its section on tests."""
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    assert wheel.name in STEPS["install"]
    environment = tmp_path_factory.mktemp("environment")
    make_environment(environment, wheel)

    environ = environ_for({})
    for name in [*environ]:
        if name.startswith(("PYTHON", "COVERAGE", "PYTEST")):
            del environ[name]
    environ["PATH"] = f"{environment / 'bin'}:{environ['PATH']}"
    if os.environ.get("GHOST_TEST_DATABASE") == "postgresql":
        environ["DATABASE_URL"] = request.getfixturevalue("postgres").create_database()

    made = Shop(tmp_path_factory.mktemp("shop"), environ)
    made.run("\n".join(line for line in STEPS["install"].splitlines() if line.startswith("mkdir")))
    for name, text in FILES.items():
        (made.folder / name).write_text(text, encoding="utf-8")
    made.run(STEPS["template"])
    made.run(STEPS["migrate"])
    yield made
    shutil.rmtree(environment, ignore_errors=True)


def test_every_file_of_the_page_is_found():
    blocks = re.findall(r"^```(?:python|yaml)$", PAGE, re.MULTILINE)

    assert len(FILES) == len(blocks)
    assert {"wsgi.py", "config.yaml", "tests/test_orders.py"} < set(FILES)
    assert len(STEPS) == len(re.findall(r"^```sh$", PAGE, re.MULTILINE))


def test_the_application_runs_on_the_wheel(shop):
    place = shop.run("python -c 'import ghost; print(ghost.__file__)'")

    assert str(ROOT) not in place
    assert "site-packages/ghost" in place


def test_the_migration_has_the_orders_and_nothing_else(shop):
    (revision,) = (shop.folder / "migrations" / "versions").glob("*_orders.py")

    assert re.findall(r"create_table\(\s*'(\w+)'", revision.read_text()) == ["orders"]
    assert "No new upgrade operations detected." in shop.run("flask db check")


def test_the_tests_of_the_page_pass(shop):
    database = os.environ.get("GHOST_TEST_DATABASE") or "sqlite"

    assert "5 passed" in shop.run(STEPS["test"], GHOST_TEST_DATABASE=database)


def test_an_order_placed_over_http_is_shipped_by_the_worker(shop, redis_server):
    serve, work = STEPS["parts"].splitlines()

    with shop.serving(serve, REDIS_URL=redis_server.url, WEB_CONCURRENCY="1") as server:
        token = server.register("bob@example.org")
        status, placed = server.call("POST", "/api/v1/orders", token, {"total": "9.90"})
        assert status == 201, placed
        assert placed["data"]["status"] == "new"

        shop.run(f"{work} --burst", REDIS_URL=redis_server.url)

        _, found = server.call("GET", f"/api/v1/orders/{placed['data']['id']}", token)
        assert found["data"] == {**placed["data"], "status": "shipped"}
        _, document = server.call("GET", "/openapi.json")
        assert set(document["paths"]["/api/v1/orders"]) == {"get", "post"}
        other = server.register("eve@example.org")
        assert server.call("GET", f"/api/v1/orders/{placed['data']['id']}", other)[0] == 404
        assert server.call("GET", "/api/v1/orders", other)[0] == 403
    assert re.search(r"^shipped: \d+$", shop.run("flask orders count"), re.MULTILINE)


@pytest.fixture(scope="module")
def dev(shop: Shop) -> Iterator[Server]:
    """`flask dev`, which brings a Redis of its own."""
    with shop.serving(STEPS["run"]) as server:
        yield server


def test_flask_dev_does_all_of_it_at_once(dev):
    token = dev.register("cyd@example.org")
    dev.call("POST", "/api/v1/orders", token, {"total": "9.90"})

    deadline = time.monotonic() + START_SECONDS
    found: Any = None
    while not found and time.monotonic() < deadline:
        time.sleep(0.1)
        _, answer = dev.call("GET", "/api/v1/orders/mine?status=shipped", token)
        found = answer["data"]

    assert [order["total"] for order in found] == ["9.90"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_calls_of_the_page_work_when_they_are_typed(shop, dev):
    # Another port, and more time: this machine has other tests to run.
    calls = STEPS["try"].replace("http://127.0.0.1:8080", dev.url).replace("sleep 1", "sleep 5")

    printed = shop.run(calls)

    placed, listed = read_answers(printed)
    assert placed["data"]["status"] == "new"
    assert [order["id"] for order in listed["data"]] == [placed["data"]["id"]]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_calls_of_the_page_on_the_api_are_answered_as_it_says(shop, dev):
    shop.run(
        "echo 'a long walk home' |"
        " flask users create you@example.org --role SUPER_ADMIN --password-stdin"
    )
    calls = "".join(re.findall(r"^```sh\n(.*?)^```$", API_PAGE, re.MULTILINE | re.DOTALL))

    printed = shop.run(calls.replace("http://127.0.0.1:8080", dev.url))

    told = [
        (answer["data"] or {}, answer.get("error", {}).get("code"))
        for answer in read_answers(printed)
    ]
    (_, me, refused, page, invited, again, changed, stale) = told
    assert me[0]["email"] == "you@example.org"
    assert refused[1] == "validation_error"
    assert "ada@example.com" in [user["email"] for user in page[0]]
    assert invited == again
    assert printed.count("Idempotent-Replayed: true") == 1
    assert changed[0]["full_name"] == "Bob"
    assert stale[1] == "precondition_failed"


def test_taking_up_the_same_ghost_again_changes_nothing(shop):
    commands = "\n".join(
        line for line in STEPS["newer"].splitlines() if not line.startswith("pip ")
    )

    assert "has every revision of Ghost's" in shop.run(commands)

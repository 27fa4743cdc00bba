"""`flask dev`: what it starts, how it reloads, and that nothing outlives it."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ghost import devserver, supervisor
from ghost.config import Config
from ghost.embedded import EmbeddedServer, Program

WSGI = "from ghost import create_app\n\napp = create_app()\n"
START_SECONDS = 60


class Group:
    """A running `flask dev` of a project, as its user sees it."""

    def __init__(self, project: Path, port: int, **environment: str) -> None:
        self.log = project / f"output-{time.monotonic_ns()}.log"
        self.port = port
        names = ("PATH", "HOME", "TMPDIR", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
        with self.log.open("wb") as stream:
            self.front = subprocess.Popen(
                [sys.executable, "-m", "flask", "dev"],
                cwd=project,
                env={name: os.environ[name] for name in names if name in os.environ}
                | {"API_PORT": str(port)}
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Everything that was written so far."""
        return self.log.read_text(errors="replace")

    @property
    def supervisor(self) -> psutil.Process:
        """The process that leads the parts."""
        (child,) = psutil.Process(self.front.pid).children()
        return child

    def find_part(self, word: str) -> psutil.Process:
        """The process of a part, told by a word of its command line."""

        def look() -> psutil.Process | None:
            for part in self.supervisor.children():
                with suppress(psutil.Error):  # it has ended meanwhile
                    if word in " ".join(part.cmdline()):
                        return part
            return None

        return wait_for(look, self)

    def wait_for_line(self, text: str) -> None:
        """Wait until a text was written."""
        wait_for(lambda: text in self.output or None, self)

    def get(self, path: str) -> int:
        """Ask the API and return the status; 0 when there is no answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            try:
                connection.request("GET", path)
                return connection.getresponse().status
            except (OSError, http.client.HTTPException):
                return 0

    def stop(self) -> int:
        """Press Ctrl-C and return the exit code."""
        self.front.send_signal(signal.SIGINT)
        return self.front.wait(30)


def wait_for(look: Callable[[], Any], group: Group | None = None) -> Any:
    """Look until there is something to see."""
    deadline = time.monotonic() + START_SECONDS
    while (found := look()) is None:
        assert time.monotonic() < deadline, group and group.output
        assert group is None or group.front.poll() is None, group.output
        time.sleep(0.05)
    return found


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_project(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "wsgi.py").write_text(WSGI)
    return folder


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Group]]:
    """Start groups in a project of their own; what is left of them ends with the test."""
    groups: list[Group] = []

    def start_group(port: int | None = None, **environment: str) -> Group:
        project = make_project(tmp_path / "project")
        groups.append(Group(project, port or find_free_port(), **environment))
        return groups[-1]

    yield start_group
    for group in groups:
        if group.front.poll() is None:
            group.stop()


@pytest.fixture(scope="module")
def group(tmp_path_factory) -> Iterator[Group]:
    """One running group for the tests that leave it as it was."""
    group = Group(make_project(tmp_path_factory.mktemp("running") / "project"), find_free_port())
    group.wait_for_line("is running; Ctrl-C stops it.")
    yield group
    group.stop()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/health", "/health/ready"])
def test_one_command_serves_the_whole_system(group, path):
    assert group.get(path) == 200


@pytest.mark.slow
def test_it_says_where_to_click_and_how_to_make_the_first_admin(group):
    assert f"http://127.0.0.1:{group.port}/docs" in group.output
    assert "users create you@example.org --role SUPER_ADMIN" in group.output


@pytest.mark.slow
def test_a_second_start_in_the_same_folder_names_the_first(group):
    second = Group(group.log.parent, find_free_port())

    assert second.front.wait(30) == 1
    assert f"already runs in this folder: process {group.supervisor.pid}" in second.output
    assert f"http://127.0.0.1:{group.port}" in second.output
    assert group.get("/health/live") == 200


@pytest.mark.slow
@pytest.mark.parametrize("word", ["gunicorn", "flask worker", "flask scheduler", "redis.sock"])
def test_a_killed_part_is_started_again(group, word):
    part = group.find_part(word)

    part.kill()

    wait_for(lambda: group.find_part(word).pid != part.pid or None, group)
    wait_for(lambda: group.get("/health/ready") == 200 or None, group)


@pytest.mark.slow
def test_broken_code_waits_for_its_mending(group):
    wsgi = group.log.parent / "wsgi.py"

    wsgi.write_text(WSGI + "def broken(:\n")
    group.wait_for_line("api ended with exit code")
    group.wait_for_line("worker ended with exit code")
    group.wait_for_line("scheduler ended with exit code")
    status_while_broken = group.get("/health/live")
    wsgi.write_text(WSGI)

    assert status_while_broken == 503
    assert "SyntaxError" in group.output
    wait_for(lambda: group.get("/health/live") == 200 or None, group)
    assert group.find_part("flask worker").is_running()
    assert group.find_part("flask scheduler").is_running()


@pytest.mark.slow
def test_a_change_outside_the_code_reloads_nothing(group):
    before = group.output.count("Reloading")

    (group.log.parent / "instance" / "made.py").write_text("")
    (group.log.parent / "notes.md").write_text("")
    (group.log.parent / "seen.py").write_text("")
    group.wait_for_line("Reloading: seen.py changed.")

    assert group.output.count("Reloading") == before + 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_it_leaves_no_process(start, number):
    group = start()
    group.wait_for_line("is running; Ctrl-C stops it.")
    family = psutil.Process(group.front.pid).children(recursive=True)

    group.front.send_signal(number)

    assert group.front.wait(30) == 0
    assert [process for process in family if process.is_running()] == []
    assert len(family) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["front", "supervisor"])
def test_killing_either_process_behind_it_leaves_none(start, victim):
    group = start()
    group.wait_for_line("is running; Ctrl-C stops it.")
    family = psutil.Process(group.front.pid).children(recursive=True)

    (group.front if victim == "front" else group.supervisor).kill()

    gone, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    assert len(gone) >= 5
    assert group.front.wait(10) in (-signal.SIGKILL, 1)


@pytest.mark.slow
def test_an_early_ctrl_c_leaves_no_process(start):
    group = start()
    wait_for(lambda: "redis" in group.output or None, group)
    family = psutil.Process(group.front.pid).children(recursive=True)

    assert group.stop() == 0

    assert [process for process in family if process.is_running()] == []


@pytest.mark.slow
def test_a_taken_port_is_told_in_clear_words(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        group = start(port)

        assert group.front.wait(30) == 1
    assert f"another program has port {port}" in group.output
    assert f"API_PORT={port + 1} make run" in group.output
    assert "Traceback" not in group.output


@pytest.mark.slow
def test_it_is_for_development_only(start):
    group = start(GHOST_ENV="testing")

    assert group.front.wait(30) == 1
    assert "flask dev is for development, and GHOST_ENV is testing." in group.output


@pytest.mark.slow
def test_a_mistake_in_the_configuration_starts_nothing(start):
    group = start(GHOST_APP__NAM="Shop")

    assert group.front.wait(30) == 1
    assert "did you mean name?" in group.output
    assert "Traceback" not in group.output


@pytest.mark.slow
def test_a_broken_application_is_told_once_at_the_start(start, tmp_path):
    make_project(tmp_path / "project")
    group = start()
    (tmp_path / "project" / "wsgi.py").write_text("raise RuntimeError('no such thing')\n")

    assert group.front.wait(30) == 1
    assert group.output.count("RuntimeError: no such thing") == 1
    assert "migrate ended with exit code 1: see the lines above." in group.output


@pytest.mark.unit
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("wsgi.py", True),
        ("orders/views.py", True),
        ("config.yaml", True),
        (".env", True),
        ("orders/templates/mail.html", True),
        ("README.md", False),
        ("instance/ghost.db", False),
        ("instance/odd.py", False),
        (".venv/lib/module.py", False),
        ("web/node_modules/tool/setup.py", False),
        ("orders/__pycache__/views.cpython-311.pyc", False),
        ("tests/test_orders.py", False),
    ],
)
def test_changes_of_code_and_configuration_are_watched(tmp_path, path, expected):
    assert supervisor.is_watched(tmp_path / path, tmp_path) is expected


@pytest.mark.unit
def test_only_folders_that_may_hold_code_are_watched(tmp_path):
    for folder in ("orders/templates", ".git/objects", "web/node_modules/tool", "instance/logs"):
        (tmp_path / folder).mkdir(parents=True)

    found = {str(path.relative_to(tmp_path)) for path in supervisor.watched_folders(tmp_path)}

    assert found == {".", "orders", "orders/templates", "web"}


@pytest.fixture
def load_config(tmp_path) -> Callable[..., Config]:
    return lambda overrides: Config.load(overrides, root=tmp_path, environ={})


@pytest.mark.unit
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("console://", "printed here by the worker"),
        ("smtp://user:hidden@mail.example.org:587", "sent through mail.example.org"),
        ("ses://KEY:hidden@eu-west-1", "sent through Amazon SES in eu-west-1"),
        ("sendgrid://hidden@", "sent through SendGrid"),
    ],
)
def test_the_way_of_mail_is_told_without_credentials(load_config, url, expected):
    assert devserver.describe_mail(load_config({"mail": {"url": url}})) == expected


@pytest.mark.unit
def test_the_second_way_of_mail_is_told_too(load_config):
    config = load_config(
        {"mail": {"url": "ses://eu-west-1", "fallback_url": "smtps://mx.example.org"}}
    )

    told = devserver.describe_mail(config)

    assert told == "sent through Amazon SES in eu-west-1; else sent through mx.example.org"


@pytest.mark.unit
def test_mail_into_files_is_told_with_its_folder(load_config, tmp_path):
    config = load_config({"mail": {"url": f"file://{tmp_path}"}})

    assert devserver.describe_mail(config) == f"files in {tmp_path}"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
        ("::", "http://[::1]:8080"),
    ],
)
def test_the_address_to_click_on_can_be_reached(load_config, host, expected):
    assert devserver.base_url(load_config({"app": {"host": host}})) == expected


@pytest.mark.unit
def test_the_announcement_names_the_embedded_server(load_config, tmp_path):
    server = EmbeddedServer(Program(Path("/x"), "Valkey", (9, 1)), tmp_path / "s", tmp_path)

    text = devserver.announcement(load_config({"app": {"name": "Shop"}}), server)

    assert text.startswith("\nShop is running; Ctrl-C stops it.")
    assert "Valkey 9.1, embedded" in text


@pytest.mark.unit
@pytest.mark.parametrize("redis_url", [None, "redis://127.0.0.1:6379/0"])
def test_the_plan_reaches_the_supervisor_as_it_was(load_config, redis_url):
    plan = devserver.make_plan(load_config({"redis": {"url": redis_url}}))

    assert supervisor.Plan.load(plan.dump()) == plan
    assert (plan.server is None) is (redis_url is not None)

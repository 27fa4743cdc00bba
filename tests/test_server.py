"""`gunicorn wsgi:app` as it stands, with the settings that the package carries."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

SETTINGS = "from ghost.server import *\n"
# Beside the application a bare one that tells what gunicorn made of the request.
WSGI = """
from ghost import create_app

app = create_app()

def echo(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['wsgi.url_scheme']} {environ.get('SCRIPT_NAME', '')}".encode()]
"""


class Server:
    """A gunicorn of a project in a folder of its own."""

    def __init__(self, project: Path, *words: str, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.project = project
        self.log = project / "output.log"
        names = ("PATH", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *(words or ("wsgi:app",))],
                cwd=project,
                env={name: os.environ[name] for name in names if name in os.environ}
                | {"API_PORT": str(self.port), "HOME": str(project), "WEB_CONCURRENCY": "2"}
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Ask, and return status and body."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def find_workers(self) -> list[psutil.Process]:
        """The worker processes."""
        return psutil.Process(self.process.pid).children()

    def wait_until_ready(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            try:
                return self.get("/health/live")[0] > 0
            except OSError:
                return False

        wait_for(answers, self)


def wait_for(look: Callable[[], Any], server: Server) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline, server.log.read_text()
        assert server.process.poll() is None, server.log.read_text()
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Server]]:
    """Start servers, which end with the test."""
    servers: list[Server] = []

    def start_server(*words: str, settings: str = SETTINGS, **environment: str) -> Server:
        (tmp_path / "wsgi.py").write_text(WSGI)
        (tmp_path / "gunicorn.conf.py").write_text(settings)
        servers.append(Server(tmp_path, *words, **environment))
        return servers[-1]

    yield start_server
    for server in servers:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(40)


@pytest.mark.slow
def test_gunicorn_serves_with_threads_on_the_configured_address(start):
    server = start()
    server.wait_until_ready()

    assert server.get("/health/live")[0] == 200
    assert "Using worker: BalancedWorker" in server.log.read_text()
    wait_for(lambda: len(server.find_workers()) == 2, server)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="processors are chosen on Linux only")


@on_linux
@pytest.mark.slow
def test_with_a_worker_for_each_processor_each_keeps_to_its_own(start):
    processors = len(os.sched_getaffinity(0))
    server = start(WEB_CONCURRENCY=str(processors))
    server.wait_until_ready()

    def find_pins() -> set[tuple[int, ...]]:
        return {tuple(worker.cpu_affinity()) for worker in server.find_workers()}

    wait_for(lambda: len(find_pins()) == processors, server)
    assert {len(pin) for pin in find_pins()} == {1}
    server.find_workers()[0].kill()
    wait_for(lambda: len(server.find_workers()) == processors, server)
    wait_for(lambda: len(find_pins()) == processors, server)


@on_linux
@pytest.mark.slow
def test_more_and_fewer_workers_for_a_while_leave_them_even(start):
    processors = len(os.sched_getaffinity(0))
    server = start(WEB_CONCURRENCY=str(processors))
    server.wait_until_ready()

    def count() -> int:
        return len(server.find_workers())

    for signum, expected in ((signal.SIGTTIN, processors + 1), (signal.SIGTTOU, processors)):
        server.process.send_signal(signum)
        wait_for(lambda expected=expected: count() == expected, server)
    server.process.send_signal(signal.SIGHUP)
    wait_for(
        lambda: (
            count() == processors
            and len({tuple(worker.cpu_affinity()) for worker in server.find_workers()})
            == processors
        ),
        server,
    )


@pytest.mark.slow
def test_connections_that_last_are_shared_out(start, tmp_path):
    tells = "def post_worker_init(worker): open(f'{worker.pid}.ready', 'w').close()\n"
    server = start(settings=SETTINGS + tells, WEB_CONCURRENCY="2")
    wait_for(lambda: len(list(tmp_path.glob("*.ready"))) == 2, server)
    kept = []

    try:
        for _ in range(20):
            kept.append(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10))
            kept[-1].request("GET", "/health/live")
            kept[-1].getresponse().read()
        shares = [
            sum(
                one.status == psutil.CONN_ESTABLISHED and one.laddr.port == server.port
                for one in worker.net_connections()
            )
            for worker in server.find_workers()
        ]
    finally:
        for connection in kept:
            connection.close()

    assert sum(shares) == 20
    assert min(shares) >= 7


@pytest.mark.slow
def test_a_project_may_have_hooks_of_its_own(start, tmp_path):
    server = start(settings=SETTINGS + "def pre_fork(server, worker): pass\n")
    server.wait_until_ready()

    assert server.get("/health/live")[0] == 200


@on_linux
@pytest.mark.slow
def test_fewer_workers_than_processors_go_where_there_is_room(start):
    server = start(WEB_CONCURRENCY="1")
    server.wait_until_ready()

    [worker] = server.find_workers()
    assert set(worker.cpu_affinity()) == os.sched_getaffinity(0)


@pytest.mark.slow
def test_gunicorn_opens_no_control_socket(start):
    server = start()
    server.wait_until_ready()

    sockets = [
        item.laddr
        for process in (psutil.Process(server.process.pid), *server.find_workers())
        for item in process.net_connections("unix")
        if item.laddr
    ]

    assert sockets == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [{"X-Forwarded-Proto": "https"}, {"X-Forwarded-Ssl": "on"}, {"Script-Name": "/admin"}],
    ids=lambda headers: next(iter(headers)),
)
def test_gunicorn_believes_no_header_of_a_neighbour(start, headers):
    """How many proxies there are is for `app.trusted_proxies` to say."""
    server = start("wsgi:echo")
    server.wait_until_ready()

    assert server.get("/", **headers) == (200, "http ")


@pytest.mark.slow
def test_a_mistake_in_the_configuration_ends_the_start_with_its_lines(start):
    server = start(GHOST_APP__NAM="Shop", GHOST_DATABASE__POOL_SIZE="many")

    assert server.process.wait(30) == 1
    output = server.log.read_text()
    assert "did you mean name?" in output
    assert "pool_size" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_gunicorn_logs_json_when_it_is_asked_for(start):
    server = start(GHOST_LOGGING__FORMAT="json")
    server.wait_until_ready()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)

    lines = server.log.read_text().splitlines()

    assert len(lines) > 3
    assert [line for line in lines if not line.startswith('{"time":')] == []


@pytest.mark.slow
def test_figures_are_added_up_over_workers_that_are_gone(start):
    server = start()
    server.wait_until_ready()
    wait_for(lambda: len(server.find_workers()) == 2, server)
    for _ in range(10):
        server.get("/no-such-page")
    before = {worker.pid for worker in server.find_workers()}

    for worker in server.find_workers():
        worker.kill()
    wait_for(lambda: len({worker.pid for worker in server.find_workers()} - before) == 2, server)

    counted = [
        line
        for line in server.get("/metrics")[1].splitlines()
        if line.startswith("ghost_http_requests_total") and 'status="404"' in line
    ]
    assert len(counted) == 1
    assert float(counted[0].split()[-1]) == 10


@pytest.mark.slow
def test_a_stopped_server_ends_what_it_began(start):
    server = start()
    server.wait_until_ready()
    workers = server.find_workers()

    server.process.send_signal(signal.SIGTERM)

    assert server.process.wait(30) == 0
    assert psutil.wait_procs(workers, timeout=5)[1] == []

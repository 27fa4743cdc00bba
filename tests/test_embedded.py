"""The Redis-protocol server of development: its program, its place, its start."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis

from ghost import embedded
from ghost.embedded import EmbeddedServer, EmbeddedServerError, find_program, find_server


@pytest.fixture
def empty_path(monkeypatch, tmp_path):
    """A PATH on which nothing is installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put_program(folder: Path, name: str, answer: str) -> Path:
    """Put a program on the PATH that answers --version."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def start():
    """Start servers, which end with the test."""
    processes = []

    def start_server(server: EmbeddedServer) -> subprocess.Popen[bytes]:
        server.prepare()
        process = subprocess.Popen(server.command, stdout=subprocess.DEVNULL)
        processes.append(process)
        deadline = time.monotonic() + 10
        while not server.answers():
            assert process.poll() is None
            assert time.monotonic() < deadline
        return process

    yield start_server
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.unit
def test_the_machines_own_server_is_preferred(empty_path):
    path = put_program(empty_path, "redis-server", "Redis server v=7.2.4 sha=0 malloc=libc")

    program = find_program()

    assert program.path == path
    assert str(program) == "Redis 7.2"


@pytest.mark.unit
def test_a_valkey_server_does_as_well(empty_path):
    path = put_program(empty_path, "valkey-server", "Valkey server v=8.0.1 sha=0 malloc=libc")

    assert find_program().path == path


@pytest.mark.unit
@pytest.mark.parametrize(
    "answer",
    ["Redis server v=5.0.7 sha=0", "Redis server v=6.0.16 sha=0", "something else", ""],
    ids=["five", "six", "no-server", "silent"],
)
def test_the_carried_server_replaces_one_that_is_too_old(empty_path, answer):
    put_program(empty_path, "redis-server", answer)

    program = find_program()

    assert program.name == "Valkey"
    assert program.path.name == "valkey-server"
    assert program.path.parent != empty_path


@pytest.mark.unit
def test_without_any_server_the_error_says_what_helps(empty_path, monkeypatch):
    monkeypatch.setattr(embedded.metadata, "files", lambda _name: None)

    with pytest.raises(EmbeddedServerError, match=r"apt install redis-server.*REDIS_URL="):
        find_program()


@pytest.mark.unit
def test_the_socket_lies_in_the_instance_folder(tmp_path):
    assert embedded.find_socket(tmp_path) == tmp_path / "redis.sock"


@pytest.mark.unit
def test_a_long_path_moves_the_socket_into_a_short_folder(tmp_path):
    instance = tmp_path / ("long" * 30)

    path = embedded.find_socket(instance)

    assert len(os.fsencode(path)) <= embedded.SOCKET_PATH_BYTES
    assert path == embedded.find_socket(instance)
    assert path != embedded.find_socket(tmp_path / ("much" * 30))


@pytest.mark.unit
def test_a_short_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded.tempfile, "tempdir", str(tmp_path))
    server = find_server(tmp_path / ("long" * 30))
    server.socket.parent.mkdir(mode=0o777)
    server.socket.parent.chmod(0o777)

    with pytest.raises(EmbeddedServerError, match="open to others"):
        server.prepare()


@pytest.mark.integration
@pytest.mark.parametrize("folder", ["instance", "a folder with % and ?", "long" * 30])
def test_the_server_answers_under_its_url(tmp_path, start, folder):
    server = find_server(tmp_path / folder)

    start(server)

    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("port") == {"port": "0"}
    assert server.socket.stat().st_mode & 0o077 == 0


@pytest.mark.integration
def test_what_was_written_is_there_after_the_next_start(tmp_path, start):
    server = find_server(tmp_path)
    process = start(server)
    with redis.Redis.from_url(server.url) as client:
        client.set("name", "Ada")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0

    start(server)

    with redis.Redis.from_url(server.url) as client:
        assert client.get("name") == b"Ada"


@pytest.mark.integration
def test_a_server_left_by_a_killed_run_is_stopped_first(tmp_path, start):
    server = find_server(tmp_path)
    leftover = start(server)

    server.prepare()

    assert leftover.wait(10) == 0
    assert not server.socket.exists()


@pytest.mark.unit
def test_a_socket_without_a_server_is_removed(tmp_path):
    server = find_server(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(server.socket))

    server.prepare()

    assert not server.socket.exists()


@pytest.mark.unit
def test_an_absent_server_is_noticed_at_once(tmp_path):
    started = time.monotonic()

    assert not find_server(tmp_path).answers()

    assert time.monotonic() - started < 0.5

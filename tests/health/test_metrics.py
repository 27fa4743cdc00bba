"""Figures for Prometheus: true over processes, bounded in number, cheap."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from ghost.config import Config
from ghost.database import db
from ghost.health import metrics
from ghost.jobs.models import Job

Make = Callable[[Mapping[str, Any]], Flask]


def read(client: FlaskClient) -> dict[str, float]:
    """The page as series -> value."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.content_type.startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def requests_of(figures: Mapping[str, float], **labels: str) -> float:
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    return sum(
        value
        for series, value in figures.items()
        if series.startswith("ghost_http_requests_total{")
        and all(label in series for label in wanted)
    )


def test_requests_are_counted_by_method_route_and_status(client: FlaskClient) -> None:
    labels = {"method": "GET", "route": "/health/live", "status": "200"}
    before = read(client)
    for _ in range(3):
        client.get("/health/live")

    after = read(client)

    assert requests_of(after, **labels) - requests_of(before, **labels) == 3
    count = 'ghost_http_request_duration_seconds_count{method="GET",route="/health/live"}'
    assert after[count] - before.get(count, 0) == 3


def test_a_route_with_a_parameter_is_one_series(client: FlaskClient) -> None:
    for number in range(5):
        client.get(f"/docs/static/{number}.js")

    counted = [name for name in read(client) if name.startswith("ghost_http_requests_total")]
    assert [name for name in counted if "/docs/static" in name and "404" in name] == [
        'ghost_http_requests_total{method="GET",route="/docs/static/<path:name>",status="404"}'
    ]


def test_unknown_paths_and_methods_add_no_series_of_their_own(client: FlaskClient) -> None:
    client.get("/nowhere")
    client.open("/nowhere", method="BREW")
    before = set(read(client))

    for number in range(20):
        client.get(f"/nowhere-{number}")
        client.open("/nowhere", method=f"BREW{number}")

    after = read(client)
    assert set(after) == before
    assert requests_of(after, route="(unknown)", method="OTHER") >= 20
    assert len(metrics.get_metrics()._children) < 200


def test_the_build_is_told(client: FlaskClient) -> None:
    assert any(
        re.fullmatch(r'ghost_build_info\{python="3[^"]+",version="[^"]+"\}', series)
        for series in read(client)
    )


def test_connections_in_use_come_back_to_none(app: Flask, client: FlaskClient) -> None:
    series = "ghost_database_connections_in_use"
    before = read(client)[series]
    with app.app_context(), db.engine.connect():
        during = read(client)[series]

    assert during - before == 1
    assert read(client)[series] == before


def test_jobs_are_counted_in_the_ledger(app: Flask, make_app: Make) -> None:
    with app.app_context():
        for status in ("failed", "failed", "finished"):
            db.session.add(
                Job(
                    name="mail.deliver",
                    queue="default",
                    args={},
                    status=status,
                    max_attempts=1,
                    timeout_seconds=1,
                    run_at=datetime.now(UTC),
                )
            )
        db.session.commit()

    figures = read(make_app({}).test_client())

    assert figures['ghost_jobs{name="mail.deliver",status="failed"}'] == 2
    assert figures['ghost_jobs{name="mail.deliver",status="finished"}'] == 1


def test_the_page_is_there_without_a_database(make_app: Make) -> None:
    app = make_app({"database": {"url": "postgresql://nobody@127.0.0.1:1/none"}})

    figures = read(app.test_client())

    assert not [series for series in figures if series.startswith("ghost_jobs")]


def test_counting_a_request_is_cheap() -> None:
    measured = metrics.Metrics()

    def count() -> None:
        measured.observe_request("GET", "/x", 200, 0.01)

    # 1.4 microseconds as measured, 3.1 with several processes.
    seconds = min(timeit.repeat(count, number=2000, repeat=5, timer=time.thread_time))
    assert seconds / 2000 < 10e-6


CHILD = """
import os, sys
from ghost.health import metrics
measured = metrics.get_metrics()
for _ in range(int(sys.argv[1])):
    measured.observe_request("GET", "/x", 200, 0.5)
measured.connections.inc(2)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def start_child(count: int) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert int(child.stdout.readline()) == child.pid
    return child


@pytest.fixture
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the process its own counters back after the test."""
    monkeypatch.setattr(metrics, "_metrics", None)
    monkeypatch.setattr(metrics.values, "ValueClass", metrics.values.ValueClass)
    monkeypatch.setenv(metrics.DIRECTORY_VARIABLE, "")
    monkeypatch.delenv(metrics.DIRECTORY_VARIABLE)


@pytest.mark.usefixtures("own_process_state")
def test_figures_of_several_processes_are_added_up(tmp_path: Path) -> None:
    config = Config.load({"app": {"env": "testing"}}, root=tmp_path, environ={})
    directory = metrics.prepare_multiprocess_dir(config)
    assert directory.is_relative_to(tmp_path / "instance")
    metrics.get_metrics().observe_request("GET", "/x", 200, 0.5)

    first, second = start_child(3), start_child(4)
    both = metrics.render().decode()
    first.communicate("")
    metrics.mark_dead(first.pid)
    one = metrics.render().decode()
    second.communicate("")

    total = 'ghost_http_requests_total{method="GET",route="/x",status="200"} 8.0'
    assert total in both
    assert "ghost_database_connections_in_use 4.0" in both
    # What a process counted stays; what it had open does not.
    assert total in one
    assert "ghost_database_connections_in_use 2.0" in one
    assert "ghost_build_info" in both


@pytest.mark.usefixtures("own_process_state")
def test_counts_of_an_earlier_run_are_gone_and_those_of_live_processes_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(metrics.DIRECTORY_VARIABLE, str(tmp_path / "figures"))
    metrics.prepare_multiprocess_dir()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    (tmp_path / f"figures/counter_{dead.stdout.strip()}.db").touch()
    (tmp_path / f"figures/counter_{os.getppid()}.db").touch()
    (tmp_path / "figures/notes.txt").touch()

    assert metrics.prepare_multiprocess_dir() == tmp_path / "figures"

    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"counter_{os.getppid()}.db", "notes.txt"}


@pytest.mark.usefixtures("own_process_state")
def test_a_server_without_a_writable_instance_folder_counts_all_the_same(tmp_path: Path) -> None:
    config = Config.load({"app": {"env": "testing"}}, root=tmp_path, environ={})
    (tmp_path / "instance").write_text("a file")

    directory = metrics.prepare_multiprocess_dir(config)

    assert directory.is_dir()
    directory.rmdir()


@pytest.mark.usefixtures("own_process_state")
def test_folders_of_dead_servers_are_removed(tmp_path: Path) -> None:
    config = Config.load({"app": {"env": "testing"}}, root=tmp_path, environ={})
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    (tmp_path / f"instance/metrics/{dead.stdout.strip()}").mkdir(parents=True)

    directory = metrics.prepare_multiprocess_dir(config)

    assert [path.name for path in directory.parent.iterdir()] == [str(os.getpid())]

"""Figures for Prometheus, added up over all workers of a server."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flask import Flask, Request, Response, g, request
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import ConnectionPoolEntry

from ghost.config import Config
from ghost.database import db

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "OTHER"
UNKNOWN_ROUTE = "(unknown)"
BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of this process; its requests, jobs and connections."""

    def __init__(self) -> None:
        # On a registry of its own: the other parts of the page are asked for at each scrape, and
        # in multiprocess mode the counts come from the files of all workers.
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ghost_http_requests",
            "HTTP requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "ghost_http_request_duration_seconds",
            "Time from the request's arrival in the application to its answer.",
            ["method", "route"],
            buckets=BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.connections = Gauge(
            "ghost_database_connections_in_use",
            "Connections that are taken out of the pool.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request.

        :param route: the rule that matched, never the path: each value is a time series.
        """
        try:
            count, duration = self._children[method, route, status]
        except KeyError:
            count, duration = self._add_children(method, route, status)
        count.inc()
        duration.observe(seconds)

    def _add_children(self, method: str, route: str, status: int) -> tuple[Any, Any]:
        shown = method if method in METHODS else OTHER_METHOD
        children = (
            self.requests.labels(shown, route, str(status)),
            self.seconds.labels(shown, route),
        )
        if shown == method:  # else a caller who invents methods would fill the dict
            self._children[method, route, status] = children
        return children


_lock = threading.Lock()
_metrics: Metrics | None = None


def get_metrics() -> Metrics:
    """Return this process's metrics, made at the first call.

    Not at import: whether they are shared between processes is known later.
    """
    global _metrics
    if _metrics is None:
        with _lock:
            if _metrics is None:
                _metrics = Metrics()
    return _metrics


def init_app(app: Flask) -> None:
    """Count the application's requests and watch its pools of connections."""

    with app.app_context():
        for engine in db.engines.values():
            watch_pool(engine)

    @app.after_request
    def count(response: Response) -> Response:
        now = time.perf_counter()
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]
        rule = asked.url_rule
        get_metrics().observe_request(
            asked.method,
            UNKNOWN_ROUTE if rule is None else rule.rule,
            response.status_code,
            now - g.get("started", now),
        )
        return response


def watch_pool(engine: Engine) -> None:
    """Count a pool's connections while they are out."""

    # The note on the record: a connection that is refused at its checkout is given back all the
    # same, without having been counted.
    @event.listens_for(engine, "checkout")
    def taken(_connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        _note_of(record)["ghost_counted"] = True
        get_metrics().connections.inc()

    @event.listens_for(engine, "checkin")
    def given_back(_connection: Any, record: ConnectionPoolEntry) -> None:
        if _note_of(record).pop("ghost_counted", False):
            get_metrics().connections.dec()


def _note_of(record: ConnectionPoolEntry) -> dict[Any, Any]:
    """Return the record's own dict, which outlives the connection; None stands for an empty one."""
    return record.record_info if record.record_info is not None else {}


class _Build(Collector):
    def collect(self) -> Iterator[InfoMetricFamily]:
        yield InfoMetricFamily(
            "ghost_build",
            "Which release runs.",
            {"version": version("ghost"), "python": platform.python_version()},
        )


class _Jobs(Collector):
    """How many jobs the ledger holds, by name and status: true for any number of workers."""

    def __init__(self, rows: list[tuple[str, str, int]]) -> None:
        self._rows = rows

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "ghost_jobs", "Jobs in the ledger, by name and status.", labels=["name", "status"]
        )
        for name, status, count in self._rows:
            family.add_metric([name, status], count)
        yield family


def render(jobs: list[tuple[str, str, int]] | None = None) -> bytes:
    """Return the page that Prometheus reads.

    :param jobs: name, status and count; None leaves them out, when the database did not say.
    """
    page = CollectorRegistry()
    page.register(_Build())
    if jobs is not None:
        page.register(_Jobs(jobs))
    if os.environ.get(DIRECTORY_VARIABLE):
        MultiProcessCollector(page)
        return generate_latest(page)
    # With those of the application, and what the package itself tells about the process.
    return b"".join(map(generate_latest, (page, get_metrics().registry, REGISTRY)))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_VALUES_FILE = re.compile(r"[a-z_]+_(\d+)\.db")


def _is_in_use(directory: Path) -> bool:
    """Tell whether a process that counts into a folder is alive."""
    found = (_VALUES_FILE.fullmatch(path.name) for path in directory.iterdir())
    return any(_is_alive(int(match[1])) for match in found if match)


def prepare_multiprocess_dir(config: Config | None = None) -> Path:
    """Make the folder that this server's workers count into, empty; for gunicorn's parent.

    Where PROMETHEUS_MULTIPROC_DIR names one, that one; the counts of an earlier run go. Else one of
    its own under `instance/metrics/`, so that two servers of one project don't mix, or under the
    temporary folder where `instance/` can't be written.
    """
    global _metrics
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        directory = Path(named)
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            match = _VALUES_FILE.fullmatch(path.name)
            if match and not _is_alive(int(match[1])):
                path.unlink(missing_ok=True)
    else:
        directory = _own_directory(config)
    os.environ[DIRECTORY_VARIABLE] = str(directory)
    # The package looked at the variable when it was imported.
    values.ValueClass = values.MultiProcessValue()
    _metrics = None
    return directory


def _own_directory(config: Config | None) -> Path:
    if config is not None:
        parent = config.instance / "metrics"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for path in parent.iterdir():
                if path.is_dir() and not _is_alive(int(path.name)) and not _is_in_use(path):
                    shutil.rmtree(path, ignore_errors=True)
            directory = parent / str(os.getpid())
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        except (OSError, ValueError):  # a read-only file system, or something that is not ours
            pass
        else:
            return directory
    return Path(tempfile.mkdtemp(prefix="ghost-metrics-"))


def mark_dead(pid: int) -> None:
    """Take a worker that has ended out of the gauges; what it counted stays counted."""
    if os.environ.get(DIRECTORY_VARIABLE):
        mark_process_dead(pid)

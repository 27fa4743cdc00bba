"""Settings of gunicorn, for `from ghost.server import *` in a project's gunicorn.conf.py.

GUNICORN_CMD_ARGS and the command line win over what stands here.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from gunicorn import util
from gunicorn.http import parser

from ghost import affinity, balance, logging
from ghost.config import Config, ConfigError
from ghost.errors import code_of
from ghost.health import metrics
from ghost.http import SECURITY_HEADERS
from ghost.logging import request_id_var
from ghost.models import uuid7
from ghost.responses import error_response
from ghost.unreader import PacedUnreader

__all__ = [
    "accesslog",
    "bind",
    "child_exit",
    "control_socket_disable",
    "forwarded_allow_ips",
    "forwarder_headers",
    "graceful_timeout",
    "keepalive",
    "logger_class",
    "on_starting",
    "post_fork",
    "pre_fork",
    "secure_scheme_headers",
    "threads",
    "timeout",
    "worker_class",
    "worker_tmp_dir",
    "workers",
]

WORKERS_AT_MOST = 4


def load_config() -> Config:
    """Load the configuration before anything starts; a mistake ends the process with its lines."""
    try:
        return Config.load()
    except ConfigError as error:
        error.show()
        sys.exit(error.exit_code)


def count_workers() -> int:
    """WEB_CONCURRENCY, which gunicorn itself reads too, else one for each processor up to four."""
    return int(os.environ.get("WEB_CONCURRENCY") or min(os.cpu_count() or 1, WORKERS_AT_MOST))


def format_address(host: str, port: int) -> str:
    """Write a host and a port as gunicorn's `bind` wants them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# Not "config": as `--config python:ghost.server` gunicorn takes every name that it knows.
ghost_config = load_config()
logging.configure(ghost_config, component="web")

bind = format_address(ghost_config.app.host, ghost_config.app.port)
workers = count_workers()
# gthread, and nothing else: Ghost is synchronous, and a slow or long connection takes one thread.
# The database's pool (10, and 20 more) has a connection for each of them and to spare.
worker_class = balance.BalancedWorker
threads = 8

# A worker whose main loop hangs that long is replaced; its threads may take longer.
timeout = 30
# Longer than the longest request: a statement may take 4 seconds, a mail server or a lock 10.
graceful_timeout = 30
# Longer than a proxy keeps idle connections (nginx: 60), so that the proxy closes them, not we.
keepalive = 75
# Beats of the heart go to memory, where a busy disk cannot delay them.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108

# The application reads X-Forwarded-*, from as many proxies as `app.trusted_proxies` says. By
# default gunicorn would believe them from any process of this machine.
forwarded_allow_ips = ""
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}

# It is on by default, in the user's home, where two servers would fight for it.
control_socket_disable = True

# The application writes a line for each request itself.
accesslog = None
logger_class = logging.GunicornLogger


def on_starting(server: Any) -> None:
    """Give the workers an empty folder to count into, before the first one is there."""
    metrics.prepare_multiprocess_dir(ghost_config)


def pre_fork(server: Any, worker: Any) -> None:
    """Give the worker a place to count in, and a processor where each has as many workers."""
    worker.place = balance.take_place(map(_place_of, server.WORKERS.values()))
    processors = affinity.allowed_processors()
    if len(processors) > 1 and server.num_workers % len(processors) == 0:
        others = sorted(server.WORKERS.values(), key=lambda other: other.age)
        worker.processor = affinity.least_used(processors, map(_processor_of, others))


def post_fork(server: Any, worker: Any) -> None:
    """Keep the worker on its processor."""
    processor = _processor_of(worker)
    if processor is not None:
        affinity.pin(processor)


# A project may have a `pre_fork` of its own, which chooses nothing.


def _processor_of(worker: Any) -> int | None:
    return getattr(worker, "processor", None)


def _place_of(worker: Any) -> int | None:
    return getattr(worker, "place", None)


def child_exit(server: Any, worker: Any) -> None:
    """Take a worker that is gone out of the gauges."""
    metrics.mark_dead(worker.pid)


def write_error(sock: Any, status: int, reason: str, _message: str) -> None:
    """Tell a client in the envelope that gunicorn could make nothing of its request."""
    token = request_id_var.set(str(uuid7()))
    try:
        response = error_response(status, code_of(status), f"{reason}.")
        response.headers.extend([*SECURITY_HEADERS, ("X-Request-ID", request_id_var.get() or "")])
    finally:
        request_id_var.reset(token)
    response.headers["Connection"] = "close"
    head = f"HTTP/1.1 {status} {reason}\r\n{response.headers}"
    util.write_nonblock(sock, head.encode("latin1") + response.get_data())


# gunicorn 27.0 has no setting for what it answers to requests that never reach the application:
# too long a line or too many headers, say. Its own page is HTML, and repeats what was sent.
util.write_error = write_error

# Nor has it one for how slowly a request may arrive.
parser.SocketUnreader = PacedUnreader

"""What `rq worker -c ghost.worker` needs, and `flask worker`.

RQ reads this module as its settings (`REDIS_URL`, `QUEUES`), but has chosen serializer, worker and
job class before: pickle, and classes that import whatever Redis names. So the import completes the
command and starts it over in the same process; nothing was read from a queue by then.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click
from click.core import ParameterSource
from flask import Flask, current_app
from flask.cli import ScriptInfo, with_appcontext
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry
from rq.cli.cli import main as rq_command
from rq.serializers import JSONSerializer, resolve_serializer

import ghost.logging
from ghost.config import Config, current_config
from ghost.jobs import entries
from ghost.jobs import worker as machinery
from ghost.jobs.child import be_child
from ghost.jobs.pool import PoolWorker, read_orders
from ghost.logging import logger

WAIT_SECONDS = 5.0

_CLASSES = {"worker_class": "ghost.worker.GhostWorker", "job_class": "ghost.worker.GhostJob"}
_NO_REDIS = (
    "The worker takes its jobs from Redis: set REDIS_URL (redis://host:6379/0), or redis.url in"
    " config.yaml. `make run` starts a Redis and a worker by itself."
)

GhostJob = entries.GhostJob


class GhostWorker(machinery.GhostWorker):
    """The worker of the application that `flask` would find: FLASK_APP, wsgi.py or app.py."""

    def find_application(self) -> Flask:
        """Load the application, once, before the first job: the children inherit it."""
        if self._application is None:
            # Flask's own variable, and Flask's own way: the same application as for `flask`.
            self._application = ScriptInfo(
                os.environ.get("FLASK_APP"), set_debug_flag=False
            ).load_app()
            ghost.logging.configure_rq(self._application.extensions["ghost"].config)
        return self._application


@click.command("worker")
@click.option("--queues", help="Queues to take jobs from, the most urgent first: high,default,low.")
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    help="How many jobs to run at the same time; jobs.processes unless given.",
)
@click.option("--burst", is_flag=True, help="Stop when there is nothing left to do.")
@click.option(
    "--fork", is_flag=True, help="Run one job at a time, each in a process that is made for it."
)
@click.option(
    "--spawn",
    is_flag=True,
    default=sys.platform == "darwin",  # whose own libraries may crash in a forked process
    help="Start each process anew instead of forking it; always so on macOS.",
)
@with_appcontext
def worker_command(
    queues: str | None, processes: int | None, burst: bool, fork: bool, spawn: bool
) -> None:
    """Run background jobs until stopped: SIGTERM or Ctrl-C lets those that run finish."""
    if fork and processes is not None:
        raise click.UsageError("--fork runs one job at a time: start more workers instead.")
    config = current_config()
    ghost.logging.configure_rq(config)
    names = _queue_names(queues, config.jobs.queues)
    connection = _connect(config)
    app: Any = current_app
    options: dict[str, Any] = {
        "connection": connection,
        "application": app._get_current_object(),
    }
    try:
        if not burst:
            _wait_for(connection)
        if fork:
            GhostWorker(names, **options).work(burst)
        else:
            command = _child_command() if spawn else None
            PoolWorker(names, processes=processes, command=command, **options).work(burst)
    except AuthenticationError as error:
        raise click.ClickException(f"Redis refuses the worker: {error}") from error
    except RedisError as error:
        raise click.ClickException(f"Redis is away: {error}") from error


def _connect(config: Config) -> Redis:
    """Return the way to Redis; it is not opened yet.

    :raises click.ClickException: the configuration names none.
    """
    if config.redis.url is None:
        raise click.ClickException(_NO_REDIS)
    return Redis.from_url(
        config.redis.url,
        socket_connect_timeout=WAIT_SECONDS,
        socket_timeout=WAIT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


def _child_command() -> list[str]:
    """Return what starts a process of the pool with the application of this command."""
    found = click.get_current_context().ensure_object(ScriptInfo).app_import_path
    place = [found] if found else []
    return [sys.executable, "-m", "ghost.worker", *place]


def _be_spawned(words: list[str]) -> None:
    """Be a process of the pool: run what `_child_command` says."""
    *place, orders = words
    found = place[0] if place else os.environ.get("FLASK_APP")
    app = ScriptInfo(found, set_debug_flag=False).load_app()
    config = app.extensions["ghost"].config
    ghost.logging.configure_rq(config)
    be_child(app, _connect(config), read_orders(orders))


def _wait_for(connection: Redis) -> None:
    """Wait until Redis is there; a refused password is not waited for."""
    is_told = False
    while True:
        try:
            connection.ping()
            return
        except AuthenticationError:
            raise
        except (RedisError, OSError) as error:
            if not is_told:
                logger.bind(error=str(error)).warning("Redis is away; the worker waits for it.")
                is_told = True
            time.sleep(1)


def _queue_names(chosen: str | None, known: list[str]) -> list[str]:
    if chosen is None:
        return list(known)
    names = [name for part in chosen.split(",") if (name := part.strip())]
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"{name!r} is not one of jobs.queues: {', '.join(known)}", param_hint="--queues"
            )
    return names or list(known)


def _complete_command(context: click.Context) -> None:
    """Start the same `rq` command over with our serializer and classes, unless it has them.

    :raises click.UsageError: others were asked for.
    """
    parameters = context.params
    is_json = resolve_serializer(parameters["serializer"]) is JSONSerializer
    if is_json and all(parameters[name] == path for name, path in _CLASSES.items()):
        return
    for name in ("serializer", *_CLASSES):
        is_right = is_json if name == "serializer" else parameters[name] == _CLASSES[name]
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and not is_right:
            raise click.UsageError(
                f"--{name.replace('_', '-')} {parameters[name]} would have RQ run what Redis"
                f" names. Leave it out: rq {context.info_name} -c ghost.worker"
            )
    words = sys.argv[1:]
    place = words.index(str(context.info_name)) + 1
    words[place:place] = [
        *("-S", "json"),
        *("-w", _CLASSES["worker_class"]),
        *("-j", _CLASSES["job_class"]),
    ]
    interpreter = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *interpreter, *words])  # noqa: S606 - our own words


def _settings() -> tuple[str, list[str]]:
    """Return Redis URL and queues for RQ's command line.

    :raises click.ClickException: the configuration has mistakes, or names no Redis.
    """
    config = Config.load()
    if config.redis.url is None:
        raise click.ClickException(_NO_REDIS)
    ghost.logging.configure_rq(config)
    return config.redis.url, list(config.jobs.queues)


_context = click.get_current_context(silent=True)
if _context is not None and _context.find_root().command is rq_command:
    if "serializer" in _context.params:
        _complete_command(_context)
    REDIS_URL, QUEUES = _settings()

if __name__ == "__main__":
    _be_spawned(sys.argv[1:])

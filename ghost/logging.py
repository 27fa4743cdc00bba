"""Everything that this process logs, in one stream: ours, and the standard library's.

`redaction` takes secrets out, `log_records` makes lines, `log_sinks` writes them.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from loguru import logger

from ghost.config import Config, get_config
from ghost.log_records import (
    ACCESS_LOGGER,
    ANSI,
    clean,
    job_id_var,
    render_console,
    render_json,
    request_id_var,
    user_id_var,
)
from ghost.log_sinks import FileSink, Render, Sink, StreamName, StreamSink, reopen_files
from ghost.redaction import redact, redact_text, set_secret_names

if TYPE_CHECKING:
    from loguru import Record

__all__ = [
    "GunicornLogger",
    "configure",
    "configure_rq",
    "job_id_var",
    "log_request",
    "logger",
    "redact",
    "redact_text",
    "reopen_files",
    "request_id_var",
    "user_id_var",
]

Component = Literal["web", "worker", "scheduler", "cli"]


class _Bridge(logging.Handler):
    """Hands what libraries log by the standard library to loguru."""

    def createLock(self) -> None:
        self.lock = None  # loguru has its own

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # wrong arguments in somebody else's call
            message = str(record.msg)

        def name_origin(target: Record) -> None:
            target["name"] = record.name
            target["function"] = record.funcName or ""
            target["line"] = record.lineno

        logger.patch(name_origin).opt(exception=record.exc_info or None).log(
            _level_name(record.levelno), ANSI.sub("", message).strip("\n")
        )


_LEVELS = ((50, "CRITICAL"), (40, "ERROR"), (30, "WARNING"), (20, "INFO"), (10, "DEBUG"))


def _level_name(number: int) -> str:
    """Return loguru's name for a numeric level of the standard library."""
    return next((name for least, name in _LEVELS if number >= least), "TRACE")


class _NoAccessLines(logging.Filter):
    """Drops the request lines of Werkzeug's development server: the application writes its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        return " - - [" not in str(record.msg)


# Libraries that bring handlers of their own.
_BRIDGED = (
    "gunicorn",
    "werkzeug",
    "sqlalchemy",
    "rq",
    "alembic",
    "flask",
    "py.warnings",
    "rq_scheduler",
)
# At DEBUG SQLAlchemy writes the rows it reads, hashes included; `database.echo` asks for the
# statements alone. The others tell of each packet.
_QUIET = (
    "alembic.runtime.plugins",
    "sqlalchemy",
    "urllib3",
    "asyncio",
    "watchfiles",
    "PIL",
    "flask_cors",
    "flask-limiter",
    "limits",
)

_bridge = _Bridge()
_no_access_lines = _NoAccessLines()


def _bridge_standard_library(level_number: int) -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        # Plain output to a stream would double each line. Others (a test's, a tracker's) stay.
        if type(handler) is logging.StreamHandler or isinstance(handler, _Bridge):
            root.removeHandler(handler)
    root.addHandler(_bridge)
    root.setLevel(level_number)
    names = [
        name
        for name in list(logging.root.manager.loggerDict)
        if name.split(".", 1)[0] in _BRIDGED or name == "py.warnings"
    ]
    for name in {*names, *_BRIDGED}:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.disabled = False
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level_number, logging.WARNING))
    # With echo on, SQLAlchemy adds a handler of its own to this logger unless it has one.
    engine = logging.getLogger("sqlalchemy.engine.Engine")
    engine.addHandler(_bridge)
    engine.propagate = False
    werkzeug = logging.getLogger("werkzeug")
    werkzeug.addFilter(_no_access_lines)
    # Else Werkzeug adds a handler when it finds no level of its own.
    werkzeug.setLevel(level_number)


_lock = threading.Lock()
_handler_ids: list[int] = []
_settings: tuple[object, ...] | None = None
_component: Component | None = None
_min_level = 0


def configure(config: Config, *, component: Component | None = None) -> None:
    """Send everything that this process logs where the configuration says.

    Called again with the same settings it does nothing, with others it replaces its own sinks and
    leaves those of the application. Nothing is opened or written before the first line.

    :param component: names the log file, and for `cli` the stream: a command's own output is on
        stdout, so that its log goes to stderr. None keeps what an earlier call said, else it is
        `cli` in a command of `flask` that does not serve, and `web` everywhere else.
    """
    global _component, _settings
    level = config.logging.level.upper()
    style = config.logging.format
    folder = config.logging.dir
    names = frozenset(config.logging.redact)
    with _lock:
        _component = component or _component or _guess_component()
        settings = (level, style, folder, names, _component)
        if settings != _settings:
            _install(level, style, folder, names, _component)
            _settings = settings
        _bridge_standard_library(logger.level(level).no)
        if config.env != "testing":  # there the test runner collects the warnings
            logging.captureWarnings(True)


def _guess_component() -> Component:
    is_command = click.get_current_context(silent=True) is not None
    return "cli" if is_command and "run" not in sys.argv else "web"


def _install(
    level: str, style: str, folder: Path | None, names: frozenset[str], component: Component
) -> None:
    global _min_level
    set_secret_names(names)
    _min_level = logger.level(level).no
    for handler_id in _handler_ids or [0]:  # 0 is loguru's own, to stderr
        with suppress(ValueError):  # the application removed it
            logger.remove(handler_id)
    _handler_ids.clear()
    logger.configure(patcher=clean)
    stream: StreamName = "stderr" if component == "cli" else "stdout"
    is_terminal = bool(getattr(getattr(sys, stream), "isatty", bool)())

    def render_plain(record: Record) -> bytes:
        return render_console(record, colour=False)

    def render_coloured(record: Record) -> bytes:
        return render_console(record, colour=True)

    plain: Render = render_json if style == "json" else render_plain
    coloured: Render = render_json if style == "json" else render_coloured
    sinks: list[Sink] = [StreamSink(stream, coloured if is_terminal else plain)]
    if folder is not None:
        sinks.append(FileSink(folder, component, plain))
    for sink in sinks:
        # The sink renders by itself: loguru's own formatting is left with nothing to do.
        handler_id = logger.add(
            sink, level=level, format="", colorize=False, backtrace=False, diagnose=False
        )
        _handler_ids.append(handler_id)


def _as_access(record: Record) -> None:
    record["name"] = ACCESS_LOGGER
    record["access"] = True  # type: ignore[typeddict-unknown-key]


_access = logger.patch(_as_access)


def log_request(
    method: str,
    path: str,
    status: int,
    duration_seconds: float,
    client_ip: str | None = None,
    route: str | None = None,
) -> None:
    """Write the line of a request that was answered; probes and scrapes at DEBUG.

    :param path: without its query, which may hold anything.
    :param route: the rule that matched, None for an unknown path.
    """
    if path.startswith("/health") or path == "/metrics":
        level = 10
    elif status >= 500:
        level = 30
    else:
        level = 20
    if level < _min_level:
        return
    # The message is a constant: what the caller sent travels in fields alone.
    write = _access.info if level == 20 else _access.warning if level == 30 else _access.debug
    write(
        "request",
        method=method,
        path=path,
        status=status,
        duration_ms=round(duration_seconds * 1000, 3),
        client_ip=client_ip,
        route=route,
    )


class GunicornLogger:
    """Gunicorn's `logger_class`: what the server says goes through the standard library's logger.

    The application writes a line for each request itself, so that gunicorn's access log is off.
    """

    def __init__(self, cfg: Any) -> None:
        self.error_log = logging.getLogger("gunicorn.error")
        self.access_log = logging.getLogger("gunicorn.access")
        # The server speaks before the application is loaded.
        try:
            config = get_config()
        except RuntimeError:
            config = Config.load()
        configure(config)
        self.setup(cfg)

    def setup(self, cfg: Any) -> None:
        """Follow gunicorn's own settings, at the start and at each reload."""
        self.cfg = cfg
        self.error_log.setLevel(_stdlib_level(cfg.loglevel))

    def critical(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.critical(msg, *args, **kwargs)

    def error(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.error(msg, *args, **kwargs)

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.warning(msg, *args, **kwargs)

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.info(msg, *args, **kwargs)

    def debug(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.debug(msg, *args, **kwargs)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.exception(msg, *args, **kwargs)

    def log(self, lvl: int | str, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.error_log.log(_stdlib_level(lvl), msg, *args, **kwargs)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write nothing: see the class."""

    def reopen_files(self) -> None:
        """Open the log files anew, for gunicorn's USR1."""
        reopen_files()

    def close_on_exec(self) -> None:
        """Do nothing: the files are opened that way."""


def _stdlib_level(level: int | str) -> int:
    if isinstance(level, int):
        return level
    return logging.getLevelNamesMapping().get(level.upper(), logging.INFO)


def configure_rq(config: Config) -> None:
    """Send the log of RQ's worker, jobs and scheduler through loguru.

    To be called in the module that `rq worker -c` imports, before the worker sets up handlers of
    its own; where the bridge is in place, it sets up none.
    """
    configure(config, component="worker")
    for name in ("rq.worker", "rq.job", "rq.scheduler", "rq.queue"):
        logging.getLogger(name).setLevel(logging.NOTSET)

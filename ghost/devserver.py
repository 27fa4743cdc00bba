"""`flask dev`: the whole system as one supervised group, for development.

Two processes stand behind the command. The front, here, has the terminal and does next to nothing;
the supervisor leads a session of its own, in which all parts run. Each of the two notices when the
other one is gone, however that came, and ends what is left.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import click

from ghost.config import Config
from ghost.embedded import EmbeddedServer, find_server
from ghost.processes import end_session
from ghost.supervisor import STOP_GRACE_SECONDS, GroupError, Plan, reachable


@click.command("dev")
def dev_command() -> None:
    """Run the API, the worker, the scheduler and what they need (development only).

    Migrates the database, starts a Redis-protocol server when none is configured, reloads API,
    worker and scheduler when code or configuration changes, and stops all of it on Ctrl-C.
    """
    raise SystemExit(run_front(make_plan(Config.load())))


def make_plan(config: Config) -> Plan:
    """Gather what the supervisor has to know.

    :raises GroupError: this is no development.
    """
    if not config.is_development:
        raise GroupError(
            f"flask dev is for development, and GHOST_ENV is {config.env}."
            " In production run gunicorn, flask worker and flask scheduler: see docs/deployment.md."
        )
    server = find_server(config.instance) if config.redis.url is None else None
    return Plan(
        root=config.root,
        instance=config.instance,
        host=config.app.host,
        port=config.app.port,
        url=base_url(config),
        announcement=announcement(config, server),
        server=server,
    )


def run_front(plan: Plan) -> int:
    """Start the supervisor, hand on the signals, and see that nothing outlives it.

    :returns: the exit code.
    """
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "ghost.supervisor"],
        cwd=plan.root,
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # Left open: its end tells the supervisor that the front is gone.
    if supervisor.stdin is not None:
        with suppress(BrokenPipeError):
            supervisor.stdin.write(plan.dump() + "\n")
            supervisor.stdin.flush()
    is_asked_to_stop = threading.Event()

    def hand_on(_number: int, _frame: object) -> None:
        is_asked_to_stop.set()
        supervisor.send_signal(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup means it. An ignored SIGINT only means that a shell started us with "&".
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, hand_on)
    code = supervisor.wait()
    was_killed = code < 0 and not is_asked_to_stop.is_set()
    if was_killed:
        click.echo("The supervisor was killed; what it had started is ended now.", err=True)
    end_session(supervisor.pid, STOP_GRACE_SECONDS if code < 0 else 0.0)
    # Asked so early that it had not taken over its signals: that is no failure.
    return int(was_killed) if code < 0 else code


def announcement(config: Config, server: EmbeddedServer | None) -> str:
    """What to click on, where mail goes, and how to make the first admin."""
    url = base_url(config)
    flask = Path(sys.executable).parent / "flask"
    if flask.is_relative_to(config.root):
        flask = flask.relative_to(config.root)
    lines = {
        "Try the API": f"{url}/docs",
        "Read about it": f"{url}/redoc",
        "Health": f"{url}/health",
        "Mail": describe_mail(config),
        "Read mail": f"{url}/dev/mail",
        "First admin": f"{flask} users create you@example.org --role SUPER_ADMIN",
    }
    if server is not None:
        lines["Redis"] = f"{server.program}, embedded"
    body = "\n".join(f"  {name:<14} {text}" for name, text in lines.items())
    return f"\n{config.app.name} is running; Ctrl-C stops it.\n\n{body}\n"


def describe_mail(config: Config) -> str:
    """Say where mail goes, without the credentials."""
    description = _describe_mail_url(config.mail.url)
    if config.mail.fallback_url:
        description += f"; else {_describe_mail_url(config.mail.fallback_url)}"
    return description


def _describe_mail_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "console":
        return "printed here by the worker"
    if parts.scheme == "file":
        return f"files in {parts.netloc}{parts.path}"
    if parts.scheme == "ses":
        return f"sent through Amazon SES in {parts.hostname}"
    if parts.scheme == "sendgrid":
        return "sent through SendGrid"
    return f"sent through {parts.hostname or parts.scheme}"


def base_url(config: Config) -> str:
    """The address to click on."""
    host = reachable(config.app.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{config.app.port}"

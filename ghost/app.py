"""The application factory: the whole start-up, read top to bottom."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from importlib import import_module
from typing import Any

import click
from flask import Blueprint as FlaskBlueprint
from flask import Flask, Response
from flask_cors import CORS

import ghost.files.jobs  # jobs and receivers, which nothing else imports
import ghost.logging
from ghost import (
    access,
    api,
    database,
    errors,
    http,
    idempotency,
    openapi,
    ratelimit,
    responses,
    revisions,
)
from ghost.auth import callers
from ghost.auth.pages import pages_bp
from ghost.auth.views import bp as auth_bp
from ghost.config import Config, set_config
from ghost.docs.views import bp as docs_bp
from ghost.extensions import State, jwt, mail
from ghost.files.attachments import read_attachment
from ghost.files.avatar_views import bp as avatars_bp
from ghost.files.cli import files_group
from ghost.files.content_views import bp as file_contents_bp
from ghost.files.image_views import bp as file_images_bp
from ghost.files.upload_views import bp as file_uploads_bp
from ghost.files.views import bp as files_bp
from ghost.health.views import bp as health_bp
from ghost.jobs import registry
from ghost.jobs.job_cli import jobs_group
from ghost.jobs.schedule_cli import schedules_group
from ghost.jobs.schedule_views import bp as schedules_bp
from ghost.jobs.views import bp as jobs_bp
from ghost.mail import mailbox
from ghost.mail.batch_views import bp as mail_batches_bp
from ghost.mail.cli import mail_group
from ghost.mail.services import set_file_reader
from ghost.mail.suppression_views import bp as mail_suppressions_bp
from ghost.mail.template_views import bp as mail_templates_bp
from ghost.mail.views import bp as mail_bp
from ghost.mail.webhook_views import bp as mail_webhooks_bp
from ghost.secrets import derived_key
from ghost.users.cli import users_group
from ghost.users.views import bp as users_bp
from ghost.users.views import roles_bp

PERMISSIONS = {
    "users:read": "See all accounts",
    "users:write": "Create, change, disable and delete accounts below one's own",
    "users:verify": "Declare an address verified",
    "roles:write": "Manage roles and assign them",
    "files:read_any": "See everybody's files",
    "files:write_any": "Change everybody's files",
    "mail:send": "Send mail",
    "jobs:read": "See all jobs",
    "jobs:write": "Start, cancel and retry jobs",
}
OWN_BLUEPRINTS = (
    health_bp, docs_bp, auth_bp, users_bp, roles_bp, jobs_bp, schedules_bp, pages_bp,
    mail_bp, mail_templates_bp, mail_batches_bp, mail_suppressions_bp, mail_webhooks_bp,
    files_bp, file_contents_bp, file_uploads_bp, file_images_bp, avatars_bp,
)  # fmt: skip
EXPOSED_HEADERS = (
    "Accept-Ranges", "Content-Disposition", "Content-Range", "ETag", "Idempotent-Replayed",
    "Location", "Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset",
    "X-Request-ID",
    # Those of resumable uploads, without which a client in a browser can't go on.
    "Tus-Checksum-Algorithm", "Tus-Extension", "Tus-Max-Size", "Tus-Resumable", "Tus-Version",
    "Upload-Expires", "Upload-File-Id", "Upload-Length", "Upload-Metadata", "Upload-Offset",
)  # fmt: skip


class Application(Flask):
    """Flask, synchronous throughout, with a secret key that is made when it is first needed."""

    @cached_property
    def secret_key(self) -> str | bytes | None:  # type: ignore[override]
        return derived_key(self.extensions["ghost"].config, "flask")

    def handle_user_exception(self, error: Exception) -> Any:
        """Let a blueprint's error handler raise one of Ghost's errors, as a view would."""
        try:
            return super().handle_user_exception(error)
        except errors.GhostError as raised:
            return super().handle_user_exception(raised)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Leave functions as they are: none is a coroutine, and asking costs more than calling."""
        return func


def create_app(
    config: Config | Mapping[str, Any] | None = None,
    *,
    blueprints: Iterable[FlaskBlueprint] = (),
) -> Flask:
    """Build an application; nothing is opened and nothing is written.

    :param config: settings that beat every other source, `{"database": {"url": ...}}`.
    :param blueprints: the application's own, beside those named in the configuration.
    :raises ConfigError: the configuration has mistakes, all of them named.
    """
    settings = config if isinstance(config, Config) else Config.load(config)
    set_config(settings)
    ghost.logging.configure(settings)

    app = Application(
        "ghost", root_path=str(settings.root), instance_path=str(settings.instance),
        static_folder=None,
    )  # fmt: skip
    app.extensions["ghost"] = State(settings)
    app.testing = settings.env == "testing"

    database.init_app(app, settings)
    responses.init_app(app)
    http.init_app(app, settings)
    errors.init_app(app)
    mail.init_app(app)
    callers.init_app(app, jwt)
    access.declare_permissions(app, PERMISSIONS)
    app.extensions["ghost"].api = documented = openapi.make_api(app, settings)

    for name in (*settings.models, *settings.jobs.modules):
        _imported(name)
    for blueprint in OWN_BLUEPRINTS:
        api.register(app, documented, blueprint)
    if settings.is_development:
        mailbox.init_app(app)
    for blueprint in (*blueprints, *(_named(name) for name in settings.blueprints)):
        api.register(app, documented, blueprint)
    revisions.init_app(app)
    registry.init_app(app)
    app.cli.add_command(users_group)
    app.cli.add_command(jobs_group)
    app.cli.add_command(schedules_group)
    app.cli.add_command(mail_group)
    app.cli.add_command(files_group)
    set_file_reader(read_attachment)

    app.extensions["ghost"].limiter = ratelimit.init_app(app, settings)
    idempotency.init_app(app, settings)
    if settings.cors.origins:
        app.after_request(_vary_by_origin)
        CORS(
            app,
            origins=[_exact(origin) for origin in settings.cors.origins],
            supports_credentials=True,
            expose_headers=EXPOSED_HEADERS,
            max_age=600,
        )
    http.log_requests(app)
    return app


def _imported(name: str) -> Any:
    """Import a module that the configuration names.

    :raises click.ClickException: it can't be found, told without a stack trace.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            message = f"the configuration names {name!r}: no such module"
            raise click.ClickException(message) from error
        raise


def _named(name: str) -> FlaskBlueprint:
    """The blueprint that a line such as `orders.views:bp` names."""
    module, _, attribute = name.partition(":")
    found = getattr(_imported(module), attribute or "bp", None)
    if not isinstance(found, FlaskBlueprint):
        raise click.ClickException(f"the configuration names {name!r}, which is no blueprint")
    return found


def _vary_by_origin(response: Response) -> Response:
    """Keep caches from giving one origin the answer to another: Flask-Cors tells only those."""
    response.vary.add("Origin")
    return response


def _exact(origin: str) -> re.Pattern[str]:
    """An origin that Flask-Cors can't take for a pattern."""
    return re.compile(re.escape(origin) + r"\Z")

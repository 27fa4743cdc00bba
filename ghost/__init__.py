"""Ghost: the backend every product needs before its own first line.

Everything that an application imports is here, and loaded when it is first asked for, so that
`import ghost` costs nothing; see docs/extending.md.
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghost import fields as fields
    from ghost.access import Caller as Caller
    from ghost.access import current_user as current_user
    from ghost.access import login_required as login_required
    from ghost.access import permissions_required as permissions_required
    from ghost.access import public as public
    from ghost.access import roles_required as roles_required
    from ghost.access import unverified_allowed as unverified_allowed
    from ghost.api import APIResponse as APIResponse
    from ghost.api import Blueprint as Blueprint
    from ghost.app import create_app as create_app
    from ghost.config import Config as Config
    from ghost.config import get_config as get_config
    from ghost.database import db as db
    from ghost.database import db_manager as db_manager
    from ghost.errors import BadRequest as BadRequest
    from ghost.errors import Conflict as Conflict
    from ghost.errors import Forbidden as Forbidden
    from ghost.errors import GhostError as GhostError
    from ghost.errors import NotFound as NotFound
    from ghost.errors import PreconditionFailed as PreconditionFailed
    from ghost.errors import ServiceUnavailable as ServiceUnavailable
    from ghost.errors import Unauthorized as Unauthorized
    from ghost.errors import ValidationFailed as ValidationFailed
    from ghost.files import FileRejected as FileRejected
    from ghost.files import file_stored as file_stored
    from ghost.files import scanner as scanner
    from ghost.files import store_file as store_file
    from ghost.jobs import Permanent as Permanent
    from ghost.jobs import RetryLater as RetryLater
    from ghost.jobs import cron as cron
    from ghost.jobs import current_job as current_job
    from ghost.jobs import every as every
    from ghost.jobs import job as job
    from ghost.jobs import job_failed as job_failed
    from ghost.mail import mail_failed as mail_failed
    from ghost.mail import mail_sent as mail_sent
    from ghost.mail import send_mail as send_mail
    from ghost.models import AuditMixin as AuditMixin
    from ghost.models import Model as Model
    from ghost.models import Repository as Repository
    from ghost.models import SoftDeleteMixin as SoftDeleteMixin
    from ghost.models import TimestampMixin as TimestampMixin
    from ghost.models import VersionMixin as VersionMixin
    from ghost.models import utcnow as utcnow
    from ghost.models import uuid7 as uuid7
    from ghost.ratelimit import rate_limit as rate_limit
    from ghost.schemas import Schema as Schema
    from ghost.signals import password_changed as password_changed
    from ghost.signals import user_registered as user_registered
    from ghost.signals import user_verified as user_verified

__version__ = "0.1.0"

_PUBLIC = {
    "ghost.access": (
        "Caller", "current_user", "login_required", "permissions_required", "public",
        "roles_required", "unverified_allowed",
    ),
    "ghost.api": ("APIResponse", "Blueprint"),
    "ghost.app": ("create_app",),
    "ghost.config": ("Config", "get_config"),
    "ghost.database": ("db", "db_manager"),
    "ghost.errors": (
        "BadRequest", "Conflict", "Forbidden", "GhostError", "NotFound", "PreconditionFailed",
        "ServiceUnavailable", "Unauthorized", "ValidationFailed",
    ),
    "ghost.files": ("FileRejected", "file_stored", "scanner", "store_file"),
    "ghost.jobs": (
        "Permanent", "RetryLater", "cron", "current_job", "every", "job", "job_failed",
    ),
    "ghost.mail": ("mail_failed", "mail_sent", "send_mail"),
    "ghost.models": (
        "AuditMixin", "Model", "Repository", "SoftDeleteMixin", "TimestampMixin", "VersionMixin",
        "utcnow", "uuid7",
    ),
    "ghost.ratelimit": ("rate_limit",),
    "ghost.schemas": ("Schema",),
    "ghost.signals": ("password_changed", "user_registered", "user_verified"),
}  # fmt: skip
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted([*_HOME, "__version__", "fields"])


def __getattr__(name: str) -> Any:
    """Load a public name from its module. See PEP 562."""
    if name == "fields":  # the whole module is public
        return import_module("ghost.fields")
    if name not in _HOME:
        raise AttributeError(f"module 'ghost' has no attribute {name!r}")
    # Loading makes objects that stay: to look for garbage meanwhile takes a tenth of a start.
    collecting = gc.isenabled()
    gc.disable()
    try:
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
    finally:
        if collecting:
            gc.enable()
    return value

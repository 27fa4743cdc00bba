"""Addresses that get no mail, over HTTP."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.access import current_user, permissions_required
from ghost.api import Blueprint
from ghost.database import db
from ghost.errors import Conflict, NotFound
from ghost.mail import suppression
from ghost.mail.models import MailSuppression
from ghost.mail.suppression_schemas import NewSuppression, SuppressionSchema

bp = Blueprint(
    "mail_suppressions",
    __name__,
    url_prefix="/mail/suppressions",
    description="Addresses that get no mail, and why.",
)


@bp.get("/")
@permissions_required("mail:send")
@bp.paginated(
    SuppressionSchema,
    sort=("created_at", "email"),
    filter=("reason",),
    search=("email", "details"),
)
def list_suppressions() -> sa.Select[Any]:
    """List the addresses that get no mail, the newest first."""
    return suppression.list_suppressions()


@bp.post("/")
@permissions_required("mail:send")
@bp.errors(Conflict)
@bp.arguments(NewSuppression)
@bp.response(201, SuppressionSchema)
def create_suppression(data: dict[str, Any]) -> MailSuppression:
    """Send an address no more mail.

    Security mails, such as a password's reset, still go there. An address that is on the list,
    for whatever reason, is a conflict (409).
    """
    row = suppression.create(data["email"], data["details"], current_user.id)
    db.session.commit()
    return row


@bp.delete("/<uuid:suppression_id>")
@permissions_required("mail:send")
@bp.errors(NotFound)
@bp.response(204)
def delete_suppression(suppression_id: UUID) -> None:
    """Let an address get mail again.

    After a bounce or a complaint only when its owner asks for it: the next one harms the name of
    whoever sends.
    """
    suppression.delete(suppression_id)
    db.session.commit()

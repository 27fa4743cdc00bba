"""Single mails, over HTTP."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import url_for

from ghost.access import permissions_required
from ghost.api import APIResponse, Blueprint
from ghost.database import db
from ghost.errors import Conflict, NotFound
from ghost.mail import services
from ghost.mail.models import MailMessage
from ghost.mail.schemas import AcceptedMail, MailMessageSchema, MessageQuery, NewMail
from ghost.ratelimit import caller_or_source, rate_limit

bp = Blueprint("mail", __name__, url_prefix="/mail", description="Mails, and what became of them.")


@bp.post("/send")
@permissions_required("mail:send")
@rate_limit("mail.send_limit", key=caller_or_source)
@bp.arguments(NewMail)
@bp.response(202, AcceptedMail)
def send(data: dict[str, Any]) -> APIResponse:
    """Send a mail.

    By a `template` with its `context`, or with a `subject` and a `text`, `html` or both. It is
    checked and rendered before it is accepted; nothing waits for the mail service. The templates
    of security mails can't be sent.
    """
    row = services.send(**data)
    db.session.commit()
    location = url_for("mail.get_message", message_id=row.id)
    return APIResponse(row, headers={"Location": location})


@bp.get("/messages")
@permissions_required("mail:send")
@bp.paginated(MailMessageSchema, query=MessageQuery)
def list_messages(query: dict[str, Any]) -> sa.Select[Any]:
    """List mails, the newest first."""
    return services.list_messages(**query)


@bp.get("/messages/<uuid:message_id>")
@permissions_required("mail:send")
@bp.errors(NotFound)
@bp.response(200, MailMessageSchema)
def get_message(message_id: UUID) -> MailMessage:
    """Get one mail, and what became of it.

    It is `sent` when at least one address was accepted and none is left to try; `refused` tells
    of the others. It has `failed` when nobody gets it.
    """
    return services.get_message(message_id)


@bp.post("/messages/<uuid:message_id>/retry")
@permissions_required("mail:send")
@rate_limit("mail.send_limit", key=caller_or_source)
@bp.errors(NotFound, Conflict)
@bp.response(200, MailMessageSchema)
def retry_message(message_id: UUID) -> MailMessage:
    """Try a mail that failed once more.

    Only failed ones can be tried again (409).
    """
    row = services.retry(message_id)
    db.session.commit()
    return row

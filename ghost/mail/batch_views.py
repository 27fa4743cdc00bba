"""Batches, over HTTP."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import url_for

from ghost.access import permissions_required
from ghost.api import APIResponse, Blueprint
from ghost.config import Config
from ghost.database import db
from ghost.errors import Conflict, NotFound
from ghost.http import body_limit
from ghost.mail import batches
from ghost.mail.batch_schemas import AcceptedBatch, BatchSchema, NewBatch
from ghost.ratelimit import caller_or_source, rate_limit
from ghost.schemas import PageQuery

BYTES_FOR_EACH = 1024

bp = Blueprint(
    "mail_batches", __name__, url_prefix="/mail", description="One mail template for many."
)


def _largest_body(config: Config) -> int:
    """A full batch, with a kibibyte for each recipient."""
    return max(config.app.max_body, config.mail.max_batch * BYTES_FOR_EACH)


@bp.post("/bulk")
@permissions_required("mail:send")
@rate_limit("mail.send_limit", key=caller_or_source)
@body_limit(_largest_body)
@bp.arguments(NewBatch)
@bp.response(202, AcceptedBatch)
def send_bulk(data: dict[str, Any]) -> APIResponse:
    """Send a template to many.

    Everybody gets a mail of their own, made from their `context`; an address that is named more
    than once gets one. Addresses are checked, and the first mail is rendered, before anything is
    accepted: an error names the recipient, counted from 0, or the variable that is missing. The
    body may be longer than others: 1 KiB for each recipient that a batch can have.
    """
    batch = batches.send_bulk(**data)
    db.session.commit()
    accepted = {
        "batch_id": batch.id,
        "job_id": batch.job_id,
        "queued": batch.total,
        "duplicates": len(data["recipients"]) - batch.total,
    }
    location = url_for("mail_batches.get_batch", batch_id=batch.id)
    return APIResponse(accepted, headers={"Location": location})


@bp.get("/batches")
@permissions_required("mail:send")
@bp.paginated(BatchSchema, query=PageQuery)
def list_batches(_query: dict[str, Any]) -> sa.Select[Any]:
    """List batches, the newest first."""
    return batches.list_batches()


@bp.get("/batches/<uuid:batch_id>")
@permissions_required("mail:send")
@bp.errors(NotFound)
@bp.response(200, BatchSchema)
def get_batch(batch_id: UUID) -> Any:
    """Get one batch, and how far it is.

    It is over when `finished_at` is set: then every mail is sent or has failed, and is queued
    again only by a retry of its own.
    """
    return batches.get_batch(batch_id)


@bp.post("/batches/<uuid:batch_id>/cancel")
@permissions_required("mail:send")
@bp.errors(NotFound, Conflict)
@bp.response(200, BatchSchema)
def cancel_batch(batch_id: UUID) -> Any:
    """Cancel a batch.

    What was not sent has failed then; a mail that is being sent in this moment keeps its outcome.
    One that is over can't be canceled (409).
    """
    batches.cancel_batch(batch_id)
    db.session.commit()
    return batches.get_batch(batch_id)

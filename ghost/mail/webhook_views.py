"""Where mail services tell what became of mails. Anybody may call; only what is signed counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flask import request
from loguru import logger

from ghost.access import contract_of, declare, public
from ghost.api import APIResponse, Blueprint
from ghost.config import current_config
from ghost.database import db
from ghost.errors import (
    Forbidden,
    NotFound,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from ghost.http import read_json
from ghost.mail import events, sendgrid_events, ses_events, sns
from ghost.mail.events import MailEvent
from ghost.mail.webhook_jobs import confirm_subscription
from ghost.models import utcnow
from ghost.ratelimit import rate_limit

View = TypeVar("View", bound=Callable[..., Any])

# SendGrid posts up to 768 KB at once; a message of SNS is 256 KiB at most, before it is escaped.
SENDGRID_BYTES = 2 * 1024 * 1024
SNS_BYTES = 1024 * 1024

bp = Blueprint(
    "mail_webhooks",
    __name__,
    url_prefix="/mail/webhooks",
    description="What mail services report of mails that they took.",
)


def _reads_raw_body(content_type: str, shape: dict[str, Any]) -> Callable[[View], View]:
    """Declare and document a body that the view reads as it came: signatures are over bytes."""

    def decorate(view: View) -> View:
        declare(view, locations=contract_of(view).locations | {"body"})
        documented = bp.doc(
            requestBody={"required": True, "content": {content_type: {"schema": shape}}}
        )
        return documented(view)

    return decorate


@bp.post("/sendgrid")
@public
@rate_limit("1200/minute")
@bp.errors(Forbidden, NotFound, PayloadTooLarge, UnsupportedMediaType)
@bp.doc(
    parameters=[
        {"in": "header", "name": name, "schema": {"type": "string"}, "required": True}
        for name in (
            "X-Twilio-Email-Event-Webhook-Signature", "X-Twilio-Email-Event-Webhook-Timestamp",
        )
    ]
)  # fmt: skip
@_reads_raw_body("application/json", {"type": "array", "items": {"type": "object"}})
@bp.response(200)
def take_sendgrid_events() -> APIResponse:
    """Take events of SendGrid's Event Webhook.

    They have to be signed with the key of `mail.sendgrid_webhook_key` (403); without that setting
    there is nothing here (404). Events of unknown messages or kinds are accepted and ignored.
    """
    key = current_config().mail.sendgrid_webhook_key
    if key is None:
        raise NotFound
    body = _body(SENDGRID_BYTES)
    sendgrid_events.verify(
        key,
        request.headers.get("X-Twilio-Email-Event-Webhook-Signature", ""),
        request.headers.get("X-Twilio-Email-Event-Webhook-Timestamp", ""),
        body,
        utcnow(),
    )
    return _record(sendgrid_events.read_events(body))


@bp.post("/ses")
@public
@rate_limit("12000/minute")  # SNS posts every event on its own
@bp.errors(Forbidden, NotFound, PayloadTooLarge, UnsupportedMediaType)
@_reads_raw_body("text/plain", {"type": "string"})
@bp.response(200)
def take_ses_events() -> APIResponse:
    """Take an event of Amazon SES that Amazon SNS brings.

    The body is SNS's JSON. It has to be signed by SNS, for the topic of `mail.ses_topic` (403);
    without that setting there is nothing here (404). A subscription is confirmed by a job.
    """
    topic = current_config().mail.ses_topic
    if topic is None:
        raise NotFound
    message = read_json(_body(SNS_BYTES))
    if not isinstance(message, dict):
        raise ValidationFailed(details={"json": {"_schema": ["Send a JSON object."]}})
    sns.verify(message, topic, utcnow())
    if message["Type"] == sns.NOTIFICATION:
        return _record(ses_events.read_events(message["Message"]))
    if message["Type"] == sns.SUBSCRIPTION:
        confirm_subscription.enqueue(message["Token"])
        db.session.commit()
    else:
        logger.bind(topic=topic).warning("SNS ended the subscription of our topic")
    return APIResponse(message="Noted.")


def _body(limit: int) -> bytes:
    """The body as it came.

    :raises PayloadTooLarge: it is longer than the limit, or than `app.max_body`.
    """
    request.max_content_length = min(limit, current_config().app.max_body)
    body: bytes = request.get_data()
    return body


def _record(told: Sequence[MailEvent]) -> APIResponse:
    recorded = events.record(told)
    db.session.commit()
    events.announce(recorded)
    return APIResponse(message="Noted.")

"""Events as SendGrid posts them: lists, signed with a key that belongs to the account."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from loguru import logger

from ghost.errors import ValidationFailed
from ghost.http import read_json
from ghost.mail.events import DELIVERED, Forged, MailEvent, address_in, as_row_id, text_in
from ghost.mail.models import BOUNCED, COMPLAINED
from ghost.mail.suppression import tidy

# SendGrid repeats what was not answered for 24 hours, and does not say whether with a new
# timestamp: a narrower window might lose events. A replay within it changes nothing.
MAX_AGE = timedelta(hours=25)
MAX_AHEAD = timedelta(minutes=10)

# Why SendGrid did not even try: its own lists know the address.
_DROPPED = {
    "bounced address": BOUNCED,
    "invalid": BOUNCED,
    "spam reporting address": COMPLAINED,
}


def verify(public_key: str, signature: str, timestamp: str, body: bytes, now: datetime) -> None:
    """Check that SendGrid signed a body, and that it did so lately.

    See SendGrid's "Event Webhook Security Features": ECDSA with P-256 and SHA-256 over the
    timestamp and the body as it came.

    :param public_key: DER in Base64, as SendGrid shows it.
    :param timestamp: seconds since 1970, as the header has them.
    :raises Forged: it did not.
    """
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 11):
        raise Forged
    try:
        signed = base64.b64decode(signature, validate=True)
        _loaded(public_key).verify(signed, timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature) as error:  # binascii's error is a ValueError
        raise Forged from error
    age = now - datetime.fromtimestamp(int(timestamp), UTC)
    if not -MAX_AHEAD <= age <= MAX_AGE:
        raise Forged


@lru_cache(maxsize=4)
def _loaded(public_key: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(base64.b64decode(public_key, validate=True))
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("no key of an elliptic curve")
    except ValueError:
        logger.error("mail.sendgrid_webhook_key is no public key")
        raise
    return key


def read_events(body: bytes) -> list[MailEvent]:
    """Read the events that concern us; the others are none of our business, or malformed.

    :raises BadRequest: it is no JSON.
    :raises ValidationFailed: it is no list.
    """
    items = read_json(body)
    if not isinstance(items, list):
        raise ValidationFailed(details={"json": {"_schema": ["Send a JSON array."]}})
    events = []
    malformed = 0
    for item in items:
        if address_in(item, "email") is None or text_in(item, "event") is None:
            malformed += 1
        elif event := _event(item):
            events.append(event)
    if malformed:
        logger.bind(count=malformed).warning("SendGrid sent events that can't be read")
    return events


def _event(item: dict[str, Any]) -> MailEvent | None:
    """One event; None where nothing is decided by it (`processed`, `deferred`, `open`, ...)."""
    name = item["event"]
    reason = None
    if name == "delivered":
        kind = DELIVERED
    elif name == "bounce":
        kind = BOUNCED
        # `blocked` is about this mail or our address, not about the mailbox.
        reason = BOUNCED if text_in(item, "type") == "bounce" else None
    elif name == "dropped":
        kind = BOUNCED
        reason = _DROPPED.get((text_in(item, "reason") or "").lower())
    elif name == "spamreport":
        kind = reason = COMPLAINED
    else:
        return None
    words = text_in(item, "reason") or text_in(item, "response")
    return MailEvent(
        kind,
        address_in(item, "email") or "",
        row_id=as_row_id(item.get("ghost_message_id")),
        at=_moment(item.get("timestamp")),
        details=tidy(words if kind != DELIVERED else None),
        reason=reason,
    )


def _moment(seconds: object) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if type(seconds) is int else None
    except (ValueError, OverflowError, OSError):
        return None

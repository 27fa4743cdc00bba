"""Addresses that let whoever has them read one file for a while, without a login."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from urllib.parse import urlencode
from uuid import UUID

from ghost.api import API_PREFIX
from ghost.config import current_config
from ghost.errors import Forbidden
from ghost.models import utcnow
from ghost.secrets import derived_key

_PURPOSE = "file-urls"


class LinkInvalid(Forbidden):
    """An address that was altered, is over, or is meant for something else: one answer for all."""

    code, message = "link_invalid", "This link is not valid, or no longer."


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """An address and when it ends."""

    url: str
    expires_at: datetime


def sign_url(
    file_id: UUID, seconds: int, *, variant: str | None = None, download: bool = False
) -> SignedUrl:
    """Make an address that gives a file, or a variant of it, for a while.

    It is meant for GET (and HEAD), this file, this variant and this way of giving it. It ends with
    its time, or with the file, and not before: what was given away can't be taken back.

    :param seconds: how long it is good for.
    :param download: whether browsers save the file, whatever it is.
    """
    config = current_config()
    expires_at = utcnow().replace(microsecond=0) + timedelta(seconds=seconds)
    expires = str(int(expires_at.timestamp()))
    query = {"expires": expires} | ({"download": "1"} if download else {})
    query["signature"] = _sign(file_id, variant, expires, download)
    place = "content" if variant is None else f"images/{variant}"
    path = f"{API_PREFIX}/files/{file_id}/{place}"
    url = f"{config.app.public_url.rstrip('/')}{path}?{urlencode(query)}"
    return SignedUrl(url, expires_at)


def check_signature(
    file_id: UUID, variant: str | None, *, expires: str, signature: str, download: bool
) -> int:
    """Make sure that an address is one of ours, for this file and variant, and not over.

    :param expires: as the address says; Unix time in seconds, where it is one of ours.
    :returns: for how many more seconds it is good.
    :raises LinkInvalid: it is not.
    """
    expected = _sign(file_id, variant, expires, download)
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
        raise LinkInvalid
    left = int(expires) - int(utcnow().timestamp())
    if left <= 0:
        raise LinkInvalid
    return left


def _sign(file_id: UUID, variant: str | None, expires: str, download: bool) -> str:
    # As JSON, in which no two of these make one text, whatever a stranger writes for `expires`.
    text = json.dumps(["GET", str(file_id), variant, download, expires])
    key = derived_key(current_config(), _PURPOSE)
    return urlsafe_b64encode(hmac.digest(key, text.encode(), sha256)).rstrip(b"=").decode()

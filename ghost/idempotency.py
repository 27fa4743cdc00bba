"""`Idempotency-Key`: a repeated POST gives the first answer again and does nothing twice.

The claim of a key is a row in the request's own transaction: it is there exactly if the work is.
"""

from __future__ import annotations

import hashlib
import time
from base64 import urlsafe_b64encode
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken
from flask import Flask, Response, current_app, g, has_request_context, request
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Mapped, SessionTransaction, mapped_column

from ghost.access import Access, authenticate, contract_of
from ghost.api import API_PREFIX
from ghost.config import Config, current_config
from ghost.database import Session, UTCDateTime, db, db_manager, dialect_insert
from ghost.errors import Conflict, ServiceUnavailable, ValidationFailed
from ghost.logging import logger
from ghost.models import utcnow
from ghost.retention import delete_when
from ghost.secrets import derived_key

KEPT = timedelta(hours=24)
WAIT_SECONDS = 2.0
LOCK_NOT_AVAILABLE = "55P03"
KEPT_HEADERS = ("Content-Type", "ETag", "Location")


class IdempotencyKey(db.Model):  # type: ignore[name-defined]
    """A claimed key; `status` is None while the answer is not known."""

    __tablename__ = "idempotency_keys"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(sa.String(64))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=utcnow, index=True)
    status: Mapped[int | None]
    headers: Mapped[dict[str, str] | None] = mapped_column(sa.JSON)
    body: Mapped[bytes | None] = mapped_column(sa.LargeBinary)


_table = IdempotencyKey.__table__
delete_when(IdempotencyKey, lambda now: _table.c.created_at < now - KEPT)


def init_app(app: Flask, config: Config) -> None:
    """Watch for the header on every JSON POST outside `/auth`."""
    app.before_request(_claim)
    app.after_request(_keep)


def _claim() -> Response | None:
    """Claim the request's key, or answer what it was answered before."""
    key = request.environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is None or not _applies():
        return None
    if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise ValidationFailed(
            details={"headers": {"Idempotency-Key": ["Use 1 to 255 printable characters."]}}
        )
    _access().check()  # before anything is claimed, and before an answer is given again
    caller = authenticate()
    fingerprint = hashlib.sha256(
        b"\0".join((request.full_path.encode(), request.get_data()))
    ).hexdigest()
    mine = (_table.c.user_id == caller.id) & (_table.c.key == key)
    try:
        # The others that are expired go when an answer is kept: here they would make requests of
        # one caller wait for each other.
        db.session.execute(sa.delete(IdempotencyKey).where(mine, _is_expired()))
        db.session.add(IdempotencyKey(user_id=caller.id, key=key, fingerprint=fingerprint))
        db.session.flush()
    except DBAPIError as error:
        db.session.rollback()
        is_held = getattr(error.orig, "pgcode", None) == LOCK_NOT_AVAILABLE
        if not (is_held or isinstance(error, IntegrityError)):
            raise
        return _earlier_answer(mine, fingerprint, is_held=is_held)
    g.idempotency = (caller.id, key, fingerprint)
    return None


def _applies() -> bool:
    if request.method != "POST" or not request.is_json:
        return False
    if request.path.startswith(f"{API_PREFIX}/auth/") or request.url_rule is None:
        return False
    return not _access().public


def _access() -> Access:
    """What the view that will answer declares; a plain view keeps no keys."""
    view = current_app.view_functions.get(request.endpoint or "")
    return contract_of(view).access or Access(public=True)


def _is_expired() -> sa.ColumnElement[bool]:
    return _table.c.created_at < utcnow() - KEPT


@event.listens_for(Session, "after_soft_rollback")
def _note_lost_claim(_session: Session, ended: SessionTransaction) -> None:
    """Remember that a view rolled its transaction back, and the claim with it."""
    if has_request_context() and ended.parent is None and "idempotency" in g:
        g.idempotency_lost = True


@event.listens_for(Session, "before_commit")
def _claim_again(session: Session) -> None:
    """Claim the key in the transaction that a view began after a rollback.

    :raises sqlalchemy.exc.IntegrityError: another request took it in between.
    """
    if has_request_context() and session.info.get("owned") and g.pop("idempotency_lost", False):
        user_id, key, fingerprint = g.idempotency
        session.execute(
            sa.insert(IdempotencyKey).values(user_id=user_id, key=key, fingerprint=fingerprint)
        )


def _earlier_answer(mine: sa.ColumnElement[bool], fingerprint: str, *, is_held: bool) -> Response:
    """The stored answer; waits a little for one that is being made.

    :param is_held: whether the transaction that has the key was waited for already.
    :raises ValidationFailed: the key came with another body before.
    :raises Conflict: there is no answer, yet or for ever.
    :raises ServiceUnavailable: whoever had the key gave it back without an answer.
    """
    deadline = time.monotonic() + (0 if is_held else WAIT_SECONDS)
    columns = (_table.c.fingerprint, _table.c.status, _table.c.headers, _table.c.body)
    while True:
        with db_manager.connection() as connection:
            row = connection.execute(sa.select(*columns).where(mine)).first()
        if row is not None and row.fingerprint != fingerprint:
            raise ValidationFailed(
                details={"headers": {"Idempotency-Key": ["Used before with another request."]}}
            )
        if row is not None and row.status is not None:
            response = Response(_decrypt(row.body), row.status, row.headers)
            response.headers["Idempotent-Replayed"] = "true"
            return response
        if time.monotonic() >= deadline:
            if row is None and not is_held:
                raise ServiceUnavailable
            raise Conflict("A request with this Idempotency-Key was made and has no answer.")
        time.sleep(0.05)


def _keep(response: Response) -> Response:
    """Keep the answer of the request that claimed a key."""
    claim = g.pop("idempotency", None)
    if claim is None:
        return response
    db.session.rollback()  # what the view did not commit is not done
    if response.direct_passthrough or response.is_streamed:  # read once: a repeat will be a 409
        return response
    if not (200 <= response.status_code < 300 or response.status_code in (409, 422)):
        return response
    user_id, key, fingerprint = claim
    answer = {
        "status": response.status_code,
        "headers": {
            name: response.headers[name] for name in KEPT_HEADERS if name in response.headers
        },
        "body": _fernet().encrypt(response.get_data()),
    }
    row = dialect_insert(_table).values(
        user_id=user_id, key=key, fingerprint=fingerprint, created_at=utcnow(), **answer
    )
    try:
        with db_manager.transaction() as connection:
            connection.execute(sa.delete(_table).where(_table.c.user_id == user_id, _is_expired()))
            connection.execute(
                row.on_conflict_do_update(
                    index_elements=["user_id", "key"],
                    set_=answer,
                    where=_table.c.fingerprint == fingerprint,
                )
            )
    except DBAPIError:
        # The work is done and its answer is on the way: a repeat will be a 409.
        logger.warning("the answer of an Idempotency-Key could not be kept")
    return response


def _fernet() -> Fernet:
    return Fernet(urlsafe_b64encode(derived_key(current_config(), "idempotency")))


def _decrypt(body: bytes) -> bytes:
    try:
        return _fernet().decrypt(body)
    except InvalidToken as error:
        raise Conflict("The answer to this Idempotency-Key can no longer be read.") from error

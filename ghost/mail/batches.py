"""Batches: one template for many recipients, each of whom gets a mail of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from ghost.config import current_config
from ghost.database import db, db_manager, lock_row
from ghost.errors import Conflict, NotFound, ValidationFailed
from ghost.jobs.context import origin
from ghost.jobs.ledger import jobs
from ghost.jobs.runner import LEASE_SECONDS
from ghost.jobs.signals import job_canceled, job_failed
from ghost.logging import logger
from ghost.mail import delivery
from ghost.mail.batch_jobs import NAME, deliver_batch
from ghost.mail.batch_ledger import CANCELED, close, is_sending, messages
from ghost.mail.messages import Address, AddressLike, Message
from ghost.mail.models import FAILED, QUEUED, SENDING, SENT, MailBatch
from ghost.mail.rendering import SECURITY_TEMPLATES, is_locale, render
from ghost.mail.suppression import canonical
from ghost.models import utcnow, uuid7
from ghost.retention import repair_with

Recipient = tuple[AddressLike, Mapping[str, Any]]

# What one INSERT carries: a statement in a request has a limit of its own.
CHUNK = 1000
GAVE_UP = "The batch's job failed"
LOST = "it was over before the batch was"


def send_bulk(
    template: str,
    recipients: Iterable[Recipient],
    *,
    locale: str | None = None,
    headers: Mapping[str, str] | None = None,
    sender: AddressLike | None = None,
) -> MailBatch:
    """Send everybody a mail of their own, once the transaction of `db.session` commits, or never.

    All addresses are checked now, and the first mail is rendered, so that a template that lacks
    a variable fails here; the others are rendered in the worker. An address that is named more
    than once gets one mail, by the context that comes first.

    :param recipients: an address and a context each, of what JSON can hold; `mail.max_batch` at
        most.
    :param locale: whose templates are taken where there are any: `de-AT`, then `de`.
    :param headers: more headers, the same for all.
    :param sender: instead of `mail.sender`.
    :returns: the batch; its `total` counts distinct addresses.
    :raises ValidationFailed: the details name the recipients whose address is none, the variable
        that the first context lacks, or what else is wrong.
    """
    found = _distinct(recipients)
    headers = dict(headers or {})
    first, context = next(iter(found.values()))
    try_out(template, first, context, locale, headers=headers, sender=sender)
    created_by, request_id = origin()
    batch = MailBatch(template=template, locale=locale, total=len(found), created_by=created_by)
    batch.job_id = deliver_batch.enqueue(batch.id)
    db.session.add(batch)
    db.session.flush()
    now = utcnow()
    shared: dict[str, Any] = {
        "batch_id": batch.id, "job_id": None, "created_by": created_by, "request_id": request_id,
        "status": QUEUED, "template": template, "locale": locale, "cc": [], "bcc": [],
        "reply_to": [], "headers": headers, "attempts": 0, "accepted": [], "refused": {},
        "sender": str(Address.parse(sender, "sender")) if sender else None, "created_at": now,
        "updated_at": now,
    }  # fmt: skip
    rows = [
        {"id": uuid7(), "to": [str(address)], "context": dict(context), **shared}
        for address, context in found.values()
    ]
    # With RETURNING many rows are one statement; psycopg2's executemany sends row by row.
    insert = sa.insert(messages).returning(messages.c.id)
    for start in range(0, len(rows), CHUNK):
        db.session.execute(insert, rows[start : start + CHUNK])
    return batch


def _distinct(recipients: Iterable[Recipient]) -> dict[str, tuple[Address, Mapping[str, Any]]]:
    """Check all addresses, and keep each once, by its canonical form.

    :raises ValidationFailed: some are none, there are too many, or there is none.
    """
    most = current_config().mail.max_batch
    found: dict[str, tuple[Address, Mapping[str, Any]]] = {}
    wrong: dict[str, dict[str, list[str]]] = {}
    number = -1
    for number, (to, context) in enumerate(recipients):
        if number == most:
            raise _invalid("recipients", f"There are more than {most:,}.")
        try:
            address = Address.parse(to)
            found.setdefault(canonical(address.email), (address, context))
        except ValueError:  # InvalidMessage is one, too
            wrong[str(number)] = {"to": ["Not a valid e-mail address."]}
        if not _is_json(context):
            wrong.setdefault(str(number), {})["context"] = ["Not JSON."]
    if wrong:
        raise ValidationFailed(details={"json": {"recipients": wrong}})
    if number < 0:
        raise _invalid("recipients", "There is nobody to send it to.")
    return found


def _is_json(context: Mapping[str, Any]) -> bool:
    """Tell whether a context can be stored until its mail is made."""
    try:
        json.dumps(dict(context), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def try_out(
    template: str,
    to: Address,
    context: Mapping[str, Any],
    locale: str | None,
    *,
    headers: Mapping[str, str] | None = None,
    sender: AddressLike | None = None,
) -> None:
    """Make a mail, as the worker will, and send it to nobody.

    :raises ValidationFailed: it can't be made.
    """
    if template in SECURITY_TEMPLATES:
        raise _invalid("template", "This template is for security mails only.")
    if locale is not None and not is_locale(locale):
        raise _invalid("locale", "It must look like de or de-AT.")
    rendered = render(template, context, locale=locale)
    Message(
        to=to,
        subject=rendered.subject,
        text=rendered.text,
        html=rendered.html,
        headers=headers or {},
        sender=sender or delivery.sender_of(current_config()),
    )


def _invalid(field: str, words: str) -> ValidationFailed:
    return ValidationFailed(details={"json": {field: [words]}})


# --- Looking at them ------------------------------------------------------------------------------

_batches: Any = MailBatch.__table__


def _count(status: str) -> Any:
    counted = sa.select(sa.func.count()).where(
        messages.c.batch_id == _batches.c.id, messages.c.status == status
    )
    return counted.scalar_subquery().label(status)


_status = sa.case(
    (_batches.c.canceled_at.is_not(None), "canceled"),
    (_batches.c.finished_at.is_not(None), "finished"),
    (_count(QUEUED).element == _batches.c.total, QUEUED),
    else_=SENDING,
).label("status")
_all = sa.select(*_batches.c, _status, *map(_count, (QUEUED, SENDING, SENT, FAILED)))
_newest_first = _all.order_by(_batches.c.id.desc())


def list_batches() -> sa.Select[Any]:
    """Select all batches, the newest first.

    With their status (`queued`, `sending`, `finished` or `canceled`), and how many of their
    messages have each of a message's.
    """
    return _newest_first


def get_batch(batch_id: UUID) -> Any:
    """One batch, as `list_batches` has it.

    :raises NotFound: there is none.
    """
    row = db.session.execute(_all.where(_batches.c.id == batch_id)).first()
    if row is None:
        raise NotFound
    return row


def look_at(batch_id: UUID) -> Any:
    """One batch, as `get_batch`, read now, outside of any transaction.

    :raises NotFound: there is none.
    """
    with db_manager.connection() as connection:
        row = connection.execute(_all.where(_batches.c.id == batch_id)).first()
    if row is None:
        raise NotFound
    return row


# --- Ending them ----------------------------------------------------------------------------------


def cancel_batch(batch_id: UUID) -> MailBatch:
    """Have nobody else get a mail of a batch; what is being sent keeps its outcome.

    :raises NotFound: there is none.
    :raises Conflict: it is over already.
    """
    batch = _lock_batch(MailBatch.id == batch_id)
    if batch is None:
        raise NotFound
    if batch.canceled_at is not None or batch.finished_at is not None:
        state = "canceled" if batch.canceled_at is not None else "finished"
        raise Conflict(f"This batch is {state} already.")
    batch.canceled_at = utcnow()
    db.session.flush()
    count = close(db.session.connection(), batch.id, CANCELED)
    db.session.refresh(batch)
    logger.bind(event="mail_batch_canceled", batch=str(batch.id), count=count).warning(
        "a batch was canceled"
    )
    return batch


def _lock_batch(condition: sa.ColumnElement[bool]) -> MailBatch | None:
    statement = lock_row(sa.select(MailBatch).where(condition))
    return db.session.scalar(statement.execution_options(populate_existing=True))


@job_canceled.connect
def _cancel_with_job(_app: Any, *, job_id: UUID, name: str) -> None:
    """Cancel the batch whose job is canceled."""
    if name != NAME:
        return
    batch = _lock_batch(sa.and_(MailBatch.job_id == job_id, MailBatch.finished_at.is_(None)))
    if batch is None:
        return
    if batch.canceled_at is None:
        cancel_batch(batch.id)
    if batch.finished_at is None:
        # Something is being sent, by a process that may be killed before it can say how it ended.
        batch.job_id = deliver_batch.enqueue_in(LEASE_SECONDS, batch.id)


@job_failed.connect
def _outlive_job(_app: Any, *, job_id: UUID, name: str, error: str) -> None:
    """Go on with a batch, or end it, when its job is put aside."""
    if name == NAME:
        _outlive(MailBatch.job_id == job_id, error)


def _outlive(condition: sa.ColumnElement[bool], error: str) -> None:
    """Go on with a batch whose job is over, or end it, and commit."""
    batch = _lock_batch(sa.and_(condition, MailBatch.finished_at.is_(None)))
    if batch is not None:
        connection = db.session.connection()
        if is_sending(connection, batch.id):
            # Its process was killed in the middle of a mail, too often for one job. The mail
            # counts that for itself, and the batch goes on with the others.
            batch.job_id = deliver_batch.enqueue(batch.id)
        else:
            close(connection, batch.id, delivery.clean_words(f"{GAVE_UP}: {error}"))
    db.session.commit()


@repair_with
def _outlive_lost_jobs(connection: sa.Connection, _now: datetime, limit: int) -> int:
    """Do so for batches whose job is over, or gone, and told nobody: a process was killed."""
    mine = jobs.c.id == _batches.c.job_id
    orphans = (
        sa.select(_batches.c.id, _batches.c.job_id, jobs.c.error)
        .outerjoin_from(_batches, jobs, mine)
        .where(
            _batches.c.finished_at.is_(None),
            sa.or_(jobs.c.id.is_(None), jobs.c.finished_at.is_not(None)),
        )
        .limit(limit)
    )
    found = connection.execute(orphans).all()
    for batch_id, job_id, error in found:
        # Its job may have been replaced since.
        is_same = MailBatch.job_id == job_id if job_id else MailBatch.job_id.is_(None)
        _outlive(sa.and_(MailBatch.id == batch_id, is_same), error or LOST)
    return len(found)

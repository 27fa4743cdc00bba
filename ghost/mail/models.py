"""Mails as rows: what is to be sent, what became of it, and who gets none any more."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ghost.config import current_config
from ghost.models import Model, TimestampMixin, first_uuid7
from ghost.retention import delete_when

QUEUED, SENDING, SENT, FAILED = "queued", "sending", "sent", "failed"
STATUSES = (QUEUED, SENDING, SENT, FAILED)
OPEN = (QUEUED, SENDING)

BOUNCED, COMPLAINED, MANUAL = "bounced", "complained", "manual"
REASONS = (BOUNCED, COMPLAINED, MANUAL)

SUBJECT_LENGTH = 998

_is_open = sa.text("status IN ('queued', 'sending')")


class MailBatch(TimestampMixin, Model):
    """One template for many recipients, each of whom has a message of their own."""

    __tablename__ = "mail_batches"

    template: Mapped[str] = mapped_column(sa.String(100))
    locale: Mapped[str | None] = mapped_column(sa.String(35))
    total: Mapped[int]
    # No foreign key: the job's row may go before the batch does.
    job_id: Mapped[UUID | None]
    created_by: Mapped[UUID | None]
    canceled_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class MailMessage(TimestampMixin, Model):
    """One mail: `queued`, `sending`, then `sent` or `failed`.

    What it says is in `subject`, `text` and `html`, rendered when it was made. A message of a
    batch holds its `context` instead, and a security mail its `composer` and ids in `context`:
    both are rendered in the worker, and no body of the latter is ever stored.

    `to`, `cc` and `bcc` hold addresses as `Address` prints them. `accepted` lists the plain
    addresses that a server took; `refused` says of others why it did not, in its words.
    """

    __tablename__ = "mail_messages"
    __table_args__ = (
        sa.CheckConstraint(f"status IN ({', '.join(map(repr, STATUSES))})", name="status"),
        sa.Index("ix_mail_messages_status", "status", "id"),
        sa.Index("ix_mail_messages_batch_id", "batch_id", "status", "id"),
        sa.Index(
            "ix_mail_messages_open_job_id",
            "job_id",
            postgresql_where=_is_open,
            sqlite_where=_is_open,
        ),
    )

    batch_id: Mapped[UUID | None] = mapped_column(
        sa.ForeignKey("mail_batches.id", ondelete="CASCADE")
    )
    job_id: Mapped[UUID | None]
    created_by: Mapped[UUID | None]
    request_id: Mapped[str | None] = mapped_column(sa.String(128))
    status: Mapped[str] = mapped_column(sa.String(10), default=QUEUED)
    template: Mapped[str | None] = mapped_column(sa.String(100))
    locale: Mapped[str | None] = mapped_column(sa.String(35))
    composer: Mapped[str | None] = mapped_column(sa.String(100))
    context: Mapped[dict[str, Any] | None] = mapped_column(
        sa.JSON(none_as_null=True), deferred=True
    )
    sender: Mapped[str | None] = mapped_column(sa.Text)
    to: Mapped[list[str]] = mapped_column(sa.JSON)
    cc: Mapped[list[str]] = mapped_column(sa.JSON, default=list)
    bcc: Mapped[list[str]] = mapped_column(sa.JSON, default=list)
    reply_to: Mapped[list[str]] = mapped_column(sa.JSON, default=list)
    headers: Mapped[dict[str, str]] = mapped_column(sa.JSON, default=dict)
    subject: Mapped[str | None] = mapped_column(sa.String(SUBJECT_LENGTH))
    text: Mapped[str | None] = mapped_column(sa.Text, deferred=True)
    html: Mapped[str | None] = mapped_column(sa.Text, deferred=True)
    attempts: Mapped[int] = mapped_column(default=0)
    accepted: Mapped[list[str]] = mapped_column(sa.JSON, default=list)
    refused: Mapped[dict[str, str]] = mapped_column(sa.JSON, default=dict)
    error: Mapped[str | None] = mapped_column(sa.Text)
    provider: Mapped[str | None] = mapped_column(sa.String(20))
    send_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    bounced_at: Mapped[datetime | None]
    complained_at: Mapped[datetime | None]

    attachments: Mapped[list[MailAttachment]] = relationship(
        cascade="all, delete-orphan", order_by="MailAttachment.position", passive_deletes=True
    )


class MailAttachment(Model):
    """A file or an inline image of one message; the latter has a `content_id`."""

    __tablename__ = "mail_attachments"

    message_id: Mapped[UUID] = mapped_column(
        sa.ForeignKey("mail_messages.id", ondelete="CASCADE"), index=True
    )
    position: Mapped[int]
    filename: Mapped[str] = mapped_column(sa.String(255))
    content_type: Mapped[str] = mapped_column(sa.String(255))
    content_id: Mapped[str | None] = mapped_column(sa.String(255))
    size: Mapped[int]
    content: Mapped[bytes] = mapped_column(sa.LargeBinary, deferred=True)


class MailSuppression(TimestampMixin, Model):
    """An address, in its canonical form, that gets nothing but security mails."""

    __tablename__ = "mail_suppressions"
    __table_args__ = (
        sa.CheckConstraint(f"reason IN ({', '.join(map(repr, REASONS))})", name="reason"),
    )

    email: Mapped[str] = mapped_column(sa.String(254), unique=True)
    reason: Mapped[str] = mapped_column(sa.String(20))
    # What the server or the webhook said, or who suppressed it.
    details: Mapped[str | None] = mapped_column(sa.Text)
    created_by: Mapped[UUID | None]


class MailPace(TimestampMixin, Model):
    """When the next mail may leave, over all workers, where `mail.rate` limits them."""

    __tablename__ = "mail_paces"

    name: Mapped[str] = mapped_column(sa.String(50), unique=True)
    next_at: Mapped[datetime]


def _is_old(now: datetime, table: Any) -> sa.ColumnElement[bool]:
    """Whether nothing has happened to a row for `mail.retention`.

    Keys begin with their time, and are what there is an index on; the rest is for mails that
    waited long for theirs.
    """
    oldest = now - timedelta(seconds=current_config().mail.retention)
    return sa.and_(table.c.id < first_uuid7(oldest), table.c.updated_at < oldest)


def _is_old_message(now: datetime) -> sa.ColumnElement[bool]:
    table: Any = MailMessage.__table__
    return sa.and_(_is_old(now, table), table.c.status.not_in(OPEN))


def _is_old_batch(now: datetime) -> sa.ColumnElement[bool]:
    table: Any = MailBatch.__table__
    messages: Any = MailMessage.__table__
    has_messages = sa.exists().where(messages.c.batch_id == table.c.id)
    return sa.and_(_is_old(now, table), ~has_messages)


delete_when(MailMessage, _is_old_message)
delete_when(MailBatch, _is_old_batch)

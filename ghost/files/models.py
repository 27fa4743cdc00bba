"""Files as rows: whose they are, what they are, and how much room they take."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ghost.database import db
from ghost.models import Model, SoftDeleteMixin, TimestampMixin, VersionMixin

PRIVATE, PUBLIC = "private", "public"
VISIBILITIES = (PRIVATE, PUBLIC)

CATEGORIES = ("image", "video", "audio", "document", "archive", "text", "other")


class StoredFile(VersionMixin, SoftDeleteMixin, TimestampMixin, Model):
    """A file whose bytes lie in the storage under `key`; the bytes of one never change.

    A deleted one keeps its bytes, and their part of the quota, until it is purged.
    """

    __tablename__ = "files"
    __table_args__ = (
        sa.CheckConstraint(
            f"visibility IN ({', '.join(map(repr, VISIBILITIES))})", name="visibility"
        ),
        sa.Index("ix_files_owner_id", "owner_id", "id"),
        sa.Index("ix_files_deleted_at", "deleted_at"),
    )

    # No foreign key: a file outlives its account until its bytes are gone.
    owner_id: Mapped[UUID]
    # In the order of bytes, as the storage has them, whatever the database's language.
    key: Mapped[str] = mapped_column(
        sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql"), unique=True
    )
    filename: Mapped[str] = mapped_column(sa.String(255))
    content_type: Mapped[str] = mapped_column(sa.String(127))
    category: Mapped[str] = mapped_column(sa.String(10))
    size: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str] = mapped_column(sa.String(64))
    visibility: Mapped[str] = mapped_column(sa.String(10), default=PRIVATE)
    # `metadata` is a name of SQLAlchemy's own.
    details: Mapped[dict[str, Any]] = mapped_column("metadata", sa.JSON, default=dict)
    width: Mapped[int | None]
    height: Mapped[int | None]


class FileVariant(TimestampMixin, Model):
    """A smaller copy of a picture; being made while `made_at` is empty."""

    __tablename__ = "file_variants"
    __table_args__ = (sa.UniqueConstraint("file_id", "name", "content_type"),)

    file_id: Mapped[UUID] = mapped_column(sa.ForeignKey("files.id", ondelete="RESTRICT"))
    # The name, and what the configuration said of it: another size is another variant.
    name: Mapped[str] = mapped_column(sa.String(100))
    content_type: Mapped[str] = mapped_column(sa.String(127))
    key: Mapped[str] = mapped_column(sa.String(200), unique=True)
    size: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    width: Mapped[int | None]
    height: Mapped[int | None]
    # Whoever makes it has until then; after that somebody else may.
    claimed_until: Mapped[datetime]
    made_at: Mapped[datetime | None]


class FileUsage(db.Model):  # type: ignore[name-defined]
    """How many bytes an account's files take, deleted but not yet purged ones included.

    Changed in the transaction that inserts or deletes a row of a file or of an upload, and never
    otherwise: so it is their sum, whatever is killed.
    """

    __tablename__ = "file_usages"

    owner_id: Mapped[UUID] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(sa.BigInteger, default=0)


class Upload(TimestampMixin, Model):
    """A resumable upload, by the tus protocol: what has arrived of it lies in the storage.

    The declared length counts in the owner's usage until there is a file, or the row goes.
    `offset` is the length only when `file_id` is there too: what is told to be complete is a file.
    """

    __tablename__ = "file_uploads"

    owner_id: Mapped[UUID] = mapped_column(index=True)
    length: Mapped[int] = mapped_column(sa.BigInteger)
    offset: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    filename: Mapped[str] = mapped_column(sa.String(255))
    content_type: Mapped[str | None] = mapped_column(sa.String(127))
    visibility: Mapped[str] = mapped_column(sa.String(10), default=PRIVATE)
    details: Mapped[dict[str, Any]] = mapped_column("metadata", sa.JSON, default=dict)
    # `Upload-Metadata` as the client sent it, which may have keys of its own there.
    description: Mapped[str] = mapped_column(sa.Text, default="")
    expires_at: Mapped[datetime] = mapped_column(index=True)
    # Who is writing at the moment, and until when nobody else may.
    writer: Mapped[UUID | None]
    writing_until: Mapped[datetime | None]
    # The file that came of it.
    file_id: Mapped[UUID | None]


class UploadPiece(db.Model):  # type: ignore[name-defined]
    """A part of an upload that lies in the storage and counts.

    The key is `uploads/<upload>/<offset>-<writer>`: what a writer leaves there after it has lost
    its turn is none of these, and overwrites none.
    """

    __tablename__ = "file_upload_pieces"

    upload_id: Mapped[UUID] = mapped_column(
        sa.ForeignKey("file_uploads.id", ondelete="CASCADE"), primary_key=True
    )
    offset: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    size: Mapped[int] = mapped_column(sa.BigInteger)
    key: Mapped[str] = mapped_column(sa.String(200))

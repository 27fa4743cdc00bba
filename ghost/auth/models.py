"""Sessions, and the count of failed attempts."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ghost.database import db
from ghost.models import Model, utcnow
from ghost.retention import delete_when


class Session(Model):
    """One log-in on one device: a family of refresh tokens.

    It lives while it is not revoked, not expired, and its epoch is its user's. `generation` is the
    number of the live refresh token; `spent` keeps when the latest earlier ones were spent, as
    `[[generation, seconds since 1970], ...]`, for the grace of `auth.refresh_grace`.
    """

    __tablename__ = "sessions"

    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    epoch: Mapped[int]
    generation: Mapped[int] = mapped_column(default=1)
    spent: Mapped[list[Any]] = mapped_column(sa.JSON, default=list)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    last_used_at: Mapped[datetime] = mapped_column(default=utcnow)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None]
    ip_address: Mapped[str | None] = mapped_column(sa.String(45))
    user_agent: Mapped[str | None] = mapped_column(sa.String(300))


class Throttle(db.Model):  # type: ignore[name-defined]
    """How often something failed, or was asked for, within a window; the key is a hash."""

    __tablename__ = "throttles"

    key: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    count: Mapped[int]
    expires_at: Mapped[datetime] = mapped_column(index=True)


# One that was ended before goes when its account has too many, or here when its time is up.
delete_when(Session, lambda now: Session.__table__.c.expires_at < now)
delete_when(Throttle, lambda now: Throttle.__table__.c.expires_at < now)

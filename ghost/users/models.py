"""Accounts, roles, and the permissions that are granted to roles."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ghost.database import db
from ghost.models import AuditMixin, Model, SoftDeleteMixin, TimestampMixin, VersionMixin


class User(VersionMixin, AuditMixin, SoftDeleteMixin, TimestampMixin, Model):
    """An account.

    `email` is in its canonical form (`ghost.fields.canonical_email`), `username` keeps the
    letters that its owner chose; `username_key` is what is compared. Both are unique also against
    soft-deleted accounts.
    """

    __tablename__ = "users"
    __table_args__ = (sa.Index("ix_users_created_at_id", "created_at", "id"),)

    email: Mapped[str] = mapped_column(sa.String(254), unique=True)
    username: Mapped[str | None] = mapped_column(sa.String(64))
    username_key: Mapped[str | None] = mapped_column(sa.String(64), unique=True)
    full_name: Mapped[str | None] = mapped_column(sa.String(200))
    avatar_url: Mapped[str | None] = mapped_column(sa.String(500))
    password_hash: Mapped[str | None] = mapped_column(sa.String(128))
    is_active: Mapped[bool] = mapped_column(default=True)
    is_verified: Mapped[bool] = mapped_column(default=False)
    last_login_at: Mapped[datetime | None]
    # Sessions and mailed tokens carry the epoch they were made in. Raising it ends them all, and
    # wins every race: one that is made from what was read before is born dead.
    session_epoch: Mapped[int] = mapped_column(default=1)

    role_links: Mapped[list[UserRole]] = relationship(
        cascade="all, delete-orphan", lazy="selectin", order_by="UserRole.role_name"
    )

    @property
    def roles(self) -> list[str]:
        """The names of the assigned roles, in alphabetical order."""
        return sorted(link.role_name for link in self.role_links)


class Role(TimestampMixin, db.Model):  # type: ignore[name-defined]
    """A named set of permissions; USER, ADMIN and SUPER_ADMIN are always there."""

    __tablename__ = "roles"

    name: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    description: Mapped[str] = mapped_column(sa.String(200), default="")

    grants: Mapped[list[RolePermission]] = relationship(
        cascade="all, delete-orphan", lazy="selectin", order_by="RolePermission.permission"
    )

    @property
    def permissions(self) -> list[str]:
        """The granted permissions, in alphabetical order."""
        return sorted(grant.permission for grant in self.grants)


class RolePermission(db.Model):  # type: ignore[name-defined]
    """One permission, granted to a role."""

    __tablename__ = "role_permissions"

    role_name: Mapped[str] = mapped_column(
        sa.ForeignKey("roles.name", ondelete="CASCADE"), primary_key=True
    )
    permission: Mapped[str] = mapped_column(sa.String(64), primary_key=True)


class UserRole(db.Model):  # type: ignore[name-defined]
    """A role, assigned to an account."""

    __tablename__ = "user_roles"

    user_id: Mapped[UUID] = mapped_column(
        sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    role_name: Mapped[str] = mapped_column(
        sa.ForeignKey("roles.name", ondelete="RESTRICT"), primary_key=True, index=True
    )

"""What every model can stand on: keys, times, soft deletion, versions, and a small repository."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from ghost.database import UTCDateTime, db
from ghost.errors import NotFound
from ghost.logging import user_id_var

_last_millisecond = 0
_counter = 0
_lock = threading.Lock()


def uuid7() -> UUID:
    """Make a UUID version 7: ordered by time, and within a process strictly increasing.

    See RFC 9562, section 5.7, and section 6.2 (method 1: a 12-bit counter that starts anew, half
    full at most, with each millisecond and borrows the next one when it is full).
    """
    global _last_millisecond, _counter
    with _lock:
        now = time.time_ns() // 1_000_000
        if now > _last_millisecond:
            _last_millisecond, _counter = now, secrets.randbits(11)
        else:
            _counter += 1
            if _counter > 0xFFF:
                _last_millisecond, _counter = _last_millisecond + 1, secrets.randbits(11)
        millisecond, counter = _last_millisecond, _counter
    return UUID(
        int=(millisecond & 0xFFFF_FFFF_FFFF) << 80
        | 0x7 << 76
        | counter << 64
        | 0b10 << 62
        | secrets.randbits(62)
    )


def first_uuid7(moment: datetime) -> UUID:
    """The least UUID version 7 of a time: keys below it were made before."""
    millisecond = int(moment.timestamp() * 1000)
    return UUID(int=(millisecond & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | 0b10 << 62)


def _renew_lock() -> None:
    """In a forked child: another thread of the parent may have held the lock."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def utcnow() -> datetime:
    """The time, aware and in UTC."""
    return datetime.now(UTC)


class Model(db.Model):  # type: ignore[name-defined]
    """A table with a UUIDv7 key, made when the object is: the id exists before the flush."""

    __abstract__ = True

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7, sort_order=-10)

    def __init__(self, **values: Any) -> None:
        values.setdefault("id", uuid7())
        super().__init__(**values)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"


class TimestampMixin:
    """`created_at` and `updated_at`, set by the application's clock."""

    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=utcnow, sort_order=90)
    updated_at: Mapped[datetime] = mapped_column(
        UTCDateTime, default=utcnow, onupdate=utcnow, sort_order=91
    )


class SoftDeleteMixin:
    """`deleted_at`: None while the row counts."""

    deleted_at: Mapped[datetime | None] = mapped_column(UTCDateTime, sort_order=92)

    @property
    def is_deleted(self) -> bool:
        return self.deleted_at is not None


def _acting_user() -> UUID | None:
    user_id = user_id_var.get()
    return UUID(user_id) if user_id else None


class AuditMixin:
    """`created_by` and `updated_by`: the id of the logged-in user, None for commands and jobs.

    No foreign keys: the trace outlives the account.
    """

    created_by: Mapped[UUID | None] = mapped_column(default=_acting_user, sort_order=93)
    updated_by: Mapped[UUID | None] = mapped_column(
        default=_acting_user, onupdate=_acting_user, sort_order=94
    )


class VersionMixin:
    """`version`: counts the writes of a row; a write from a stale object fails."""

    version: Mapped[int] = mapped_column(sa.Integer, default=1, sort_order=95)

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:
        return {"version_id_col": cls.version}


ModelT = TypeVar("ModelT", bound=Model)


class Repository(Generic[ModelT]):
    """Reading and writing one model, with allow-listed filters, search and order.

    Nothing commits; soft-deleted rows are left out unless asked for::

        orders = Repository(Order, sort=("created_at", "total"), filters=("status",))
        page, total = orders.list(status="new", sort="-created_at", page=2, per_page=50)
    """

    def __init__(
        self,
        model: type[ModelT],
        *,
        sort: Sequence[str] = (),
        filters: Sequence[str] = (),
        search: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.sortable, self.filterable, self.searchable = tuple(sort), tuple(filters), tuple(search)
        self.soft = issubclass(model, SoftDeleteMixin)

    def select(self, *, with_deleted: bool = False) -> sa.Select[tuple[ModelT]]:
        """A select of the rows that count."""
        statement = sa.select(self.model)
        if self.soft and not with_deleted:
            statement = statement.where(self.model.deleted_at.is_(None))
        return statement

    def find(self, key: UUID, *, with_deleted: bool = False) -> ModelT | None:
        """One row or None."""
        row = db.session.get(self.model, key)
        if row is not None and self.soft and not with_deleted and row.is_deleted:
            return None
        return row

    def get(self, key: UUID, *, with_deleted: bool = False) -> ModelT:
        """One row.

        :raises NotFound: there is none, or it is deleted.
        """
        row = self.find(key, with_deleted=with_deleted)
        if row is None:
            raise NotFound
        return row

    def list(
        self,
        *,
        sort: str | None = None,
        page: int = 1,
        per_page: int = 20,
        search: str | None = None,
        with_deleted: bool = False,
        **filters: Any,
    ) -> tuple[Sequence[ModelT], int]:
        """One page and the count of all.

        :param sort: a column of the allow-list, descending with a leading `-`.
        :param search: text that one of the searchable columns contains, whatever its case.
        :raises ValueError: a filter or an order that is not on its list.
        """
        statement = narrow(
            self.select(with_deleted=with_deleted), self.model, self.filterable, filters
        )
        if search:
            statement = searched(statement, self.model, self.searchable, search)
        total = db.session.scalar(counted(statement)) or 0
        statement = ordered(statement, self.model, self.sortable, sort)
        rows = db.session.scalars(statement.limit(per_page).offset((page - 1) * per_page))
        return rows.all(), total

    def add(self, row: ModelT) -> ModelT:
        """Add and flush one row."""
        db.session.add(row)
        db.session.flush()
        return row

    def add_all(self, rows: Iterable[ModelT]) -> Sequence[ModelT]:
        """Add and flush many rows in as few statements as possible."""
        added = [*rows]
        db.session.add_all(added)
        db.session.flush()
        return added

    def update(self, row: ModelT, values: Mapping[str, Any]) -> ModelT:
        """Set and flush attributes of one row."""
        for name, value in values.items():
            setattr(row, name, value)
        db.session.flush()
        return row

    def delete(self, row: ModelT) -> None:
        """Delete one row, softly where the model can."""
        if self.soft:
            row.deleted_at = utcnow()
        else:
            db.session.delete(row)
        db.session.flush()

    def restore(self, row: ModelT) -> ModelT:
        """Take back a soft deletion."""
        row.deleted_at = None
        db.session.flush()
        return row


def _column(model: type[Any], name: str, allowed: Sequence[str]) -> Any:
    if name not in allowed:
        raise ValueError(f"{name!r} is not one of {', '.join(allowed) or 'none'}")
    return getattr(model, name)


def narrow(
    statement: sa.Select[Any], model: type[Any], allowed: Sequence[str], filters: Mapping[str, Any]
) -> sa.Select[Any]:
    """Keep the rows whose allow-listed columns equal the values."""
    for name, value in filters.items():
        statement = statement.where(_column(model, name, allowed) == value)
    return statement


def searched(
    statement: sa.Select[Any], model: type[Any], columns: Sequence[str], text: str
) -> sa.Select[Any]:
    """Keep the rows of which a column contains the text, whatever its case; `%` is no wildcard."""
    if not columns:
        raise ValueError("this model has no columns to search")
    return statement.where(
        sa.or_(*(getattr(model, name).icontains(text, autoescape=True) for name in columns))
    )


def ordered(
    statement: sa.Select[Any], model: type[Any], allowed: Sequence[str], sort: str | None
) -> sa.Select[Any]:
    """Order by an allow-listed column (`-` in front: descending), then by key: pages are stable."""
    if sort:
        column = _column(model, sort.removeprefix("-"), allowed)
        if sort.startswith("-"):
            return statement.order_by(column.desc(), model.id.desc())
        return statement.order_by(column, model.id)
    return statement.order_by(model.id)


def counted(statement: sa.Select[Any]) -> sa.Select[int]:
    """Count what a select would return.

    Without the columns that it reads, where that counts the same: a subquery would compute them.
    """
    statement = statement.order_by(None)
    if statement._distinct or statement._group_by_clauses or statement._has_row_limiting_clause:
        return sa.select(sa.func.count()).select_from(statement.subquery())
    return statement.with_only_columns(sa.func.count(), maintain_column_froms=True)

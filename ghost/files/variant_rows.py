"""The rows of variants: who makes one, and what came of it; a unique row lets one do it.

A row is a claim until its picture is made. Whoever has it puts the bytes under the key that the
claim named; where the claim has ended and somebody else has made another one of the row, under
another key, what the first one brings is not taken any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ghost.config_storage import VariantSetting
from ghost.database import db_manager, dialect_insert
from ghost.errors import NotFound
from ghost.files.images import Picture
from ghost.files.models import FileVariant
from ghost.models import utcnow, uuid7
from ghost.prepared import PreparedRead

# A picture that no variant can be made of is looked at again after a day: Pillow may be newer then.
HOPELESS_FOR = timedelta(days=1)

_variants: Any = FileVariant.__table__
_VARIANT = PreparedRead(
    sa.select(
        _variants.c.id, _variants.c.key, _variants.c.size, _variants.c.claimed_until,
        _variants.c.made_at,
    ).where(
        _variants.c.file_id == sa.bindparam("file_id"),
        _variants.c.name == sa.bindparam("name"),
        _variants.c.content_type == sa.bindparam("content_type"),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which variant of which file; `name` as `stored_name` makes it."""

    file_id: UUID
    name: str
    content_type: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to make a variant, for a while; its bytes go under `key`."""

    id: UUID
    key: str


class State(Enum):
    """How far a variant is."""

    FREE = auto()  # nobody has begun
    CLAIMED = auto()  # somebody is making it
    ABANDONED = auto()  # somebody was, and has died
    MADE = auto()
    HOPELESS = auto()  # the picture is damaged


def stored_name(name: str, setting: VariantSetting) -> str:
    """Name a variant together with how it is made: another size is another variant."""
    quality = "" if setting.quality is None else f"-q{setting.quality}"
    return f"{name}:{setting.width}x{setting.height}-{setting.fit}{quality}"


def find(wanted: Wanted) -> Any:
    """Return the row of a variant, or None; read in no transaction."""
    return _VARIANT.first(
        {"file_id": wanted.file_id, "name": wanted.name, "content_type": wanted.content_type}
    )


def state_of(row: Any, now: datetime) -> State:
    """Tell how far a variant is.

    :param row: from `find`.
    """
    if row is None:
        return State.FREE
    is_held = row.claimed_until > now
    if row.made_at is None:
        return State.CLAIMED if is_held else State.ABANDONED
    if row.size:
        return State.MADE
    return State.HOPELESS if is_held else State.FREE


def claim(wanted: Wanted, seconds: float) -> Claim | None:
    """Claim a variant that is not made, and that nobody is making; committed when this returns.

    :param seconds: after which others may.
    :returns: None where somebody else was faster.
    :raises NotFound: there is no such file any more.
    """
    now = utcnow()
    claimed = Claim(uuid7(), f"variants/{now:%Y/%m}/{uuid7()}")
    values = {"key": claimed.key, "claimed_until": now + timedelta(seconds=seconds)}
    added = {
        "id": claimed.id, "file_id": wanted.file_id, "name": wanted.name,
        "content_type": wanted.content_type, "size": 0, "created_at": now, "updated_at": now,
    }  # fmt: skip
    insert = dialect_insert(_variants).values(added | values)
    insert = insert.on_conflict_do_update(
        index_elements=["file_id", "name", "content_type"],
        set_={**values, "updated_at": now, "made_at": None},
        where=sa.and_(_variants.c.size == 0, _variants.c.claimed_until <= now),
    )
    try:
        with db_manager.transaction() as connection:
            claimed_id = connection.scalar(insert.returning(_variants.c.id))
    except IntegrityError as error:  # the file was purged in this moment
        raise NotFound from error
    return None if claimed_id is None else Claim(claimed_id, claimed.key)


def finish(claimed: Claim, picture: Picture) -> bool:
    """Note that the bytes are there; tells whether the claim was good still."""
    return _change(
        claimed,
        made_at=utcnow(),
        size=len(picture.content),
        width=picture.info.width,
        height=picture.info.height,
    )


def give_up(claimed: Claim) -> None:
    """Note that no variant can be made of the picture."""
    now = utcnow()
    _change(claimed, made_at=now, size=0, claimed_until=now + HOPELESS_FOR)


def release(claimed: Claim) -> None:
    """Give a claim back: who comes next may try."""
    with db_manager.transaction() as connection:
        connection.execute(sa.delete(_variants).where(_is_still(claimed)))


def forget_lost(key: str) -> None:
    """Forget a variant whose bytes are gone, so that it can be made again."""
    with db_manager.transaction() as connection:
        connection.execute(
            sa.delete(_variants).where(_variants.c.key == key, _variants.c.made_at.is_not(None))
        )


def give_up_abandoned(wanted: Wanted) -> None:
    """Note that whoever tries to make a variant dies of it."""
    now = utcnow()
    is_it = sa.and_(
        _variants.c.file_id == wanted.file_id,
        _variants.c.name == wanted.name,
        _variants.c.content_type == wanted.content_type,
        _variants.c.made_at.is_(None),
    )
    values = {"made_at": now, "claimed_until": now + HOPELESS_FOR, "updated_at": now}
    with db_manager.transaction() as connection:
        connection.execute(sa.update(_variants).where(is_it).values(values))


def _change(claimed: Claim, **values: Any) -> bool:
    statement = sa.update(_variants).where(_is_still(claimed)).values(updated_at=utcnow(), **values)
    with db_manager.transaction() as connection:
        return connection.execute(statement).rowcount == 1


def _is_still(claimed: Claim) -> sa.ColumnElement[bool]:
    return sa.and_(
        _variants.c.id == claimed.id,
        _variants.c.key == claimed.key,
        _variants.c.made_at.is_(None),
    )

"""How fast the mails of batches leave, over all workers and machines: `mail.rate`.

Moments at which a mail may leave are reserved in the database, one after the other, up to a
second's worth at once. A worker that is killed loses those that it had reserved.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ghost.database import db_manager, lock_row
from ghost.mail.models import MailPace
from ghost.models import utcnow, uuid7

NAME = "batches"
NAP_SECONDS = 0.2

_table: Any = MailPace.__table__
_find = lock_row(sa.select(_table.c.next_at).where(_table.c.name == NAME))


class Pace:
    """The pace that one job keeps.

    :param rate: messages in a second; None for as fast as it goes.
    """

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._reserved: deque[datetime] = deque()

    def wait(self, wanted: int, may_go_on: Callable[[], bool]) -> bool:
        """Wait until the next mail may leave; with no transaction open.

        :param wanted: how many more mails there are, this one included.
        :param may_go_on: asked now and then while it waits.
        :returns: False when it may not go on; the moment is kept for the next one then.
        """
        if self._rate is None:
            return True
        if not self._reserved:
            count = max(1, min(wanted, int(self._rate)))
            self._reserved.extend(reserve(self._rate, count))
        while (left := (self._reserved[0] - utcnow()).total_seconds()) > 0:
            if not may_go_on():
                return False
            time.sleep(min(left, NAP_SECONDS))
        self._reserved.popleft()
        return True


def reserve(rate: float, count: int) -> list[datetime]:
    """Take the next moments at which a mail may leave, in a transaction of its own.

    :param rate: messages in a second.
    """
    step = timedelta(seconds=1 / rate)
    while True:
        with db_manager.transaction() as connection:
            now = utcnow()
            row = connection.execute(_find).first()
            if row is not None:
                first = max(now, row.next_at)
                connection.execute(
                    sa.update(_table)
                    .where(_table.c.name == NAME)
                    .values(next_at=first + count * step, updated_at=now)
                )
                return [first + number * step for number in range(count)]
        _add()


def _add() -> None:
    """Add the row of which there is one, unless somebody else just did."""
    now = utcnow()
    try:
        with db_manager.transaction() as connection:
            connection.execute(
                sa.insert(_table).values(
                    id=uuid7(), name=NAME, next_at=now, created_at=now, updated_at=now
                )
            )
    except IntegrityError:
        pass

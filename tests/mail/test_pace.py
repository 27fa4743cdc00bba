"""The pace of batches, over all workers."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from ghost.database import db_manager
from ghost.mail.models import MailPace
from ghost.mail.pace import Pace, reserve
from ghost.models import utcnow

pytestmark = pytest.mark.integration


def gaps(moments: list[datetime]) -> set[float]:
    return {(later - earlier).total_seconds() for earlier, later in pairwise(moments)}


def next_at() -> datetime:
    with db_manager.connection() as connection:
        found = connection.scalar(sa.select(MailPace.next_at))
        assert isinstance(found, datetime)
        return found


def test_moments_are_given_out_once_and_evenly(session: Any) -> None:
    first, second = reserve(10, 3), reserve(10, 2)

    assert gaps(first + second) == {0.1}


def test_what_was_not_used_is_not_made_up_for(session: Any) -> None:
    reserve(10, 1)
    with db_manager.transaction() as connection:
        hour_ago = utcnow() - timedelta(hours=1)
        connection.execute(sa.update(MailPace).values(next_at=hour_ago))
    before = utcnow()

    moments = reserve(10, 2)

    assert moments[0] >= before


def test_without_a_rate_nothing_waits_and_nothing_is_reserved(session: Any) -> None:
    assert Pace(None).wait(1000, lambda: False)

    with db_manager.connection() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(MailPace)) == 0


def test_a_seconds_worth_is_reserved_at_once_but_not_more_than_is_needed(session: Any) -> None:
    before = utcnow()

    Pace(50.0).wait(1000, lambda: True)
    many = (next_at() - before).total_seconds()
    Pace(50.0).wait(2, lambda: True)
    few = (next_at() - before).total_seconds()

    assert many == pytest.approx(1.0, abs=0.2)
    assert few - many == pytest.approx(0.04, abs=0.01)


def test_several_keep_the_rate_together(session: Any) -> None:
    paces = [Pace(40.0), Pace(40.0)]
    started = time.monotonic()

    for number in range(12):
        assert paces[number % 2].wait(6 - number // 2, lambda: True)

    assert time.monotonic() - started >= 11 / 40


def test_a_wait_ends_when_it_may_not_go_on_and_its_moment_is_kept(session: Any) -> None:
    reserve(0.1, 1)
    pace = Pace(0.1)
    started = time.monotonic()

    assert not pace.wait(1, lambda: False)
    kept = next_at()
    assert not pace.wait(1, lambda: False)

    assert time.monotonic() - started < 1
    assert next_at() == kept

"""When something on the clock is due: cron expressions and intervals, with time zones.

Nothing here looks at a clock: every function is told the time. A *timing* is a text, as the
database keeps it: `cron 0 3 * * *`, or `every 300` in seconds.

A cron expression is about what a clock on the wall shows, and twice a year most walls show some
times never and others twice:

- Each time on the wall is due once. One that the clocks skip is due in the first moment after the
  gap, one that they show twice when they show it first.
- An expression for every hour of the day (`*/15 * * * *`) goes on as time passes: it is due in
  both of two equal hours, and a skipped one is not made up.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import import_module
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

LONGEST_INTERVAL_SECONDS = 365 * 24 * 3600
LONGEST_EXPRESSION = 150

# What a value must be, to complete "expected ..." and "... is not".
EXPRESSION = "five fields (minute, hour, day, month, weekday) like 0 3 * * *, due at some time"
INTERVAL = f"a whole number of seconds from 1 to {LONGEST_INTERVAL_SECONDS}"
TIMEZONE = "the name of a time zone like Europe/Berlin"

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_FIRST_WINDOW = timedelta(hours=1)
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*", re.ASCII)
# croniter's own addition: R is another time in each process, H asks for a word that we don't have.
_RANDOM = re.compile(r"(?:^|[\s,])[hr](?:[\s,(/]|$)", re.IGNORECASE)


def cron_timing(expression: str) -> str:
    """Return the timing of a cron expression.

    :raises ValueError: it is none, or never due, as the 30th of February.
    """
    fields = expression.split(" ") if isinstance(expression, str) else []
    text = " ".join(filter(None, fields))
    is_alias = text.startswith("@")
    is_readable = text.isprintable() and len(text) <= LONGEST_EXPRESSION
    if not is_readable or _RANDOM.search(text) or not (is_alias or len(text.split()) == 5):
        raise ValueError(f"{_shorten(expression)} is not {EXPRESSION}")
    try:
        _make_iterator(text, datetime(2000, 1, 1)).get_next()  # noqa: DTZ001 - on the wall
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{_shorten(expression)} is not {EXPRESSION}") from error
    return f"cron {text}"


def interval_timing(seconds: float) -> str:
    """Return the timing of an interval: due at its multiples since 1970, in UTC.

    :raises ValueError: the interval is no whole number of seconds, or not between one and a year.
    """
    if not 1 <= seconds <= LONGEST_INTERVAL_SECONDS or seconds != int(seconds):
        raise ValueError(f"an interval must be {INTERVAL}")
    return f"every {int(seconds)}"


def check_timezone(name: str) -> str:
    """Return the name of a time zone.

    :raises ValueError: there is none of that name.
    """
    # What `localtime` means is another thing on each machine.
    if isinstance(name, str) and len(name) <= 64 and _ZONE.fullmatch(name) and name != "localtime":
        try:
            ZoneInfo(name)
        except (LookupError, ValueError, OSError):
            pass
        else:
            return name
    raise ValueError(f"{_shorten(name)} is not {TIMEZONE}")


def due_times(timing: str, timezone: str, after: datetime, until: datetime) -> Iterator[datetime]:
    """Go through the due times later than `after` and not later than `until`, in order, in UTC."""
    return takewhile(lambda due_at: due_at <= until, _due_after(timing, timezone, after))


@lru_cache(maxsize=1024)
def next_due(timing: str, timezone: str, after: datetime) -> datetime | None:
    """Return the first due time later than `after`; None when there is none in fifty years."""
    return next(_due_after(timing, timezone, after), None)


def latest_due(timing: str, timezone: str, after: datetime, until: datetime) -> datetime | None:
    """Return the last of the due times later than `after` and not later than `until`."""
    window = _FIRST_WINDOW
    while True:
        start = max(after, until - window)
        last = deque(due_times(timing, timezone, start, until), maxlen=1)
        if last or start == after:
            return last[0] if last else None
        window *= 4  # an interval of seconds over months of absence must not be counted through


def _due_after(timing: str, timezone: str, after: datetime) -> Iterator[datetime]:
    kind, _, text = timing.partition(" ")
    if kind == "every":
        return _multiples(int(text), after)
    return _cron_times(text, ZoneInfo(timezone), after)


def _multiples(seconds: int, after: datetime) -> Iterator[datetime]:
    count = int(after.timestamp()) // seconds
    while True:
        count += 1
        yield datetime.fromtimestamp(count * seconds, UTC)


def _cron_times(expression: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    iterator = _make_iterator(expression, _first_wall_time(after, zone))
    is_for_every_hour = iterator.expanded[1] == ["*"]
    repeated: deque[datetime] = deque()  # the second of two equal hours, which follows the first
    last = after
    while (wall_time := _next_or_none(iterator)) is not None:
        moments = _moments(wall_time, zone, is_for_every_hour)
        while repeated and moments and repeated[0] <= moments[0]:
            if repeated[0] > last:
                yield (last := repeated[0])
            repeated.popleft()
        if moments and moments[0] > last:
            yield (last := moments[0])
        repeated.extend(moments[1:])


def _first_wall_time(after: datetime, zone: ZoneInfo) -> datetime:
    """Return a time on the wall from which on nothing is missed, without a zone."""
    wall_time = after.astimezone(zone)
    offsets = {(after + days * _DAY).astimezone(zone).utcoffset() for days in (-1, 1)}
    if len(offsets) > 1:  # the clocks change nearby
        wall_time -= _DAY
    return wall_time.replace(tzinfo=None, microsecond=0)


def _moments(wall_time: datetime, zone: ZoneInfo, is_for_every_hour: bool) -> tuple[datetime, ...]:
    """Return when a time on the wall is due: never, once, or twice, in order."""
    # With fold 0 a time is read by the offset before a change, with fold 1 by the one after it.
    first, second = (wall_time.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return (first,)
    if first < second:  # the clocks show it twice
        return (first, second) if is_for_every_hour else (first,)
    return () if is_for_every_hour else (_end_of_gap(second, first, zone),)


def _end_of_gap(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the moment between the two at which the clocks change, to the second."""
    offset = before.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = (before + (after - before) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after


def _make_iterator(expression: str, start: datetime) -> Any:
    # Loaded when the first expression is read: it takes a twentieth of a start, and most
    # processes read none.
    croniter = import_module("croniter").croniter
    return croniter(expression, start, ret_type=datetime)


def _next_or_none(iterator: Any) -> datetime | None:
    try:
        found: datetime = iterator.get_next()
    except ValueError:  # CroniterBadDateError: not in fifty years
        return None
    return found


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

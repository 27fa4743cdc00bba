"""A schedule as the configuration declares it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ghost.timing import (
    EXPRESSION,
    INTERVAL,
    TIMEZONE,
    check_timezone,
    cron_timing,
    interval_timing,
)

KEYS = ("job", "cron", "every", "timezone", "missed", "args")
MISSED = ("once", "skip")
ARGUMENTS_BYTES = 64 * 1024
_MISSING = object()


@dataclass(frozen=True, slots=True)
class ScheduleSetting:
    """A checked entry of `jobs.schedules`; `args` is plain JSON."""

    job: str
    timing: str
    timezone: str
    missed: str
    args: Mapping[str, Any]


class WrongEntry(ValueError):
    """An entry is no schedule; the text says what was expected.

    :ivar got: the value that is not it.
    """

    def __init__(self, expected: str, got: object) -> None:
        super().__init__(expected)
        self.got = got


def read_schedule(entry: object) -> ScheduleSetting:
    """Check an entry of `jobs.schedules`.

    :raises WrongEntry: something of it is wrong.
    """
    if not isinstance(entry, dict):
        raise WrongEntry("a mapping with a job and with cron or every", entry)
    unknown = next((key for key in entry if key not in KEYS), _MISSING)
    if unknown is not _MISSING:
        raise WrongEntry(f"a mapping with no other keys than {', '.join(KEYS)}", unknown)
    job, missed = entry.get("job"), entry.get("missed", "once")
    if not isinstance(job, str) or not 0 < len(job) <= 200:
        raise WrongEntry("a schedule whose job is a name like orders.close_stale", job)
    if missed not in MISSED:
        raise WrongEntry(f"a schedule whose missed is {' or '.join(MISSED)}", missed)
    return ScheduleSetting(job, _timing(entry), _timezone(entry), missed, _arguments(entry))


def _timing(entry: Mapping[str, Any]) -> str:
    if ("cron" in entry) == ("every" in entry):
        raise WrongEntry("a schedule with either cron or every", entry)
    if "cron" in entry:
        return _checked("cron", entry["cron"], cron_timing, EXPRESSION)
    seconds = entry["every"]
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise WrongEntry(f"a schedule whose every is {INTERVAL}", seconds)
    return _checked("every", seconds, interval_timing, INTERVAL)


def _timezone(entry: Mapping[str, Any]) -> str:
    return _checked("timezone", entry.get("timezone", "UTC"), check_timezone, TIMEZONE)


def _checked(key: str, value: Any, check: Callable[[Any], str], expected: str) -> str:
    try:
        return check(value)
    except ValueError:
        raise WrongEntry(f"a schedule whose {key} is {expected}", value) from None


def _arguments(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    args = entry.get("args", {})
    expected = "a schedule whose args are a mapping of plain JSON, 64 KiB at most"
    if not isinstance(args, dict) or not all(isinstance(name, str) for name in args):
        raise WrongEntry(expected, args)
    try:
        size = len(json.dumps(args, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise WrongEntry(expected, args) from None
    if size > ARGUMENTS_BYTES:
        raise WrongEntry(expected, args)
    return args

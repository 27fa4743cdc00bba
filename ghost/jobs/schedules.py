"""Jobs on the clock: which there are, as code and configuration declare them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, ParamSpec, TypeVar

from ghost.config_schedules import MISSED, ScheduleSetting
from ghost.config_values import DOTTED_WORD
from ghost.jobs.registry import JobFunction, UnknownJob, find, job
from ghost.timing import check_timezone, cron_timing, interval_timing

P = ParamSpec("P")
R = TypeVar("R")

Missed = Literal["once", "skip"]
CODE, CONFIG = "code", "config"


class ScheduleMistake(ValueError):
    """A schedule that is declared and can't be kept; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A schedule as somebody wants it; `args` is what the job's row will have."""

    name: str
    job: str
    timing: str
    timezone: str
    missed: str
    args: Mapping[str, Any]
    source: str


@dataclass(frozen=True, slots=True)
class _OnClock:
    """A schedule as its decorator was called; the arguments are checked when all is imported."""

    function: JobFunction[..., Any]
    timing: str
    timezone: str
    missed: str
    args: Mapping[str, Any] = field(default_factory=dict)


_on_clock: dict[str, _OnClock] = {}


def cron(
    expression: str,
    *,
    timezone: str = "UTC",
    missed: Missed = "once",
    args: Mapping[str, Any] | None = None,
    name: str | None = None,
    **job_options: Any,
) -> Callable[[Callable[P, R]], JobFunction[P, R]]:
    """Make a function a job that runs at the times of a cron expression.

    :param expression: five fields, or a word like `@daily`; see `ghost.timing` for what becomes
        of times that the clocks skip or show twice.
    :param missed: of due times that no scheduler saw within a minute, run the latest (`once`) or
        none (`skip`).
    :param args: keyword arguments of the job.
    :param name: the schedule's name; None for the job's.
    :param job_options: those of `job`, unless the function is a job already.
    :raises ValueError: expression, zone or name can't be used.
    """
    timing = cron_timing(expression)
    zone = check_timezone(timezone)
    return lambda function: _put_on_clock(
        function, timing, zone, missed, args or {}, name, job_options
    )


def every(
    *,
    seconds: float = 0,
    minutes: float = 0,
    hours: float = 0,
    days: float = 0,
    missed: Missed = "once",
    args: Mapping[str, Any] | None = None,
    name: str | None = None,
    **job_options: Any,
) -> Callable[[Callable[P, R]], JobFunction[P, R]]:
    """Make a function a job that runs at the multiples of an interval, counted from 1970 in UTC.

    `every(days=1)` is midnight in UTC, on whatever day the process was started.

    :param missed: as for `cron`; so are the others.
    :raises ValueError: the interval is no whole number of seconds, or not between one and a year.
    """
    interval = timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)
    timing = interval_timing(interval.total_seconds())
    return lambda function: _put_on_clock(
        function, timing, "UTC", missed, args or {}, name, job_options
    )


def _put_on_clock(
    function: Callable[..., Any],
    timing: str,
    timezone: str,
    missed: str,
    args: Mapping[str, Any],
    name: str | None,
    job_options: dict[str, Any],
) -> Any:
    if isinstance(function, JobFunction):
        if job_options:
            raise TypeError(f"{function!r} is a job already: {', '.join(job_options)} is for @job")
        made = function
    else:
        made = job(**job_options)(function)
    title = name or made.name
    if len(title) > 200 or not DOTTED_WORD.fullmatch(title):
        raise ValueError(f"{title!r} can't be the name of a schedule: orders.close_stale can")
    if missed not in MISSED:
        raise ValueError(f"{title}: missed must be {' or '.join(MISSED)}, not {missed!r}")
    known = _on_clock.get(title)
    if known is not None and _is_another(known.function, made):
        raise ValueError(
            f"two schedules claim the name {title!r}, for {known.function!r} and {made!r};"
            " give one of them name="
        )
    _on_clock[title] = _OnClock(made, timing, timezone, missed, dict(args))
    return made


def _is_another(known: JobFunction[..., Any], made: JobFunction[..., Any]) -> bool:
    # The same function made anew is a module that was imported again; the same object is a
    # function with two schedules.
    return known is made or _place(known) != _place(made)


def _place(function: JobFunction[..., Any]) -> tuple[str, str]:
    return function.function.__module__, function.function.__qualname__


def is_any_declared(settings: Mapping[str, ScheduleSetting]) -> bool:
    """Tell whether there is any schedule, in code or in `jobs.schedules`."""
    return bool(_on_clock or settings)


def declared(settings: Mapping[str, ScheduleSetting]) -> dict[str, Declaration]:
    """Return all schedules by name; one of the configuration stands for one in code.

    :param settings: `jobs.schedules`.
    :raises ScheduleMistake: a job is not registered, or doesn't take the arguments.
    """
    in_code = {name: _from_code(name) for name in _on_clock if name not in settings}
    in_config = {name: _from_config(name, setting) for name, setting in settings.items()}
    return in_code | in_config


def _from_code(name: str) -> Declaration:
    found = _on_clock[name]
    try:
        args = found.function.arguments.dump((), dict(found.args))
        found.function.arguments.load(args)
    except (TypeError, ValueError) as error:
        raise ScheduleMistake(f"the schedule {name}: {error}") from error
    return Declaration(
        name, found.function.name, found.timing, found.timezone, found.missed, args, CODE
    )


def _from_config(name: str, setting: ScheduleSetting) -> Declaration:
    try:
        arguments = find(setting.job).arguments
        args = arguments.dump((), arguments.load(setting.args))
    except (UnknownJob, TypeError, ValueError) as error:
        raise ScheduleMistake(f"jobs.schedules.{name}: {error}") from error
    return Declaration(
        name, setting.job, setting.timing, setting.timezone, setting.missed, args, CONFIG
    )

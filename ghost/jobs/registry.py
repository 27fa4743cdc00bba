"""The functions that may run as jobs, by name: nothing else is ever run."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import update_wrapper
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload
from uuid import UUID

from flask import Flask

from ghost.config import Config, current_config
from ghost.jobs import outbox
from ghost.jobs.arguments import Arguments
from ghost.jobs.context import origin
from ghost.jobs.retries import Permanent
from ghost.jobs.transport import Transport
from ghost.models import utcnow

P = ParamSpec("P")
R = TypeVar("R")

Unique = Literal["args"] | Callable[..., object] | None

LARGEST = 10_000_000  # seconds of a time limit (four months), or attempts

_NAME = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*", re.ASCII)

_functions: dict[str, JobFunction[..., object]] = {}


class UnknownJob(Permanent):
    """A job's name stands for no function of this process."""


class JobFunction(Generic[P, R]):
    """A function that can also be enqueued. Called, it is the plain function."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str,
        queue: str,
        max_attempts: int | Callable[[], int] | None,
        timeout_seconds: int | None,
        backoff_seconds: float | None,
        unique: Unique = None,
        public: bool = False,
        permission: str | None = None,
    ) -> None:
        self.function = function
        self.name = name
        self.queue = queue
        self.max_attempts = max_attempts
        self.timeout_seconds = timeout_seconds
        self.backoff_seconds = backoff_seconds
        self.unique = unique
        self.public = public
        self.permission = permission
        self.arguments = Arguments(function)
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<job {self.name}>"

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> UUID:
        """Have the function run once the transaction of `db.session` commits, or never.

        Pending objects of the session are flushed first.

        :returns: the job's id.
        :raises TypeError: the arguments don't fit the function's signature or annotations.
        """
        return self._add(None, args, kwargs)

    def enqueue_in(self, delay: timedelta | float, /, *args: P.args, **kwargs: P.kwargs) -> UUID:
        """Have the function run after a while, counted from now.

        :param delay: a timedelta, or seconds.
        """
        if not isinstance(delay, timedelta):
            delay = timedelta(seconds=delay)
        return self._add(utcnow() + delay, args, kwargs)

    def enqueue_at(self, when: datetime, /, *args: P.args, **kwargs: P.kwargs) -> UUID:
        """Have the function run at a time; one that has passed means at once.

        :raises ValueError: the time has no zone.
        """
        if when.tzinfo is None:
            raise ValueError(f"{self.name}: enqueue_at() needs an aware datetime")
        return self._add(when, args, kwargs)

    @property
    def attempts(self) -> int:
        """How often the function is tried, by its own word or by the configuration's."""
        own = self.max_attempts() if callable(self.max_attempts) else self.max_attempts
        return own or current_config().jobs.max_attempts

    def _unique_key(
        self, dumped: dict[str, Any], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> str | None:
        """What makes two jobs of this function the same; None when nothing does."""
        if self.unique is None:
            return None
        same = dumped if self.unique == "args" else self.unique(*args, **kwargs)
        if same is None:
            return None
        text = json.dumps([self.name, same], sort_keys=True, default=_comparable)
        return hashlib.sha256(text.encode()).hexdigest()

    def _add(
        self, run_at: datetime | None, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> UUID:
        dumped = self.arguments.dump(args, kwargs)
        created_by, request_id = origin()
        return outbox.add(
            run_at,
            name=self.name,
            queue=self.queue,
            args=dumped,
            unique_key=self._unique_key(dumped, args, kwargs),
            max_attempts=self.attempts,
            timeout_seconds=self.timeout_seconds or int(current_config().jobs.timeout),
            created_by=created_by,
            request_id=request_id,
        )


@overload
def job(function: Callable[P, R], /) -> JobFunction[P, R]: ...


@overload
def job(
    *,
    queue: str = "default",
    max_attempts: int | Callable[[], int] | None = None,
    timeout: int | None = None,
    backoff: float | None = None,
    unique: Unique = None,
    public: bool = False,
    permission: str | None = None,
    name: str | None = None,
) -> Callable[[Callable[P, R]], JobFunction[P, R]]: ...


def job(
    function: Callable[..., Any] | None = None,
    /,
    *,
    queue: str = "default",
    max_attempts: int | Callable[[], int] | None = None,
    timeout: int | None = None,
    backoff: float | None = None,
    unique: Unique = None,
    public: bool = False,
    permission: str | None = None,
    name: str | None = None,
) -> Any:
    """Make a module-level function a job: callable as before, and to be enqueued.

    Its arguments travel as JSON and are read back by their annotations. It may run more than once
    (a worker can be killed at any moment), so that it must be able to.

    :param queue: one of `jobs.queues`.
    :param max_attempts: how often it is tried, or a function that says so, asked when the job is
        enqueued; None for `jobs.max_attempts`.
    :param timeout: whole seconds for one attempt; None for `jobs.timeout`.
    :param backoff: seconds before the second attempt, doubling from there; None for `jobs.backoff`.
    :param unique: `"args"`, or a function that is called with the job's arguments and gives a key
        (None for none): of the jobs with equal arguments, or the same key, one at a time waits or
        runs, and enqueueing another returns the id of that one.
    :param public: whether `POST /api/v1/jobs` may start it.
    :param permission: what a caller of that needs, instead of `jobs:write`.
    :param name: None for the module without a leading `ghost.` and a trailing `.jobs`, then the
        function: `ghost.auth.jobs.send_reset` is `auth.send_reset`.
    :raises TypeError: the function can't be a job.
    :raises ValueError: an option is out of range, or the name is another function's.
    """

    def register(function: Callable[..., Any]) -> JobFunction[..., Any]:
        if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
            raise TypeError(f"@job needs a plain function, not {function!r}")
        title = name or default_name(function.__module__, function.__qualname__)
        if not _NAME.fullmatch(title) or len(title) > 200:
            raise ValueError(
                f"{title!r} can't be the name of a job: define the function at the top of its"
                " module, or pass name="
            )
        fixed_attempts = None if callable(max_attempts) else max_attempts
        for option, value in (("max_attempts", fixed_attempts), ("timeout", timeout)):
            if value is not None and (type(value) is not int or not 1 <= value <= LARGEST):
                raise ValueError(f"{title}: {option} must be a whole number from 1 to {LARGEST:,}")
        if not (unique is None or unique == "args" or callable(unique)):
            raise ValueError(f'{title}: unique must be "args" or a function')
        if permission is not None and not public:
            raise ValueError(f"{title}: permission is for a job with public=True")
        if backoff is not None and backoff < 0:
            raise ValueError(f"{title}: backoff must be at least 0 seconds")
        made = JobFunction(
            function,
            name=title,
            queue=queue,
            max_attempts=max_attempts,
            timeout_seconds=timeout,
            backoff_seconds=backoff,
            unique=unique,
            public=public,
            permission=permission,
        )
        known = _functions.get(title)
        if known is not None and _place(known.function) != _place(function):
            raise ValueError(
                f"two functions claim the job name {title!r}: {'.'.join(_place(known.function))}"
                f" and {'.'.join(_place(function))}; give one of them @job(name=...)"
            )
        _functions[title] = made
        return made

    return register if function is None else register(function)


def default_name(module: str, function: str) -> str:
    """Return the name under which a function is registered when it states none."""
    return f"{module.removeprefix('ghost.').removesuffix('.jobs')}.{function}"


def _comparable(value: object) -> object:
    """What a unique key has of a value that JSON has not: the same in every process."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, UUID | date | Decimal):
        return str(value)
    raise TypeError(f"a unique key can't have a {type(value).__name__}")


def find(name: str) -> JobFunction[..., object]:
    """Return the function registered under a name.

    :raises UnknownJob: there is none.
    """
    try:
        return _functions[name]
    except KeyError:
        raise UnknownJob(
            f"no job function is registered as {name!r}: is its module imported,"
            " or listed in jobs.modules?"
        ) from None


def registered() -> Iterator[JobFunction[..., object]]:
    """Go through all registered functions, by name."""
    for name in sorted(_functions):
        yield _functions[name]


def init_app(app: Flask) -> None:
    """Check what is registered and bind the way to Redis; nothing is opened."""
    config: Config = app.extensions["ghost"].config
    check(config.jobs.queues)
    app.extensions["ghost_jobs"] = Transport(config.redis.url)


def check(queues: Collection[str]) -> None:
    """Refuse functions that could be enqueued and never run.

    :raises ValueError: a function names a queue that no worker listens to.
    :raises TypeError: an argument's annotation can't travel as JSON.
    """
    for function in registered():
        if function.queue not in queues:
            raise ValueError(
                f"the job {function.name} is for the queue {function.queue!r},"
                f" which jobs.queues does not name ({', '.join(queues)})"
            )
        function.arguments.annotations  # noqa: B018


def _place(function: Callable[..., object]) -> tuple[str, str]:
    return function.__module__, function.__qualname__

"""How the arguments of a job travel: as a JSON object, read back by the function's annotations."""

from __future__ import annotations

import enum
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any, Union
from uuid import UUID

LIMIT_BYTES = 64 * 1024
DEPTH = 32
LARGEST = 2**53 - 1  # beyond it JSON numbers are not exact everywhere


class Unfit(Exception):
    """A value that is not what its annotation says; the text says what was expected."""


class Arguments:
    """The arguments of one function: bound and checked when enqueued, parsed when it runs.

    :raises TypeError: the function can't be called with keyword arguments alone.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._signature = inspect.signature(function)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"{_title(function)}: a job can't take {parameter} ({name!r})")

    @cached_property
    def annotations(self) -> Mapping[str, Any]:
        """The annotation of each parameter, resolved; `Any` where there is none.

        Resolved late, because an annotation may name what its module defines further down.

        :raises TypeError: one is of a kind that can't travel as JSON, or can't be resolved.
        """
        try:
            hints = typing.get_type_hints(self._function)
        except NameError as error:
            raise TypeError(
                f"{_title(self._function)}: {error}. The annotations of a job are read when it is"
                " enqueued and run: import their names, and not under TYPE_CHECKING only."
            ) from error
        found = {name: hints.get(name, Any) for name in self._signature.parameters}
        for name, annotation in found.items():
            if not _is_supported(annotation):
                raise TypeError(
                    f"{_title(self._function)}: {name!r} is annotated {_say(annotation)}, which"
                    " can't travel as JSON; pass an id and load the object in the job"
                )
        return found

    def dump(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the call's arguments as a JSON object.

        :raises TypeError: they don't fit the signature or the annotations.
        :raises ValueError: as JSON they have more than 64 KiB.
        """
        try:
            bound = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{_title(self._function)}: {error}") from None
        dumped = {}
        for name, value in bound.items():
            try:
                dumped[name] = _dump(value, self.annotations[name], DEPTH)
            except Unfit as error:
                raise TypeError(f"{_title(self._function)}: {name!r} must be {error}") from None
        if len(json.dumps(dumped)) > LIMIT_BYTES:
            raise ValueError(
                f"{_title(self._function)}: the arguments of a job have 64 KiB at most; pass an id"
            )
        return dumped

    def load(self, dumped: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments that a JSON object stands for.

        :raises TypeError: the object doesn't fit the signature or the annotations, as after a
            deployment that changed the function.
        """
        try:
            self._signature.bind(**dumped)
        except TypeError as error:
            raise TypeError(f"{_title(self._function)}: {error}") from None
        loaded = {}
        for name, value in dumped.items():
            try:
                loaded[name] = _load(value, self.annotations[name])
            except Unfit as error:
                raise TypeError(f"{_title(self._function)}: {name!r} must be {error}") from None
        return loaded


def _title(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _say(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


def _is_supported(annotation: Any) -> bool:
    if (
        annotation in _SCALARS
        or annotation in (Any, None, type(None), list, dict)
        or _is_enum(annotation)
    ):
        return True
    arguments = typing.get_args(annotation)
    if _is_union(annotation):
        return all(map(_is_supported, arguments))
    match typing.get_origin(annotation):
        case typing.Literal:
            return all(_is_plain_scalar(value) for value in arguments)
        case origin if origin is list:
            return all(map(_is_supported, arguments))
        case origin if origin is dict:
            return arguments[0] is str and _is_supported(arguments[1])
    return False


def _is_plain_scalar(value: Any) -> bool:
    return value is None or type(value) in (str, int, bool)


# --- Each scalar: its check and dump, and its load ------------------------------------------------


def _dump_text(value: Any) -> str:
    # PostgreSQL stores no NUL, and no database half a character.
    if not isinstance(value, str) or isinstance(value, enum.Enum):
        raise Unfit("a str")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise Unfit("a str without NUL and lone surrogates")
    return str(value)


def _dump_integer(value: Any) -> int:
    if type(value) is not int:
        raise Unfit("an int")
    if abs(value) > LARGEST:
        raise Unfit("an int of at most 53 bits")
    return value


def _dump_float(value: Any) -> float:
    if type(value) not in (int, float):
        raise Unfit("a finite float")
    try:
        number = float(value)
    except OverflowError:  # an int of more than a thousand bits
        raise Unfit("a finite float") from None
    if not math.isfinite(number):
        raise Unfit("a finite float")
    return number


def _dump_boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise Unfit("a bool")
    return value


def _dump_uuid(value: Any) -> str:
    if not isinstance(value, UUID):
        raise Unfit("a UUID")
    return str(value)


def _dump_datetime(value: Any) -> str:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Unfit("an aware datetime")
    try:
        return value.astimezone(UTC).isoformat()
    except OverflowError:
        raise Unfit("a datetime of the years 1 to 9999 in UTC") from None


def _dump_date(value: Any) -> str:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise Unfit("a date")
    return value.isoformat()


def _dump_decimal(value: Any) -> str:
    if not isinstance(value, Decimal) or not value.is_finite():
        raise Unfit("a finite Decimal")
    return str(value)


def _load_datetime(value: str) -> datetime:
    parsed = datetime.fromisoformat(value)
    if parsed.tzinfo is None:
        raise ValueError(value)
    return parsed.astimezone(UTC)


def _load_decimal(value: str) -> Decimal:
    if type(value) is not str:  # Decimal itself takes lists, and true for 1
        raise TypeError(value)
    return Decimal(value)


_SCALARS: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    str: (_dump_text, _dump_text),
    int: (_dump_integer, _dump_integer),
    float: (_dump_float, _dump_float),
    bool: (_dump_boolean, _dump_boolean),
    UUID: (_dump_uuid, UUID),
    datetime: (_dump_datetime, _load_datetime),
    date: (_dump_date, date.fromisoformat),
    Decimal: (_dump_decimal, _load_decimal),
}


def _dump(value: Any, annotation: Any, depth: int) -> Any:
    """Turn a value into JSON by its annotation."""
    if depth == 0:
        raise Unfit(f"at most {DEPTH} levels deep")
    if annotation is Any:
        return _dump_plain(value, depth)
    if annotation is None or annotation is type(None):
        if value is not None:
            raise Unfit("None")
        return None
    if annotation in _SCALARS:
        return _SCALARS[annotation][0](value)
    if _is_enum(annotation):
        if not isinstance(value, annotation):
            raise Unfit(f"a member of {annotation.__name__}")
        return _dump_plain(value.value, depth)
    arguments = typing.get_args(annotation)
    if _is_union(annotation):
        return _first_fit(lambda each: _dump(value, each, depth), arguments)
    if typing.get_origin(annotation) is typing.Literal:
        if not any(type(value) is type(each) and value == each for each in arguments):
            raise Unfit(f"one of {', '.join(map(repr, arguments))}")
        return value
    if annotation is list or typing.get_origin(annotation) is list:
        if not isinstance(value, list):
            raise Unfit("a list")
        return [_dump(item, arguments[0] if arguments else Any, depth - 1) for item in value]
    if not isinstance(value, dict):
        raise Unfit("a dict")
    item_type = arguments[1] if arguments else Any
    return {_dump_text(key): _dump(item, item_type, depth - 1) for key, item in value.items()}


def _dump_plain(value: Any, depth: int) -> Any:
    """Check that a value without an annotation is what JSON holds."""
    if depth == 0:
        raise Unfit(f"at most {DEPTH} levels deep")
    if value is None or type(value) is bool:
        return value
    for kind, dump in ((str, _dump_text), (int, _dump_integer), (float, _dump_float)):
        if type(value) is kind:
            return dump(value)
    if type(value) is list:
        return [_dump_plain(item, depth - 1) for item in value]
    if type(value) is dict:
        return {_dump_text(key): _dump_plain(item, depth - 1) for key, item in value.items()}
    raise Unfit(
        f"annotated with its type, or plain JSON: {type(value).__name__} needs an annotation"
    )


def _load(value: Any, annotation: Any) -> Any:
    """Turn JSON back into a value by its annotation."""
    if annotation is Any or annotation in (list, dict):
        if annotation is not Any and not isinstance(value, annotation):
            raise Unfit(f"a {annotation.__name__}")
        return value
    if annotation is None or annotation is type(None):
        if value is not None:
            raise Unfit("None")
        return None
    if annotation in _SCALARS:
        try:
            return _SCALARS[annotation][1](value)
        except (ValueError, TypeError, AttributeError, InvalidOperation, OverflowError):
            raise Unfit(f"a {annotation.__name__}") from None
    if _is_enum(annotation):
        try:
            return annotation(value)
        except ValueError:
            raise Unfit(f"a member of {annotation.__name__}") from None
    arguments = typing.get_args(annotation)
    if _is_union(annotation):
        return _first_fit(lambda each: _load(value, each), arguments)
    if typing.get_origin(annotation) is typing.Literal:
        return _dump(value, annotation, DEPTH)
    if typing.get_origin(annotation) is list:
        if not isinstance(value, list):
            raise Unfit("a list")
        return [_load(item, arguments[0]) for item in value]
    if not isinstance(value, dict):
        raise Unfit("a dict")
    return {key: _load(item, arguments[1]) for key, item in value.items()}


def _first_fit(convert: Callable[[Any], Any], annotations: tuple[Any, ...]) -> Any:
    """Return what the first fitting member of a union makes of a value.

    `str` is tried last: as JSON a UUID, a date and a Decimal are strings too.
    """
    expected = []
    for annotation in sorted(annotations, key=lambda each: each is str):
        try:
            return convert(annotation)
        except Unfit as error:
            expected.append(str(error))
    raise Unfit(" or ".join(expected))

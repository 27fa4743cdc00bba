"""Jinja for mail templates: what a template may use, and how what it does wrong is told."""

from __future__ import annotations

from typing import Any

from jinja2 import (
    Environment,
    FileSystemLoader,
    TemplateError,
    TemplateNotFound,
    TemplateSyntaxError,
    UndefinedError,
)
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

MAX_CHARACTERS = 2_000_000  # of one rendered file
MAX_BITS = 20_000  # of a number

# What a file and the values of a context can do wrong. Errors of a database, which an object of
# the context may ask, are not the template's, and pass.
FAILURES: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TemplateError,
    SyntaxError,  # Python's, of what Jinja makes of more than 20 loops inside of each other
    TypeError,
    ValueError,
)


class UnreadableFile(TemplateError):
    """A file of a template is no text in UTF-8, or can't be read."""


class Files(FileSystemLoader):
    """The templates' folders; a file that can't be read is one of Jinja's errors."""

    def get_source(self, environment: Environment, template: str) -> Any:
        try:
            return super().get_source(environment, template)
        except TemplateNotFound:  # an OSError, too
            raise
        except UnicodeDecodeError as error:
            raise UnreadableFile(f"The file {template!r} is no text in UTF-8.") from error
        except OSError as error:
            raise UnreadableFile(f"The file {template!r} can't be read.") from error


class Sandbox(SandboxedEnvironment):
    """A sandbox whose operators make nothing that is larger than a mail may be."""

    intercepted_binops = frozenset(("*", "**", "+"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if _is_too_large(operator, left, right):
            raise ValueError("what it makes is too large")
        return super().call_binop(context, operator, left, right)


def _is_too_large(operator: str, left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        return bits * right > MAX_BITS if operator == "**" else bits + right.bit_length() > MAX_BITS
    if operator == "*":
        repeated, count = (right, left) if isinstance(left, int) else (left, right)
        return isinstance(count, int) and _length(repeated) * count > MAX_CHARACTERS
    return operator == "+" and _length(left) + _length(right) > MAX_CHARACTERS


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


def reason_of(error: Exception) -> str:
    """Say what is wrong with a template or its context, without the words of other libraries."""
    if isinstance(error, TemplateNotFound):
        return f"It uses the file {error.name!r}, which is not there."
    if isinstance(error, TemplateSyntaxError):
        return f"{error.name}, line {error.lineno}: {error.message}"
    if isinstance(error, UnreadableFile):
        return str(error)
    if isinstance(error, UndefinedError):
        return f"{error.message}."
    if type(error) is ValueError:  # ours, most of them
        return f"{error}."
    return f"A value is not of the kind that it needs ({type(error).__name__})."

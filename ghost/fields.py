"""Strict fields for schemas; an application has them by `from ghost import fields`.

A value of another JSON type than the field's is an error, never coerced. In a query or a form
everything is text: there, and only there, text is parsed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal as PythonDecimal
from typing import Any
from urllib.parse import urlsplit

import email_validator
import marshmallow as ma
from marshmallow import fields, validate

# Strict as they are.
from marshmallow.fields import Dict as Dict
from marshmallow.fields import Enum as Enum
from marshmallow.fields import Nested as Nested
from marshmallow.fields import Raw as Raw

# Names such as `.test` and `.localhost` are refused by default; a verification mail decides better.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()

MAX_EMAIL_LENGTH, MAX_LOCAL_PART_LENGTH = 254, 64  # RFC 5321, section 4.5.3.1
INT64 = 2**63 - 1


def _is_text(field: fields.Field) -> bool:
    return bool(getattr(field.root, "from_text", False))


def clean_text(value: str, *, multiline: bool = False) -> str:
    """Refuse what databases and logs choke on: NUL, control characters, lone surrogates.

    :raises ValueError: there is one.
    """
    allowed = "\t\n\r" if multiline else ""
    if not value.isprintable():  # fast for what is usual; spaces such as U+00A0 need the long way
        for character in value:
            control = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
            if control and character not in allowed:
                raise ValueError("Control characters are not allowed.")
    return value


class Text(fields.String):
    """Text without control characters, with its length counted in characters.

    :param blank: whether text of nothing but spaces is welcome.
    """

    def __init__(
        self,
        *,
        min_length: int = 0,
        max_length: int = 10_000,
        multiline: bool = False,
        blank: bool = True,
        **options: Any,
    ) -> None:
        rules = list(_listed(options.pop("validate", None)))
        rules.append(validate.Length(min=min_length or None, max=max_length))
        super().__init__(validate=rules, **options)
        self.multiline, self.blank = multiline, blank

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        try:
            clean_text(text, multiline=self.multiline)
        except ValueError as error:
            raise ma.ValidationError(str(error)) from error
        if not self.blank and not text.strip():
            raise ma.ValidationError("Must not be blank.")
        return text


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


class Secret(fields.String):
    """A password or token: any character but NUL and lone surrogates, nothing trimmed."""

    def __init__(self, *, max_length: int = 4096, **options: Any) -> None:
        rules = [*_listed(options.pop("validate", None)), validate.Length(max=max_length)]
        super().__init__(validate=rules, load_only=True, **options)
        self.metadata = {"format": "password", **self.metadata}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise ma.ValidationError("Not valid text.")
        return text


class Integer(fields.Integer):
    """A whole number of 64 bits at most."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        if _is_text(self):
            digits = value.removeprefix("-") if isinstance(value, str) else ""
            if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
                raise self.make_error("invalid")
            value = int(value)
        if type(value) is not int:
            raise self.make_error("invalid")
        if not -INT64 - 1 <= value <= INT64:
            raise self.make_error("too_large")
        return value


class Float(fields.Float):
    """A finite number."""

    PATTERN = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        if _is_text(self):
            if not (isinstance(value, str) and self.PATTERN.fullmatch(value)):
                raise self.make_error("invalid")
        elif type(value) not in (int, float):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **options)


class Decimal(fields.Decimal):
    """A decimal number as text, so that no digit is lost; a JSON number is refused.

    :param places: how many decimal places there are at most, and exactly in answers.
    """

    PATTERN = r"^-?[0-9]{1,18}(\.[0-9]{1,9})?$"

    def __init__(self, *, places: int | None = None, **options: Any) -> None:
        super().__init__(places=places, as_string=True, **options)
        self.metadata = {"pattern": self.PATTERN, **self.metadata}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        if not isinstance(value, str) or not re.fullmatch(self.PATTERN, value):
            raise self.make_error("invalid")
        number = super()._deserialize(value, attr, data, **options)
        rounded = number is not None and self.places is not None
        if rounded and PythonDecimal(value) != number:
            raise ma.ValidationError("Too many decimal places.")
        return number


class Boolean(fields.Boolean):
    """true or false."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        if _is_text(self) and value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class List(fields.List):
    """An array; marshmallow's own takes an object for the list of its keys."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        if not isinstance(value, list):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **options)


_UUID = re.compile("-".join(f"[0-9a-fA-F]{{{length}}}" for length in (8, 4, 4, 4, 12)))


class UUID(fields.UUID):
    """An identifier, written as lower-case text."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        if not isinstance(value, str) or not _UUID.fullmatch(value):
            raise self.make_error("invalid_uuid")
        return super()._deserialize(value, attr, data, **options)


# Python reads more than RFC 3339: weeks, times without separators, hours without minutes.
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    _DAY.pattern + r"[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


class DateTime(fields.DateTime):
    """A moment as RFC 3339; read with any offset, written in UTC with `Z`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(format="iso", **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        found = _MOMENT.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            raise self.make_error("invalid", input=value, obj_type="datetime")
        if not found.group(1):
            raise ma.ValidationError("The offset is missing: end it with Z.")
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise self.make_error("invalid", input=value, obj_type="datetime") from error

    def _serialize(self, value: Any, attr: str | None, obj: Any, **options: Any) -> str | None:
        if value is None:
            return None
        return str(value.astimezone(UTC).isoformat()).replace("+00:00", "Z")


class Date(fields.Date):
    """A calendar day, `2026-01-31`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        try:
            if not _DAY.fullmatch(value):
                raise ValueError
            return date.fromisoformat(value)
        except (TypeError, ValueError) as error:
            raise self.make_error("invalid", input=value, obj_type="date") from error


def canonical_email(value: str) -> str:
    """The one form of an address that is stored and compared: lower case, domain in ASCII.

    The part before the @ has to be ASCII: mail servers that take another one are rare.

    :raises ValueError: it is no address.
    """
    # Normalised first: what is checked is what is stored, and a full-width comma is a comma.
    normal = unicodedata.normalize("NFKC", value)
    try:
        found = email_validator.validate_email(
            normal, check_deliverability=False, allow_smtputf8=False
        )
    except email_validator.EmailNotValidError as error:
        raise ValueError("Not a valid email address.") from error
    if len(found.local_part) > MAX_LOCAL_PART_LENGTH:
        raise ValueError("Not a valid email address.")
    address = f"{found.local_part}@{found.ascii_domain or found.domain}".lower()
    if len(address) > MAX_EMAIL_LENGTH:
        raise ValueError("Not a valid email address.")
    return clean_text(address)


class Email(fields.String):
    """An e-mail address, read in its canonical form."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.metadata = {"format": "email", "maxLength": MAX_EMAIL_LENGTH, **self.metadata}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        try:
            if len(text) > MAX_EMAIL_LENGTH:  # before the work that grows with the length
                raise ValueError
            return canonical_email(clean_text(text))
        except ValueError as error:
            raise ma.ValidationError("Not a valid email address.") from error


class Url(Text):
    """An absolute http or https URL."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        try:
            parts = urlsplit(text)
        except ValueError:
            parts = None
        if not parts or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ma.ValidationError("Not a valid URL.")
        return text

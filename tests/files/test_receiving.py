"""A body as the server has it, and the fields of a form."""

from __future__ import annotations

import io
from typing import Any

import pytest

from ghost.errors import BadRequest, PayloadTooLarge, ValidationFailed
from ghost.files.metadata import check_metadata
from ghost.files.receiving import Body, UploadForm

pytestmark = pytest.mark.unit


def body(content: bytes, declared: int | None, limit: int = 100) -> Body:
    """One of a server that counts nothing itself."""
    environ: dict[str, Any] = {"wsgi.input": io.BytesIO(content), "wsgi.input_terminated": True}
    if declared is not None:
        environ["CONTENT_LENGTH"] = str(declared)
    return Body(environ, limit)


def read_all(one: Body) -> bytes:
    return b"".join(iter(one.read, b""))


def test_a_body_is_read_to_its_end() -> None:
    assert read_all(body(b"12345", 5)) == b"12345"
    assert read_all(body(b"12345", None)) == b"12345"


def test_a_body_that_is_shorter_than_declared_is_refused_also_where_the_server_counts_nothing() -> (
    None
):
    with pytest.raises(BadRequest, match="shorter"):
        read_all(body(b"123", 5))


def test_a_body_that_is_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        read_all(body(b"1" * 101, None))


@pytest.mark.parametrize("value", [b"{", b"\xff", b"\xef\xbb\xbf{}", b'{"a": "\\ud800"}'])
def test_a_field_that_is_no_json_is_named(value: bytes) -> None:
    whole = b'--x\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n' + value + b"\r\n--x--"
    form = UploadForm(body(whole, len(whole), 1000), "multipart/form-data; boundary=x")

    with pytest.raises(ValidationFailed) as caught:
        form.open()

    (message,) = caught.value.details["form"]["metadata"]  # type: ignore[index]
    assert message.startswith("The field metadata ")


@pytest.mark.parametrize("text", ["\\u0000", "a\\u0000b", "\\\\u0000"])
def test_text_that_looks_as_json_writes_a_nul_is_none(text: str) -> None:
    assert check_metadata({text: text}) == {text: text}


@pytest.mark.parametrize("text", ["\0", "a\0", "\\\0", "\\\\\0"])
def test_a_nul_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NUL"):
        check_metadata({"a": [text]})
    with pytest.raises(ValueError, match="NUL"):
        check_metadata({text: 1})

"""Parts of files, as the header Range asks for them."""

from __future__ import annotations

import pytest

from ghost.files.ranges import MAX_RANGES, Multipart, RangeNotSatisfiable, Span, read_ranges

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-99", [(0, 100)]),
        ("bytes=0-100", [(0, 100)]),
        ("bytes=99-99", [(99, 100)]),
        ("bytes=10-19", [(10, 20)]),
        ("bytes=90-", [(90, 100)]),
        ("bytes=90-1000000000000000000", [(90, 100)]),
        ("bytes=-1", [(99, 100)]),
        ("bytes=-100", [(0, 100)]),
        ("bytes=-1000", [(0, 100)]),
        ("BYTES=1-2", [(1, 3)]),
        ("bytes = 1-2", [(1, 3)]),
        ("bytes=1-2,5-6", [(1, 3), (5, 7)]),
        ("bytes=5-6 ,\t1-2", [(5, 7), (1, 3)]),
        ("bytes=1-2,200-300", [(1, 3)]),
        ("bytes=200-300,-5", [(95, 100)]),
        ("bytes=1-2,-0", [(1, 3)]),
        ("bytes=0-49,50-99", [(0, 50), (50, 100)]),
    ],
)
def test_parts_are_read_in_the_order_asked_for(header: str, expected: list[Span]) -> None:
    spans = read_ranges(header, 100)

    assert spans is not None
    assert [(span.start, span.stop) for span in spans] == expected


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=2-1", "bytes=1-2-3", "bytes=1",
     "bytes=1-2,", "bytes=,1-2", "bytes=1-2,x", "bytes=+1-2", "bytes=1 - 2", "items=1-2", "=1-2",
     "bytes=0x1-2", "bytes=\u0661-\u0662", "bytes=99999999999999999999-", "bytes: 1-2"],
)  # fmt: skip
def test_a_malformed_header_is_ignored(header: str | None) -> None:
    assert read_ranges(header, 100) is None


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ("bytes=100-", 100),
        ("bytes=100-200", 100),
        ("bytes=-0", 100),
        ("bytes=1000-,2000-", 100),
        ("bytes=0-0", 0),
        ("bytes=-1", 0),
    ],
)
def test_parts_behind_the_end_can_not_be_given(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        read_ranges(header, size)

    assert caught.value.headers["Content-Range"] == f"bytes */{size}"


def test_many_parts_are_ignored() -> None:
    at_most = ",".join(f"{number}-{number}" for number in range(MAX_RANGES))

    assert len(read_ranges(f"bytes={at_most}", 100) or []) == MAX_RANGES
    assert read_ranges(f"bytes={at_most},50-50", 100) is None
    assert read_ranges("bytes=" + "0-0," * 100_000 + "0-0", 100) is None


def test_parts_that_are_more_than_the_file_are_ignored() -> None:
    assert read_ranges("bytes=0-,0-", 100) is None
    assert read_ranges("bytes=0-98,-2", 100) is None


def test_several_parts_are_one_body_of_known_length() -> None:
    parts = Multipart([Span(0, 2), Span(8, 10)], 10, "text/plain")
    boundary = parts.content_type.partition("boundary=")[2]

    body = b"".join(
        part if isinstance(part, bytes) else b"0123456789"[part.start : part.stop] for part in parts
    )

    assert (
        body
        == (
            f"\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
            f"\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n89"
            f"\r\n--{boundary}--\r\n"
        ).encode()
    )
    assert parts.length == len(body)

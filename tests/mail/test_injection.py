"""Nothing that a header, an address or a file's name is made of may break a line or hide one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ghost.jobs import Permanent
from ghost.mail import Address, Attachment, InvalidMessage, Message

pytestmark = pytest.mark.unit

ADA, BOB = "ada@example.org", "bob@example.org"

BREAKERS = {
    "CR": "\r",
    "LF": "\n",
    "CRLF": "\r\n",
    "CRLF, folded by a space": "\r\n ",
    "CRLF, folded by a tab": "\r\n\t",
    "LF, folded by a space": "\n ",
    "CRLF and a header": "\r\nBcc: eve@example.org",
    "two CRLF and a body": "\r\n\r\n<p>Eve</p>",
    "TAB": "\t",
    "NUL": "\0",
    "BEL": "\a",
    "BS": "\b",
    "VT": "\x0b",
    "FF": "\x0c",
    "ESC": "\x1b",
    "FS": "\x1c",
    "GS": "\x1d",
    "RS": "\x1e",
    "US": "\x1f",
    "DEL": "\x7f",
    "NEL": "\x85",
    "CSI": "\x9b",
    "end of C1": "\x9f",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "high surrogate": "\ud800",
    "low surrogate": "\udfff",
    "escaped byte": "\udc0a",
}

PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "to": lambda bad: {"to": f"ada{bad}@example.org"},
    "end of to": lambda bad: {"to": f"ada@example.org{bad}"},
    "start of to": lambda bad: {"to": f"{bad}ada@example.org"},
    "domain": lambda bad: {"to": f"ada@example{bad}.org"},
    "one of many": lambda bad: {"to": [BOB, f"ada@example.org{bad}"]},
    "name in text": lambda bad: {"to": f"Ada{bad}L <ada@example.org>"},
    "quoted name": lambda bad: {"to": f'"Ada{bad}L" <ada@example.org>'},
    "name in pair": lambda bad: {"to": (f"Ada{bad}", ADA)},
    "address in pair": lambda bad: {"to": ("Ada", f"{ADA}{bad}")},
    "address object": lambda bad: {"to": Address(ADA, f"Ada{bad}")},
    "cc": lambda bad: {"cc": [f"bob@example.org{bad}"]},
    "cc's name": lambda bad: {"cc": f"Bob{bad}B <bob@example.org>"},
    "bcc": lambda bad: {"bcc": f"bob{bad}@example.org"},
    "bcc's name": lambda bad: {"bcc": [(f"{bad}Bob", BOB)]},
    "reply_to": lambda bad: {"reply_to": f"bob@example.org{bad}"},
    "reply_to's name": lambda bad: {"reply_to": (f"Bob{bad}", BOB)},
    "sender": lambda bad: {"sender": f"app{bad}@example.com"},
    "sender's name": lambda bad: {"sender": f"App{bad}X <app@example.com>"},
    "envelope": lambda bad: {"envelope": [f"{ADA}{bad}"]},
    "subject": lambda bad: {"subject": f"Hello{bad}there"},
    "end of subject": lambda bad: {"subject": f"Hello{bad}"},
    "header name": lambda bad: {"headers": {f"X-Shop{bad}": "1"}},
    "header value": lambda bad: {"headers": {"X-Shop": f"1{bad}2"}},
    "end of header value": lambda bad: {"headers": {"List-Unsubscribe": f"<https://x.org>{bad}"}},
    "message id": lambda bad: {"message_id": f"<1{bad}@example.com>"},
    "end of message id": lambda bad: {"message_id": f"<1@example.com>{bad}"},
    "file name": lambda bad: {"attachments": [Attachment(f"a{bad}.pdf", b"")]},
    "end of file name": lambda bad: {"attachments": [Attachment(f"a.pdf{bad}", b"")]},
    "content type": lambda bad: {"attachments": [Attachment("a", b"", f"image/p{bad}ng")]},
    "end of content type": lambda bad: {"attachments": [Attachment("a", b"", f"image/png{bad}")]},
    "content id": lambda bad: {"attachments": [Attachment("a", b"", None, f"lo{bad}go")]},
    "end of content id": lambda bad: {"attachments": [Attachment("a", b"", None, f"logo{bad}")]},
}


def message(**changes: Any) -> Message:
    settings: dict[str, Any] = {"to": ADA, "subject": "Hello", "text": "Hello.\n"}
    return Message(**settings | {"sender": "app@example.com"} | changes)


@pytest.mark.parametrize("bad", BREAKERS.values(), ids=BREAKERS.keys())
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_nothing_that_breaks_a_line_gets_in(
    place: Callable[[str], dict[str, Any]], bad: str
) -> None:
    with pytest.raises(InvalidMessage) as caught:
        message(**place(bad))

    assert caught.value.status == 422
    assert isinstance(caught.value, Permanent)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_each_place_takes_what_is_harmless(place: Callable[[str], dict[str, Any]]) -> None:
    assert message(**place(""))


@pytest.mark.parametrize(
    ("place", "field"),
    [
        ("to", "to"), ("cc", "cc"), ("bcc", "bcc"), ("reply_to", "reply_to"),
        ("sender", "sender"), ("subject", "subject"), ("header value", "headers"),
        ("header name", "headers"), ("file name", "attachments"), ("message id", "message_id"),
    ],
)  # fmt: skip
def test_a_refusal_names_its_field(place: str, field: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        message(**PLACES[place]("\r\n"))

    assert list(caught.value.details["json"]) == [field]


@pytest.mark.parametrize(
    "name",
    [
        "", " ", ".", "..", "...", "a/b.pdf", "/etc/passwd", "..\\x.exe", "a\\b", "x" * 256,
        "cod\u202egpj.exe", "\u2066x.pdf", "x\u2069", "\u200ex", "\u200fx", "\u061cx", "\u202ax",
    ],
)  # fmt: skip
def test_a_file_name_that_is_none_or_misleads_is_refused(name: str) -> None:
    with pytest.raises(InvalidMessage):
        message(attachments=[Attachment(name, b"")])


@pytest.mark.parametrize(
    "kind",
    [
        "", "image", "image/", "/png", "image/png; name=x", "image/png,text/html", "image /png",
        "image/png/x", "a b/c", "message/rfc822", "Message/Partial", "message/external-body",
        "multipart/mixed", "MULTIPART/form-data", "i" * 128 + "/png", "tëxt/plain",
    ],
)  # fmt: skip
def test_a_content_type_that_is_none_or_holds_a_mail_is_refused(kind: str) -> None:
    with pytest.raises(InvalidMessage):
        message(attachments=[Attachment("a.bin", b"", kind)])


@pytest.mark.parametrize("identity", ["", "<logo>", "lo go", "a@b@c", "löga", "x" * 256, "a>b"])
def test_a_content_id_that_is_none_is_refused(identity: str) -> None:
    with pytest.raises(InvalidMessage):
        message(attachments=[Attachment("a.png", b"", None, identity)])


@pytest.mark.parametrize(
    "name",
    [
        "Bcc", "bcc", "Cc", "To", "From", "Sender", "Reply-To", "Subject", "Date", "Message-ID",
        "Return-Path", "Received", "Delivered-To", "DKIM-Signature", "Authentication-Results",
        "ARC-Seal", "Resent-To", "Resent-From", "MIME-Version", "Content-Type",
        "Content-Transfer-Encoding", "Content-Disposition", "Content-ID", "Auto-Submitted",
        "X-SES-MESSAGE-TAGS", "X-SES-CONFIGURATION-SET", "X-SMTPAPI", "X-SG-EID",
    ],
)  # fmt: skip
def test_a_header_that_others_write_is_refused(name: str) -> None:
    with pytest.raises(InvalidMessage):
        message(headers={name: "eve@example.org"})


@pytest.mark.parametrize(
    "changes",
    [
        {"to": None},
        {"to": 7},
        {"to": [7]},
        {"to": [None]},
        {"to": [(1, 2)]},
        {"to": [("Ada",)]},
        {"to": [["Ada", ADA]]},
        {"to": ("Ada", ADA, BOB)},
        {"cc": 7},
        {"subject": None},
        {"subject": 7},
        {"text": None},
        {"text": b"bytes"},
        {"html": 7},
        {"headers": {"X-Shop": 7}},
        {"headers": {7: "x"}},
        {"headers": {"X-Shop": "1", "x-shop": "2"}},
        {"headers": {f"X-{number}": "1" for number in range(51)}},
        {"message_id": 7},
        {"sender": 7},
        {"envelope": []},
        {"envelope": [BOB]},
        {"attachments": ["a.pdf"]},
        {"attachments": [Attachment("a", "text")]},  # type: ignore[arg-type]
        {"attachments": [Attachment(7, b"")]},  # type: ignore[arg-type]
        {"attachments": [Attachment("a", b"", 7)]},  # type: ignore[arg-type]
        {"attachments": [Attachment("a", b"", None, 7)]},  # type: ignore[arg-type]
        {
            "attachments": [
                Attachment("a", b"", None, "logo"),
                Attachment("b", b"", None, "logo"),
            ]
        },
    ],
)
def test_what_is_no_mail_at_all_is_refused_and_no_crash(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        message(**changes)

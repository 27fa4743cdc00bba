"""What may stand in a mail, and how it is written."""

from __future__ import annotations

import email
import email.policy
import re
import time
from dataclasses import replace
from email.header import decode_header, make_header
from email.utils import getaddresses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost.errors import ValidationFailed
from ghost.jobs import Permanent
from ghost.mail import Address, Attachment, InvalidMessage, Message

pytestmark = pytest.mark.unit

ADA = "ada@example.org"
SENDER = "Ghost <no-reply@example.com>"

INJECTION = "\r\nBcc: eve@example.org"
LINE_BREAKERS = {
    "CRLF": "\r\n",
    "LF": "\n",
    "CR": "\r",
    "folded CRLF": "\r\n ",
    "folded LF": "\n\t",
    "VT": "\x0b",
    "FF": "\x0c",
    "FS": "\x1c",
    "GS": "\x1d",
    "RS": "\x1e",
    "US": "\x1f",
    "NEL": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "NUL": "\0",
    "TAB": "\t",
    "ESC": "\x1b",
    "DEL": "\x7f",
    "C1": "\x9b",
    "high surrogate": "\ud800",
    "low surrogate": "\udfff",
    "escaped byte": "\udcff",
}


def message(**changes: Any) -> Message:
    settings: dict[str, Any] = {"to": ADA, "subject": "Hello", "text": "Hello.\n", "sender": SENDER}
    return Message(**settings | {"message_id": "<1@example.com>"} | changes)


def parsed(written: Message, *, readable: bool = False) -> email.message.EmailMessage:
    made = email.message_from_bytes(
        written.as_bytes(readable=readable), policy=email.policy.default
    )
    assert isinstance(made, email.message.EmailMessage)
    assert not made.defects
    return made


@pytest.mark.parametrize("bad", LINE_BREAKERS.values(), ids=LINE_BREAKERS.keys())
@pytest.mark.parametrize(
    "place",
    [
        lambda value: {"subject": f"Hello{value}Bcc: eve@example.org"},
        lambda value: {"subject": f"Hello{value}"},
        lambda value: {"to": f"ada@example.org{value}"},
        lambda value: {"to": f"a{value}da@example.org"},
        lambda value: {"to": f"ada@exa{value}mple.org"},
        lambda value: {"to": [ADA, f"Bob{value}Smith <bob@example.org>"]},
        lambda value: {"to": [ADA, (f"Bob{value}Smith", "bob@example.org")]},
        lambda value: {"to": [Address(f"bob@example.org{value}")]},
        lambda value: {"sender": f"Ghost{value}Bcc: <no-reply@example.com>"},
        lambda value: {"sender": ("Ghost", f"no-reply@example.com{value}")},
        lambda value: {"headers": {"X-Shop": f"1{value}Bcc: eve@example.org"}},
        lambda value: {"headers": {f"X-Shop{value}Bcc": "eve@example.org"}},
        lambda value: {"message_id": f"<1@example.com>{value}"},
        lambda value: {"message_id": f"<1{value}@example.com>"},
    ],
    ids=[
        "subject", "end of subject", "end of address", "local part", "domain", "name in text",
        "name in pair", "address object", "sender's name", "sender's address", "header value",
        "header name", "end of message id", "message id",
    ],
)  # fmt: skip
def test_no_header_takes_a_control_character(place: Any, bad: str) -> None:
    with pytest.raises(InvalidMessage):
        message(**place(bad))


@pytest.mark.parametrize(
    "changes",
    [
        {"to": []},
        {"to": ""},
        {"to": "ada"},
        {"to": "@example.org"},
        {"to": "ada@"},
        {"to": "ada@example.org, eve@example.org"},
        {"to": "ada@example.org; eve@example.org"},
        {"to": "ada@example.org eve@example.org"},
        {"to": "ada@example.org <eve@example.org"},
        {"to": "Ada <ada@example.org> <eve@example.org>x"},
        {"to": "ada@eve@example.org"},
        {"to": "<ada@example.org>, <eve@example.org>"},
        {"to": ("eve@example.org", "ada@example.org")},
        {"to": "eve@example.org, Ada <ada@example.org>"},
        {"to": '"ada eve"@example.org'},
        {"to": "ada@exam ple.org"},
        {"to": "ada@-example.org"},
        {"to": "ada@example..org"},
        {"to": "ada@[127.0.0.1]"},
        {"to": "ada@a\uff20b.example"},
        {"to": "ädä@example.org"},
        {"to": "a" * 65 + "@example.org"},
        {"to": "ada@" + "a" * 64 + ".org"},
        {"to": "ada@" + "abcdefgh." * 30 + "org"},
        {"subject": "x" * 901},
        {"headers": {"Bcc": "eve@example.org"}},
        {"headers": {"bCC": "eve@example.org"}},
        {"headers": {"To": "eve@example.org"}},
        {"headers": {"From": "eve@example.org"}},
        {"headers": {"Content-Type": "text/html"}},
        {"headers": {"Message-ID": "<2@example.com>"}},
        {"headers": {"X Shop": "1"}},
        {"headers": {"X-Shop:": "1"}},
        {"headers": {"": "1"}},
        {"headers": {"X-Shöp": "1"}},
        {"message_id": "1@example.com"},
        {"message_id": "<1>"},
        {"message_id": "<1@example.com> <2@example.com>"},
        {"text": "a\0b"},
        {"text": "a\ud800b"},
        {"html": "<p>\udfff</p>"},
    ],
)
def test_a_mail_that_is_not_one_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        message(**changes)


def test_the_refusal_is_a_422_to_a_client_and_final_to_a_job() -> None:
    with pytest.raises(InvalidMessage) as caught:
        message(subject="Hello" + INJECTION)

    assert isinstance(caught.value, ValidationFailed | ValueError)
    assert isinstance(caught.value, Permanent)
    assert caught.value.status == 422
    assert caught.value.details == {
        "json": {"subject": ["It holds a line break or a control character."]}
    }


@pytest.mark.parametrize(
    ("given", "email_address", "name"),
    [
        ("ada@example.org", "ada@example.org", ""),
        ("Ada@Example.ORG", "Ada@example.org", ""),
        ("Ada Lovelace <ada@example.org>", "ada@example.org", "Ada Lovelace"),
        ('"Lovelace, Ada" <ada@example.org>', "ada@example.org", "Lovelace, Ada"),
        (r'"Ada \"Countess\"" <ada@example.org>', "ada@example.org", 'Ada "Countess"'),
        ("<ada@example.org>", "ada@example.org", ""),
        (("Ada", "ada@example.org"), "ada@example.org", "Ada"),
        ("ada+news@example.org", "ada+news@example.org", ""),
        ("ada@localhost", "ada@localhost", ""),
        ("ada@bücher.example", "ada@xn--bcher-kva.example", ""),
        ("ada@STRAẞE.example", "ada@xn--strae-oqa.example", ""),
        ("ada@例え.テスト", "ada@xn--r8jz45g.xn--zckzah", ""),
    ],
)
def test_an_address_is_read(given: Any, email_address: str, name: str) -> None:
    address = Address.parse(given)

    assert (address.email, address.name) == (email_address, name)


@pytest.mark.parametrize(
    "name",
    [
        "Ada",
        "Lovelace, Ada",
        'Ada "the first" Lovelace',
        "back\\slash",
        "semi;colon:and(comment)",
        "eve@example.org, Ada",
        "Ärger & Söhne, GmbH",
        "埃达·洛芙莱斯",
        "🦄 " * 60,
        "=?utf-8?q?evil=0ABcc=3A_eve=40example=2Eorg?=",
        "=?utf-8?b?RXZl?=",
        "x" * 200 + ", ü",
        "{{ 7*7 }} <b>",
    ],
)
def test_a_display_name_stays_one_name(name: str) -> None:
    written = message(to=[(name, ADA), "bob@example.org"])

    read = parsed(written)
    assert [address.addr_spec for address in read["To"].addresses] == [ADA, "bob@example.org"]
    # Read with the older parser: the newer one puts blanks between encoded words in names
    # (Python 3.11), where RFC 2047, section 6.2, wants none.
    raw = email.message_from_bytes(written.as_bytes())["To"].replace("\r\n", "")
    assert str(make_header(decode_header(getaddresses([raw])[0][0]))).split() == name.split()
    assert set(read.keys()) <= {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted",
        "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
    }  # fmt: skip


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "Hello",
        "Grüße",
        "=?utf-8?q?evil=0AX=3A_1?=",
        "漢字" * 200,
        "word " * 170 + "end",
        "x" * 900,
    ],
)
def test_a_subject_arrives_as_it_was(subject: str) -> None:
    # A subject without any blank is folded before its first character, which leaves one there.
    assert parsed(message(subject=subject))["Subject"].removeprefix(" ") == subject


def test_a_mail_is_ascii_in_short_lines() -> None:
    written = message(
        to=[(f"Nämé {number}", f"ada{number}@example.org") for number in range(50)],
        subject="Übergröße " * 50,
        text="é" * 5000 + "\n" + "x" * 5000,
        html=f"<a href='https://example.com/#token={'x' * 2000}'>é</a>",
        headers={"X-Shop": "é " * 200},
    ).as_bytes()

    assert written.isascii()
    assert max(map(len, written.split(b"\r\n"))) <= 998
    assert b"\n" not in written.replace(b"\r\n", b"")


def test_a_readable_mail_shows_words_and_links_unbroken() -> None:
    link = f"https://app.example.com/account/verify-email#token={'x' * 120}"

    written = message(text=f"Grüße!\n\n{link}\n", html=f"<a href='{link}'>ü</a>")

    raw = written.as_bytes(readable=True).decode()
    assert raw.count(link) == 2
    assert "Grüße!" in raw
    body = parsed(written, readable=True).get_body(("plain",))
    assert body is not None
    assert body.get_content().replace("\r\n", "\n") == f"Grüße!\n\n{link}\n"


def test_a_recipient_named_twice_gets_one_mail() -> None:
    written = message(to=[ADA, f"Ada <{ADA}>", "ada@EXAMPLE.org"])

    assert written.recipients == (ADA,)


def test_own_headers_are_added() -> None:
    assert parsed(message(headers={"X-Shop": "Bücher"}))["X-Shop"] == "Bücher"


# --- Recipients -----------------------------------------------------------------------------------


def test_everybody_gets_it_and_bcc_stands_nowhere() -> None:
    written = message(
        to=["Ada <ada@example.org>", "bob@example.org"],
        cc="cy@example.org",
        bcc=["dan@example.org", ("Eve", "eve@example.org")],
        reply_to=["desk@example.com", "Ghost <help@example.com>"],
    )

    assert written.recipients == (
        "ada@example.org",
        "bob@example.org",
        "cy@example.org",
        "dan@example.org",
        "eve@example.org",
    )
    assert written.destinations == written.recipients
    read = parsed(written)
    assert read["To"] == "Ada <ada@example.org>, bob@example.org"
    assert read["Cc"] == "cy@example.org"
    assert read["Reply-To"] == "desk@example.com, Ghost <help@example.com>"
    assert read["Bcc"] is None
    raw = written.as_bytes()
    assert not any(hidden in raw for hidden in (b"dan@", b"eve@", b"Eve"))


def test_who_is_in_two_lists_stands_in_the_first() -> None:
    written = message(
        to=ADA, cc=[ADA, "bob@example.org"], bcc=[ADA, "bob@example.org", "eve@example.org"]
    )

    assert written.recipients == (ADA, "bob@example.org", "eve@example.org")
    assert parsed(written)["Cc"] == "bob@example.org"


def test_a_mail_to_bcc_alone_names_nobody() -> None:
    written = message(to=[], bcc=[ADA])

    assert written.recipients == (ADA,)
    assert parsed(written)["To"] is None


def test_an_envelope_leaves_out_who_has_it_already() -> None:
    written = message(to=[ADA, "bob@example.org"], envelope=["bob@EXAMPLE.org"])

    assert written.destinations == ("bob@example.org",)
    assert written.recipients == (ADA, "bob@example.org")
    assert parsed(written)["To"] == "ada@example.org, bob@example.org"


def test_a_message_can_be_made_from_another() -> None:
    first = message(to=("Ada", ADA), cc=["bob@example.org", "eve@example.org"], reply_to=ADA)

    second = replace(first, envelope=[ADA])

    assert second.addresses == first.addresses
    assert replace(first, to=first.addresses, cc=first.cc_addresses).as_bytes() == first.as_bytes()


PRINTABLE = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=120
)


@pytest.mark.parametrize(
    "hostile", [" " * 899, " " * 890 + "x", "a" + " " * 800 + "<a@b.c", ("@" * 890 + " x", "x")]
)
def test_an_address_of_many_blanks_is_refused_at_once(hostile: Any) -> None:
    started = time.process_time()

    for _ in range(1000):
        with pytest.raises(InvalidMessage):
            Address.parse(hostile)

    assert time.process_time() - started < 0.5


@given(PRINTABLE)
def test_an_address_is_read_again_as_it_was_printed(name: str) -> None:
    address = Address(ADA, name)

    assert Address.parse(str(address)) == address


# --- Bodies and headers, read by the standard library ---------------------------------------------

BODY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=400)


def lines_of(written: Message) -> list[bytes]:
    raw = written.as_bytes()
    assert raw.isascii()
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    return raw.split(b"\r\n")


def decoded(part: email.message.Message) -> str:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode(part.get_content_charset() or "ascii").replace("\r\n", "\n")


@given(text=BODY, html=st.none() | BODY)
def test_bodies_arrive_as_they_were(text: str, html: str | None) -> None:
    written = message(text=text, html=html)

    assert max(map(len, lines_of(written))) <= 998
    parts = [part for part in parsed(written).walk() if not part.is_multipart()]
    expected = [re.sub(r"\r\n?", "\n", body) for body in (text, html) if body is not None]
    assert [decoded(part) for part in parts] == expected


@given(PRINTABLE)
def test_a_header_arrives_as_it_was(value: str) -> None:
    written = message(subject=value, headers={"X-Shop": value})

    assert max(map(len, lines_of(written))) <= 998
    read = email.message_from_bytes(written.as_bytes())
    for name in ("Subject", "X-Shop"):
        unfolded = read[name].replace("\r\n", "")
        assert str(make_header(decode_header(unfolded))).strip() == value.strip()


@given(PRINTABLE.filter(lambda name: name.strip()))
def test_a_name_in_a_header_arrives_as_it_was(name: str) -> None:
    written = message(to=[Address(ADA, name), "bob@example.org"])

    assert max(map(len, lines_of(written))) <= 998
    raw = email.message_from_bytes(written.as_bytes())["To"].replace("\r\n", "")
    (shown, address), other = getaddresses([raw])
    assert (address, other) == (ADA, ("", "bob@example.org"))
    assert str(make_header(decode_header(shown))) == name


@pytest.mark.parametrize("subject", ["Grüße " * 40, "漢字" * 80, "word " * 100, "🦄" * 60])
def test_a_line_with_encoded_words_has_76_characters_at_most(subject: str) -> None:
    lines = lines_of(message(subject=subject, headers={"X-Shop": subject}))

    assert max(map(len, lines)) <= 76


# --- Files ----------------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def structure(part: email.message.Message) -> Any:
    if not part.is_multipart():
        return part.get_content_type()
    children = part.get_payload()
    assert isinstance(children, list)
    return (part.get_content_type(), [structure(child) for child in children])  # type: ignore[arg-type]


def test_files_and_inline_images_stand_where_mail_programs_look_for_them() -> None:
    written = message(
        html='<img src="cid:logo@images">',
        attachments=[
            Attachment("invoice.pdf", b"%PDF"),
            Attachment("logo.png", PNG, None, "logo@images"),
        ],
    )

    read = parsed(written)
    assert structure(read) == (
        "multipart/mixed",
        [
            (
                "multipart/alternative",
                ["text/plain", ("multipart/related", ["text/html", "image/png"])],
            ),
            "application/pdf",
        ],
    )
    image = next(part for part in read.walk() if part.get_content_type() == "image/png")
    assert image["Content-ID"] == "<logo@images>"
    assert image.get_content_disposition() == "inline"
    assert image.get_payload(decode=True) == PNG
    (invoice,) = read.iter_attachments()
    assert invoice.get_filename() == "invoice.pdf"


def test_an_image_that_no_html_shows_is_a_file() -> None:
    written = message(attachments=[Attachment("logo.png", PNG, None, "logo")])

    assert structure(parsed(written)) == ("multipart/mixed", ["text/plain", "image/png"])


@given(st.binary(max_size=500), st.sampled_from([None, "text/plain", "image/png"]))
def test_a_file_arrives_byte_by_byte(content: bytes, kind: str | None) -> None:
    written = message(attachments=[Attachment("a.txt", content, kind)])

    lines_of(written)
    *_, file = parsed(written).walk()
    assert file.get_payload(decode=True) == content


FILENAMES = st.text(
    st.characters(
        exclude_categories=["Cc", "Cs", "Zl", "Zp"],
        exclude_characters="/\\\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    ),
    min_size=1,
    max_size=255,
).filter(lambda name: name.strip(" ."))


@given(FILENAMES)
def test_a_file_name_arrives_as_it_was(name: str) -> None:
    written = message(attachments=[Attachment(name, b"x")])

    assert max(map(len, lines_of(written))) <= 78
    *_, file = email.message_from_bytes(written.as_bytes()).walk()
    assert file.get_filename() == name


@pytest.mark.parametrize(
    ("filename", "content", "content_type", "expected"),
    [
        ("a.pdf", b"", None, "application/pdf"),
        ("a.PNG", b"", None, "image/png"),
        ("a.txt", b"abc", None, "text/plain"),
        ("a.txt", "é".encode(), None, 'text/plain; charset="utf-8"'),
        ("a.txt", b"\xe9", None, "text/plain"),
        ("a.csv", "é".encode(), "text/csv", 'text/csv; charset="utf-8"'),
        ("a.tar.gz", b"", None, "application/octet-stream"),
        ("mail.eml", b"", None, "application/octet-stream"),
        ("none", b"", None, "application/octet-stream"),
        ("a.pdf", b"", "image/x-own", "image/x-own"),
    ],
)
def test_a_content_type_is_guessed_where_none_is_given(
    filename: str, content: bytes, content_type: str | None, expected: str
) -> None:
    *_, file = parsed(message(attachments=[Attachment(filename, content, content_type)])).walk()

    assert str(file["Content-Type"]) == expected


def test_a_part_that_looks_like_the_end_of_parts_ends_none() -> None:
    first = message(html="x").as_bytes()
    boundary = re.search(rb'boundary="([^"]+)"', first)
    assert boundary is not None

    written = message(text=f"--{boundary[1].decode()}--\nmore\n", html="<p>x</p>")

    body = parsed(written).get_body(("plain",))
    assert body is not None
    assert body.get_content().splitlines()[-1] == "more"


def test_one_list_header_is_allowed() -> None:
    unsubscribe = "<https://example.com/unsubscribe?t=1>, <mailto:out@example.com>"

    assert parsed(message(headers={"List-Unsubscribe": unsubscribe}))["List-Unsubscribe"] == (
        unsubscribe
    )

"""Mail through SendGrid, against a stand-in that is as strict, and against servers that are not."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sendgrid_stub import KEY, Stub, find_mistakes
from sinks import CERTIFICATES, Scripted, drip, hang_up, server_context, stay_silent

from ghost.jobs import Permanent
from ghost.mail import Address, Attachment, Message, NotSent
from ghost.mail.providers import Provider, Unreachable, provider_for
from ghost.mail.providers.sendgrid import request_body

pytestmark = pytest.mark.integration

MakeScripted = Callable[[Callable[[socket.socket], None]], Scripted]
MakeStub = Callable[..., Stub]
ADA, BOB, CY, DAN, EVE = (f"{name}@example.org" for name in ("ada", "bob", "cy", "dan", "eve"))
ROW_ID = "01980000-0000-7000-8000-000000000001"
TIMEOUT_SECONDS = 0.5
SLACK_SECONDS = 3


@pytest.fixture
def make_stub() -> Iterator[MakeStub]:
    with ExitStack() as stack:

        def make(**options: Any) -> Stub:
            stub = Stub(**options)
            stack.callback(stub.close)
            return stub

        yield make


@pytest.fixture
def opened() -> Iterator[Callable[[str], Provider]]:
    """Make the provider of a URL, and close it at the end of the test."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(
            provider_for(url, root=Path("/"), timeout_seconds=TIMEOUT_SECONDS)
        )


Opened = Callable[[str], Provider]


def mail_to(to: Any = ADA, **changes: Any) -> Message:
    settings: dict[str, Any] = {
        "to": to,
        "subject": "Hello",
        "text": "Hello.\n",
        "sender": "Ghost <app@example.com>",
        "message_id": f"<{ROW_ID}@example.com>",
    }
    return Message(**settings | changes)


# --- What is asked --------------------------------------------------------------------------------


def test_a_mail_with_everything_is_taken(make_stub: MakeStub, opened: Opened) -> None:
    stub = make_stub()
    message = mail_to(
        ["Ada <ada@example.org>", BOB],
        html="<img src='cid:logo'>",
        cc=CY,
        bcc=[DAN, EVE],
        reply_to=["desk@example.com", "help@example.com"],
        headers={"X-Shop": "Bücher", "List-Unsubscribe": "<https://example.com/out>"},
        attachments=[
            Attachment("räche.pdf", b"%PDF"),
            Attachment("logo.png", b"\x89PNG", None, "logo"),
        ],
    )

    delivery = opened(stub.url()).send(message)

    assert delivery.accepted == (ADA, BOB, CY, DAN, EVE)
    assert delivery.provider == "sendgrid"
    (asked,) = stub.taken
    assert asked["personalizations"] == [
        {
            "to": [{"email": ADA, "name": "Ada"}, {"email": BOB}],
            "cc": [{"email": CY}],
            "bcc": [{"email": DAN}, {"email": EVE}],
        }
    ]
    assert asked["from"] == {"email": "app@example.com", "name": "Ghost"}
    assert asked["reply_to_list"] == [{"email": "desk@example.com"}, {"email": "help@example.com"}]
    assert asked["custom_args"] == {"ghost_message_id": ROW_ID}
    assert asked["headers"]["Message-ID"] == f"<{ROW_ID}@example.com>"
    assert asked["headers"]["X-Shop"] == "=?utf-8?q?B=C3=BCcher?="
    assert [part["type"] for part in asked["content"]] == ["text/plain", "text/html"]
    file, image = asked["attachments"]
    assert base64.b64decode(file["content"]) == b"%PDF"
    assert (file["filename"], file["disposition"]) == ("räche.pdf", "attachment")
    assert (image["content_id"], image["disposition"]) == ("logo", "inline")


def test_links_are_left_as_they_were_written(make_stub: MakeStub, opened: Opened) -> None:
    stub = make_stub()

    opened(stub.url()).send(mail_to())

    settings = stub.taken[0]["tracking_settings"]
    assert settings["click_tracking"] == {"enable": False, "enable_text": False}
    assert settings["open_tracking"] == {"enable": False}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"envelope": [BOB]}, [{"to": [BOB]}]),
        ({"envelope": [CY, DAN]}, [{"to": [CY], "bcc": [DAN]}]),
        ({"envelope": [DAN, EVE]}, [{"to": [DAN]}, {"to": [EVE]}]),
        ({"to": [], "cc": [], "bcc": [EVE]}, [{"to": [EVE]}]),
        (
            {"to": [ADA, "ADA@example.org"], "cc": "Ada@example.org", "bcc": []},
            [{"to": [ADA]}],
        ),
    ],
    ids=["one of to", "copies", "hidden copies, each alone", "hidden alone", "once in any case"],
)
def test_who_is_left_gets_it_and_nobody_sees_hidden_ones(
    make_stub: MakeStub, opened: Opened, changes: dict[str, Any], expected: Any
) -> None:
    stub = make_stub()
    settings = {"to": [ADA, BOB], "cc": CY, "bcc": [DAN, EVE]} | changes
    message = mail_to(**settings)

    delivery = opened(stub.url()).send(message)

    assert delivery.accepted == message.destinations
    asked = [
        {kind: [one["email"] for one in mailboxes] for kind, mailboxes in lists.items()}
        for lists in stub.taken[0]["personalizations"]
    ]
    assert asked == expected


@pytest.mark.parametrize("name", ["Lovelace, Ada", "a;b", 'Ada "the" L, x', "Ädä", '"', "x" * 200])
def test_any_name_is_one_name(make_stub: MakeStub, opened: Opened, name: str) -> None:
    assert opened(make_stub().url()).send(mail_to(Address(ADA, name))).accepted == (ADA,)


@pytest.mark.parametrize(("text", "html"), [("", "<p>x</p>"), ("", None), ("x", ""), ("é", "é")])
def test_an_empty_body_is_no_reason_to_refuse_a_mail(
    make_stub: MakeStub, opened: Opened, text: str, html: str | None
) -> None:
    assert opened(make_stub().url()).send(mail_to(text=text, html=html)).accepted


@pytest.mark.parametrize(
    "change",
    [
        lambda asked: asked.update(unknown=1),
        lambda asked: asked.pop("from"),
        lambda asked: asked.update(subject=""),
        lambda asked: asked["headers"].update(Subject="x"),
        lambda asked: asked["headers"].update({"X-Shop": "Bücher"}),
        lambda asked: asked["personalizations"][0].update(cc=[{"email": ADA}]),
        lambda asked: asked["personalizations"][0].pop("to"),
        lambda asked: asked["personalizations"][0].update(bcc=[]),
        lambda asked: asked["content"].reverse(),
        lambda asked: asked["content"][0].update(value=""),
        lambda asked: asked["from"].update(name="A, B"),
        lambda asked: asked["attachments"][0].update(content="*"),
        lambda asked: asked["attachments"][0].update(type="text/plain; charset=utf-8"),
    ],
)
def test_the_stand_in_refuses_what_sendgrid_refuses(
    change: Callable[[dict[str, Any]], Any],
) -> None:
    asked = request_body(mail_to(html="<p>x</p>", attachments=[Attachment("a.txt", b"x")]))
    assert not list(find_mistakes(asked))

    change(asked)

    assert list(find_mistakes(asked))


# --- What is answered -----------------------------------------------------------------------------


def error(words: str) -> bytes:
    return json.dumps({"errors": [{"message": words, "field": "content", "help": None}]}).encode()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, Permanent), (413, Permanent), (401, Unreachable), (403, Unreachable),
        (429, Unreachable), (503, Unreachable), (500, NotSent), (502, NotSent), (404, NotSent),
        (200, NotSent), (302, NotSent),
    ],
)  # fmt: skip
def test_each_answer_says_what_becomes_of_the_mail(
    make_stub: MakeStub, opened: Opened, status: int, expected: type[Exception]
) -> None:
    other = make_stub()
    stub = make_stub(
        answer=(status, error("Bad \x1b words")),
        headers={"Location": f"http://127.0.0.1:{other.port}/v3/mail/send"},
    )

    with pytest.raises(expected, match=rf"{status}: Bad words \(content\)") as caught:
        opened(stub.url()).send(mail_to())

    assert isinstance(caught.value, Unreachable) is (expected is Unreachable)
    assert (stub.asked, other.asked) == (1, 0)  # no redirect is followed, and nothing tried again


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"errors": 7}', b'{"errors": [7]}', b"\xff" * 9000]
)
def test_an_answer_without_words_is_no_crash(
    make_stub: MakeStub, opened: Opened, body: bytes
) -> None:
    with pytest.raises(NotSent, match="SendGrid answered 500") as caught:
        opened(make_stub(answer=(500, body)).url()).send(mail_to())

    assert len(str(caught.value)) < 400


def test_a_wrong_key_is_not_repeated_in_the_error(make_stub: MakeStub, opened: Opened) -> None:
    with pytest.raises(Unreachable, match="401") as caught:
        opened(make_stub().url("SG.wrong.key")).send(mail_to())

    assert "SG." not in str(caught.value)


def test_an_empty_subject_is_refused_in_sendgrids_words(
    make_stub: MakeStub, opened: Opened
) -> None:
    with pytest.raises(Permanent, match="The subject is required"):
        opened(make_stub().url()).send(mail_to(subject=""))


# --- Connections ----------------------------------------------------------------------------------


def test_many_messages_share_one_connection(make_stub: MakeStub, opened: Opened) -> None:
    stub = make_stub()
    provider = opened(stub.url())

    for _ in range(5):
        provider.send(mail_to())

    assert (len(stub.taken), len(stub.connections)) == (5, 1)


def test_a_connection_that_was_closed_meanwhile_is_made_again(
    make_stub: MakeStub, opened: Opened
) -> None:
    stub = make_stub(headers={"Connection": "close"})
    provider = opened(stub.url())

    for _ in range(3):
        provider.send(mail_to())

    assert (len(stub.taken), len(stub.connections)) == (3, 3)


def test_a_closed_port_is_unreachable(opened: Opened) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]

    with pytest.raises(Unreachable, match="can't be reached"):
        opened(f"sendgrid://{KEY}@?endpoint=http://127.0.0.1:{port}").send(mail_to())


def test_a_connection_lost_in_the_answer_leaves_open_whether_it_was_taken(
    make_stub: MakeStub, opened: Opened
) -> None:
    with pytest.raises(NotSent, match="nobody knows") as caught:
        opened(make_stub(drops=True).url()).send(mail_to())

    assert not isinstance(caught.value, Unreachable)


def drip_an_answer(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 202 Accepted\r\nX-Long: ")
    drip(connection)


@pytest.mark.parametrize("serve", [stay_silent, drip_an_answer, hang_up])
def test_a_server_that_never_answers_is_given_up_in_time(
    make_scripted: MakeScripted, opened: Opened, serve: Callable[[socket.socket], None]
) -> None:
    port = make_scripted(serve).port
    provider = opened(f"sendgrid://{KEY}@?endpoint=http://127.0.0.1:{port}")
    begun = time.monotonic()

    with pytest.raises(NotSent):
        provider.send(mail_to())

    assert time.monotonic() - begun < TIMEOUT_SECONDS + SLACK_SECONDS


def test_a_trusted_certificate_is_accepted(
    make_stub: MakeStub, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))
    stub = make_stub(context=server_context("localhost"))
    provider = opened(stub.url())

    provider.send(mail_to())
    provider.send(mail_to())

    assert (len(stub.taken), len(stub.connections)) == (2, 1)


@pytest.mark.parametrize("certificate", ["self-signed", "other-name"])
def test_a_certificate_that_proves_nothing_is_refused(
    make_stub: MakeStub, opened: Opened, monkeypatch: pytest.MonkeyPatch, certificate: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))
    stub = make_stub(context=server_context(certificate))

    with pytest.raises(Unreachable, match=r"(?i)certificate verify failed"):
        opened(stub.url()).send(mail_to())

    assert stub.asked == 0

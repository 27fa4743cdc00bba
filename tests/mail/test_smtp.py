"""Mail through SMTP, against servers that help, refuse, lie and hang."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from flask import Flask
from flask_mail import email_dispatched
from sinks import CERTIFICATES, Scripted, Sink, deliver, drip, hang_up, stay_silent

from ghost.extensions import mail
from ghost.jobs import Permanent
from ghost.mail import Message, NotSent
from ghost.mail.providers import provider_for
from ghost.mail.providers.smtp import OVERALL_FACTOR

pytestmark = pytest.mark.integration

Configured = Callable[..., Flask]
MakeSink = Callable[..., Sink]
MakeScripted = Callable[[Callable[[socket.socket], None]], Scripted]
CA = f"ca={CERTIFICATES / 'ca.pem'}"
TIMEOUT_SECONDS = 0.5
SLACK_SECONDS = 3  # for a busy machine

ADA, BOB, EVE = "ada@example.org", "bob@example.org", "eve@example.org"
HELLO = Message(ADA, "Hello", "Hello, Ada.\n", "<p>Hello, Ada.</p>\n", message_id="<1@example.com>")


def to(*addresses: str) -> Message:
    return Message(list(addresses), "Hello", "Hello.\n")


def body(received: EmailMessage, kind: str) -> str:
    part = received.get_body((kind,))
    assert part is not None
    content: str = part.get_content()
    return content.replace("\r\n", "\n")


def test_a_mail_arrives_with_both_bodies_and_its_headers(
    configured: Configured, make_sink: MakeSink
) -> None:
    sink = make_sink()
    configured(url=sink.url())

    delivery = deliver(HELLO)

    assert delivery.accepted == (ADA,)
    assert not delivery.refused
    (mail_,) = sink.received
    assert mail_["From"] == "Ghost <no-reply@app.example.com>"
    assert (mail_["To"], mail_["Subject"]) == (ADA, "Hello")
    assert mail_["Message-ID"] == "<1@example.com>"
    assert mail_["Auto-Submitted"] == "auto-generated"
    assert parsedate_to_datetime(mail_["Date"]) == HELLO.date.replace(microsecond=0)
    assert body(mail_, "plain") == "Hello, Ada.\n"
    assert body(mail_, "html") == "<p>Hello, Ada.</p>\n"


def test_flask_mail_tells_its_listeners(configured: Configured, make_sink: MakeSink) -> None:
    configured(url=make_sink().url())

    with mail.record_messages() as recorded:
        deliver(HELLO)

    assert [message.subject for message in recorded] == ["Hello"]
    assert not email_dispatched.receivers


def test_lines_of_dots_and_odd_line_ends_arrive_as_one_mail(
    configured: Configured, make_sink: MakeSink
) -> None:
    sink = make_sink()
    configured(url=sink.url())
    text = "one\r\n.\r\nMAIL FROM:<eve@example.org>\r\n..two\n.\nthree\r.\rfour"

    deliver(Message(ADA, "Dots", text))

    (mail_,) = sink.received
    assert body(mail_, "plain") == "one\n.\nMAIL FROM:<eve@example.org>\n..two\n.\nthree\n.\nfour\n"


def test_an_international_domain_is_spelled_in_ascii(
    configured: Configured, make_sink: MakeSink
) -> None:
    sink = make_sink()
    configured(url=sink.url())

    deliver(to("ada@straße.example"))

    assert sink.recipients == ["ada@xn--strae-oqa.example"]


# --- Encryption -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "options", "implicit"),
    [("smtp", f"?tls=starttls&{CA}", False), ("smtps", f"?{CA}", True)],
    ids=["starttls", "smtps"],
)
def test_a_trusted_certificate_is_accepted(
    configured: Configured, make_sink: MakeSink, scheme: str, options: str, implicit: bool
) -> None:
    sink = make_sink(certificate="localhost", implicit=implicit)
    configured(url=sink.url(options, scheme=scheme))

    deliver(HELLO)

    assert sink.encrypted == [True]


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "smtps"])
@pytest.mark.parametrize(
    ("certificate", "ca"),
    [("self-signed", ""), ("self-signed", CA), ("localhost", ""), ("other-name", CA)],
    ids=["self-signed", "self-signed with another ca", "unknown authority", "another host's name"],
)
def test_a_certificate_that_proves_nothing_is_refused(
    configured: Configured, make_sink: MakeSink, certificate: str, ca: str, implicit: bool
) -> None:
    sink = make_sink(certificate=certificate, implicit=implicit)
    options = ca if implicit else f"tls=starttls&{ca}".rstrip("&")
    configured(url=sink.url(f"?{options}".rstrip("?"), scheme="smtps" if implicit else "smtp"))

    with pytest.raises(NotSent, match=r"(?i)certificate verify failed"):
        deliver(HELLO)

    assert sink.received == []


def test_a_server_without_starttls_gets_neither_mail_nor_password(
    configured: Configured, make_sink: MakeSink
) -> None:
    sink = make_sink(password="s3cret")
    configured(url=sink.url(f"?tls=starttls&{CA}", login="ada:s3cret@"))

    with pytest.raises(NotSent, match="STARTTLS"):
        deliver(HELLO)

    assert (sink.received, sink.logins) == ([], [])


def test_a_refused_starttls_is_no_reason_to_go_on_without(
    configured: Configured, make_scripted: MakeScripted
) -> None:
    heard = b""

    def serve(connection: socket.socket) -> None:
        nonlocal heard
        connection.sendall(b"220 hello\r\n")
        for answer in (b"250-me\r\n250 STARTTLS\r\n", b"454 not now\r\n", b"250 OK\r\n"):
            heard += connection.recv(1000)
            connection.sendall(answer)

    configured(url=f"smtp://localhost:{make_scripted(serve).port}?tls=starttls")

    with pytest.raises(NotSent, match="454 not now"):
        deliver(HELLO)

    assert b"MAIL" not in heard


# --- Credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("certificate", "options"),
    [("localhost", f"?tls=starttls&{CA}"), (None, "")],
    ids=["encrypted", "plain to this machine"],
)
def test_a_password_opens_the_server(
    configured: Configured, make_sink: MakeSink, certificate: str | None, options: str
) -> None:
    sink = make_sink(password="p@ss/word", certificate=certificate)
    configured(url=sink.url(options, login="ada:p%40ss%2Fword@"))

    deliver(HELLO)

    assert sink.logins == ["ada"]
    assert len(sink.received) == 1


def test_a_wrong_password_is_tried_again_later_and_not_repeated_in_the_error(
    configured: Configured, make_sink: MakeSink
) -> None:
    sink = make_sink(password="right")
    configured(url=sink.url(login="ada:wr0ngpass@"))

    with pytest.raises(NotSent, match="535") as caught:
        deliver(HELLO)

    assert "wr0ngpass" not in str(caught.value)


def test_a_password_is_not_sent_in_the_clear_to_another_machine() -> None:
    url = "smtp://ada:s3cret@mail.example.org?tls=none"

    with pytest.raises(ValueError, match="without encryption") as caught:
        provider_for(url, root=Path("/"), timeout_seconds=1)

    assert "s3cret" not in str(caught.value)


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({ADA: "550 5.1.1 no such user"}, "550 5.1.1 no such user"),
        ({"MAIL": "553 not from you"}, "553 not from you"),
        ({"DATA": "554 5.7.1 looks like spam"}, "554 5.7.1 looks like spam"),
    ],
    ids=["recipient", "sender", "content"],
)
def test_a_5xx_is_permanent(
    configured: Configured, make_sink: MakeSink, answers: dict[str, str], words: str
) -> None:
    configured(url=make_sink(answers=answers).url())

    with pytest.raises(Permanent, match=words):
        deliver(HELLO)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({ADA: "450 4.2.0 greylisted"}, "450 4.2.0 greylisted"),
        ({ADA: "421 closing"}, "421 closing"),
        ({"MAIL": "451 later"}, "451 later"),
        ({"DATA": "452 4.3.1 disk full"}, "452 4.3.1 disk full"),
    ],
    ids=["recipient", "closing", "sender", "content"],
)
def test_a_4xx_is_for_a_later_attempt(
    configured: Configured, make_sink: MakeSink, answers: dict[str, str], words: str
) -> None:
    configured(url=make_sink(answers=answers).url())

    with pytest.raises(NotSent, match=words) as caught:
        deliver(HELLO)

    assert not isinstance(caught.value, Permanent)


def test_one_refused_recipient_of_three_is_reported_and_the_others_get_it(
    configured: Configured, make_sink: MakeSink
) -> None:
    sink = make_sink(answers={BOB: "550 unknown"})
    configured(url=sink.url())

    delivery = deliver(to(ADA, BOB, EVE))

    assert delivery.accepted == (ADA, EVE)
    assert delivery.refused == {BOB: "550 unknown"}
    assert sink.recipients == [ADA, EVE]


def test_one_hopeful_recipient_makes_a_full_refusal_worth_another_attempt(
    configured: Configured, make_sink: MakeSink
) -> None:
    configured(url=make_sink(answers={ADA: "550 unknown", BOB: "450 later"}).url())

    with pytest.raises(NotSent, match="450 later; 550 unknown"):
        deliver(to(ADA, BOB))


def test_all_recipients_refused_for_good_is_permanent(
    configured: Configured, make_sink: MakeSink
) -> None:
    configured(url=make_sink(answers={ADA: "550 unknown", BOB: "551 moved"}).url())

    with pytest.raises(Permanent, match="550 unknown; 551 moved"):
        deliver(to(ADA, BOB))


def test_a_servers_words_are_one_short_line(
    configured: Configured, make_scripted: MakeScripted
) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(b"554-no \x1b[2Jservice\r\n554 " + b"x" * 500 + b"\r\n")

    configured(url=f"smtp://localhost:{make_scripted(serve).port}")

    with pytest.raises(NotSent) as caught:
        deliver(HELLO)

    assert "554 no [2Jservice xxx" in str(caught.value)
    assert len(str(caught.value)) < 400


# --- Broken connections and servers that hang -----------------------------------------------------


def test_a_connection_that_breaks_after_the_data_is_tried_again_under_the_same_id(
    configured: Configured, make_sink: MakeSink
) -> None:
    sink = make_sink(drops="DATA")
    configured(url=sink.url())

    with pytest.raises(NotSent):
        deliver(HELLO)
    sink.drops = None
    deliver(HELLO)

    assert [mail_["Message-ID"] for mail_ in sink.received] == ["<1@example.com>"] * 2


@pytest.mark.parametrize("trouble", ["drops", "answers"])
def test_a_mail_that_was_taken_counts_though_the_farewell_fails(
    configured: Configured, make_sink: MakeSink, trouble: str
) -> None:
    sink = make_sink(**{trouble: "QUIT" if trouble == "drops" else {"QUIT": "421 tired"}})
    configured(url=sink.url())

    assert deliver(HELLO).accepted == (ADA,)


@pytest.mark.parametrize(
    ("serve", "scheme", "limit_seconds"),
    [
        (stay_silent, "smtp", TIMEOUT_SECONDS),
        (stay_silent, "smtps", TIMEOUT_SECONDS),
        (drip, "smtp", OVERALL_FACTOR * TIMEOUT_SECONDS),
        (hang_up, "smtp", 0),
    ],
    ids=["silent", "silent in the handshake", "a byte now and then", "hangs up"],
)
def test_a_server_that_never_answers_is_given_up_in_time(
    configured: Configured,
    make_scripted: MakeScripted,
    serve: Callable[[socket.socket], None],
    scheme: str,
    limit_seconds: float,
) -> None:
    configured(url=f"{scheme}://localhost:{make_scripted(serve).port}", timeout=TIMEOUT_SECONDS)

    begun = time.monotonic()
    with pytest.raises(NotSent):
        deliver(HELLO)

    assert limit_seconds - 0.1 <= time.monotonic() - begun < limit_seconds + SLACK_SECONDS


def test_a_server_that_falls_silent_in_the_data_is_given_up_in_time(
    configured: Configured, make_scripted: MakeScripted
) -> None:
    silent_since: list[float] = []

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")
        for answer in (b"250 me\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go on\r\n"):
            connection.recv(1000)
            connection.sendall(answer)
        silent_since.append(time.monotonic())

    configured(url=f"smtp://localhost:{make_scripted(serve).port}", timeout=TIMEOUT_SECONDS)
    long = Message(ADA, "Long", ("0123456789" * 90 + "\n") * 10_000)

    with pytest.raises(NotSent, match=r"timed out|took too long"):
        deliver(long)

    assert time.monotonic() - silent_since[0] < OVERALL_FACTOR * TIMEOUT_SECONDS + SLACK_SECONDS


def test_a_closed_port_and_an_unknown_host_are_for_a_later_attempt(configured: Configured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]

    configured(url=f"smtp://127.0.0.1:{port}")
    with pytest.raises(NotSent, match="refused"):
        deliver(HELLO)
    configured(url="smtp://nowhere.invalid")
    with pytest.raises(NotSent, match=r"nowhere\.invalid"):
        deliver(HELLO)

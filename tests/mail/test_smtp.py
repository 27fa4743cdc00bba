"""Mail through SMTP, against servers that help, refuse, lie and hang."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_mail import email_dispatched
from sinks import CERTIFICATES, Conversation, Scripted, Sink, deliver, drip, hang_up, stay_silent

from ghost.extensions import mail
from ghost.jobs import Permanent
from ghost.mail import Message, NotSent
from ghost.mail.providers import Provider, Unreachable, provider_for
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


# --- One connection for many ----------------------------------------------------------------------


@pytest.fixture
def make_provider(
    configured: Configured, make_scripted: MakeScripted
) -> Iterator[Callable[..., Provider]]:
    """The provider of an SMTP server that follows a script, closed at the end of the test."""
    configured()
    with ExitStack() as stack:

        def make(conversation: Conversation, timeout_seconds: float = TIMEOUT_SECONDS) -> Provider:
            url = f"smtp://127.0.0.1:{make_scripted(conversation).port}"
            return stack.enter_context(
                provider_for(url, root=Path("/"), timeout_seconds=timeout_seconds)
            )

        yield make


MakeProvider = Callable[..., Provider]
PIPELINING = pytest.mark.parametrize("offers", [(), ("PIPELINING",)], ids=["plain", "pipelined"])


def mail_to(*addresses: str, text: str = "Hello.\n") -> Message:
    return Message(
        list(addresses), "Hello", text, message_id="<1@example.com>", sender="app@example.com"
    )


def verbs(commands: list[str]) -> list[str]:
    return [command.split(" ")[0] for command in commands]


@PIPELINING
def test_many_messages_share_one_connection(
    make_provider: MakeProvider, offers: tuple[str, ...]
) -> None:
    server = Conversation(offers=offers)
    provider = make_provider(server)

    for _ in range(3):
        assert provider.send(mail_to(ADA)).accepted == (ADA,)
    provider.close()

    one_mail = ["MAIL", "RCPT", "DATA", "."]
    assert list(map(verbs, server.heard)) == [["EHLO", *one_mail * 3, "QUIT"]]
    assert len(server.received) == 3


def test_a_pipelining_server_gets_a_messages_commands_in_one_write(
    make_provider: MakeProvider,
) -> None:
    server = Conversation(offers=("PIPELINING",))

    make_provider(server).send(mail_to(ADA, BOB))

    assert (
        b"MAIL FROM:<app@example.com>\r\nRCPT TO:<ada@example.org>\r\n"
        b"RCPT TO:<bob@example.org>\r\nDATA\r\n"
    ) in server.writes


@PIPELINING
@pytest.mark.parametrize("farewell", ["421 enough for today", ""], ids=["with words", "silently"])
def test_a_server_that_ends_the_connection_between_messages_is_connected_to_again(
    make_provider: MakeProvider, offers: tuple[str, ...], farewell: str
) -> None:
    server = Conversation(offers=offers, mails=2, farewell=farewell)
    provider = make_provider(server)

    for number in range(5):
        provider.send(mail_to(f"user{number}@example.org"))

    assert len(server.received) == 5
    assert len(server.heard) == 3


@PIPELINING
def test_a_refused_message_does_not_spoil_the_next(
    make_provider: MakeProvider, offers: tuple[str, ...]
) -> None:
    server = Conversation(offers=offers, answers={f"RCPT TO:<{EVE}>": "550 5.1.1 unknown"})
    provider = make_provider(server)

    with pytest.raises(Permanent, match=r"550 5\.1\.1 unknown"):
        provider.send(mail_to(EVE))
    provider.send(mail_to(ADA))

    assert len(server.heard) == 1
    assert "RSET" in verbs(server.heard[0])
    # A pipelining server had asked for the mail already, and got one to nobody, of no line.
    assert [mail_ for mail_ in server.received if mail_] == server.received[-1:]


@PIPELINING
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"MAIL": "550 no"}, Permanent),
        ({"MAIL": "451 later"}, NotSent),
        ({"RCPT": "550 no"}, Permanent),
        ({"RCPT": ["550 no", "450 later"]}, NotSent),
        ({"DATA": "554 no"}, Permanent),
        ({"DATA": "451 later"}, NotSent),
        ({".": "554 spam"}, Permanent),
        ({".": "452 full"}, NotSent),
        ({"MAIL": "550 no", "DATA": "503 no recipients"}, Permanent),
    ],
)
def test_a_refusal_of_any_command_is_told_from_an_unreachable_server(
    make_provider: MakeProvider,
    offers: tuple[str, ...],
    answers: dict[str, Any],
    expected: type[Exception],
) -> None:
    server = Conversation(offers=offers, answers=answers)
    provider = make_provider(server)

    with pytest.raises(expected) as caught:
        provider.send(mail_to(ADA, BOB))

    assert not isinstance(caught.value, Unreachable)
    server.answers = {}
    assert provider.send(mail_to(ADA)).accepted == (ADA,)
    assert len(server.heard) == 1


@PIPELINING
def test_recipients_are_accepted_refused_or_put_off(
    make_provider: MakeProvider, offers: tuple[str, ...]
) -> None:
    answers = {f"RCPT TO:<{BOB}>": "550 5.1.1 unknown", f"RCPT TO:<{EVE}>": "450 4.2.0 greylisted"}
    server = Conversation(offers=offers, answers=answers)

    delivery = make_provider(server).send(mail_to(ADA, BOB, EVE))

    assert delivery.accepted == (ADA,)
    assert delivery.refused == {BOB: "550 5.1.1 unknown"}
    assert delivery.deferred == {EVE: "450 4.2.0 greylisted"}
    assert delivery.provider == "smtp"


@PIPELINING
def test_many_recipients_are_named_in_several_writes(
    make_provider: MakeProvider, offers: tuple[str, ...]
) -> None:
    server = Conversation(offers=offers)
    everybody = [f"user{number}@example.org" for number in range(350)]

    delivery = make_provider(server).send(mail_to(*everybody))

    assert delivery.accepted == tuple(everybody)
    assert verbs(server.heard[0]).count("RCPT") == 350


def test_only_the_envelope_gets_it_and_bcc_is_part_of_it(make_provider: MakeProvider) -> None:
    server = Conversation()
    message = Message(
        [ADA, BOB], "Hello", "Hello.\n", bcc=EVE, envelope=[BOB, EVE],
        message_id="<1@example.com>", sender="app@example.com",
    )  # fmt: skip

    delivery = make_provider(server).send(message)

    assert delivery.accepted == (BOB, EVE)
    recipients = [command for command in server.heard[0] if command.startswith("RCPT")]
    assert recipients == [f"RCPT TO:<{BOB}>", f"RCPT TO:<{EVE}>"]
    assert b"To: ada@example.org, bob@example.org\r\n" in server.received[0]
    assert EVE.encode() not in server.received[0]


# --- What a failure says --------------------------------------------------------------------------


@PIPELINING
@pytest.mark.parametrize("drops", ["MAIL FROM:<app@example.com>", f"RCPT TO:<{ADA}>", "DATA"])
def test_a_connection_lost_before_the_mail_was_sent_is_an_unreachable_server(
    make_provider: MakeProvider, offers: tuple[str, ...], drops: str
) -> None:
    server = Conversation(offers=offers, drops=drops)

    with pytest.raises(Unreachable):
        make_provider(server).send(mail_to(ADA))

    assert len(server.heard) == 1  # a new connection is not tried again at once


@PIPELINING
def test_a_connection_lost_behind_the_last_dot_leaves_open_whether_it_was_taken(
    make_provider: MakeProvider, offers: tuple[str, ...]
) -> None:
    server = Conversation(offers=offers, drops=".")
    provider = make_provider(server)

    with pytest.raises(NotSent, match="nobody knows") as caught:
        provider.send(mail_to(ADA))

    assert not isinstance(caught.value, Unreachable)
    assert len(server.received) == 1
    server.drops = None
    assert provider.send(mail_to(BOB)).accepted == (BOB,)


@pytest.mark.parametrize(
    "answers",
    [
        {"MAIL": "421 closing"},
        {"RCPT": "421 closing"},
        {"DATA": "421 closing"},
        {"EHLO": "550 go away", "HELO": "550 go away"},
    ],
)
def test_a_server_that_closes_is_unreachable(
    make_provider: MakeProvider, answers: dict[str, Any]
) -> None:
    with pytest.raises(Unreachable):
        make_provider(Conversation(answers=answers)).send(mail_to(ADA))


@pytest.mark.parametrize("greeting", [b"554 no service\r\n", b"421 busy\r\n", b"nonsense\r\n", b""])
def test_a_server_that_greets_with_a_refusal_is_unreachable(
    configured: Configured, make_scripted: MakeScripted, greeting: bytes
) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(greeting)
        connection.close()

    configured(url=f"smtp://127.0.0.1:{make_scripted(serve).port}")

    with pytest.raises(Unreachable):
        deliver(HELLO)


def test_a_mail_larger_than_the_server_takes_is_not_even_offered(
    make_provider: MakeProvider,
) -> None:
    server = Conversation(offers=("SIZE 1000",))
    provider = make_provider(server)

    with pytest.raises(Permanent, match="at most 1000 bytes"):
        provider.send(mail_to(ADA, text="x\n" * 1000))
    provider.send(mail_to(ADA))

    assert verbs(server.heard[0]) == ["EHLO", "MAIL", "RCPT", "DATA", "."]
    assert " SIZE=" in server.heard[0][1]


def test_each_message_has_the_whole_limit_for_itself(make_provider: MakeProvider) -> None:
    server = Conversation()
    provider = make_provider(server, timeout_seconds=0.25)
    provider.send(mail_to(ADA))
    begun = time.monotonic()

    while time.monotonic() - begun < OVERALL_FACTOR * 0.25:
        provider.send(mail_to(ADA))
    provider.send(mail_to(ADA))

    assert len(server.heard) == 1


def test_flask_mails_copy_is_made_for_listeners_only(
    make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: Any, **__: Any) -> None:
        raise AssertionError("nobody listens")

    monkeypatch.setattr("flask_mail.Message", made)

    assert make_provider(Conversation()).send(mail_to(ADA)).accepted == (ADA,)

"""Two providers: the second takes a mail exactly when the first can't have it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from sinks import Conversation, Scripted, Sink, deliver, hang_up, stay_silent

from ghost.config import current_config
from ghost.jobs import Permanent
from ghost.mail import Message, NotSent, outbox
from ghost.mail.providers import Unreachable, failover, open_provider

pytestmark = pytest.mark.integration

Configured = Callable[..., Flask]
MakeSink = Callable[..., Sink]
MakeScripted = Callable[[Callable[[socket.socket], None]], Scripted]
ADA, BOB = "ada@example.org", "bob@example.org"
TIMEOUT_SECONDS = 0.5


@pytest.fixture(autouse=True)
def nobody_is_away() -> Iterator[None]:
    failover._away_until.clear()
    yield
    failover._away_until.clear()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port: int = reserved.getsockname()[1]
    return port


def mail_to(address: str = ADA) -> Message:
    return Message(
        address, "Hello", "Hello.\n", message_id="<1@example.com>", sender="app@example.com"
    )


def test_a_refused_connection_gives_exactly_one_delivery_by_the_second(
    configured: Configured, make_sink: MakeSink, closed_port: int
) -> None:
    second = make_sink()
    configured(url=f"smtp://127.0.0.1:{closed_port}", fallback_url=second.url())

    delivery = deliver(mail_to())

    assert delivery.accepted == (ADA,)
    assert second.recipients == [ADA]


def test_the_first_alone_gets_what_it_takes(configured: Configured, make_sink: MakeSink) -> None:
    first, second = make_sink(), make_sink()
    configured(url=first.url(), fallback_url=second.url())

    deliver(mail_to())

    assert (first.recipients, second.recipients) == ([ADA], [])


@pytest.mark.parametrize("serve", [hang_up, stay_silent], ids=["hangs up", "silent"])
def test_a_server_that_says_nothing_gives_way_to_the_second(
    configured: Configured,
    make_sink: MakeSink,
    make_scripted: MakeScripted,
    serve: Callable[[socket.socket], None],
) -> None:
    second = make_sink()
    configured(
        url=f"smtp://127.0.0.1:{make_scripted(serve).port}",
        fallback_url=second.url(),
        timeout=TIMEOUT_SECONDS,
    )

    deliver(mail_to())

    assert second.recipients == [ADA]


def test_a_wrong_password_gives_way_to_the_second(
    configured: Configured, make_sink: MakeSink
) -> None:
    first, second = make_sink(password="right"), make_sink()
    configured(url=first.url(login="app:wrong@"), fallback_url=second.url())

    deliver(mail_to())

    assert (first.recipients, second.recipients) == ([], [ADA])


def test_what_may_have_been_taken_is_not_sent_by_the_second(
    configured: Configured, make_sink: MakeSink
) -> None:
    first, second = make_sink(drops="DATA"), make_sink()
    configured(url=first.url(), fallback_url=second.url())

    with pytest.raises(NotSent) as caught:
        deliver(mail_to())

    assert not isinstance(caught.value, Unreachable)
    assert (first.recipients, second.recipients) == ([ADA], [])


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({ADA: "550 unknown"}, Permanent),
        ({ADA: "450 later"}, NotSent),
        ({"DATA": "554 spam"}, Permanent),
    ],
)
def test_what_the_first_refused_is_not_offered_to_the_second(
    configured: Configured,
    make_sink: MakeSink,
    answers: dict[str, str],
    expected: type[Exception],
) -> None:
    second = make_sink()
    configured(url=make_sink(answers=answers).url(), fallback_url=second.url())

    with pytest.raises(expected):
        deliver(mail_to())

    assert second.received == []


def test_both_unreachable_is_for_a_later_attempt(configured: Configured, closed_port: int) -> None:
    url = f"smtp://127.0.0.1:{closed_port}"
    configured(url=url, fallback_url=url)

    with pytest.raises(Unreachable, match=r"refused.*; .*refused"):
        deliver(mail_to())


def test_a_first_that_is_away_is_not_waited_for_with_each_message(
    configured: Configured, make_sink: MakeSink, make_scripted: MakeScripted
) -> None:
    second = make_sink()
    connections: list[socket.socket] = []
    first = make_scripted(connections.append)
    configured(
        url=f"smtp://127.0.0.1:{first.port}", fallback_url=second.url(), timeout=TIMEOUT_SECONDS
    )

    with open_provider(current_config()) as provider:
        for _ in range(3):
            provider.send(mail_to())
    deliver(mail_to())  # a job after that one, in the same process

    assert len(second.received) == 4
    assert len(connections) == 1


def test_a_first_that_was_away_is_asked_again_after_a_while(
    configured: Configured, make_scripted: MakeScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "AWAY_SECONDS", 0.0)
    server = Conversation(answers={"MAIL": ["421 not now", "250 OK"]})
    configured(url=f"smtp://127.0.0.1:{make_scripted(server).port}", fallback_url="memory://")

    with open_provider(current_config()) as provider:
        names = [provider.send(mail_to()).provider for _ in range(3)]

    assert names == ["memory", "smtp", "smtp"]
    assert (len(outbox()), len(server.received)) == (1, 2)


def test_a_first_that_is_away_is_asked_when_the_second_is_away_too(
    configured: Configured, make_scripted: MakeScripted, closed_port: int
) -> None:
    server = Conversation(answers={"MAIL": ["421 not now", "250 OK"]})
    configured(
        url=f"smtp://127.0.0.1:{make_scripted(server).port}",
        fallback_url=f"smtp://127.0.0.1:{closed_port}",
    )
    with pytest.raises(Unreachable):
        deliver(mail_to())

    assert deliver(mail_to()).accepted == (ADA,)
    assert failover._away_until == {}


def test_a_batch_goes_on_through_the_second_when_the_first_dies_in_it(
    configured: Configured, make_sink: MakeSink, make_scripted: MakeScripted
) -> None:
    second = make_sink()
    server = Conversation(drops=f"RCPT TO:<{BOB}>")
    configured(url=f"smtp://127.0.0.1:{make_scripted(server).port}", fallback_url=second.url())

    with open_provider(current_config()) as provider:
        provider.send(mail_to(ADA))
        provider.send(mail_to(BOB))

    assert len(server.received) == 1
    assert second.recipients == [BOB]

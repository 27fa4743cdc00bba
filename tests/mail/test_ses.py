"""Mail through Amazon SES, against moto's server, and against answers that moto never gives."""

from __future__ import annotations

import email
import email.policy
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.server import ThreadedMotoServer
from moto.ses.models import ses_backends
from sinks import Scripted, hang_up, stay_silent

from ghost.jobs import Permanent
from ghost.mail import Attachment, Message, NotSent
from ghost.mail.providers import Provider, Unreachable, provider_for

pytestmark = pytest.mark.integration

MakeScripted = Callable[[Callable[[socket.socket], None]], Scripted]
ADA, BOB, CY, EVE = (f"{name}@example.org" for name in ("ada", "bob", "cy", "eve"))
ROW_ID = "01980000-0000-7000-8000-000000000001"
REGION = "eu-west-1"
TIMEOUT_SECONDS = 2


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    client = boto3.client(
        "ses",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id="KEY",
        aws_secret_access_key="SECRET",
    )
    client.verify_domain_identity(Domain="example.com")
    yield endpoint
    server.stop()


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
        "subject": "Grüße",
        "text": "Hello.\n",
        "sender": "Ghost <app@example.com>",
        "message_id": f"<{ROW_ID}@example.com>",
    }
    return Message(**settings | changes)


def taken() -> list[Any]:
    return ses_backends[DEFAULT_ACCOUNT_ID][REGION].sent_messages  # type: ignore[no-any-return]


def test_a_mail_is_taken_as_it_was_written(server: str, opened: Opened) -> None:
    message = mail_to(
        cc=CY,
        bcc=EVE,
        html="<p>Hello</p>",
        headers={"X-Shop": "1"},
        attachments=[Attachment("räche.pdf", b"%PDF")],
    )

    delivery = opened(f"ses://KEY:SECRET@{REGION}?endpoint={server}").send(message)

    assert delivery.accepted == (ADA, CY, EVE)
    assert delivery.provider == "ses"
    read = email.message_from_string(taken()[-1].raw_data, policy=email.policy.default)
    assert (read["Subject"], read["To"], read["Cc"]) == ("Grüße", ADA, CY)
    assert read["Bcc"] is None
    assert read["X-Shop"] == "1"
    assert [part.get_filename() for part in read.iter_attachments()] == ["räche.pdf"]  # type: ignore[attr-defined]
    assert EVE in taken()[-1].destinations


def asked_of(connection: socket.socket) -> dict[str, Any]:
    """Read one request of botocore's."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += connection.recv(65536)
    head, _, body = raw.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    asked: dict[str, Any] = json.loads(body)
    return asked


def answering(
    status: int, code: str, requests: list[dict[str, Any]] | None = None
) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        asked = asked_of(connection)
        if requests is not None:
            requests.append(asked)
        body = json.dumps({"MessageId": "1"} if status == 200 else {"message": "in SES's words"})
        connection.sendall(
            f"HTTP/1.1 {status} X\r\nx-amzn-ErrorType: {code}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        connection.close()

    return serve


def test_envelope_tag_and_configuration_set_are_asked_for(
    make_scripted: MakeScripted, opened: Opened
) -> None:
    requests: list[dict[str, Any]] = []
    port = make_scripted(answering(200, "", requests)).port
    message = mail_to([ADA, BOB], cc=CY, bcc=EVE, envelope=[BOB, EVE])
    url = f"ses://KEY:SECRET@{REGION}?configuration_set=app&endpoint=http://127.0.0.1:{port}"

    delivery = opened(url).send(message)

    assert delivery.accepted == (BOB, EVE)
    (asked,) = requests
    assert asked["Destination"] == {"ToAddresses": [BOB], "BccAddresses": [EVE]}
    assert asked["EmailTags"] == [{"Name": "ghost_message_id", "Value": ROW_ID}]
    assert asked["ConfigurationSetName"] == "app"
    assert set(asked) == {"Destination", "EmailTags", "ConfigurationSetName", "Content"}


def test_a_sender_that_is_not_verified_is_refused_in_the_words_of_ses(
    server: str, opened: Opened
) -> None:
    provider = opened(f"ses://KEY:SECRET@{REGION}?endpoint={server}")

    with pytest.raises(Permanent, match=r"authority to send from email app@other\.example"):
        provider.send(mail_to(sender="app@other.example"))


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "MessageRejected", Permanent),
        (400, "BadRequestException", Permanent),
        (400, "InvalidParameterValue", Permanent),
        (413, "RequestEntityTooLarge", Permanent),
        (403, "AccessDeniedException", Unreachable),
        (403, "InvalidClientTokenId", Unreachable),
        (403, "SignatureDoesNotMatch", Unreachable),
        (400, "AccountSuspendedException", Unreachable),
        (400, "SendingPausedException", Unreachable),
        (400, "MailFromDomainNotVerifiedException", Unreachable),
        (429, "TooManyRequestsException", Unreachable),
        (400, "LimitExceededException", Unreachable),
        (400, "ThrottlingException", Unreachable),
        (503, "ServiceUnavailable", Unreachable),
        (500, "InternalFailure", NotSent),
        (502, "", NotSent),
    ],
)
def test_each_answer_says_what_becomes_of_the_mail(
    make_scripted: MakeScripted, opened: Opened, status: int, code: str, expected: type[Exception]
) -> None:
    requests: list[dict[str, Any]] = []
    port = make_scripted(answering(status, code, requests)).port

    with pytest.raises(expected, match=f"SES answered {status}") as caught:
        opened(f"ses://KEY:SECRET@{REGION}?endpoint=http://127.0.0.1:{port}").send(mail_to())

    assert isinstance(caught.value, Unreachable) is (expected is Unreachable)
    assert len(requests) == 1  # botocore does not try again by itself
    assert "SECRET" not in str(caught.value)


def test_a_closed_port_is_unreachable(opened: Opened) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]

    with pytest.raises(Unreachable, match="can't be reached"):
        opened(f"ses://KEY:SECRET@{REGION}?endpoint=http://127.0.0.1:{port}").send(mail_to())


@pytest.mark.parametrize("serve", [stay_silent, hang_up])
def test_an_answer_that_never_comes_leaves_open_whether_it_was_taken(
    make_scripted: MakeScripted, opened: Opened, serve: Callable[[socket.socket], None]
) -> None:
    port = make_scripted(serve).port

    with pytest.raises(NotSent, match="nobody knows") as caught:
        opened(f"ses://KEY:SECRET@{REGION}?endpoint=http://127.0.0.1:{port}").send(mail_to())

    assert not isinstance(caught.value, Unreachable)


def test_no_credentials_at_all_are_our_trouble_and_not_the_mails(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(Unreachable, match=r"(?i)credentials"):
        opened("ses://eu-central-1?endpoint=http://127.0.0.1:9").send(mail_to())


def test_boto3_is_loaded_only_where_mail_goes_through_ses() -> None:
    code = (
        "import sys, pathlib; from ghost.mail.providers import provider_for;"
        "provider_for('smtp://localhost', root=pathlib.Path('/'), timeout_seconds=1);"
        "sys.exit('boto3' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_boto3_the_setting_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ValueError, match=r"mail\.url: expected boto3 .*pip install ghost\[ses\]"):
        provider_for("ses://eu-west-1", root=Path("/"), timeout_seconds=1)

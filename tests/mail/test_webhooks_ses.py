"""SES's events by SNS: who signed them, whose certificate is fetched, and what is kept."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import MakeMessage, message_of, suppressions
from signed_events import (
    CERTIFICATE_URL,
    HOST,
    SES_URL,
    TOPIC,
    post_sns,
    sns_certificate,
    sns_message,
    sns_signed,
    sns_subscription,
)

from ghost.errors import ServiceUnavailable
from ghost.mail import sns
from ghost.mail.events import Forged
from ghost.mail.sns import Certificates, NotFetched
from ghost.models import uuid7
from ghost.testing.background import Jobs
from ghost.testing.clients import Client

pytestmark = pytest.mark.integration

CERTIFICATES = Path(__file__).parent / "certificates"
AT = "2026-01-21T12:53:20.123Z"
Fields = dict[str, Any]


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {"mail": {"ses_topic": TOPIC}}


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the web holds by URL, instead of the network: SNS's certificate, at first."""
    pages = {CERTIFICATE_URL: sns_certificate(0)}
    monkeypatch.setattr(sns, "certificates", Certificates(web(pages)))
    return pages


def web(pages: Mapping[str, bytes], asked: list[str] | None = None) -> Callable[[str], bytes]:
    """A `fetch` without a network."""

    def fetch(url: str) -> bytes:
        if asked is not None:
            asked.append(url)
        if url not in pages:
            raise NotFetched("the answer was 404", 404)
        return pages[url]

    return fetch


def ses_event(kind: str, row_id: Any = None, *, key: str = "eventType", **about: Any) -> Fields:
    tags = {
        "ses:caller-identity": ["ses"],
        **({"ghost_message_id": [str(row_id)]} if row_id else {}),
    }
    mail = {"messageId": "EXAMPLE7c191be45", "tags": tags}
    return {key: kind, "mail": mail, **about}


def bounce(kind: str = "Permanent", *emails: str, **about: Any) -> Fields:
    recipients = [
        {"emailAddress": email, "status": "5.1.1", "diagnosticCode": "smtp; 550 no such user"}
        for email in emails or ["ada@example.org"]
    ]
    return {
        "bounceType": kind, "bounceSubType": "General", "timestamp": AT,
        "bouncedRecipients": recipients, **about,
    }  # fmt: skip


def complaint(**about: Any) -> Fields:
    return {
        "timestamp": AT,
        "complainedRecipients": [{"emailAddress": "ada@example.org"}],
        "complaintFeedbackType": "abuse",
        **about,
    }


BOUNCE = ses_event("Bounce", bounce=bounce())


# --- What events do -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("key", ["eventType", "notificationType"])
def test_a_delivery_is_noted_with_its_time(
    app: Flask,
    client: Client,
    make_message: MakeMessage,
    told: list[Any],
    version: str,
    key: str,
) -> None:
    row_id = make_message()
    delivery = {"timestamp": AT, "recipients": ["ada@example.org"]}
    event = ses_event("Delivery", row_id, key=key, delivery=delivery)

    response = post_sns(client, sns_signed(sns_message(event, SignatureVersion=version)))

    assert response.status_code == 200
    noted = message_of(app, row_id).delivered_at
    assert noted == datetime(2026, 1, 21, 12, 53, 20, 123000, UTC)
    assert suppressions(app) == {}
    assert told == [
        {"kind": "delivered", "email": "ada@example.org", "row_id": row_id, "details": None}
    ]


def test_a_permanent_bounce_is_noted_and_suppresses_its_addresses(
    app: Flask, client: Client, make_message: MakeMessage
) -> None:
    row_id = make_message("ada@example.org", "bob@example.org")
    event = ses_event("Bounce", row_id, bounce=bounce("Permanent", "ada@example.org"))

    post_sns(client, sns_signed(sns_message(event)))

    message = message_of(app, row_id)
    assert message.bounced_at
    assert message.refused == {"ada@example.org": "bounced: smtp; 550 no such user"}
    assert suppressions(app) == {"ada@example.org": ("bounced", "smtp; 550 no such user")}


@pytest.mark.parametrize("kind", ["Transient", "Undetermined"])
def test_another_bounce_is_noted_and_the_address_gets_the_next_mail(
    app: Flask, client: Client, make_message: MakeMessage, kind: str
) -> None:
    row_id = make_message()

    post_sns(client, sns_signed(sns_message(ses_event("Bounce", row_id, bounce=bounce(kind)))))

    assert message_of(app, row_id).bounced_at
    assert suppressions(app) == {}


def test_a_complaint_is_noted_and_suppresses_the_address(
    app: Flask, client: Client, make_message: MakeMessage
) -> None:
    row_id = make_message()

    event = ses_event("Complaint", row_id, complaint=complaint())
    post_sns(client, sns_signed(sns_message(event)))

    assert message_of(app, row_id).complained_at
    assert suppressions(app) == {"ada@example.org": ("complained", "abuse")}


def test_a_mail_taken_out_of_the_spam_folder_is_no_complaint(app: Flask, client: Client) -> None:
    event = ses_event("Complaint", complaint=complaint(complaintFeedbackType="not-spam"))

    response = post_sns(client, sns_signed(sns_message(event)))

    assert response.status_code == 200
    assert suppressions(app) == {}


@pytest.mark.parametrize(
    "name_it",
    [
        pytest.param(lambda own: {"commonHeaders": {"messageId": own}}, id="by the common headers"),
        pytest.param(
            lambda own: {
                "headers": [{"name": "To", "value": "x"}, {"name": "Message-ID", "value": own}]
            },
            id="by the headers",
        ),
    ],
)
def test_without_tags_the_message_id_finds_the_row(
    app: Flask,
    client: Client,
    make_message: MakeMessage,
    name_it: Callable[[str], Fields],
) -> None:
    """Notifications of an identity, without a configuration set, bring no tags."""
    row_id = make_message()
    event = ses_event("Bounce", key="notificationType", bounce=bounce())
    event["mail"] |= name_it(f"<{row_id}@example.com>")

    post_sns(client, sns_signed(sns_message(event)))

    assert message_of(app, row_id).bounced_at


@pytest.mark.parametrize(
    "message",
    [
        "Successfully validated SNS topic for Amazon SES event publishing.",
        {"eventType": "Open", "mail": {}},
        {"eventType": "Bounce"},
        {"eventType": "Bounce", "bounce": {"bouncedRecipients": [None, {}, {"emailAddress": "x"}]}},
        [],
        "",
    ],
    ids=lambda message: str(message)[:30],
)
def test_what_is_no_event_for_us_is_accepted_and_changes_nothing(
    app: Flask, client: Client, told: list[Any], message: Any
) -> None:
    response = post_sns(client, sns_signed(sns_message(message)))

    assert response.status_code == 200
    assert (suppressions(app), told) == ({}, [])


def test_a_message_without_a_subject_is_signed_without_one(app: Flask, client: Client) -> None:
    message = sns_message(BOUNCE)
    del message["Subject"]

    assert post_sns(client, sns_signed(message)).status_code == 200
    assert list(suppressions(app)) == ["ada@example.org"]


def test_an_unknown_row_is_no_error(app: Flask, client: Client) -> None:
    event = ses_event("Bounce", uuid7(), bounce=bounce())

    assert post_sns(client, sns_signed(sns_message(event))).status_code == 200
    assert list(suppressions(app)) == ["ada@example.org"]


def test_a_replay_changes_nothing(app: Flask, client: Client, make_message: MakeMessage) -> None:
    row_id = make_message()
    message = sns_signed(sns_message(ses_event("Bounce", row_id, bounce=bounce())))
    post_sns(client, message)
    before, listed = message_of(app, row_id), suppressions(app)

    response = post_sns(client, message)

    after = message_of(app, row_id)
    assert response.status_code == 200
    assert (after.updated_at, after.refused) == (before.updated_at, before.refused)
    assert suppressions(app) == listed


# --- Subscribing ----------------------------------------------------------------------------------


def test_a_subscription_is_confirmed_by_a_job_at_the_host_of_the_topic(
    client: Client, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sns, "fetch", lambda url: asked.append(url) or b"<ok/>")
    message = sns_signed(sns_subscription(Token="2336412f", SubscribeURL="https://evil.example/x"))

    response = post_sns(client, message)

    assert response.status_code == 200
    assert asked == []
    assert jobs.names() == ["mail.confirm_subscription"]
    jobs.run_all()
    address = urlsplit(asked[0])
    assert (address.scheme, address.netloc, address.path) == ("https", HOST, "/")
    assert parse_qs(address.query) == {
        "Action": ["ConfirmSubscription"], "TopicArn": [TOPIC], "Token": ["2336412f"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "outcome"), [(400, "failed"), (503, "retrying"), (None, "retrying")]
)
def test_a_confirmation_that_sns_refuses_is_given_up_and_one_that_got_lost_is_not(
    client: Client,
    jobs: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    status: int | None,
    outcome: str,
) -> None:
    def fail(url: str) -> bytes:
        raise NotFetched("no", status)

    monkeypatch.setattr(sns, "fetch", fail)
    post_sns(client, sns_signed(sns_subscription()))

    assert jobs.run_all(may_fail=True)[0] == ("mail.confirm_subscription", outcome)


def test_the_end_of_a_subscription_is_noted(client: Client, jobs: Jobs) -> None:
    response = post_sns(client, sns_signed(sns_subscription(Type="UnsubscribeConfirmation")))

    assert response.status_code == 200
    assert jobs.names() == []


# --- Who may tell ---------------------------------------------------------------------------------


ELSEWHERE = [
    "http://sns.eu-west-1.amazonaws.com/a.pem",
    "https://sns.eu-west-1.amazonaws.com.evil.org/a.pem",
    "https://evil.org/sns.eu-west-1.amazonaws.com/a.pem",
    "https://evilsns.eu-west-1.amazonaws.com/a.pem",
    "https://sns.eu-west-1.amazonaws.com@evil.org/a.pem",
    "https://evil.org@sns.eu-west-1.amazonaws.com/a.pem",
    "https://user:secret@sns.eu-west-1.amazonaws.com/a.pem",
    "https://sns.eu-west-1.amazonaws.com:8443/a.pem",
    "https://sns.eu-west-1.amazonaws.com:443/a.pem",
    "https://sns.eu-west-1.amazonaws.com\\@evil.org/a.pem",
    "https://sns.eu-west-1.amazonaws.com/../a.pem",
    "https://sns.eu-west-1.amazonaws.com/a.pem?x=.pem",
    "https://sns.eu-west-1.amazonaws.com/a.pem#.pem",
    "https://sns.eu-west-1.amazonaws.com/?a=.pem",
    "https://sns.eu-west-1.amazonaws.com/a.pem\n",
    "https://sns.eu-west-1.amazonaws.com/a.txt",
    "https://sns.eu-west-1.amazonaws.com/.pem",
    "https://sns.eu-west-1.amazonaws.com",
    "https://SNS.eu-west-1.amazonaws.com/a.pem",
    "https://sns.us-east-1.amazonaws.com/a.pem",  # another region than the topic's
    "https://sns.eu-west-1.amazonaws.com.cn/a.pem",
    "https://sns.s3.amazonaws.com/a.pem",  # a bucket may be called sns
    "https://sns.s3-eu-west-1.amazonaws.com/a.pem",
    "https://s3.amazonaws.com/sns.eu-west-1.amazonaws.com/a.pem",
    "https://sns.eu-west-1.amazonaws.com\u3002evil.org/a.pem",
    "file:///etc/ssl/a.pem",
    "//sns.eu-west-1.amazonaws.com/a.pem",
    "",
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_a_certificate_from_elsewhere_is_not_even_fetched(
    app: Flask, client: Client, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sns, "certificates", Certificates(web({url: sns_certificate(1)}, asked)))

    response = post_sns(client, sns_signed(sns_message(BOUNCE, SigningCertURL=url), key=1))

    assert response.status_code == 403
    assert asked == []
    assert suppressions(app) == {}


def altered(**changes: Any) -> Fields:
    """A signed message that was changed afterwards; None leaves a field out."""
    message = sns_signed(sns_message(BOUNCE)) | changes
    return {name: value for name, value in message.items() if value is not None}


OTHER_BOUNCE = json.dumps(ses_event("Bounce", bounce=bounce("Permanent", "bob@example.org")))
FORGED: list[Any] = [
    pytest.param(lambda: altered(Signature=None), id="no signature"),
    pytest.param(lambda: altered(Signature=""), id="an empty signature"),
    pytest.param(lambda: altered(Signature="!!!"), id="no Base64"),
    pytest.param(lambda: altered(Signature="QUJD"), id="a short signature"),
    pytest.param(lambda: altered(Signature=["QUJD"]), id="a list for a signature"),
    pytest.param(lambda: altered(Message=OTHER_BOUNCE), id="another message"),
    pytest.param(lambda: altered(Message=None), id="no message"),
    pytest.param(lambda: altered(Subject="Hi"), id="another subject"),
    pytest.param(lambda: altered(Subject=None), id="no subject any more"),
    pytest.param(lambda: altered(MessageId="7"), id="another id"),
    pytest.param(
        lambda: altered(Timestamp=sns_message(age=timedelta(minutes=1))["Timestamp"]),
        id="another timestamp",
    ),
    pytest.param(lambda: altered(SignatureVersion="1"), id="another version"),
    pytest.param(lambda: altered(SignatureVersion="3"), id="an unknown version"),
    pytest.param(lambda: altered(SignatureVersion=["2"]), id="a list for a version"),
    pytest.param(lambda: altered(SignatureVersion=2), id="a number for a version"),
    pytest.param(lambda: altered(Type="SubscriptionConfirmation"), id="another type"),
    pytest.param(lambda: altered(Type="Greeting"), id="an unknown type"),
    pytest.param(lambda: altered(Type={}), id="an object for a type"),
    pytest.param(lambda: altered(SigningCertURL=None), id="no certificate"),
    pytest.param(
        lambda: altered(SigningCertURL=f"https://{HOST}/other.pem"), id="a certificate that is not"
    ),
    pytest.param(lambda: sns_signed(sns_message(BOUNCE), key=1), id="another key"),
    pytest.param(
        lambda: sns_signed(sns_message(BOUNCE, topic=TOPIC.replace("mail", "shop"))),
        id="another topic",
    ),
    pytest.param(
        lambda: sns_signed(sns_message(BOUNCE, topic=TOPIC.replace("1234", "4321"))),
        id="another account",
    ),
    pytest.param(
        lambda: sns_signed(sns_message(BOUNCE, age=timedelta(minutes=80))), id="too old"
    ),
    pytest.param(
        lambda: sns_signed(sns_message(BOUNCE, age=timedelta(minutes=-20))), id="of the future"
    ),
    pytest.param(
        lambda: sns_signed(sns_message(BOUNCE, Timestamp="yesterday")), id="a timestamp in words"
    ),
    pytest.param(dict, id="nothing"),
    pytest.param(lambda: BOUNCE, id="the event alone"),
]  # fmt: skip


@pytest.mark.parametrize("make", FORGED)
def test_a_forged_message_is_refused_and_changes_nothing(
    app: Flask, client: Client, told: list[Any], jobs: Jobs, make: Callable[[], Fields]
) -> None:
    response = post_sns(client, make())

    assert response.status_code == 403
    assert response.json["error"]["code"] == "forbidden"
    assert (suppressions(app), told, jobs.names()) == ({}, [], [])


@pytest.mark.parametrize(
    "times",
    [
        {"begins": timedelta(days=-3), "ends": timedelta(days=-1)},
        {"begins": timedelta(days=1), "ends": timedelta(days=3)},
    ],
    ids=["over", "not yet"],
)
def test_a_certificate_counts_while_it_is_valid(
    app: Flask, client: Client, served: dict[str, bytes], times: dict[str, timedelta]
) -> None:
    served[CERTIFICATE_URL] = sns_certificate(0, **times)

    response = post_sns(client, sns_signed(sns_message(BOUNCE)))

    assert response.status_code == 403
    assert suppressions(app) == {}


def test_a_forged_subscription_confirms_nothing(client: Client, jobs: Jobs) -> None:
    response = post_sns(client, sns_signed(sns_subscription(), key=1))

    assert response.status_code == 403
    assert jobs.names() == []


def test_what_sns_repeats_within_an_hour_is_taken(app: Flask, client: Client) -> None:
    response = post_sns(client, sns_signed(sns_message(BOUNCE, age=timedelta(hours=1))))

    assert response.status_code == 200
    assert list(suppressions(app)) == ["ada@example.org"]


def test_without_a_topic_there_is_no_such_route(make_app: Callable[..., Flask]) -> None:
    client = make_app({"mail": {"ses_topic": None}}).test_client()

    assert post_sns(client, sns_signed(sns_message(BOUNCE))).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"{", 400), (b"\xff", 400), (b"[]", 422), (b"7", 422)]
)
def test_a_body_that_is_no_object_is_an_error(client: Client, body: bytes, status: int) -> None:
    response = client.post(SES_URL, data=body, headers={"Content-Type": "text/plain"})

    assert response.status_code == status


def test_a_body_that_is_too_long_is_refused(client: Client) -> None:
    assert client.post(SES_URL, data=b" " * (1024 * 1024 + 1)).status_code == 413


@pytest.mark.parametrize(
    ("topic", "host"),
    [
        ("arn:aws:sns:us-east-1:123456789012:x", "sns.us-east-1.amazonaws.com"),
        ("arn:aws-us-gov:sns:us-gov-west-1:123456789012:x", "sns.us-gov-west-1.amazonaws.com"),
        ("arn:aws-cn:sns:cn-north-1:123456789012:x", "sns.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_one_host_speaks_for_a_topic(topic: str, host: str) -> None:
    assert sns.host_of(topic) == host


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        (
            "Type", "Message", "TopicArn", "Timestamp", "Signature", "Token", "SignatureVersion",
            "SigningCertURL", "Subject", "SubscribeURL",
        ),
        JSON,
    ),
)  # fmt: skip
ABOUT = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        (
            "bounceType", "bouncedRecipients", "complainedRecipients", "recipients", "timestamp",
            "complaintFeedbackType",
        ),
        JSON,
    ),
)  # fmt: skip
EVENTS = st.fixed_dictionaries(
    {"eventType": st.sampled_from(["Bounce", "Complaint", "Delivery"]) | JSON},
    optional=dict.fromkeys(("bounce", "complaint", "delivery", "mail"), ABOUT | JSON),
)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=FIELDS | JSON)
def test_no_json_makes_a_server_error(client: Client, changes: Any) -> None:
    whole = sns_signed(sns_message(BOUNCE))
    message = whole | changes if isinstance(changes, dict) else changes

    assert post_sns(client, message).status_code in (200, 400, 403, 422)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(event=EVENTS | JSON)
def test_no_signed_event_makes_a_server_error(client: Client, event: Any) -> None:
    assert post_sns(client, sns_signed(sns_message(event))).status_code == 200


# --- Certificates ---------------------------------------------------------------------------------


def test_a_certificate_is_fetched_once() -> None:
    asked: list[str] = []
    certificates = Certificates(web({CERTIFICATE_URL: sns_certificate(0)}, asked))

    first, second = certificates.get(CERTIFICATE_URL), certificates.get(CERTIFICATE_URL)

    assert first is second
    assert asked == [CERTIFICATE_URL]


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, Forged), (302, Forged), (500, ServiceUnavailable), (None, ServiceUnavailable)],
)
def test_a_failure_is_remembered_for_half_a_minute(
    status: int | None, error: type[Exception]
) -> None:
    now, asked = [100.0], []

    def fail(url: str) -> bytes:
        asked.append(url)
        raise NotFetched("no", status)

    certificates = Certificates(fail, lambda: now[0])
    for moment in (100, 129.9, 130):
        now[0] = moment
        with pytest.raises(error):
            certificates.get(CERTIFICATE_URL)

    assert len(asked) == 2


def test_what_is_no_certificate_proves_nothing() -> None:
    with pytest.raises(Forged):
        Certificates(lambda _url: b"<html>Hi</html>").get(CERTIFICATE_URL)


def test_few_certificates_are_kept_however_many_are_named() -> None:
    pages = {f"https://{HOST}/{number}.pem": sns_certificate(0) for number in range(50)}
    now = [100.0]
    certificates = Certificates(web(pages), lambda: now[0])

    for url in pages:
        now[0] += 10
        certificates.get(url)
        with pytest.raises(Forged):
            certificates.get(url.replace(".pem", "x.pem"))

    assert len(certificates._kept) == len(certificates._failed) == sns.MAX_CERTIFICATES


def test_after_many_failures_no_other_certificate_is_asked_for() -> None:
    now, asked = [100.0], []
    pages = {f"https://{HOST}/{number}.pem": sns_certificate(0) for number in range(2)}
    known, unknown = pages
    certificates = Certificates(web(pages, asked), lambda: now[0])
    certificates.get(known)

    for number in range(sns.MAX_FAILURES):
        with pytest.raises(Forged):
            certificates.get(f"https://{HOST}/made-up-{number}.pem")
    with pytest.raises(ServiceUnavailable):
        certificates.get(unknown)

    assert len(asked) == 1 + sns.MAX_FAILURES
    assert certificates.get(known)
    now[0] += sns.WINDOW_SECONDS
    assert certificates.get(unknown)


def test_a_genuine_message_waits_for_the_fetch_of_a_made_up_certificate() -> None:
    asked, goes_on = threading.Event(), threading.Event()

    def fetch(url: str) -> bytes:
        if url == CERTIFICATE_URL:
            return sns_certificate(0)
        asked.set()
        assert goes_on.wait(10)
        raise NotFetched("the answer was 404", 404)

    def ask() -> None:
        with pytest.raises(Forged):
            certificates.get(f"https://{HOST}/made-up.pem")

    certificates = Certificates(fetch)
    forged = threading.Thread(target=ask)
    forged.start()
    assert asked.wait(10)
    threading.Timer(0.2, goes_on.set).start()

    assert certificates.get(CERTIFICATE_URL)

    forged.join(10)


def test_one_certificate_is_fetched_at_a_time_and_nobody_waits_long_for_another(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others answer within a moment, and those who know theirs go on."""
    asked, goes_on = threading.Event(), threading.Event()
    pages = {CERTIFICATE_URL: sns_certificate(0)}

    def fetch(url: str) -> bytes:
        if url not in pages:
            asked.set()
            assert goes_on.wait(10)
            raise NotFetched("no answer")
        return pages[url]

    monkeypatch.setattr(sns, "certificates", Certificates(fetch))
    known = sns_signed(sns_message(BOUNCE))
    assert post_sns(client, known).status_code == 200

    def ask() -> None:
        with pytest.raises(ServiceUnavailable):
            sns.certificates.get(f"https://{HOST}/slow.pem")

    slow = threading.Thread(target=ask)
    slow.start()
    assert asked.wait(10)

    unknown = post_sns(client, altered(SigningCertURL=f"https://{HOST}/other.pem"))
    again = post_sns(client, known)

    goes_on.set()
    slow.join(10)
    assert (unknown.status_code, again.status_code) == (503, 200)
    assert "Retry-After" in unknown.headers


# --- Fetching, from a real server -----------------------------------------------------------------


class Pages(BaseHTTPRequestHandler):
    """Answers by path."""

    ends = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/moved.pem":
            self.send_response(302)
            self.send_header("Location", "/certificate.pem")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200 if self.path != "/gone.pem" else 404)
        self.end_headers()
        if self.path == "/huge.pem":
            self._write(b"x" * (sns.FETCH_BYTES + 1))
        elif self.path == "/silent.pem":
            self.ends.wait(10)
        elif self.path == "/drip.pem":
            while self._write(b"x") and not self.ends.wait(0.05):
                pass
        else:
            self._write(b"a certificate")

    def _write(self, data: bytes) -> bool:
        try:
            self.wfile.write(data)
        except OSError:  # whoever asked has gone
            return False
        return True

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An HTTPS server on this machine; gives its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "localhost.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as running:
        running.daemon_threads = True
        running.block_on_close = False
        running.socket = context.wrap_socket(running.socket, server_side=True)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"https://localhost:{running.server_port}"
        Pages.ends.set()
        running.shutdown()
        thread.join()


def fetch(url: str, seconds: float = 3) -> bytes:
    return sns.fetch(url, seconds=seconds, ca_file=str(CERTIFICATES / "ca.pem"))


def test_a_short_document_is_fetched(server: str) -> None:
    assert fetch(f"{server}/certificate.pem") == b"a certificate"


@pytest.mark.parametrize(("path", "status"), [("moved", 302), ("gone", 404)])
def test_another_status_is_none_of_it_and_no_redirect_is_followed(
    server: str, path: str, status: int
) -> None:
    with pytest.raises(NotFetched) as caught:
        fetch(f"{server}/{path}.pem")

    assert caught.value.status == status


@pytest.mark.parametrize("path", ["huge", "silent", "drip"])
def test_what_is_too_long_or_takes_too_long_is_given_up(server: str, path: str) -> None:
    with pytest.raises(NotFetched) as caught:
        fetch(f"{server}/{path}.pem", seconds=0.4 if path != "huge" else 10)

    assert caught.value.status is None


def test_a_server_whose_certificate_proves_nothing_is_not_asked(server: str) -> None:
    with pytest.raises(NotFetched, match="CERTIFICATE_VERIFY_FAILED"):
        sns.fetch(f"{server}/certificate.pem")


def test_nobody_listening_is_no_answer() -> None:
    with pytest.raises(NotFetched) as caught:
        sns.fetch("https://127.0.0.1:1/a.pem")

    assert caught.value.status is None

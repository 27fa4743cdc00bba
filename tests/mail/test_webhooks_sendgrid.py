"""SendGrid's events: who signed them, what is kept of them, and what forged ones change."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import MakeMessage, message_of, suppressions
from signed_events import (
    SENDGRID_URL,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    post_sendgrid,
    sendgrid_headers,
    sendgrid_public_key,
)
from statements import counted_statements

from ghost.database import db
from ghost.mail.models import MailMessage
from ghost.mail.signals import mail_event
from ghost.models import utcnow, uuid7
from ghost.testing.clients import Client

pytestmark = pytest.mark.integration

HOURS = 3600


@pytest.fixture
def app_config() -> Mapping[str, Any]:
    return {"mail": {"sendgrid_webhook_key": sendgrid_public_key()}}


def event(name: str, row_id: UUID | None = None, **values: Any) -> dict[str, Any]:
    ids = {"ghost_message_id": str(row_id)} if row_id else {}
    return {
        "email": "ada@example.org",
        "timestamp": 1769000000,
        "event": name,
        "sg_event_id": "ZGVsaXZlcmVk",
        "smtp-id": "<x@example.org>",
        **ids,
        **values,
    }


# --- What events do -------------------------------------------------------------------------------


def test_a_delivery_is_noted_with_its_time(
    app: Flask, client: Client, make_message: MakeMessage, told: list[Any]
) -> None:
    row_id = make_message()

    response = post_sendgrid(client, [event("delivered", row_id, response="250 OK")])

    assert response.status_code == 200
    assert message_of(app, row_id).delivered_at == datetime.fromtimestamp(1769000000, UTC)
    assert suppressions(app) == {}
    assert told == [
        {"kind": "delivered", "email": "ada@example.org", "row_id": row_id, "details": None}
    ]


def test_a_hard_bounce_is_noted_and_suppresses_the_address(
    app: Flask, client: Client, make_message: MakeMessage, told: list[Any]
) -> None:
    row_id = make_message("Ada@example.org", "bob@example.org")
    bounce = event("bounce", row_id, type="bounce", reason="550 5.1.1 no such user", status="5.1.1")

    post_sendgrid(client, [bounce])

    message = message_of(app, row_id)
    assert message.bounced_at
    assert message.refused == {"Ada@example.org": "bounced: 550 5.1.1 no such user"}
    assert suppressions(app) == {"ada@example.org": ("bounced", "550 5.1.1 no such user")}
    assert [(one["kind"], one["row_id"]) for one in told] == [("bounced", row_id)]


def test_a_blocked_mail_is_noted_and_the_address_gets_the_next_one(
    app: Flask, client: Client, make_message: MakeMessage
) -> None:
    row_id = make_message()

    post_sendgrid(client, [event("bounce", row_id, type="blocked", reason="421 try later")])

    assert message_of(app, row_id).refused == {"ada@example.org": "bounced: 421 try later"}
    assert suppressions(app) == {}


def test_a_complaint_is_noted_and_suppresses_the_address(
    app: Flask, client: Client, make_message: MakeMessage
) -> None:
    row_id = make_message()

    post_sendgrid(client, [event("spamreport", row_id)])

    message = message_of(app, row_id)
    assert message.complained_at
    assert message.refused == {}
    assert suppressions(app) == {"ada@example.org": ("complained", None)}


@pytest.mark.parametrize(
    ("reason", "suppressed_as"),
    [
        ("Bounced Address", "bounced"),
        ("Invalid", "bounced"),
        ("Spam Reporting Address", "complained"),
        ("Unsubscribed Address", None),
        ("Recipient List over Package Quota", None),
        (None, None),
    ],
)
def test_a_dropped_mail_did_not_arrive_and_counts_as_the_list_that_it_was_on(
    app: Flask,
    client: Client,
    make_message: MakeMessage,
    reason: str | None,
    suppressed_as: str | None,
) -> None:
    row_id = make_message()

    post_sendgrid(client, [event("dropped", row_id, reason=reason)])

    assert message_of(app, row_id).bounced_at
    kept = {} if suppressed_as is None else {"ada@example.org": (suppressed_as, reason)}
    assert suppressions(app) == kept


@pytest.mark.parametrize("name", ["processed", "deferred", "open", "click", "unsubscribe", "new"])
def test_other_events_change_nothing(
    app: Flask, client: Client, make_message: MakeMessage, told: list[Any], name: str
) -> None:
    row_id = make_message()

    response = post_sendgrid(client, [event(name, row_id, reason="451 later")])

    assert response.status_code == 200
    message = message_of(app, row_id)
    assert (message.delivered_at, message.bounced_at, message.complained_at) == (None, None, None)
    assert suppressions(app) == {}
    assert told == []


def test_a_complaint_and_a_bounce_of_one_address_in_one_request_leave_the_complaint(
    app: Flask, client: Client
) -> None:
    events = [event("spamreport"), event("bounce", type="bounce", reason="550 gone")]

    post_sendgrid(client, events)

    assert suppressions(app) == {"ada@example.org": ("complained", None)}


def test_an_unknown_message_is_accepted_and_its_bounce_counts_for_the_address(
    app: Flask, client: Client, told: list[Any]
) -> None:
    """Rows are deleted after a while, and complaints may come weeks later."""
    response = post_sendgrid(client, [event("bounce", uuid7(), type="bounce", reason="550 gone")])

    assert response.status_code == 200
    assert suppressions(app) == {"ada@example.org": ("bounced", "550 gone")}
    assert told[0]["row_id"] is None


def test_a_time_in_the_future_counts_as_now(
    app: Flask, client: Client, make_message: MakeMessage
) -> None:
    row_id = make_message()

    post_sendgrid(client, [event("delivered", row_id, timestamp=99_999_999_999)])

    noted = message_of(app, row_id).delivered_at
    assert noted is not None
    assert noted <= utcnow()


def test_a_replay_changes_nothing(app: Flask, client: Client, make_message: MakeMessage) -> None:
    row_id = make_message()
    body = json.dumps(
        [
            event("delivered", row_id),
            event("bounce", row_id, type="bounce", reason="550 gone"),
            event("spamreport", row_id),
        ]
    ).encode()
    headers = sendgrid_headers(body)
    client.post(SENDGRID_URL, data=body, headers=headers)
    before, listed = message_of(app, row_id), suppressions(app)

    response = client.post(SENDGRID_URL, data=body, headers=headers)

    after = message_of(app, row_id)
    assert response.status_code == 200
    assert after.updated_at == before.updated_at
    assert (after.delivered_at, after.bounced_at, after.complained_at, after.refused) == (
        before.delivered_at, before.bounced_at, before.complained_at, before.refused,
    )  # fmt: skip
    assert suppressions(app) == listed


def test_the_first_time_is_kept(app: Flask, client: Client, make_message: MakeMessage) -> None:
    row_id = make_message()
    post_sendgrid(client, [event("delivered", row_id, timestamp=1769000000)])

    post_sendgrid(client, [event("delivered", row_id, timestamp=1769005555)])

    assert message_of(app, row_id).delivered_at == datetime.fromtimestamp(1769000000, UTC)


def test_each_recipient_that_bounced_is_noted_once(
    app: Flask, client: Client, make_message: MakeMessage
) -> None:
    row_id = make_message("ada@example.org", "bob@example.org", "eve@example.org")

    def bounce(name: str, reason: str) -> dict[str, Any]:
        email = f"{name}@example.org"
        return event("bounce", row_id, type="bounce", email=email, reason=reason)

    post_sendgrid(client, [bounce("ada", "550 one"), bounce("bob", "550 two")])
    post_sendgrid(client, [bounce("bob", "550 again"), bounce("eve", "550 three")])

    assert message_of(app, row_id).refused == {
        "ada@example.org": "bounced: 550 one",
        "bob@example.org": "bounced: 550 two",
        "eve@example.org": "bounced: 550 three",
    }


def test_a_thousand_events_take_a_handful_of_statements(
    app: Flask, client: Client, make_message: MakeMessage
) -> None:
    ids = [uuid7() for _ in range(1000)]
    with app.app_context():
        db.session.add_all(
            MailMessage(id=row_id, status="sent", to=["a@example.org"], subject="Hi")
            for row_id in ids
        )
        db.session.commit()
        engine = db.engine
    events = []
    for number, row_id in enumerate(ids):
        email = f"user{number}@example.org"
        kind = number % 3
        events.append(
            event("delivered", row_id, email=email)
            if kind == 0
            else event("bounce", row_id, email=email, type="bounce", reason='550 "no" user')
            if kind == 1
            else event("spamreport", row_id, email=email)
        )

    with counted_statements(engine) as statements:
        response = post_sendgrid(client, events)

    assert response.status_code == 200
    assert len(statements) <= 4
    assert len(suppressions(app)) == 666
    with app.app_context():
        rows = {row.id: row for row in db.session.query(MailMessage)}
    assert sum(row.delivered_at is not None for row in rows.values()) == 334
    assert rows[ids[1]].refused == {"user1@example.org": 'bounced: 550 "no" user'}


def test_a_receiver_that_fails_fails_no_request(
    app: Flask, client: Client, make_message: MakeMessage
) -> None:
    row_id = make_message()

    def fail(_app: Flask, **_keywords: Any) -> None:
        raise RuntimeError("of the application")

    with mail_event.connected_to(fail, sender=app):
        response = post_sendgrid(client, [event("delivered", row_id)])

    assert response.status_code == 200
    assert message_of(app, row_id).delivered_at


# --- Who may tell ---------------------------------------------------------------------------------


BODY = json.dumps([event("bounce", type="bounce", reason="550 gone")]).encode()


def forged(**changes: str | None) -> dict[str, str]:
    """Headers that are right but for some."""
    headers = sendgrid_headers(BODY) | {name: value for name, value in changes.items() if value}
    return {name: value for name, value in headers.items() if changes.get(name, "") is not None}


@pytest.mark.parametrize(
    "make_headers",
    [
        pytest.param(lambda: {"Content-Type": "application/json"}, id="nothing signed"),
        pytest.param(lambda: forged(**{SIGNATURE_HEADER: None}), id="no signature"),
        pytest.param(lambda: forged(**{TIMESTAMP_HEADER: None}), id="no timestamp"),
        pytest.param(lambda: forged(**{SIGNATURE_HEADER: "!!!"}), id="no Base64"),
        pytest.param(lambda: forged(**{SIGNATURE_HEADER: "AAAA"}), id="no DER"),
        pytest.param(lambda: forged(**{SIGNATURE_HEADER: "\xe9\xe9"}), id="no ASCII"),
        pytest.param(lambda: forged(**{TIMESTAMP_HEADER: "1769000000"}), id="another timestamp"),
        pytest.param(lambda: forged(**{TIMESTAMP_HEADER: "now"}), id="a timestamp in words"),
        pytest.param(lambda: forged(**{TIMESTAMP_HEADER: "9" * 5000}), id="a huge timestamp"),
        pytest.param(lambda: forged(**{TIMESTAMP_HEADER: "\xb2\xb3"}), id="raised digits"),
        pytest.param(lambda: sendgrid_headers(BODY, key=1), id="another key"),
        pytest.param(lambda: sendgrid_headers(BODY + b" "), id="another body"),
        pytest.param(lambda: sendgrid_headers(BODY, signed=BODY), id="the body alone signed"),
        pytest.param(lambda: sendgrid_headers(BODY, age=26 * HOURS), id="too old"),
        pytest.param(lambda: sendgrid_headers(BODY, age=-HOURS), id="of the future"),
    ],
)
def test_a_forged_post_is_refused_and_changes_nothing(
    app: Flask, client: Client, told: list[Any], make_headers: Callable[[], dict[str, str]]
) -> None:
    response = client.post(SENDGRID_URL, data=BODY, headers=make_headers())

    assert response.status_code == 403
    assert response.json["error"]["code"] == "forbidden"
    assert suppressions(app) == {}
    assert told == []


def test_what_sendgrid_repeats_within_a_day_is_taken(app: Flask, client: Client) -> None:
    response = client.post(SENDGRID_URL, data=BODY, headers=sendgrid_headers(BODY, age=24 * HOURS))

    assert response.status_code == 200
    assert list(suppressions(app)) == ["ada@example.org"]


def test_without_a_key_there_is_no_such_route(
    make_app: Callable[..., Flask], client: Client
) -> None:
    app = make_app({"mail": {"sendgrid_webhook_key": None}})

    response = app.test_client().post(SENDGRID_URL, data=BODY, headers=sendgrid_headers(BODY))

    assert response.status_code == 404


def test_a_body_that_is_too_long_is_refused_before_it_is_checked(client: Client) -> None:
    response = client.post(SENDGRID_URL, data=b" " * (2 * 1024 * 1024 + 1), headers=forged())

    assert response.status_code == 413


# --- What can't be read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"[", 400), (b"\xff", 400), (b"{}", 422), (b"null", 422), (b'"x"', 422)],
)
def test_a_signed_body_that_is_no_list_is_an_error(
    client: Client, body: bytes, status: int
) -> None:
    response = client.post(SENDGRID_URL, data=body, headers=sendgrid_headers(body))

    assert response.status_code == status
    assert response.json["success"] is False


def test_malformed_events_are_left_out_and_the_others_count(app: Flask, client: Client) -> None:
    malformed = [
        None, 7, [], {}, {"event": "bounce"}, {"email": "ada@example.org"},
        event("bounce", email="no address", type="bounce"), event("bounce", email=["x"]),
        event("bounce", email="ada\0@example.org", type="bounce"),
    ]  # fmt: skip
    odd = event("bounce", type="bounce", ghost_message_id={}, timestamp="soon", reason="550\0\r\nx")

    response = post_sendgrid(client, [*malformed, odd])

    assert response.status_code == 200
    assert suppressions(app) == {"ada@example.org": ("bounced", "550 x")}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
EVENTS = st.lists(
    JSON
    | st.fixed_dictionaries(
        {"email": JSON | st.emails() | st.just("ada@example.org")},
        optional={
            "event": st.sampled_from(["delivered", "bounce", "dropped", "spamreport"]) | JSON,
            "type": st.sampled_from(["bounce", "blocked"]) | JSON,
            "timestamp": st.integers(-(2**63), 2**63 - 1) | JSON,
            "reason": JSON,
            "ghost_message_id": st.uuids().map(str) | JSON,
        },
    ),
    max_size=5,
)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=EVENTS | JSON)
def test_no_signed_json_makes_a_server_error(client: Client, events: Any) -> None:
    response = post_sendgrid(client, events)

    assert response.status_code in (200, 400, 422)

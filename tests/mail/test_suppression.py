"""Who gets no mail any more: the list, its strength, and its API."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask import Flask
from recorded import suppressions
from statements import counted_statements

from ghost.database import db
from ghost.mail import suppression
from ghost.mail.models import MailSuppression
from ghost.mail.suppression import Cause, lift, suppress, suppress_many, suppressed
from ghost.testing.clients import Client
from ghost.testing.factories import UserFactory

pytestmark = pytest.mark.integration


def test_a_suppressed_address_is_found_whatever_its_case(session: Any) -> None:
    suppress("Ada@Example.ORG", "bounced", "550 no such user")

    assert suppressed(["ADA@example.org", "bob@example.org"]) == {"ada@example.org": "bounced"}


def test_a_domain_is_the_same_in_either_script(session: Any) -> None:
    suppress("ada@bücher.example", "manual")

    assert suppressed(["Ada@XN--BCHER-KVA.example"]) == {"ada@xn--bcher-kva.example": "manual"}


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("manual", "bounced", "bounced"),
        ("bounced", "complained", "complained"),
        ("complained", "bounced", "complained"),
        ("bounced", "manual", "bounced"),
        ("complained", "manual", "complained"),
        ("bounced", "bounced", "bounced"),
    ],
)
def test_a_reason_never_becomes_weaker(session: Any, first: str, second: str, kept: str) -> None:
    suppress("ada@example.org", first, "the first")
    suppress("ada@example.org", second, "the second")

    row = session.query(MailSuppression).one()
    assert row.reason == kept
    assert row.details == ("the second" if kept == second != first else "the first")


def test_a_lifted_address_gets_mail_again(session: Any) -> None:
    suppress("ada@example.org", "complained")

    assert lift("ADA@example.org") is True
    assert lift("ada@example.org") is False
    assert suppressed(["ada@example.org"]) == {}


@pytest.mark.parametrize("email", ["", "ada", "@example.org", "ada@", "ada@x\n.org", "a" * 255])
def test_what_is_no_address_is_refused_and_never_found(session: Any, email: str) -> None:
    with pytest.raises(ValueError, match="email"):
        suppress(email, "manual")

    assert suppressed([email, "ada@example.org"]) == {}


def test_a_reason_of_another_name_is_refused(session: Any) -> None:
    with pytest.raises(ValueError, match="annoyed"):
        suppress("ada@example.org", "annoyed")


def test_thousands_are_written_and_found_with_a_statement_per_thousand(
    session: Any,
) -> None:
    emails = [f"user{number}@example.org" for number in range(2500)]
    with counted_statements(session.get_bind()) as writing:
        suppress_many({email: Cause("bounced") for email in emails})

    with counted_statements(session.get_bind()) as reading:
        found = suppressed(emails)

    assert (len(found), len(writing), len(reading)) == (2500, 3, 3)


def test_the_words_of_a_server_are_cut_and_hold_no_control_characters(session: Any) -> None:
    suppress("ada@example.org", "bounced", "550\r\n\0 no\x1b[31m such  user " + "x" * 5000)

    details = session.query(MailSuppression).one().details
    assert details.startswith("550 no [31m such user xxx")
    assert len(details) == suppression.MAX_DETAILS


# --- Over HTTP ------------------------------------------------------------------------------------


URL = "/api/v1/mail/suppressions"


@pytest.fixture
def sender(client: Client, make_user: UserFactory) -> Client:
    """A client of somebody who may send mail."""
    return client.as_user(make_user(roles=("ADMIN",)))


def test_an_address_is_suppressed_by_hand(app: Flask, sender: Client) -> None:
    response = sender.post(URL, json={"email": "Ada@Example.org", "details": "asked by phone"})

    assert response.status_code == 201
    created = response.json["data"]
    assert (created["email"], created["reason"]) == ("ada@example.org", "manual")
    assert created["details"] == "asked by phone"
    assert created["created_by"]
    assert suppressions(app) == {"ada@example.org": ("manual", "asked by phone")}


@pytest.mark.parametrize("reason", ["manual", "bounced", "complained"])
def test_an_address_that_is_on_the_list_is_a_conflict(
    app: Flask, sender: Client, reason: str
) -> None:
    listed(app, Cause(reason, "the first"), "ada@example.org")

    response = sender.post(URL, json={"email": "ADA@example.org"})

    assert response.status_code == 409
    assert response.json["error"]["details"] == {
        "json": {"email": ["This address is suppressed already."]}
    }
    assert suppressions(app) == {"ada@example.org": (reason, "the first")}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "email"),
        ({"email": "ada"}, "email"),
        ({"email": "Ada <ada@example.org>"}, "email"),
        ({"email": "ada@example.org\nBcc: eve@example.org"}, "email"),
        ({"email": "ada@example.org", "details": "x" * 1001}, "details"),
        ({"email": "ada@example.org", "details": "\0"}, "details"),
        ({"email": "ada@example.org", "reason": "complained"}, "reason"),
    ],
)
def test_what_is_no_suppression_is_refused(
    app: Flask, sender: Client, body: dict[str, Any], field: str
) -> None:
    response = sender.post(URL, json=body)

    assert response.status_code == 422
    assert list(response.json["error"]["details"]["json"]) == [field]
    assert suppressions(app) == {}


def test_the_list_is_paged_searched_and_filtered(app: Flask, sender: Client) -> None:
    listed(app, Cause("bounced", "550 no such user"), "ada@example.org", "bob@example.org")
    listed(app, Cause("complained"), "eve@example.com")

    def emails(query: str) -> list[str]:
        return [one["email"] for one in sender.get(f"{URL}?{query}").json["data"]]

    assert emails("sort=email&per_page=2") == ["ada@example.org", "bob@example.org"]
    assert emails("sort=email&per_page=2&page=2") == ["eve@example.com"]
    assert emails("search=EXAMPLE.COM") == ["eve@example.com"]
    assert emails("search=no such&sort=-email") == ["bob@example.org", "ada@example.org"]
    assert emails("reason=complained") == ["eve@example.com"]
    assert sender.get(f"{URL}?reason=annoyed").status_code == 422


def test_a_suppression_is_lifted_once(app: Flask, sender: Client) -> None:
    listed(app, Cause("bounced"), "ada@example.org")
    row_id = sender.get(URL).json["data"][0]["id"]

    first, second = sender.delete(f"{URL}/{row_id}"), sender.delete(f"{URL}/{row_id}")

    assert (first.status_code, second.status_code) == (204, 404)
    assert suppressions(app) == {}


def test_the_list_is_for_those_who_may_send(client: Client, make_user: UserFactory) -> None:
    path = f"{URL}/01900000-0000-7000-8000-000000000000"
    for caller, status in ((client, 401), (client.as_user(make_user()), 403)):
        assert caller.get(URL).status_code == status
        assert caller.post(URL, json={"email": "ada@example.org"}).status_code == status
        assert caller.delete(path).status_code == status


def test_many_events_about_one_address_at_once_leave_one_row_with_the_strongest_reason(
    app: Flask,
) -> None:
    together = threading.Barrier(6)
    failures: list[BaseException] = []

    def write(reason: str) -> None:
        try:
            together.wait(10)
            listed(app, Cause(reason, reason), "ada@example.org", "bob@example.org")
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=write, args=(reason,))
        for reason in ("manual", "bounced", "complained") * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert failures == []
    assert suppressions(app) == {
        "ada@example.org": ("complained", "complained"),
        "bob@example.org": ("complained", "complained"),
    }


def listed(app: Flask, cause: Cause, *emails: str) -> None:
    """Put addresses on the list."""
    with app.app_context():
        suppress_many(dict.fromkeys(emails, cause))
        db.session.commit()

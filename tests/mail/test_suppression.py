"""Who gets no mail any more: the list, its strength, and its API."""

from __future__ import annotations

from typing import Any

import pytest
from recorded import counted_statements

from ghost.mail import suppression
from ghost.mail.models import MailSuppression
from ghost.mail.suppression import Cause, lift, suppress, suppress_many, suppressed

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

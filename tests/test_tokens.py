"""Mailed tokens: what they are made of, and that each works once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask

from ghost import tokens
from ghost.config import Config
from ghost.database import db
from ghost.errors import TokenUsed
from ghost.models import uuid7
from ghost.tokens import INVITATION, RESET_PASSWORD, VERIFY_EMAIL, MailedToken
from ghost.users.models import User


@pytest.fixture
def user(app: Flask) -> Iterator[User]:
    """An account, in an open application context."""
    with app.app_context():
        user = User(email="ada@example.org")
        db.session.add(user)
        db.session.commit()
        yield user


def issue(user: User, purpose: str = RESET_PASSWORD, **options: Any) -> MailedToken:
    row = tokens.issue(user.id, user.email, user.session_epoch, purpose, 3600, **options)
    db.session.commit()
    return row


def test_a_token_leads_to_its_row(user: User) -> None:
    row = issue(user)

    found = tokens.find(tokens.text_of(row), RESET_PASSWORD)

    assert (found.id, found.user_id, found.email) == (row.id, user.id, user.email)


def test_a_token_fits_into_a_url_and_is_too_long_to_guess(user: User) -> None:
    text = tokens.text_of(issue(user))

    assert len(text) == 64
    assert text.replace("-", "").replace("_", "").isalnum()


def flipped(text: str, place: int) -> str:
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


@pytest.mark.parametrize("place", [0, 10, 21, 22, 40, 63])
def test_a_token_with_one_letter_changed_is_worth_nothing(user: User, place: int) -> None:
    text = tokens.text_of(issue(user))

    with pytest.raises(TokenUsed):
        tokens.find(flipped(text, place), RESET_PASSWORD)


@pytest.mark.parametrize("extra", ["\n", "=", "A", " "])
def test_a_token_is_compared_to_the_letter(user: User, extra: str) -> None:
    with pytest.raises(TokenUsed):
        tokens.find(tokens.text_of(issue(user)) + extra, RESET_PASSWORD)


CHANGES: dict[str, Any] = {
    "email": "eve@example.org",
    "epoch": 7,
    "purpose": INVITATION,
    "user_id": None,
}


@pytest.mark.parametrize("column", CHANGES)
def test_a_row_that_was_changed_behind_our_back_makes_its_token_worthless(
    user: User, column: str
) -> None:
    row = issue(user)
    text = tokens.text_of(row)
    value = CHANGES[column]
    if column == "user_id":
        eve = User(email="eve@example.org")
        db.session.add(eve)
        db.session.flush()
        value = eve.id
    db.session.execute(sa.update(MailedToken).values({column: value}))
    db.session.commit()

    with pytest.raises(TokenUsed):
        tokens.find(text, RESET_PASSWORD, INVITATION)


def test_a_token_works_for_its_purpose_alone(user: User) -> None:
    text = tokens.text_of(issue(user))

    with pytest.raises(TokenUsed):
        tokens.find(text, VERIFY_EMAIL, INVITATION)


def test_the_database_alone_gives_nobody_a_token(
    user: User, make_app: Callable[..., Flask]
) -> None:
    row = issue(user)
    text, code = tokens.text_of(row), tokens.code_of(row)

    with make_app({"app": {"secret_key": "another secret of enough length 123456"}}).app_context():
        assert tokens.text_of(row) != text
        assert tokens.code_of(row) != code
        with pytest.raises(TokenUsed):
            tokens.find(text, RESET_PASSWORD)


def test_code_and_text_come_from_different_keys(user: User) -> None:
    row = issue(user, VERIFY_EMAIL)

    assert len(tokens.code_of(row)) == 6
    assert tokens._mac(row, "mailed-token") != tokens._mac(row, "mailed-code")


def test_a_used_token_is_used(user: User) -> None:
    row = issue(user)
    tokens.use(row)
    db.session.commit()

    with pytest.raises(TokenUsed):
        tokens.use(row)
    with pytest.raises(TokenUsed):
        tokens.find(tokens.text_of(row), RESET_PASSWORD)


def test_an_expired_token_is_neither_found_nor_used(user: User) -> None:
    row = tokens.issue(user.id, user.email, 1, VERIFY_EMAIL, -1)
    db.session.commit()

    assert not row.is_live
    with pytest.raises(TokenUsed):
        tokens.find(tokens.text_of(row), VERIFY_EMAIL)
    with pytest.raises(TokenUsed):
        tokens.use(row)
    assert tokens.find_live(user.id, VERIFY_EMAIL) is None


def test_a_rolled_back_use_did_not_happen(user: User) -> None:
    row = issue(user)
    tokens.use(row)
    db.session.rollback()

    assert tokens.find(tokens.text_of(row), RESET_PASSWORD).is_live


def test_a_newer_token_replaces_the_older_one_of_its_purpose(user: User) -> None:
    verification, older, newer = issue(user, VERIFY_EMAIL), issue(user), issue(user)

    assert tokens.find(tokens.text_of(newer), RESET_PASSWORD)
    assert tokens.find(tokens.text_of(verification), VERIFY_EMAIL)
    with pytest.raises(TokenUsed):
        tokens.find(tokens.text_of(older), RESET_PASSWORD)


def test_expired_tokens_are_deleted_by_the_next(user: User) -> None:
    tokens.issue(user.id, user.email, 1, RESET_PASSWORD, -10)
    other = tokens.issue(user.id, user.email, 1, VERIFY_EMAIL, -10)
    newer = issue(user)

    left = set(db.session.scalars(sa.select(MailedToken.id)))

    assert left == {other.id, newer.id}


def test_a_mail_that_is_tried_twice_has_the_same_token(user: User) -> None:
    message_id = uuid7()

    first, second = issue(user, message_id=message_id), issue(user, message_id=message_id)

    assert tokens.text_of(first) == tokens.text_of(second)
    assert first.is_live


@pytest.mark.parametrize("code", ["", "é", "000000000", "1234567"])
def test_any_text_can_be_tried_as_a_code(user: User, code: str) -> None:
    row = issue(user, VERIFY_EMAIL)

    assert not tokens.is_code_of(row, code)
    assert not tokens.is_code_of(None, code)


def test_only_the_live_token_of_a_purpose_is_found_for_its_code(user: User) -> None:
    issue(user)
    assert tokens.find_live(user.id, VERIFY_EMAIL) is None

    older, newer = issue(user, VERIFY_EMAIL), issue(user, VERIFY_EMAIL)

    found = tokens.find_live(user.id, VERIFY_EMAIL)
    assert found is not None
    assert found.id == newer.id != older.id
    assert tokens.is_code_of(found, tokens.code_of(newer))
    tokens.use(newer)
    db.session.commit()
    assert tokens.find_live(user.id, VERIFY_EMAIL) is None


def test_nobody_has_the_code_of_no_token(user: User) -> None:
    stand_in = MailedToken(id=uuid7(), user_id=uuid7(), purpose="", email="", epoch=0)

    assert not tokens.is_code_of(None, tokens.code_of(stand_in))


def test_links_are_built_from_the_configuration(user: User, make_app: Callable[..., Flask]) -> None:
    row = issue(user, INVITATION)
    served = make_app(
        {
            "app": {"public_url": "https://app.example.com"},
            "auth": {"invite_link": "{public_url}/welcome?invitation={token}"},
        }
    )

    with served.test_request_context(base_url="https://evil.example"):
        link = tokens.link_of(row)

        assert link == f"https://app.example.com/welcome?invitation={tokens.text_of(row)}"


def test_the_default_links_carry_the_token_where_no_server_sees_it() -> None:
    auth = Config.load({"app": {"env": "testing"}}, environ={}).auth

    for template in (auth.verify_link, auth.reset_link, auth.invite_link):
        assert template.partition("#")[2] == "token={token}"


def test_ids_of_tokens_are_found_in_them(user: User) -> None:
    row = issue(user)

    assert tokens._id_in(tokens.text_of(row)) == row.id
    assert isinstance(row.id, UUID)

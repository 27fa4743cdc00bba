"""What an application's list views promise: order, filters, and how they are documented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from ghost import Blueprint, Schema, create_app, fields, login_required
from ghost.users.models import User

pytestmark = pytest.mark.integration

bp = Blueprint("people", __name__, url_prefix="/people", description="People, listed.")


class PersonSchema(Schema):
    id = fields.UUID(dump_only=True)
    email = fields.Email(required=True)
    is_active = fields.Boolean()
    created_at = fields.DateTime()
    balance = fields.Decimal(places=2)


@bp.get("/")
@login_required
@bp.paginated(PersonSchema, sort=["email"], filter=["id", "email", "is_active", "created_at"])
def list_people() -> sa.Select[Any]:
    """List people."""
    return sa.select(User)


def build(settings: Mapping[str, Any]) -> Flask:
    return create_app(settings, blueprints=[bp])


@pytest.fixture
def app_factory():
    return build


@pytest.fixture
def people(client, make_user):
    """A function that lists the addresses that a query finds."""
    users = [make_user(email="ada@example.org"), make_user(email="bob@example.org")]
    users.append(make_user(email="eve@example.org", is_active=False))
    ada = client.as_user(users[0])

    def listed(**query):
        response = ada.get("/api/v1/people", query_string=query)
        assert response.status_code == 200, response.json
        return [person["email"][:3] for person in response.json["data"]]

    listed.users, listed.get = users, ada.get
    return listed


def test_a_list_has_the_newest_first_when_nobody_asks(people):
    assert people() == ["eve", "bob", "ada"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"is_active": "false"}, ["eve"]),
        ({"is_active": "true", "sort": "email"}, ["ada", "bob"]),
        ({"is_active": "true", "sort": "-email"}, ["bob", "ada"]),
        ({"email": "BOB@example.org"}, ["bob"]),
        ({"created_at": "2001-02-03T04:05:06Z"}, []),
    ],
    ids=["boolean", "sorted", "descending", "address", "time"],
)
def test_a_filter_reads_what_the_schema_writes(people, query, expected):
    assert people(**query) == expected


def test_a_filter_finds_an_identifier(people):
    assert people(id=str(people.users[1].id)) == ["bob"]


@pytest.mark.parametrize(
    "query",
    [
        {"id": "7"},
        {"is_active": "1"},
        {"created_at": "yesterday"},
        {"email": "nobody"},
        {"sort": "password_hash"},
        {"password_hash": "x"},
    ],
    ids=["no-id", "no-boolean", "no-time", "no-address", "order-not-allowed", "filter-not-allowed"],
)
def test_a_query_that_can_not_be_read_is_a_validation_error(people, query):
    response = people.get("/api/v1/people", query_string=query)

    assert response.status_code == 422
    assert list(response.json["error"]["details"]["query"]) == list(query)


def test_filters_are_documented_with_their_types(client):
    document = client.get("/openapi.json").json
    listing = document["paths"]["/api/v1/people"]["get"]
    types = {field["name"]: field["schema"]["type"] for field in listing["parameters"]}

    assert types["is_active"] == "boolean"
    assert types["id"] == "string"
    assert not any(field["required"] for field in listing["parameters"])


def test_a_decimal_is_documented_as_the_text_it_travels_as(client):
    document = client.get("/openapi.json").json

    assert document["components"]["schemas"]["Person"]["properties"]["balance"]["type"] == "string"

"""What travels on an application's blueprints, plain ones and Ghost's: errors, commands, rights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import flask
import pytest
from flask import Flask

from ghost import Blueprint, Conflict, ServiceUnavailable, create_app, login_required, public

pytestmark = pytest.mark.integration

plain = flask.Blueprint("plain", __name__, url_prefix="/plain")
bp = Blueprint("parcels", __name__, url_prefix="/parcels", permissions={"parcels:read": "See all"})


class CarrierError(Exception):
    """What a library raises that knows nothing of Ghost."""


class Lost(Conflict):
    code, message = "parcel_lost", "This parcel is lost."


@plain.get("/")
def home() -> str:
    return "Welcome"


@plain.get("/account")
@login_required
def account() -> str:
    return "Yours"


@plain.get("/lost")
def lose() -> str:
    raise Lost


@plain.errorhandler(CarrierError)
@bp.errorhandler(CarrierError)
def carrier_is_away(error: CarrierError) -> Any:
    raise ServiceUnavailable("The carrier does not answer.") from error


@plain.get("/track")
def track_plainly() -> str:
    raise CarrierError


@bp.get("/track")
@public
@bp.response(200)
def track() -> None:
    """Track a parcel."""
    raise CarrierError


@bp.cli.command("count")
def count() -> None:
    click.echo(f"0 parcels in {flask.current_app.name}")


def build(settings: Mapping[str, Any]) -> Flask:
    return create_app(settings, blueprints=[plain, bp])


@pytest.fixture
def app_factory():
    return build


def test_a_plain_blueprint_is_served_as_it_is_and_not_documented(client):
    response = client.get("/plain/")

    assert response.text == "Welcome"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert [path for path in client.get("/openapi.json").json["paths"] if "plain" in path] == []


def test_access_is_guarded_in_a_plain_blueprint_too(client, make_user):
    assert client.get("/plain/account").status_code == 401
    assert client.as_user(make_user()).get("/plain/account").text == "Yours"


def test_an_error_of_the_application_has_its_own_code(client):
    response = client.get("/plain/lost")

    assert response.status_code == 409
    assert response.json["error"]["code"] == "parcel_lost"
    assert response.json["message"] == "This parcel is lost."


@pytest.mark.parametrize("path", ["/plain/track", "/api/v1/parcels/track"], ids=["plain", "ghost"])
def test_an_error_handler_turns_the_error_of_a_library_into_one_of_ghosts(client, path):
    response = client.get(path)

    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert response.json["message"] == "The carrier does not answer."


def test_a_command_travels_on_its_blueprint(app):
    result = app.test_cli_runner().invoke(args=["parcels", "count"])

    assert result.output == f"0 parcels in {app.name}\n"


def test_permissions_travel_on_their_blueprint(client, make_user):
    admin = client.as_user(make_user(roles=["SUPER_ADMIN"]))

    role = admin.post(
        "/api/v1/roles",
        json={"name": "CLERK", "description": "At the desk", "permissions": ["parcels:read"]},
    )

    assert role.status_code == 201, role.json
    assert role.json["data"]["permissions"] == ["parcels:read"]

"""A small application on the foundation alone, to test what every application stands on."""

from __future__ import annotations

import enum
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import flask
import psycopg2.errors
import sqlalchemy as sa
from flask import Flask
from marshmallow.fields import Raw
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from ghost import fields
from ghost.access import current_user, login_required, permissions_required, public, roles_required
from ghost.api import APIResponse, Blueprint, check_version, etag_of
from ghost.app import create_app
from ghost.database import db, db_manager, lock_row
from ghost.errors import Conflict, ServiceUnavailable
from ghost.models import (
    AuditMixin,
    Model,
    Repository,
    SoftDeleteMixin,
    TimestampMixin,
    VersionMixin,
)
from ghost.ratelimit import rate_limit, unlimited
from ghost.schemas import Schema

LAB = "/api/v1/lab"


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Parent(Model):
    __tablename__ = "lab_parents"

    name: Mapped[str] = mapped_column(sa.String(20), unique=True)


class Thing(VersionMixin, AuditMixin, SoftDeleteMixin, TimestampMixin, Model):
    """A column of every kind, and every kind of constraint."""

    __tablename__ = "lab_things"
    __table_args__ = (
        sa.UniqueConstraint("shelf", "place"),
        sa.Index("uq_lab_things_label_lower", sa.text("lower(label)"), unique=True),
        sa.CheckConstraint("count >= 0", name="count_not_negative"),
    )

    name: Mapped[str] = mapped_column(sa.String(20))
    label: Mapped[str | None] = mapped_column(sa.String(20))
    text: Mapped[str | None] = mapped_column(sa.Text)
    shelf: Mapped[str | None] = mapped_column(sa.String(20))
    place: Mapped[int | None]
    count: Mapped[int] = mapped_column(default=0)
    big: Mapped[int | None] = mapped_column(sa.BigInteger)
    flag: Mapped[bool] = mapped_column(default=False)
    price: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2))
    weight: Mapped[float | None]
    colour: Mapped[Colour | None] = mapped_column(sa.Enum(Colour, native_enum=False, length=10))
    happened_at: Mapped[datetime | None]
    parent_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("lab_parents.id"))


TABLES = [Parent.__table__, Thing.__table__]
SORTS = ("created_at", "name", "count")
FILTERS = (
    "name", "count", "big", "flag", "price", "weight", "colour", "happened_at", "parent_id",
)  # fmt: skip
things = Repository(Thing, sort=SORTS, filters=FILTERS, search=("name", "text"))


class Values(Schema):
    """What may be set, only by type: the rest is left to the database."""

    name = fields.Text()
    label = fields.Text(allow_none=True)
    text = fields.Text(multiline=True)
    shelf = fields.Text()
    place = fields.Integer()
    count = fields.Integer()
    big = fields.Integer()
    flag = fields.Boolean()
    price = fields.Decimal()
    weight = fields.Float()
    happened_at = fields.DateTime()
    parent_id = fields.UUID()


class Item(Schema):
    id = fields.UUID(required=True)
    name = fields.Text(required=True)
    count = fields.Integer(required=True)
    flag = fields.Boolean(required=True)
    price = fields.Decimal(allow_none=True)
    happened_at = fields.DateTime(allow_none=True)
    parent_id = fields.UUID(allow_none=True)
    created_at = fields.DateTime(required=True)


class Anything(Schema):
    """A body with a field of each kind of JSON."""

    text = fields.Text(max_length=100)
    number = fields.Integer()
    ratio = fields.Float()
    amount = fields.Decimal(places=2)
    flag = fields.Boolean()
    key = fields.UUID()
    moment = fields.DateTime()
    day = fields.Date()
    email = fields.Email()
    link = fields.Url()
    secret = fields.Secret()
    words = fields.List(fields.Text(max_length=10))
    inner = fields.Nested(lambda: Inner())
    free = Raw()


class Inner(Schema):
    number = fields.Integer(required=True)


class Query(Schema):
    number = fields.Integer()
    ratio = fields.Float()
    flag = fields.Boolean()
    key = fields.UUID()
    moment = fields.DateTime()
    text = fields.Text(max_length=10)
    many = fields.List(fields.Integer())


class Form(Schema):
    number = fields.Integer(required=True)
    text = fields.Text()


class Name(Schema):
    name = fields.Text(required=True, min_length=1, max_length=20)


bp = Blueprint("lab", __name__, url_prefix="/lab", permissions={"things:write": "Change things"})
plain = flask.Blueprint("plain", __name__, url_prefix="/plain")
bare = Blueprint("bare", __name__, versioned=False)


# --- Reading requests -----------------------------------------------------------------------------


@bp.get("/hello")
@public
@bp.response(200, Name)
def hello() -> dict[str, Any]:
    """Say hello."""
    return {"name": "hello"}


@bare.get("/")
@public
@bare.response(200, Name)
def root() -> dict[str, Any]:
    """Say hello at the root."""
    return {"name": "root"}


@bp.post("/echo")
@public
@bp.arguments(Anything)
@bp.response(200)
def echo(data: dict[str, Any]) -> APIResponse:
    """Give back what was understood."""
    return APIResponse({"got": data, "types": {k: type(v).__name__ for k, v in data.items()}})


@bp.put("/echo")
@public
@bp.arguments(Anything)
@bp.response(200)
def put_echo(data: dict[str, Any]) -> dict[str, Any]:
    """Give back what was understood."""
    return data


@bp.get("/query")
@public
@bp.arguments(Query, location="query")
@bp.response(200)
def query(asked: dict[str, Any]) -> dict[str, Any]:
    """Give back the query that was understood."""
    return asked


@bp.post("/form")
@public
@bp.arguments(Form, location="form")
@bp.response(200)
def form(data: dict[str, Any]) -> dict[str, Any]:
    """Give back the form that was understood."""
    return data


@bp.get("/names/<name>")
@public
@bp.response(200, Name)
def named(name: str) -> dict[str, Any]:
    """Give back a part of the path."""
    return {"name": name}


@plain.post("/data")
def plain_data() -> dict[str, Any]:
    return {"length": len(flask.request.get_data())}


@plain.post("/stream")
def plain_stream() -> dict[str, Any]:
    return {"length": len(flask.request.stream.read())}


@plain.route("/json", methods=["GET", "POST"])
def plain_json() -> Any:
    if flask.request.method == "POST":
        return {"got": flask.request.json}
    return {"when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "key": UUID(int=7)}


@plain.get("/boom")
def plain_boom() -> None:
    raise RuntimeError("secret detail")


@plain.post("/unread")
def plain_unread() -> dict[str, Any]:
    return {"read": False}


# --- Who may --------------------------------------------------------------------------------------


@bp.get("/me")
@login_required
@bp.response(200)
def me() -> dict[str, Any]:
    """Tell who is calling."""
    return {"email": current_user.email, "roles": list(current_user.roles)}


@bp.get("/admins")
@roles_required("ADMIN")
@bp.response(200)
def admins() -> dict[str, Any]:
    """Let administrators in."""
    return {"in": True}


@bp.get("/writers")
@permissions_required("things:write", "users:read")
@bp.response(200)
def writers() -> dict[str, Any]:
    """Let those in who have both permissions."""
    return {"in": True}


# --- Answers --------------------------------------------------------------------------------------


@bp.get("/message")
@public
@bp.response(200, Name)
def message() -> APIResponse:
    """Answer with a message, a status and a header."""
    return APIResponse({"name": "a"}, message="Done.", status=203, headers={"X-Lab": "yes"})


@bp.delete("/nothing")
@public
@bp.response(204)
def nothing() -> APIResponse:
    """Answer with nothing but a header."""
    return APIResponse({"ignored": True}, headers={"X-Lab": "yes"})


@bp.get("/many")
@public
@bp.response(200, Name(many=True))
def many() -> list[dict[str, Any]]:
    """Answer with an array that has no pages."""
    return [{"name": "a", "more": 1}, {"name": "b"}]


@bp.get("/versioned")
@public
@bp.response(200, Name)
def versioned() -> APIResponse:
    """Answer with an ETag."""
    return APIResponse({"name": "a"}, headers={"ETag": etag_of(3)})


@bp.patch("/versioned")
@public
@bp.response(200)
def change_versioned() -> dict[str, Any]:
    """Change version 3."""
    check_version(3)
    return {"changed": True}


# --- Errors ---------------------------------------------------------------------------------------


@bp.get("/boom")
@public
@bp.response(200)
def boom() -> None:
    """Fail."""
    raise RuntimeError("SELECT secret FROM /etc/passwd")


@bp.post("/boom")
@public
@bp.response(200)
def post_boom() -> None:
    """Fail."""
    raise RuntimeError("SELECT secret FROM /etc/passwd")


@bp.get("/abort/<int:status>")
@public
@bp.response(200)
def abort(status: int) -> None:
    """Abort as Flask does."""
    flask.abort(status)


@bp.get("/conflict")
@public
@bp.response(200)
def conflict() -> None:
    """Raise one of Ghost's errors."""
    raise Conflict("Taken.", field="name")


@bp.get("/sql")
@public
@bp.response(200)
def sql() -> None:
    """Send a statement that the database does not understand."""
    db.session.execute(sa.text("SELECT secret FROM no_such_table"))


@bp.get("/nonsense")
@public
@bp.response(200)
def nonsense() -> None:
    """Send something that is no statement."""
    db.session.execute(sa.text("SELECT SELECT"))


@bp.get("/sleep")
@public
@bp.response(200)
def sleep() -> None:
    """Ask PostgreSQL for something that takes half a minute."""
    db.session.execute(sa.text("SELECT pg_sleep(30)"))


# --- Things in the database -----------------------------------------------------------------------


@bp.get("/things")
@public
@bp.paginated(Item, sort=SORTS, filter=FILTERS, search=("name", "text"))
def list_things() -> sa.Select[Any]:
    """List things."""
    return things.select()


@bp.get("/pairs")
@public
@bp.paginated(Item, sort=("name",), default_sort="-name")
def list_pairs() -> sa.Select[Any]:
    """List rows of columns."""
    columns = ("id", "name", "count", "flag", "price", "happened_at", "parent_id", "created_at")
    return sa.select(*(getattr(Thing, column) for column in columns))


@bp.post("/things")
@public
@bp.arguments(Values)
@bp.response(201, Item)
def create_thing(data: dict[str, Any]) -> Thing:
    """Create a thing."""
    thing = things.add(Thing(**{"name": "thing"} | data))
    db.session.commit()
    return thing


@bp.post("/raw-things")
@public
@bp.arguments(Anything)
@bp.response(201)
def create_raw_thing(data: dict[str, Any]) -> dict[str, Any]:
    """Create a thing from a value that no schema looked at."""
    db.session.execute(sa.insert(Thing).values(name="raw", text=data["free"]))
    db.session.commit()
    return {}


@bp.post("/parents")
@public
@bp.arguments(Name)
@bp.response(201)
def create_parent(data: dict[str, Any]) -> dict[str, Any]:
    """Create a parent."""
    parent = Parent(**data)
    db.session.add(parent)
    db.session.commit()
    return {"id": parent.id}


@bp.get("/things/<uuid:thing_id>")
@public
@bp.response(200, Item)
def get_thing(thing_id: UUID) -> APIResponse:
    """Get a thing."""
    thing = things.get(thing_id)
    return APIResponse(thing, headers={"ETag": etag_of(thing.version)})


@bp.patch("/things/<uuid:thing_id>")
@public
@bp.arguments(Values)
@bp.response(200, Item)
def update_thing(data: dict[str, Any], thing_id: UUID) -> APIResponse:
    """Change a thing, if it is the version that the caller knows."""
    thing = things.get(thing_id)
    check_version(thing.version)
    things.update(thing, data)
    db.session.commit()
    return APIResponse(thing, headers={"ETag": etag_of(thing.version)})


@bp.post("/things/<uuid:thing_id>/increment")
@public
@bp.response(200, Item)
def increment(thing_id: UUID) -> Thing:
    """Read, add one, write."""
    thing = db.session.scalars(lock_row(sa.select(Thing).where(Thing.id == thing_id))).one()
    thing.count = thing.count + 1
    db.session.commit()
    return thing


@bp.get("/writes/<how>")
@public
@bp.response(200)
def write_in_get(how: str) -> None:
    """Try to write, which GET may not."""
    if how == "orm":
        db.session.add(Parent(name="x"))
        db.session.commit()
    elif how == "insert":
        db.session.execute(sa.insert(Parent).values(id=UUID(int=1), name="x"))
    elif how == "update":
        db.session.execute(sa.update(Parent).values(name="x"))
    elif how == "text":
        db.session.execute(sa.text("DELETE FROM lab_parents"))
    elif how == "ddl":
        db.session.execute(sa.text("  drop table lab_parents"))
    elif how == "manager":
        with db_manager.session() as session:
            session.add(Parent(name="x"))
            session.flush()
    db.session.commit()


# --- Once -----------------------------------------------------------------------------------------


class Gate:
    """Lets a test hold a request in the middle of its work."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        self.go.wait(20)


gate = Gate()


@bp.post("/orders")
@login_required
@bp.arguments(Values)
@bp.response(201, Item)
def create_order(data: dict[str, Any]) -> APIResponse:
    """Create a thing; the name says what happens on the way."""
    name = data.get("name", "order")
    if name == "rolled-back-first":
        with suppress(IntegrityError):
            db.session.add_all([Parent(name="same"), Parent(name="same")])
            db.session.flush()
        db.session.rollback()
    thing = things.add(Thing(**{"name": name} | data))
    if name == "fails":
        raise RuntimeError("before the commit")
    if name == "refused":
        raise Conflict(field="name")
    if name == "away":
        raise ServiceUnavailable
    if name == "slow":
        time.sleep(0.5)
    if name == "held":
        gate.wait()
    db.session.commit()
    if name == "killed":
        os._exit(9)
    if name == "lost":
        raise RuntimeError("after the commit")
    return APIResponse(
        thing, message="Created.", headers={"Location": f"/things/{thing.id}", "X-Lab": "first"}
    )


@bp.put("/orders")
@login_required
@bp.arguments(Values)
@bp.response(200, Item)
def put_order(data: dict[str, Any]) -> Thing:
    """Create a thing by PUT."""
    thing = things.add(Thing(**{"name": "put"} | data))
    db.session.commit()
    return thing


@bp.post("/public-orders")
@public
@bp.arguments(Values)
@bp.response(201, Item)
def create_public_order(data: dict[str, Any]) -> Thing:
    """Create a thing for anybody."""
    thing = things.add(Thing(**{"name": "public"} | data))
    db.session.commit()
    return thing


@bp.post("/form-orders")
@login_required
@bp.arguments(Form, location="form")
@bp.response(201)
def create_form_order(data: dict[str, Any]) -> dict[str, Any]:
    """Create a thing from a form."""
    things.add(Thing(name="form"))
    db.session.commit()
    return data


@bp.post("/files")
@login_required
@bp.arguments(Values)
@bp.response(200)
def create_file(_data: dict[str, Any]) -> flask.Response:
    """Answer with something that is read only once."""
    things.add(Thing(name="file"))
    db.session.commit()
    return flask.send_file(__file__)


# --- Limits ---------------------------------------------------------------------------------------


@bp.get("/limited")
@public
@rate_limit("2/minute")
@bp.response(200, Name)
def limited() -> dict[str, Any]:
    """Answer twice in a minute."""
    return {"name": "limited"}


@bp.get("/unlimited")
@public
@unlimited
@bp.response(200, Name)
def without_limit() -> dict[str, Any]:
    """Answer always."""
    return {"name": "unlimited"}


@bp.get("/busy")
@public
@bp.response(200, Name)
def busy() -> None:
    """Say when to come again."""
    raise ServiceUnavailable(headers={"Retry-After": "17"})


@bp.get("/deadlock")
@public
@bp.response(200)
def deadlock() -> None:
    """Fail as a deadlock does."""
    raise sa.exc.OperationalError("SELECT", None, psycopg2.errors.DeadlockDetected("deadlock"))


def build_lab(settings: Mapping[str, Any]) -> Flask:
    """The lab's application."""
    return create_app(settings, blueprints=[bp, plain, bare])


def create_tables(app: Flask) -> None:
    """Make the lab's tables beside those of the migrations."""
    with app.app_context():
        db.metadata.create_all(db.engine, tables=TABLES)

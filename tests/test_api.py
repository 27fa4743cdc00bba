"""The contract of documented routes: envelope, queries, lists, versions, and what they declare."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from lab import Colour, Name, Parent, Thing
from sqlalchemy import event
from test_http import is_error

from ghost.access import login_required, public
from ghost.api import Blueprint
from ghost.app import create_app
from ghost.database import db

pytestmark = pytest.mark.lab

LAB = "/api/v1/lab"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def add(app: Flask, *rows: Any) -> None:
    with app.app_context():
        db.session.add_all(rows)
        db.session.commit()


# --- The envelope ---------------------------------------------------------------------------------


def test_success_is_the_envelope_and_nothing_else(client: FlaskClient) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)

    response = client.get(f"{LAB}/hello", headers={"X-Request-ID": "mine"})

    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    body = response.json
    moment = body["meta"].pop("timestamp")
    assert body == {
        "success": True,
        "data": {"name": "hello"},
        "message": None,
        "meta": {"request_id": "mine"},
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", moment)
    assert before <= datetime.fromisoformat(moment) <= datetime.now(UTC) + timedelta(seconds=1)


def test_api_response_sets_message_status_and_headers(client: FlaskClient) -> None:
    response = client.get(f"{LAB}/message")

    assert response.status_code == 203
    assert response.json["message"] == "Done."
    assert response.json["data"] == {"name": "a"}
    assert response.headers["X-Lab"] == "yes"


def test_204_has_neither_body_nor_content_type_but_its_headers(client: FlaskClient) -> None:
    response = client.delete(f"{LAB}/nothing")

    assert response.status_code == 204
    assert response.data == b""
    assert "Content-Type" not in response.headers
    assert response.headers["X-Lab"] == "yes"
    assert response.headers["X-Request-ID"]


def test_an_array_without_pages_is_dumped_item_by_item(client: FlaskClient) -> None:
    response = client.get(f"{LAB}/many")

    assert response.json["data"] == [{"name": "a"}, {"name": "b"}]
    assert "pagination" not in response.json["meta"]


def test_a_plain_blueprint_answers_as_it_likes_with_our_json(client: FlaskClient) -> None:
    response = client.get("/plain/json")

    assert response.json == {"when": "2026-01-02T03:04:05Z", "key": str(UUID(int=7))}


def test_an_unversioned_blueprint_may_serve_the_root(client: FlaskClient) -> None:
    assert client.get("/").json["data"] == {"name": "root"}


# --- Bodies ---------------------------------------------------------------------------------------


def test_a_body_is_read_by_its_schema(client: FlaskClient) -> None:
    body = {
        "text": "a", "number": 1, "ratio": 1.5, "amount": "2.50", "flag": True,
        "key": "01900000-0000-7000-8000-000000000000", "moment": "2026-01-02T05:04:05+02:00",
        "day": "2026-01-02", "email": "Ada@Example.org", "link": "https://a.org", "words": ["a"],
        "inner": {"number": 2}, "free": [{"a": None}], "secret": "s",
    }  # fmt: skip

    data = client.post(f"{LAB}/echo", json=body).json["data"]

    assert data["types"]["moment"] == "datetime"
    assert data["types"]["amount"] == "Decimal"
    assert data["got"] == body | {"moment": "2026-01-02T03:04:05Z", "email": "ada@example.org"}


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ({"role": "ADMIN"}, {"role": ["Unknown field."]}),
        ({"number": "5"}, {"number": ["Not a valid integer."]}),
        ({"number": 5.0}, {"number": ["Not a valid integer."]}),
        ({"number": True}, {"number": ["Not a valid integer."]}),
        ({"flag": "yes"}, {"flag": ["Not a valid boolean."]}),
        ({"flag": 1}, {"flag": ["Not a valid boolean."]}),
        ({"text": 5}, {"text": ["Not a valid string."]}),
        ({"text": None}, {"text": ["Field may not be null."]}),
        ({"words": {"a": 1}}, {"words": ["Not a valid list."]}),
        ({"words": ["a", 1]}, {"words": {"1": ["Not a valid string."]}}),
        ({"inner": {}}, {"inner": {"number": ["Missing data for required field."]}}),
        (
            {"inner": {"number": 1, "more": 2}},
            {"inner": {"more": ["Unknown field."]}},
        ),
        ({"inner": []}, {"inner": {"_schema": ["Invalid input type."]}}),
        ({"email": "nobody"}, {"email": ["Not a valid email address."]}),
        (
            {"number": "5", "flag": "no"},
            {"number": ["Not a valid integer."], "flag": ["Not a valid boolean."]},
        ),
        ({"": 1}, {"": ["Unknown field."]}),
        ({"🎈\u202e": 1}, {"🎈\u202e": ["Unknown field."]}),
    ],
    ids=str,
)
def test_a_body_that_does_not_fit_is_422_with_all_its_mistakes(
    client: FlaskClient, body: dict[str, Any], details: dict[str, Any]
) -> None:
    response = client.post(f"{LAB}/echo", json=body)

    assert is_error(response, 422, "validation_error")
    assert response.json["message"] == "Validation failed."
    assert response.json["error"]["details"] == {"json": details}


def test_an_unknown_field_of_many_bytes_is_answered(client: FlaskClient) -> None:
    response = client.post(f"{LAB}/echo", json={"a" * 100_000: 1})

    assert is_error(response, 422, "validation_error")


# --- Queries and forms ----------------------------------------------------------------------------


def test_query_values_are_text_and_are_parsed(client: FlaskClient) -> None:
    url = (
        f"{LAB}/query?number=-5&ratio=1.5&flag=true&key=01900000-0000-7000-8000-000000000000"
        "&moment=2026-01-02T03:04:05Z&text=5&many=1&many=2"
    )

    assert client.get(url).json["data"] == {
        "number": -5,
        "ratio": 1.5,
        "flag": True,
        "key": "01900000-0000-7000-8000-000000000000",
        "moment": "2026-01-02T03:04:05Z",
        "text": "5",
        "many": [1, 2],
    }


@pytest.mark.parametrize(
    ("query", "details"),
    [
        ("surprise=1", {"surprise": ["Unknown field."]}),
        ("number=x", {"number": ["Not a valid integer."]}),
        ("number=", {"number": ["Not a valid integer."]}),
        ("number=1.0", {"number": ["Not a valid integer."]}),
        ("number=99999999999999999999", {"number": ["Not a valid integer."]}),
        ("number=1&number=2", {"number": ["Given more than once."]}),
        ("number=1&number=1", {"number": ["Given more than once."]}),
        ("flag=yes", {"flag": ["Not a valid boolean."]}),
        ("flag=TRUE", {"flag": ["Not a valid boolean."]}),
        ("key=1", {"key": ["Not a valid UUID."]}),
        ("moment=yesterday", {"moment": ["Not a valid datetime."]}),
        ("text=aaaaaaaaaaa", {"text": ["Longer than maximum length 10."]}),
        ("text=%00", {"text": ["Control characters are not allowed."]}),
        ("text=%0d%0a", {"text": ["Control characters are not allowed."]}),
        ("many=1&many=x", {"many": {"1": ["Not a valid integer."]}}),
        ("a.b=1", {"a.b": ["Unknown field."]}),
        ("number[]=1", {"number[]": ["Unknown field."]}),
        ("=1", {"": ["Unknown field."]}),
        ("Number=1", {"Number": ["Unknown field."]}),
    ],
)
def test_a_query_that_does_not_fit_is_422(
    client: FlaskClient, query: str, details: dict[str, Any]
) -> None:
    response = client.get(f"{LAB}/query?{query}")

    assert is_error(response, 422, "validation_error")
    assert response.json["error"]["details"] == {"query": details}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "hello"), ("DELETE", "nothing"), ("POST", "echo"), ("HEAD", "hello")],
)
def test_a_view_without_a_query_refuses_every_field(
    client: FlaskClient, method: str, path: str
) -> None:
    response = client.open(f"{LAB}/{path}?debug=1&a=", method=method, json={})

    assert response.status_code == 422
    if method != "HEAD":
        assert response.json["error"]["details"] == {
            "query": {"debug": ["Unknown field."], "a": ["Unknown field."]}
        }


@pytest.mark.parametrize("query", ["?", "?&", "?&&&"])
def test_an_empty_query_is_none(client: FlaskClient, query: str) -> None:
    assert client.get(f"{LAB}/hello{query}").status_code == 200


def test_a_form_is_parsed_and_refused_as_a_query_is(client: FlaskClient) -> None:
    good = client.post(f"{LAB}/form", data={"number": "5", "text": "5"})
    unknown = client.post(f"{LAB}/form", data={"number": "5", "role": "ADMIN"})
    missing = client.post(f"{LAB}/form", data={"text": "a"})
    as_json = client.post(f"{LAB}/form", json={"number": 5})

    assert good.json["data"] == {"number": 5, "text": "5"}
    assert unknown.json["error"]["details"] == {"form": {"role": ["Unknown field."]}}
    assert list(missing.json["error"]["details"]["form"]) == ["number"]
    assert is_error(as_json, 415, "unsupported_media_type")


# --- Pages ----------------------------------------------------------------------------------------


@pytest.fixture
def shelf(app: Flask) -> list[str]:
    """Forty-five things, the oldest first; names are unordered, counts in groups of ten."""
    names = [f"thing {(number * 7) % 45:02}" for number in range(45)]
    rows = [
        Thing(name=name, count=number // 10, created_at=MOMENT + timedelta(seconds=number // 3))
        for number, name in enumerate(names)
    ]
    add(app, *rows)
    return names


def test_a_list_has_twenty_items_and_the_facts_of_its_page(
    client: FlaskClient, shelf: list[str]
) -> None:
    body = client.get(f"{LAB}/things").json

    assert len(body["data"]) == 20
    assert body["meta"]["pagination"] == {
        "page": 1, "per_page": 20, "total": 45, "pages": 3, "has_next": True, "has_prev": False,
    }  # fmt: skip
    assert set(body["meta"]) == {"request_id", "timestamp", "pagination"}


@pytest.mark.parametrize(
    ("query", "count", "pages", "has_next", "has_prev"),
    [
        ("page=2", 20, 3, True, True),
        ("page=3", 5, 3, False, True),
        ("page=4", 0, 3, False, True),
        ("page=100000", 0, 3, False, True),
        ("per_page=45", 45, 1, False, False),
        ("per_page=100", 45, 1, False, False),
        ("per_page=44", 44, 2, True, False),
        ("per_page=1&page=45", 1, 45, False, True),
    ],
)
def test_pages_are_counted_to_the_end(
    client: FlaskClient,
    shelf: list[str],
    query: str,
    count: int,
    pages: int,
    has_next: bool,
    has_prev: bool,
) -> None:
    body = client.get(f"{LAB}/things?{query}").json

    facts = body["meta"]["pagination"]
    assert len(body["data"]) == count
    assert (facts["total"], facts["pages"]) == (45, pages)
    assert (facts["has_next"], facts["has_prev"]) == (has_next, has_prev)


def test_an_empty_list_has_no_pages(client: FlaskClient) -> None:
    body = client.get(f"{LAB}/things").json

    assert body["data"] == []
    assert body["meta"]["pagination"] == {
        "page": 1, "per_page": 20, "total": 0, "pages": 0, "has_next": False, "has_prev": False,
    }  # fmt: skip
    later = client.get(f"{LAB}/things?page=3").json["meta"]["pagination"]
    assert (later["has_next"], later["has_prev"]) == (False, False)


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=-1", "page=x", "page=", "page=1.5", "page=100001", "page=99999999999999999999",
     "per_page=0", "per_page=101", "per_page=-5", "per_page=all", "page=1&page=2", "limit=5",
     "offset=5", "page=%31%00"],
)  # fmt: skip
def test_pages_out_of_bounds_are_422(client: FlaskClient, query: str) -> None:
    response = client.get(f"{LAB}/things?{query}")

    assert is_error(response, 422, "validation_error")
    assert list(response.json["error"]["details"]) == ["query"]


@pytest.mark.parametrize("sort", ["", "sort=created_at", "sort=-created_at", "sort=count"])
def test_pages_together_are_the_whole_each_item_once(
    client: FlaskClient, shelf: list[str], sort: str
) -> None:
    found = [
        item["name"]
        for page in range(1, 8)
        for item in client.get(f"{LAB}/things?{sort}&per_page=7&page={page}").json["data"]
    ]

    assert sorted(found) == sorted(shelf)


def test_head_of_a_list_has_the_headers_alone(client: FlaskClient, shelf: list[str]) -> None:
    response = client.head(f"{LAB}/things?per_page=5")

    assert response.status_code == 200
    assert response.data == b""
    assert int(response.headers["Content-Length"]) > 500


def test_a_list_takes_two_statements_and_never_reads_the_rest(
    app: Flask, client: FlaskClient, shelf: list[str]
) -> None:
    statements: list[str] = []
    with app.app_context():
        engine = db.engine

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        client.get(f"{LAB}/things?per_page=5")
    finally:
        event.remove(engine, "before_cursor_execute", note)

    assert len(statements) == 2
    assert "LIMIT" in statements[1]


# --- Sort, filter, search -------------------------------------------------------------------------


def names_of(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [item["name"] for item in response.json["data"]]


def test_items_are_sorted_by_allowed_columns(client: FlaskClient, shelf: list[str]) -> None:
    up = names_of(client.get(f"{LAB}/things?sort=name&per_page=100"))
    down = names_of(client.get(f"{LAB}/things?sort=-name&per_page=100"))

    assert up == sorted(shelf)
    assert down == up[::-1]
    assert names_of(client.get(f"{LAB}/pairs?per_page=100")) == down


def test_without_an_order_the_newest_come_first(app: Flask, client: FlaskClient) -> None:
    for name in ("first", "second", "third"):
        add(app, Thing(name=name))

    assert names_of(client.get(f"{LAB}/things")) == ["third", "second", "first"]


@pytest.mark.parametrize(
    "query",
    ["sort=", "sort=id", "sort=text", "sort=name,count", "sort=--name", "sort=+name", "sort=NAME",
     "sort=name;drop table", "sort=name desc", "sort=lab_things.name", "sort=version",
     "sort=deleted_at", "sort=name&sort=count", "text=a", "id=1", "version=1", "deleted_at=1",
     "search=", "search=%00", "search=" + "a" * 201, "name__contains=a", "filter=a"],
)  # fmt: skip
def test_what_is_not_on_the_lists_is_422(client: FlaskClient, query: str) -> None:
    assert is_error(client.get(f"{LAB}/things?{query}"), 422, "validation_error")


PARENT = UUID("01900000-0000-7000-8000-000000000001")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("name=full", ["full"]),
        ("name=ful", []),
        ("name=FULL", []),
        ("count=7", ["full"]),
        ("count=-1", []),
        ("count=9999999999", []),
        ("big=4611686018427387904", ["full"]),
        ("flag=true", ["full"]),
        ("flag=false", ["empty"]),
        ("price=12.5", ["full"]),
        ("weight=0.5", ["full"]),
        ("colour=red", ["full"]),
        ("colour=blue", []),
        ("happened_at=2026-01-02T03:04:05Z", ["full"]),
        ("happened_at=2026-01-02T05:04:05%2B02:00", ["full"]),
        (f"parent_id={PARENT}", ["full"]),
        ("parent_id=01900000-0000-7000-8000-000000000002", []),
        ("flag=true&count=7", ["full"]),
        ("flag=false&count=7", []),
    ],
)
def test_a_filter_reads_the_value_as_its_column_has_it(
    app: Flask, client: FlaskClient, query: str, expected: list[str]
) -> None:
    add(app, Parent(id=PARENT, name="parent"))
    full = Thing(
        name="full", count=7, big=2**62, flag=True, price=Decimal("12.50"), weight=0.5,
        colour=Colour.red, happened_at=MOMENT, parent_id=PARENT,
    )  # fmt: skip
    add(app, full, Thing(name="empty"))

    response = client.get(f"{LAB}/things?{query}")

    assert names_of(response) == expected
    assert response.json["meta"]["pagination"]["total"] == len(expected)


@pytest.mark.parametrize(
    "query",
    ["count=x", "count=", "count=1.5", "count=99999999999999999999", "big=x", "flag=1", "flag=yes",
     "flag=", "price=x", "price=NaN", "price=1e9", "weight=x", "weight=nan", "colour=green",
     "colour=", "happened_at=yesterday", "happened_at=2026-01-02",
     "happened_at=2026-01-02T03:04:05",
     "parent_id=1", "parent_id=", "parent_id=null", "name=%00", "name=" + "a" * 201,
     "count=1&count=2"],
)  # fmt: skip
def test_a_filter_value_that_its_column_can_not_have_is_422(
    client: FlaskClient, query: str
) -> None:
    response = client.get(f"{LAB}/things?{query}")

    assert is_error(response, 422, "validation_error")
    assert list(response.json["error"]["details"]["query"]) == [query.partition("=")[0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ALPHA", ["alpha 100%"]),
        ("100%", ["alpha 100%"]),
        ("%", ["alpha 100%"]),
        ("_", ["beta_1"]),
        ("a_1", ["beta_1"]),
        ("\\", ["back\\slash"]),
        ("/", ["c/d"]),
        ("needle", ["in text"]),
        ("' OR 1=1 --", []),
        ("zzz", []),
    ],
)
def test_search_finds_text_and_knows_no_wildcards(
    app: Flask, client: FlaskClient, text: str, expected: list[str]
) -> None:
    names = ("alpha 100%", "beta_1", "back\\slash", "c/d")
    add(app, *(Thing(name=name) for name in names), Thing(name="in text", text="a NEEDLE here"))

    response = client.get(f"{LAB}/things", query_string={"search": text})

    assert names_of(response) == expected


def test_deleted_rows_are_in_no_list_and_no_count(app: Flask, client: FlaskClient) -> None:
    add(app, Thing(name="here"), Thing(name="gone", deleted_at=MOMENT))

    body = client.get(f"{LAB}/things").json

    assert [item["name"] for item in body["data"]] == ["here"]
    assert body["meta"]["pagination"]["total"] == 1


# --- Versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ('"3"', 304),
        ('W/"3"', 304),
        ('"1", "3"', 304),
        ("*", 304),
        ('"4"', 200),
        ('"33"', 200),
        ("", 200),
        ('garbage,,,"', 200),
    ],
)
def test_if_none_match_is_answered_by_304_without_a_body(
    client: FlaskClient, header: str, status: int
) -> None:
    for method in ("GET", "HEAD"):
        response = client.open(f"{LAB}/versioned", method=method, headers={"If-None-Match": header})

        assert response.status_code == status, method
        assert response.headers["ETag"] == '"3"'
        assert response.headers["X-Request-ID"]
        assert (response.data == b"") is (status == 304 or method == "HEAD")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 200), ('"3"', 200), ('"2", "3"', 200), ("*", 200), ('"2"', 412), ('W/"3"', 412),
        ('"33"', 412), ("", 412), ('"', 412), ("nonsense", 412), ('"3', 412),
    ],
)  # fmt: skip
def test_if_match_is_checked_when_it_is_sent(
    client: FlaskClient, header: str | None, status: int
) -> None:
    headers = {} if header is None else {"If-Match": header}

    response = client.patch(f"{LAB}/versioned", headers=headers)

    assert response.status_code == status
    if status == 412:
        assert is_error(response, 412, "precondition_failed")


def test_a_stale_if_match_never_overwrites_a_newer_version(client: FlaskClient) -> None:
    thing = client.post(f"{LAB}/things", json={"name": "a"}).json["data"]
    url = f"{LAB}/things/{thing['id']}"
    etag = client.get(url).headers["ETag"]

    first = client.patch(url, json={"name": "b"}, headers={"If-Match": etag})
    second = client.patch(url, json={"name": "c"}, headers={"If-Match": etag})
    third = client.patch(url, json={"name": "d"}, headers={"If-Match": first.headers["ETag"]})

    assert (first.status_code, second.status_code, third.status_code) == (200, 412, 200)
    assert first.headers["ETag"] != etag
    assert client.get(url).json["data"]["name"] == "d"
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 200


# --- What routes declare --------------------------------------------------------------------------


def test_a_route_that_does_not_say_who_may_call_it_stops_the_start() -> None:
    bp = Blueprint("undeclared", __name__, url_prefix="/undeclared")

    with pytest.raises(RuntimeError, match=r"undeclared\.look does not say who may call it"):

        @bp.get("/")
        @bp.response(200)
        def look() -> None:
            """Look."""


def test_access_declared_above_the_route_does_not_count() -> None:
    bp = Blueprint("above", __name__, url_prefix="/above")

    with pytest.raises(RuntimeError, match="below the route"):

        @login_required
        @bp.get("/")
        def look() -> None:
            """Look."""


def test_every_way_to_add_a_route_asks_for_access() -> None:
    bp = Blueprint("ways", __name__, url_prefix="/ways")

    def look() -> None:
        """Look."""

    for method in ("get", "post", "put", "patch", "delete"):
        with pytest.raises(RuntimeError):
            getattr(bp, method)("/")(look)
    with pytest.raises(RuntimeError):
        bp.route("/", methods=["GET"])(look)
    with pytest.raises(RuntimeError):
        bp.add_url_rule("/", view_func=look)


def test_one_view_may_answer_several_methods_and_paths(app_settings: Mapping[str, Any]) -> None:
    bp = Blueprint("several", __name__, url_prefix="/several")

    @bp.route("/one", methods=["GET", "POST"])
    @public
    @bp.response(200, Name)
    def one() -> dict[str, Any]:
        """Answer."""
        return {"name": "one"}

    app = create_app(app_settings, blueprints=[bp])
    client = app.test_client()

    assert client.get("/api/v1/several/one").json["data"] == {"name": "one"}
    assert client.post("/api/v1/several/one").json["data"] == {"name": "one"}
    paths = client.get("/openapi.json").json["paths"]["/api/v1/several/one"]
    assert paths["get"]["operationId"] != paths["post"]["operationId"]


def test_an_unknown_thing_is_404_like_a_deleted_one(app: Flask, client: FlaskClient) -> None:
    gone = Thing(name="gone", deleted_at=MOMENT)
    add(app, gone)
    with app.app_context():
        gone_id = db.session.scalars(sa.select(Thing.id)).one()

    missing, deleted = (client.get(f"{LAB}/things/{key}") for key in (uuid4(), gone_id))

    assert is_error(missing, 404, "not_found")
    assert is_error(deleted, 404, "not_found")
    assert missing.json["error"] == deleted.json["error"]

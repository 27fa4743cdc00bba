"""The JSON that Ghost writes, and the facts of a page."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from flask import Flask, jsonify
from markupsafe import Markup

from ghost.responses import dumps, envelope, page_facts

EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '"2026-01-02T03:04:05Z"'),
        (datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=UTC), '"2026-01-02T03:04:05.000060Z"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (UUID(int=0xAB << 120), '"ab000000-0000-0000-0000-000000000000"'),
        (Decimal("1.50"), '"1.50"'),
        ({3, 1, 2}, "[1,2,3]"),
        (Markup("<b>"), '"<b>"'),
        ({UUID(int=1): 1}, '{"00000000-0000-0000-0000-000000000001":1}'),
        ({1: "a"}, '{"1":"a"}'),
        ("Zoë 🎈", '"Zoë 🎈"'),
        (float("nan"), "null"),
        (EAST, f'"{EAST}"'),
    ],
    ids=repr,
)
def test_values_are_written_as_clients_read_them(value: Any, text: str) -> None:
    assert dumps(value).decode() == text


def test_flasks_own_json_is_written_the_same_way(app: Flask) -> None:
    with app.test_request_context("/"):
        response = jsonify(at=datetime(2026, 1, 2, tzinfo=UTC), price=Decimal("1.5"))

        assert response.json == {"at": "2026-01-02T00:00:00Z", "price": "1.5"}
        assert response.mimetype == "application/json"
        assert app.json.loads(app.json.dumps({"a": [1, None]})) == {"a": [1, None]}


def test_an_envelope_outside_a_request_has_no_request_id() -> None:
    made = json.loads(dumps(envelope({"a": 1}, message="Done.")))

    assert made["meta"].pop("timestamp").endswith("Z")
    assert made == {
        "success": True, "data": {"a": 1}, "message": "Done.", "meta": {"request_id": None},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("page", "per_page", "total", "pages", "has_next", "has_prev"),
    [
        (1, 20, 0, 0, False, False),
        (5, 20, 0, 0, False, False),
        (1, 20, 1, 1, False, False),
        (1, 20, 20, 1, False, False),
        (1, 20, 21, 2, True, False),
        (2, 20, 21, 2, False, True),
        (3, 20, 21, 2, False, True),
        (2, 1, 3, 3, True, True),
    ],
)
def test_the_facts_of_a_page(
    page: int, per_page: int, total: int, pages: int, has_next: bool, has_prev: bool
) -> None:
    assert page_facts(page, per_page, total) == {
        "page": page, "per_page": per_page, "total": total, "pages": pages,
        "has_next": has_next, "has_prev": has_prev,
    }  # fmt: skip

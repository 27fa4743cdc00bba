"""Schedules over HTTP."""

from __future__ import annotations

from datetime import datetime

import pytest

from ghost.jobs import clock
from ghost.jobs.schedules import Declaration
from ghost.models import utcnow

pytestmark = pytest.mark.integration

SCHEDULES = "/api/v1/jobs/schedules"


@pytest.fixture
def boss(client, make_user):
    return client.as_user(make_user(roles=["ADMIN"]))


@pytest.fixture(autouse=True)
def taken_up(app):
    """Two schedules, as a scheduler has taken them up; the second of a job that is not there."""
    values = {"timezone": "UTC", "missed": "once", "args": {}, "source": "code"}
    declared = [
        Declaration(
            "shop.nightly", job="job_samples.open_to_all", timing="cron 0 3 * * *",
            **(values | {"timezone": "Europe/Berlin", "args": {"number": 7}}),
        ),
        Declaration("shop.often", job="shop.gone", timing="every 60", **values),
    ]  # fmt: skip
    with app.app_context():
        clock.reconcile({one.name: one for one in declared}, utcnow())


def test_schedules_are_shown_by_name(boss):
    nightly, often = boss.get(SCHEDULES).json["data"]

    assert nightly == {
        "name": "shop.nightly", "job": "job_samples.open_to_all", "args": {"number": 7},
        "timing": "cron 0 3 * * *", "timezone": "Europe/Berlin", "missed": "once",
        "source": "code", "enabled": True, "last_due_at": None,
        "next_due_at": nightly["next_due_at"],
    }  # fmt: skip
    assert datetime.fromisoformat(nightly["next_due_at"]).hour in (1, 2)
    assert often["name"] == "shop.often"


def test_a_schedule_is_run_beside_the_clock(boss, ledger):
    response = boss.post(f"{SCHEDULES}/shop.nightly/run")

    [row] = ledger.rows()
    assert response.status_code == 202
    assert response.json["data"] == {"id": str(row.id), "status": "queued"}
    assert (row.name, row.args) == ("job_samples.open_to_all", {"number": 7})


def test_a_schedule_of_a_job_that_is_not_there_is_a_conflict(boss, ledger):
    assert boss.post(f"{SCHEDULES}/shop.often/run").status_code == 409
    assert ledger.rows() == []


def test_a_schedule_is_disabled_and_enabled(boss):
    off = boss.patch(f"{SCHEDULES}/shop.nightly", json={"enabled": False})
    assert (off.json["data"]["enabled"], off.json["data"]["next_due_at"]) == (False, None)

    on = boss.patch(f"{SCHEDULES}/shop.nightly", json={"enabled": True})
    assert on.json["data"]["enabled"]
    assert on.json["data"]["next_due_at"] is not None


def test_what_is_wrong_is_said(boss):
    assert boss.patch(f"{SCHEDULES}/nothing", json={"enabled": True}).status_code == 404
    assert boss.post(f"{SCHEDULES}/nothing/run").status_code == 404
    assert boss.patch(f"{SCHEDULES}/shop.often", json={}).status_code == 422
    assert boss.patch(f"{SCHEDULES}/shop.often", json={"timing": "every 1"}).status_code == 422


def test_schedules_are_for_operators(client, make_user):
    ours = client.as_user(make_user())
    reader = client.as_user(make_user(permissions=["jobs:read"]))

    assert ours.get(SCHEDULES).status_code == 403
    assert reader.get(SCHEDULES).status_code == 200
    assert reader.post(f"{SCHEDULES}/shop.nightly/run").status_code == 403
    assert reader.patch(f"{SCHEDULES}/shop.nightly", json={"enabled": False}).status_code == 403

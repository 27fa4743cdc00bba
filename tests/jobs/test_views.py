"""Jobs and queues over HTTP."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import job_samples as samples
import pytest

from ghost import db
from ghost.errors import Conflict
from ghost.jobs import runner, services
from ghost.jobs.models import Lease
from ghost.jobs.signals import job_canceled
from ghost.models import utcnow
from ghost.users.models import User

pytestmark = pytest.mark.integration

JOBS = "/api/v1/jobs"


@pytest.fixture
def boss(client, make_user):
    return client.as_user(make_user(roles=["ADMIN"]))


@pytest.fixture
def ada(make_user):
    return make_user()


@pytest.fixture
def enqueue(app):
    def add(function, *args, created_by: User | None = None, **kwargs):
        with app.app_context():
            token = runner.user_id_var.set(str(created_by.id) if created_by else None)
            job_id = function.enqueue(*args, **kwargs)
            db.session.commit()
            runner.user_id_var.reset(token)
        return job_id

    return add


def ids(response):
    return [found["id"] for found in response.json["data"]]


def test_a_job_is_shown_whole(boss, enqueue, run, out):
    job_id = enqueue(samples.give_back, "x")
    run(job_id)

    data = boss.get(f"{JOBS}/{job_id}").json["data"]

    assert set(data) == {
        "id", "name", "queue", "status", "progress", "progress_message", "result", "error",
        "attempts", "max_attempts", "run_at", "created_at", "started_at", "finished_at",
        "created_by", "request_id", "history",
    }  # fmt: skip
    assert (data["name"], data["status"], data["attempts"]) == (
        "job_samples.give_back", "finished", 1,
    )  # fmt: skip
    assert data["result"]["value"] == "x"
    assert data["history"][0]["outcome"] == "finished"


def test_who_enqueued_a_job_may_read_it_and_nobody_elses(client, ada, make_user, enqueue):
    own = enqueue(samples.one_of_each, "a", created_by=ada)
    other = enqueue(samples.one_of_each, "b", created_by=make_user())
    ours = client.as_user(ada)

    assert ids(ours.get(JOBS)) == [str(own)]
    assert ours.get(f"{JOBS}/{own}").status_code == 200
    assert ours.get(f"{JOBS}/{other}").status_code == 404
    assert ours.get(f"{JOBS}/{uuid4()}").status_code == 404


def test_operators_see_all_and_filter(boss, enqueue, run, out):
    done = enqueue(samples.write, str(out))
    run(done)
    later = enqueue(samples.one_of_each, "a")

    assert set(ids(boss.get(JOBS))) >= {str(done), str(later)}
    assert ids(boss.get(f"{JOBS}?status=finished")) == [str(done)]
    assert ids(boss.get(f"{JOBS}?name=job_samples.one_of_each")) == [str(later)]
    assert boss.get(f"{JOBS}?status=nothing").status_code == 422
    assert ids(boss.get(f"{JOBS}?queue=high")) == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/{id}/cancel"),
        ("POST", "/{id}/retry"),
        ("POST", "/retry"),
        ("GET", "/queues"),
        ("POST", "/queues/default/pause"),
        ("POST", "/queues/default/resume"),
    ],
)
def test_control_is_for_operators(client, ada, enqueue, method, path):
    own = enqueue(samples.one_of_each, "a", created_by=ada)
    body = {"status": "failed"} if path == "/retry" else None

    response = client.as_user(ada).open(JOBS + path.format(id=own), method=method, json=body)

    assert response.status_code == 403


# --- Starting -------------------------------------------------------------------------------------


def test_a_public_job_is_started(boss, ledger, run):
    key = str(uuid4())

    response = boss.post(
        JOBS, json={"name": "job_samples.open_to_all", "args": {"number": 7, "key": key}}
    )

    job_id = response.json["data"]["id"]
    assert response.status_code == 202
    assert response.json["data"]["status"] == "queued"
    assert response.headers["Location"].endswith(job_id)
    [row] = ledger.rows()
    assert str(row.id) == job_id
    assert row.args == {"number": 7, "key": key}
    assert run(row.id) == "finished"


def test_a_public_job_is_started_later(boss, ledger):
    at = (utcnow() + timedelta(hours=1)).isoformat()

    response = boss.post(
        JOBS, json={"name": "job_samples.open_to_all", "args": {"number": 7}, "run_at": at}
    )

    assert (response.status_code, response.json["data"]["status"]) == (202, "scheduled")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "job_samples.write", "args": {"path": "x"}}, "name"),
        ({"name": "os.system", "args": {"command": "true"}}, "name"),
        ({"name": "job_samples.open_to_all", "args": {}}, "args"),
        ({"name": "job_samples.open_to_all", "args": {"number": "7"}}, "args"),
        ({"name": "job_samples.open_to_all", "args": {"number": 7, "x": 1}}, "args"),
        ({"name": "job_samples.open_to_all", "args": {"number": 7, "key": "no"}}, "args"),
        ({"name": "job_samples.open_to_all", "args": [7]}, "args"),
        ({"name": "job_samples.open_at", "args": {"at": "0001-01-01T00:00:00+23:59"}}, "args"),
        ({"name": "job_samples.open_at", "args": {"at": "9999-12-31T23:59:59-10:00"}}, "args"),
        ({"name": "job_samples.open_at", "args": {"at": "2026-01-01"}}, "args"),
        ({"name": "job_samples.open_to_all", "args": {"number": 7}, "queue": "high"}, "queue"),
    ],
)
def test_what_can_not_be_started_is_a_validation_error(boss, ledger, body, field):
    response = boss.post(JOBS, json=body)

    assert response.status_code == 422
    assert list(response.json["error"]["details"]["json"]) == [field]
    assert ledger.rows() == []


def test_starting_needs_the_functions_permission(client, make_user):
    nobody = client.as_user(make_user())
    reader = client.as_user(make_user(permissions=["users:read"]))
    some = {"name": "job_samples.open_to_some", "args": {}}

    assert nobody.post(JOBS, json=some).status_code == 403
    assert reader.post(JOBS, json=some).status_code == 202
    all_ = {"name": "job_samples.open_to_all", "args": {"number": 1}}
    assert reader.post(JOBS, json=all_).status_code == 403


def test_a_time_that_has_passed_is_now(boss, ledger):
    body = {"name": "job_samples.open_to_all", "args": {"number": 7}}

    response = boss.post(JOBS, json=body | {"run_at": "0001-01-01T00:00:00Z"})

    assert response.json["data"]["status"] == "queued"
    assert abs((ledger.rows()[0].run_at - utcnow()).total_seconds()) < 5


def test_a_unique_job_of_somebody_else_is_a_conflict_that_tells_nothing(client, make_user):
    first, second = (client.as_user(make_user(permissions=["users:read"])) for _ in range(2))
    body = {"name": "job_samples.open_once", "args": {}}
    started = first.post(JOBS, json=body)

    again = second.post(JOBS, json=body)

    assert (started.status_code, again.status_code) == (202, 409)
    assert started.json["data"]["id"] not in again.text
    assert first.post(JOBS, json=body).json["data"]["id"] == started.json["data"]["id"]


# --- Cancelling and trying again ------------------------------------------------------------------


def test_a_waiting_job_that_is_canceled_never_starts(boss, enqueue, run, ledger, out):
    job_id = enqueue(samples.write, str(out))

    response = boss.post(f"{JOBS}/{job_id}/cancel")

    assert (response.status_code, response.json["data"]["status"]) == (200, "canceled")
    assert run(job_id) is None
    assert not out.exists()
    assert boss.post(f"{JOBS}/{job_id}/cancel").status_code == 409


def test_a_running_job_that_is_canceled_commits_nothing(app, boss, enqueue, ledger, out):
    job_id = enqueue(samples.report, str(out), first_writes=True)
    with app.app_context():
        claimed = runner.claim(job_id, 1)

    data = boss.post(f"{JOBS}/{job_id}/cancel").json["data"]

    assert [entry["outcome"] for entry in data["history"]] == ["canceled"]
    with app.app_context():
        assert not runner.renew([claimed])
        assert runner.canceled_of([claimed.job_id]) == {claimed.job_id}
    assert runner.execute(app, claimed) == "lost"
    assert ledger.get(job_id).status == "canceled"
    assert out.exists()  # it ran to its end ...
    with app.app_context():
        assert db.session.get(Lease, "written") is None  # ... and what it wrote is gone


def test_a_failed_job_is_tried_again_as_often_as_a_new_one(boss, enqueue, run, ledger, out):
    job_id = enqueue(samples.fail, str(out))
    for number in (1, 2, 3):
        run(job_id, number)

    data = boss.post(f"{JOBS}/{job_id}/retry").json["data"]

    assert (data["status"], data["attempts"], data["max_attempts"]) == ("queued", 3, 6)
    assert data["error"] is None
    assert [run(job_id, number) for number in (4, 5, 6)] == ["retrying", "retrying", "failed"]
    assert len(ledger.get(job_id).history) == 6


def test_whoever_listens_hears_of_a_cancel_in_its_transaction(app, boss, enqueue, ledger, out):
    job_id = enqueue(samples.write, str(out))

    def refuse(_app, *, job_id, name):
        told.append((job_id, name))
        raise Conflict

    told = []
    with job_canceled.connected_to(refuse):
        answer = boss.post(f"/api/v1/jobs/{job_id}/cancel")

    assert answer.status_code == 409
    assert told == [(job_id, samples.write.name)]
    assert ledger.get(job_id).status == "queued"


def test_a_canceled_job_is_tried_again_and_a_waiting_one_is_not(boss, enqueue, run, out):
    job_id = enqueue(samples.write, str(out))
    boss.post(f"{JOBS}/{job_id}/cancel")

    assert boss.post(f"{JOBS}/{job_id}/retry").status_code == 200
    assert boss.post(f"{JOBS}/{job_id}/retry").status_code == 409
    assert run(job_id) == "finished"


def test_a_unique_job_is_not_tried_again_beside_its_like(boss, enqueue):
    first = enqueue(samples.one_of_each, "a")
    boss.post(f"{JOBS}/{first}/cancel")
    enqueue(samples.one_of_each, "a")

    response = boss.post(f"{JOBS}/{first}/retry")

    assert response.status_code == 409
    assert boss.get(f"{JOBS}/{first}").json["data"]["status"] == "canceled"


def test_all_failed_jobs_of_a_function_are_tried_again(boss, enqueue, run, ledger):
    failed = [enqueue(samples.give_up) for _ in range(3)]
    for job_id in failed:
        run(job_id)
    other = enqueue(samples.fail_slowly)

    response = boss.post(f"{JOBS}/retry", json={"status": "failed", "name": "job_samples.give_up"})

    assert response.json["data"] == {"retried": 3}
    assert {ledger.get(job_id).status for job_id in failed} == {"queued"}
    assert ledger.get(other).attempts == 0
    again = boss.post(f"{JOBS}/retry", json={"status": "failed"})
    assert again.json["data"] == {"retried": 0}
    assert boss.post(f"{JOBS}/retry", json={"status": "finished"}).status_code == 422


def test_a_job_that_is_tried_again_is_sent_at_once(boss, enqueue, run, redis):
    job_id = enqueue(samples.give_up)
    run(job_id)
    redis.flushall()

    boss.post(f"{JOBS}/{job_id}/retry")

    assert redis.lrange("rq:queue:default", 0, -1) == [f"{job_id.hex}-2"]


def test_a_job_that_was_stopped_waits_for_the_end_of_its_lease(app, boss, enqueue, run):
    job_id = enqueue(samples.one_of_each, "a")
    with app.app_context():
        runner.claim(job_id, 1)
    boss.post(f"{JOBS}/{job_id}/cancel")

    data = boss.post(f"{JOBS}/{job_id}/retry").json["data"]

    assert data["status"] == "scheduled"
    assert run(job_id, 2) is None


def test_many_unique_jobs_keep_no_other_from_being_tried_again(
    boss, enqueue, run, ledger, monkeypatch
):
    monkeypatch.setattr(services, "RETRY_LIMIT", 2)
    for _ in range(3):
        first = enqueue(samples.one_of_each, "a")
        ledger_row = ledger.get(first)
        boss.post(f"{JOBS}/{ledger_row.id}/cancel")
    other = enqueue(samples.one_of_each, "b")
    boss.post(f"{JOBS}/{other}/cancel")

    answers = [boss.post(f"{JOBS}/retry", json={"status": "canceled"}) for _ in range(2)]

    assert [answer.json["data"]["retried"] for answer in answers] == [2, 0]
    assert ledger.get(other).status == "queued"


def test_who_may_write_but_not_read_jobs_controls_their_own(client, make_user, enqueue, run):
    eve = make_user(permissions=["jobs:write"])
    ours = client.as_user(eve)
    own, other = enqueue(samples.give_up, created_by=eve), enqueue(samples.give_up)
    run(own), run(other)

    assert ours.post(f"{JOBS}/{other}/retry").status_code == 404
    assert ours.post(f"{JOBS}/{other}/cancel").status_code == 404
    assert ours.post(f"{JOBS}/retry", json={"status": "failed"}).json["data"] == {"retried": 1}
    assert ours.post(f"{JOBS}/{own}/cancel").json["data"]["status"] == "canceled"


# --- Queues ---------------------------------------------------------------------------------------


def test_queues_tell_what_waits(app, boss, enqueue, out):
    enqueue(samples.write, str(out))
    with app.app_context():
        samples.write.enqueue_in(3600, str(out))
        db.session.commit()

    found = {queue["name"]: queue for queue in boss.get(f"{JOBS}/queues").json["data"]}

    assert list(found) == ["high", "default", "low"]
    assert found["default"]["depth"] == 1
    assert found["default"]["oldest"].endswith("Z")
    assert (found["low"]["depth"], found["low"]["oldest"]) == (0, None)
    assert {queue["workers"] for queue in found.values()} == {0}


def test_of_a_paused_queue_nothing_is_taken_until_it_goes_on(boss, enqueue, work, ledger, out):
    job_id = enqueue(samples.write, str(out))

    assert boss.post(f"{JOBS}/queues/default/pause").status_code == 200
    assert boss.post(f"{JOBS}/queues/default/pause").status_code == 200
    work()
    assert ledger.get(job_id).status == "queued"
    assert [q["paused"] for q in boss.get(f"{JOBS}/queues").json["data"]] == [False, True, False]

    assert boss.post(f"{JOBS}/queues/default/resume").status_code == 200
    work()
    assert ledger.get(job_id).status == "finished"


def test_an_unknown_queue_is_not_found(boss):
    assert boss.post(f"{JOBS}/queues/nothing/pause").status_code == 404
    assert boss.post(f"{JOBS}/queues/nothing/resume").status_code == 404


def test_queues_are_told_while_redis_is_away(boss, redis_server):
    redis_server.pause()
    try:
        response = boss.get(f"{JOBS}/queues")
    finally:
        redis_server.resume()

    assert response.status_code == 200
    assert {queue["workers"] for queue in response.json["data"]} == {None}

"""The OpenAPI document: valid, complete, and true of every answer."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import validate
from PIL import Image
from schemathesis import checks
from signed_events import (
    TOPIC,
    post_sendgrid,
    post_sns,
    sendgrid_public_key,
    sns_certificate,
    sns_signed,
    sns_subscription,
)
from werkzeug.test import TestResponse

from ghost import job
from ghost.jobs import clock
from ghost.jobs.schedules import Declaration
from ghost.mail import sns
from ghost.mail.sns import Certificates
from ghost.models import utcnow
from ghost.testing.background import Jobs, Mailbox
from ghost.testing.clients import Client, log_in
from ghost.testing.factories import UserFactory
from ghost.users.models import User

pytestmark = pytest.mark.integration

# What schemathesis generates for the bytes of an upload is bytes.
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")

METHODS = ("get", "post", "put", "patch", "delete")
PASSWORD = "correct horse battery"
CODES = {
    400: {"bad_request"},
    401: {"unauthorized", "token_invalid", "token_expired", "token_revoked"},
    403: {"forbidden", "account_disabled", "email_not_verified", "link_invalid"},
    404: {"not_found"},
    405: {"method_not_allowed"},
    409: {"conflict"},
    410: {"gone", "token_used"},
    412: {"precondition_failed"},
    413: {"payload_too_large"},
    415: {"unsupported_media_type"},
    416: {"range_not_satisfiable"},
    422: {"validation_error"},
    423: {"locked"},
    429: {"rate_limited"},
    460: {"checksum_mismatch"},
    503: {"service_unavailable"},
}


@pytest.fixture
def document(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").get_json()
    return found


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


# --- The document ---------------------------------------------------------------------------------


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    validate(document)


@pytest.mark.lab
def test_an_applications_own_routes_keep_it_valid(document: dict[str, Any]) -> None:
    validate(document)
    things = document["paths"]["/api/v1/lab/things"]["get"]["parameters"]
    types = {found["name"]: found["schema"].get("type") for found in things}

    assert types["flag"] == "boolean"
    assert types["count"] == "integer"
    assert "/plain/json" not in document["paths"]


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for *_, operation in operations(document)]

    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z_]+\.[a-z_.]+", found) for found in ids)


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        assert re.fullmatch(r"[A-Z].*[a-z.]", operation["summary"]), where
        assert operation["tags"], where
        assert len(operation["summary"]) < 90, where


def test_every_operation_describes_success_and_the_errors_that_any_may_have(
    document: dict[str, Any],
) -> None:
    for path, method, operation in operations(document):
        answers = operation["responses"]
        assert [status for status in answers if status.startswith("2")], path
        for status in ("422", "429", "500", "503"):
            assert status in answers, (method, path, status)
        if "requestBody" in operation:
            assert {"413", "415"} <= set(answers), path


def test_security_is_shown_where_a_login_is_needed_and_only_there(
    app: Flask, document: dict[str, Any]
) -> None:
    assert document["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    public = {
        operation["operationId"]
        for *_, operation in operations(document)
        if not operation.get("security")
    }

    assert public == {
        "health.health", "health.live", "health.ready", "health.show_metrics", "auth.register",
        "auth.login", "auth.forgot_password", "auth.reset_password", "auth.verify_email",
        "auth.resend_verification", "mail_webhooks.take_sendgrid_events",
        "mail_webhooks.take_ses_events", "file_contents.get_content", "file_images.get_image",
    }  # fmt: skip


def test_who_is_not_logged_in_gets_401_from_every_other_operation(
    client: Client, document: dict[str, Any]
) -> None:
    for path, method, operation in operations(document):
        if operation.get("security"):
            url = re.sub(r"\{\w+\}", "01900000-0000-7000-8000-000000000000", path)
            response = client.open(url, method=method, json={} if method != "get" else None)
            assert response.status_code == 401, f"{method} {path}"
            assert "WWW-Authenticate" in response.headers


def test_no_answer_has_a_field_for_a_secret(document: dict[str, Any]) -> None:
    """Fields of answers; what a client sends may well be a password."""
    schemas = document["components"]["schemas"]
    answered: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            reference = node.get("$ref", "").rpartition("/")[2]
            if reference in schemas and reference not in answered:
                answered.add(reference)
                collect(schemas[reference])
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    for *_, operation in operations(document):
        collect(operation["responses"])
    names = {name for schema in answered for name in schemas[schema].get("properties", {})}

    assert not [name for name in names if re.search("password|hash|secret|epoch", name)]
    assert {"access_token", "refresh_token"} <= names


# --- Every operation, once, as it is meant --------------------------------------------------------


@dataclass
class World:
    """An application with people in it, and what they need."""

    app: Flask
    make_user: UserFactory
    jobs: Jobs
    mailbox: Mailbox
    count: int = 0

    def client(self, user: User | None = None) -> Client:
        client = Client(self.app, self.app.response_class)
        return client.as_user(user) if user else client

    def person(self, *roles: str, **values: Any) -> User:
        return self.make_user(roles=roles or ("USER",), **values)

    def boss(self) -> Client:
        return self.client(self.person("SUPER_ADMIN"))

    def address(self) -> str:
        self.count += 1
        return f"somebody{self.count}@example.org"

    def mailed_token(self, address: str) -> str:
        """The token of the last mail to an address."""
        self.jobs.run_all()
        found = re.search(r"token=([\w.~%-]+)", self.mailbox.to(address).text)
        assert found, "no token in the mail"
        return found.group(1)

    def register(self, address: str) -> TestResponse:
        body = {"email": address, "password": PASSWORD}
        return self.client().post("/api/v1/auth/register", json=body)

    def role(self, boss: Client) -> str:
        self.count += 1
        name = f"ROLE_{'ABCDEFGHIJ'[self.count % 10]}{self.count}"
        assert boss.post("/api/v1/roles", json={"name": name}).status_code == 201
        return name


@pytest.fixture
def app_config(tmp_path: Path) -> Mapping[str, Any]:
    """Settings without which some operations are not there, and a template to send."""
    folder = tmp_path / "mails"
    folder.mkdir()
    (folder / "happy.subject.txt").write_text("Hello\n")
    (folder / "happy.txt").write_text("It works.\n")
    return {
        "mail": {
            "sendgrid_webhook_key": sendgrid_public_key(),
            "ses_topic": TOPIC,
            "templates": str(folder),
        }
    }


@pytest.fixture
def world(
    app: Flask,
    make_user: UserFactory,
    jobs: Jobs,
    mailbox: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    # Not from the network, also where a generated message names a certificate.
    monkeypatch.setattr(sns, "certificates", Certificates(lambda _url: sns_certificate(0)))
    return World(app, make_user, jobs, mailbox)


AUTH, USERS, ROLES, JOBS = (f"/api/v1/{room}" for room in ("auth", "users", "roles", "jobs"))


def _login(world: World) -> TestResponse:
    user = world.person(password=PASSWORD)
    return world.client().post(f"{AUTH}/login", json={"email": user.email, "password": PASSWORD})


def _refresh(world: World) -> TestResponse:
    tokens = log_in(world.app, world.person())
    headers = {"Authorization": f"Bearer {tokens['refresh_token']}"}
    return world.client().post(f"{AUTH}/refresh", headers=headers)


def _forgot(world: World) -> TestResponse:
    user = world.person(password=PASSWORD)
    return world.client().post(f"{AUTH}/forgot-password", json={"email": user.email})


def _reset(world: World) -> TestResponse:
    user = world.person(password=PASSWORD)
    world.client().post(f"{AUTH}/forgot-password", json={"email": user.email})
    body = {"token": world.mailed_token(user.email), "new_password": "a new fine staple"}
    return world.client().post(f"{AUTH}/reset-password", json=body)


def _verify(world: World) -> TestResponse:
    address = world.address()
    world.register(address)
    body = {"token": world.mailed_token(address)}
    return world.client().post(f"{AUTH}/verify-email", json=body)


def _change_password(world: World) -> TestResponse:
    client = world.client(world.person(password=PASSWORD))
    body = {"current_password": PASSWORD, "new_password": "a new fine staple"}
    return client.post(f"{AUTH}/change-password", json=body)


def _revoke_session(world: World) -> TestResponse:
    client = world.client(world.person())
    session = client.get(f"{AUTH}/sessions").json["data"][0]
    return client.delete(f"{AUTH}/sessions/{session['id']}")


def _restore(world: World) -> TestResponse:
    boss, user = world.boss(), world.person()
    boss.delete(f"{USERS}/{user.id}")
    return boss.post(f"{USERS}/{user.id}/restore")


@job(name="openapi.sample", public=True)
def sample(number: int = 1) -> None:
    """A job that the API may start."""


def _a_job(world: World, status: str = "queued") -> str:
    """Start a job, and perhaps end it; gives its id."""
    job_id = _start_job(world).json["data"]["id"]
    if status == "canceled":
        world.boss().post(f"{JOBS}/{job_id}/cancel")
    return str(job_id)


def _start_job(world: World) -> TestResponse:
    return world.boss().post(JOBS, json={"name": "openapi.sample", "args": {"number": 7}})


def _a_schedule(world: World) -> str:
    """Take a schedule up, as a scheduler does; gives its name."""
    declared = Declaration(
        "sample", job="openapi.sample", timing="every 60", timezone="UTC", missed="once",
        args={}, source="code",
    )  # fmt: skip
    with world.app.app_context():
        clock.reconcile({"sample": declared}, utcnow())
    return "sample"


MAIL = "/api/v1/mail"
SUPPRESSIONS = "/api/v1/mail/suppressions"


def _sent_mail(world: World) -> str:
    """The path of a mail that waits."""
    body = {"to": [world.address()], "subject": "Hello", "text": "It works."}
    response = world.boss().post(f"{MAIL}/send", json=body)
    return f"{MAIL}/messages/{response.json['data']['id']}"


def _retried_mail(world: World) -> Any:
    path = _sent_mail(world)
    message = world.boss().get(path).json["data"]
    world.boss().post(f"/api/v1/jobs/{message['job_id']}/cancel")
    return world.boss().post(f"{path}/retry")


def _bulk(world: World) -> Any:
    body = {"template": "happy", "recipients": [{"to": world.address(), "context": {}}]}
    return world.boss().post(f"{MAIL}/bulk", json=body)


def _batch(world: World) -> str:
    return f"{MAIL}/batches/{_bulk(world).json['data']['batch_id']}"


def _a_suppression(world: World) -> str:
    """Suppress an address; gives the id."""
    response = world.boss().post(SUPPRESSIONS, json={"email": world.address()})
    return str(response.json["data"]["id"])


def _a_file(
    world: World, client: Client, content: bytes = b"Hello\n", filename: str = "greeting.txt"
) -> str:
    """Upload a file; gives its path."""
    data = {"file": (io.BytesIO(content), filename)}
    response = client.post("/api/v1/files", data=data)
    return f"/api/v1/files/{response.json['data']['id']}"


def _picture() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(target, "PNG")
    return target.getvalue()


UPLOADS = "/api/v1/files/uploads"
TUS = {"Tus-Resumable": "1.0.0"}


def _begin_upload(client: Client) -> TestResponse:
    return client.post(UPLOADS, headers={**TUS, "Upload-Length": "6"})


def _go_on_with_upload(world: World, method: str, **headers: str) -> TestResponse:
    """Send the bytes of an upload."""
    client = world.boss()
    return client.open(
        _begin_upload(client).headers["Location"],
        method=method,
        data=b"Hello\n",
        content_type="application/offset+octet-stream",
        headers={**TUS, "Upload-Offset": "0", **headers},
    )


def _on_upload(world: World, method: str) -> TestResponse:
    client = world.boss()
    return client.open(_begin_upload(client).headers["Location"], method=method, headers=TUS)


HAPPY: dict[str, Callable[[World], TestResponse]] = {
    "health.live": lambda world: world.client().get("/health/live"),
    "health.ready": lambda world: world.client().get("/health/ready"),
    "health.health": lambda world: world.client().get("/health"),
    "health.show_metrics": lambda world: world.client().get("/metrics"),
    "auth.register": lambda world: world.register(world.address()),
    "auth.login": _login,
    "auth.refresh": _refresh,
    "auth.forgot_password": _forgot,
    "auth.reset_password": _reset,
    "auth.verify_email": _verify,
    "auth.resend_verification": lambda world: world.client().post(
        f"{AUTH}/resend-verification", json={"email": "nobody@example.org"}
    ),
    "auth.logout": lambda world: world.client(world.person()).post(f"{AUTH}/logout"),
    "auth.logout_all": lambda world: world.client(world.person()).post(f"{AUTH}/logout-all"),
    "auth.show_me": lambda world: world.client(world.person()).get(f"{AUTH}/me"),
    "auth.update_me": lambda world: world.client(world.person()).patch(
        f"{AUTH}/me", json={"full_name": "Ada"}
    ),
    "auth.change_password": _change_password,
    "auth.list_sessions": lambda world: world.client(world.person()).get(f"{AUTH}/sessions"),
    "auth.revoke_session": _revoke_session,
    "users.list_users": lambda world: world.boss().get(f"{USERS}?search=example"),
    "users.create_user": lambda world: world.boss().post(
        USERS, json={"email": world.address(), "roles": ["ADMIN"]}
    ),
    "users.get_user": lambda world: world.boss().get(f"{USERS}/{world.person().id}"),
    "users.update_user": lambda world: world.boss().patch(
        f"{USERS}/{world.person().id}", json={"is_active": False, "is_verified": True}
    ),
    "users.delete_user": lambda world: world.boss().delete(f"{USERS}/{world.person().id}"),
    "users.restore_user": _restore,
    "users.set_roles": lambda world: world.boss().put(
        f"{USERS}/{world.person().id}/roles", json={"roles": ["USER", "ADMIN"]}
    ),
    "jobs.start_job": _start_job,
    "jobs.list_jobs": lambda world: (_a_job(world), world.boss().get(f"{JOBS}?status=queued"))[1],
    "jobs.get_job": lambda world: world.boss().get(f"{JOBS}/{_a_job(world, 'canceled')}"),
    "jobs.cancel_job": lambda world: world.boss().post(f"{JOBS}/{_a_job(world)}/cancel"),
    "jobs.retry_job": lambda world: world.boss().post(f"{JOBS}/{_a_job(world, 'canceled')}/retry"),
    "jobs.retry_jobs": lambda world: world.boss().post(f"{JOBS}/retry", json={"status": "failed"}),
    "jobs.list_queues": lambda world: world.boss().get(f"{JOBS}/queues"),
    "jobs.pause_queue": lambda world: world.boss().post(f"{JOBS}/queues/low/pause"),
    "jobs.resume_queue": lambda world: world.boss().post(f"{JOBS}/queues/low/resume"),
    "schedules.list_schedules": lambda world: (
        _a_schedule(world),
        world.boss().get(f"{JOBS}/schedules"),
    )[1],
    "schedules.run_schedule": lambda world: world.boss().post(
        f"{JOBS}/schedules/{_a_schedule(world)}/run"
    ),
    "schedules.update_schedule": lambda world: world.boss().patch(
        f"{JOBS}/schedules/{_a_schedule(world)}", json={"enabled": False}
    ),
    "mail.send": lambda world: world.boss().post(
        f"{MAIL}/send", json={"to": [world.address()], "subject": "Hello", "text": "It works."}
    ),
    "mail.list_messages": lambda world: world.boss().get(f"{MAIL}/messages"),
    "mail.get_message": lambda world: world.boss().get(_sent_mail(world)),
    "mail.retry_message": _retried_mail,
    "mail_batches.send_bulk": _bulk,
    "mail_batches.list_batches": lambda world: world.boss().get(f"{MAIL}/batches"),
    "mail_batches.get_batch": lambda world: world.boss().get(_batch(world)),
    "mail_batches.cancel_batch": lambda world: world.boss().post(f"{_batch(world)}/cancel"),
    "mail_templates.list_all": lambda world: world.boss().get("/api/v1/mail/templates"),
    "mail_templates.preview_template": lambda world: world.boss().post(
        "/api/v1/mail/templates/password-changed/preview", json={"context": {}}
    ),
    "mail_suppressions.list_suppressions": lambda world: (
        _a_suppression(world),
        world.boss().get(f"{SUPPRESSIONS}?reason=manual&search=example"),
    )[1],
    "mail_suppressions.create_suppression": lambda world: world.boss().post(
        SUPPRESSIONS, json={"email": world.address(), "details": "asked by phone"}
    ),
    "mail_suppressions.delete_suppression": lambda world: world.boss().delete(
        f"{SUPPRESSIONS}/{_a_suppression(world)}"
    ),
    "mail_webhooks.take_sendgrid_events": lambda world: post_sendgrid(
        world.client(), [{"event": "delivered", "email": "ada@example.org"}]
    ),
    "mail_webhooks.take_ses_events": lambda world: post_sns(
        world.client(), sns_signed(sns_subscription())
    ),
    "files.upload_file": lambda world: world.boss().post(
        "/api/v1/files",
        data={
            "file": (io.BytesIO(b"Hello\n"), "greeting.txt"),
            "visibility": "public",
            "metadata": '{"from": "Ada"}',
        },
    ),
    "files.list_files": lambda world: (
        _a_file(world, boss := world.boss()),
        boss.get("/api/v1/files?all=true&sort=-size"),
    )[1],
    "files.get_file": lambda world: (boss := world.boss()).get(_a_file(world, boss)),
    "files.update_file": lambda world: (boss := world.boss()).patch(
        _a_file(world, boss), json={"filename": "b.txt", "metadata": {"a": 1}}
    ),
    "files.delete_file": lambda world: (boss := world.boss()).delete(_a_file(world, boss)),
    "file_contents.get_content": lambda world: (boss := world.boss()).get(
        f"{_a_file(world, boss)}/content"
    ),
    "file_contents.create_signed_url": lambda world: (boss := world.boss()).post(
        f"{_a_file(world, boss)}/signed-url", json={"expires_in": 3600}
    ),
    "file_images.get_image": lambda world: (boss := world.boss()).get(
        f"{_a_file(world, boss, _picture(), 'red.png')}/images/thumb"
    ),
    "avatars.set_user_avatar": lambda world: world.boss().put(
        f"{USERS}/{world.person().id}/avatar", data={"file": (io.BytesIO(_picture()), "me.png")}
    ),
    "avatars.delete_user_avatar": lambda world: world.boss().delete(
        f"{USERS}/{world.person().id}/avatar"
    ),
    "avatars.set_my_avatar": lambda world: world.boss().put(
        f"{AUTH}/me/avatar", data={"file": (io.BytesIO(_picture()), "me.png")}
    ),
    "avatars.delete_my_avatar": lambda world: world.boss().delete(f"{AUTH}/me/avatar"),
    "file_uploads.create_upload": lambda world: _begin_upload(world.boss()),
    "file_uploads.get_upload": lambda world: _on_upload(world, "GET"),
    "file_uploads.append_to_upload": lambda world: _go_on_with_upload(world, "PATCH"),
    "file_uploads.override_method": lambda world: _go_on_with_upload(
        world, "POST", **{"X-HTTP-Method-Override": "PATCH"}
    ),
    "file_uploads.delete_upload": lambda world: _on_upload(world, "DELETE"),
    "roles.list_roles": lambda world: world.boss().get(ROLES),
    "roles.create_role": lambda world: world.boss().post(
        ROLES, json={"name": "EDITOR", "permissions": ["users:read"]}
    ),
    "roles.update_role": lambda world: (boss := world.boss()).patch(
        f"{ROLES}/{world.role(boss)}", json={"description": "x", "permissions": ["users:read"]}
    ),
    "roles.delete_role": lambda world: (boss := world.boss()).delete(f"{ROLES}/{world.role(boss)}"),
}


def strict(app: Flask) -> Any:
    """The document without its answer for all that is left, so that every status has to be named.

    schemathesis gets `additionalProperties: false` for answers too, where a field more than the
    document says would be a leak.
    """
    found = deepcopy(app.test_client().get("/openapi.json").get_json())
    for *_, operation in operations(found):
        del operation["responses"]["default"]
        operation.pop("security", None)  # the tests log in themselves
    for schema in found["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    schema = schemathesis.openapi.from_dict(found)
    schema.app = app
    return schema


def named_operations(schema: Any) -> dict[str, Any]:
    return {
        (operation := result.ok()).definition.raw["operationId"]: operation
        for result in schema.get_all_operations()
    }


def test_the_happy_paths_are_those_of_the_document(app: Flask) -> None:
    assert set(HAPPY) == set(named_operations(strict(app)))


@pytest.mark.parametrize("name", sorted(HAPPY))
def test_every_operation_succeeds_and_answers_as_described(world: World, name: str) -> None:
    operation = named_operations(strict(world.app))[name]

    response = HAPPY[name](world)

    assert 200 <= response.status_code < 300, response.text
    assert str(response.status_code) in operation.definition.raw["responses"]
    operation.validate_response(response)


# --- Every operation, as nobody means it ----------------------------------------------------------


# How often each operation is asked rightly, and how often wrongly; who may more is let in deeper.
EXAMPLES = {"nobody": 10, "USER": 10, "ADMIN": 10, "SUPER_ADMIN": 25}
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
# What a database makes of it shows with her for whom all is open.
_on_sqlite = pytest.mark.only_on("sqlite")
CALLERS = (
    pytest.param("nobody", marks=_on_sqlite),
    pytest.param("USER", marks=_on_sqlite),
    pytest.param("ADMIN", marks=_on_sqlite),
    "SUPER_ADMIN",
)


@pytest.mark.slow
@pytest.mark.parametrize("caller", CALLERS)
def test_generated_requests_get_described_answers_only(world: World, caller: str) -> None:
    user = None if caller == "nobody" else world.person(caller)
    victim = world.person(password=PASSWORD)
    seen: dict[str, set[int]] = {}

    for name, operation in sorted(named_operations(strict(world.app)).items()):
        seen[name] = set()
        real = {"user_id": str(victim.id), "name": "EDITOR"}
        for mode in schemathesis.GenerationMode:
            token = log_in(world.app, user)["access_token"] if user else None
            _ask(operation, mode, token, real, seen[name], EXAMPLES[caller])

    statuses = set().union(*seen.values())
    assert max(statuses) < 500
    assert all(seen.values())
    assert {200, 401, 422} <= statuses if caller == "nobody" else {200, 422} <= statuses
    if caller == "USER":
        assert all(403 in seen[name] for name in seen if name.startswith("roles."))


def _ask(
    operation: Any,
    mode: Any,
    token: str | None,
    real: dict[str, str],
    seen: set[int],
    examples: int,
) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    cases = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data(), st.booleans())
    def ask(data: Any, is_real: bool) -> None:
        case = data.draw(cases)
        if is_real:
            for parameter in case.path_parameters or {}:
                case.path_parameters[parameter] = real.get(
                    parameter, case.path_parameters[parameter]
                )
        response = case.call(headers=headers)
        seen.add(response.status_code)
        # A refusal is a refusal, whatever was found to be wrong first.
        is_accepted = response.status_code < 400 and not _is_right_as_text(case)
        accepted = [checks.negative_data_rejection] if is_accepted else []
        case.validate_response(response, checks=CHECKS + accepted, headers=headers)
        if response.status_code >= 400:
            assert response.json()["error"]["code"] in CODES[response.status_code]

    with suppress(Unsatisfiable):  # nothing in this operation could be wrong
        ask()


def _is_right_as_text(case: Any) -> bool:
    """A form has texts alone: an object is sent as its JSON, a list as one field each, or none."""
    is_form = case.media_type == "multipart/form-data" and isinstance(case.body, dict)
    return is_form and any(isinstance(value, list | dict) for value in case.body.values())

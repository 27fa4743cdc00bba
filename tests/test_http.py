"""Requests and answers: strict JSON, sizes, ids, headers, paths; what no view has to care about."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from ghost.errors import BadRequest
from ghost.http import MAX_JSON_DEPTH, read_json
from ghost.testing.servers import free_port

pytestmark = pytest.mark.lab

LAB = "/api/v1/lab"
ECHO = f"{LAB}/echo"
LIMIT = 1024 * 1024

Make = Callable[[Mapping[str, Any]], Flask]


def is_error(response: TestResponse, status: int, code: str) -> bool:
    """Tell whether an answer is this error, in the envelope and with nothing else in it."""
    body = response.get_json()
    return (
        response.status_code == status
        and response.mimetype == "application/json"
        and set(body) == {"success", "data", "message", "error", "meta"}
        and body["success"] is False
        and body["data"] is None
        and set(body["error"]) == {"code", "message", "details"}
        and body["error"]["code"] == code
        and body["message"] == body["error"]["message"]
        and body["meta"]["request_id"] == response.headers["X-Request-ID"]
    )


def post(client: FlaskClient, body: str | bytes, content_type: str = "application/json") -> Any:
    return client.post(ECHO, data=body, content_type=content_type)


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{]",
        b"{'text': 1}",
        b'{"text": 1,}',
        b'{"text": "a" "b"}',
        b"{}{}",
        b"{} x",
        b"nul",
        b'{"number": NaN}',
        b'{"number": Infinity}',
        b'{"ratio": -Infinity}',
        b'{"ratio": 1e999}',
        b'{"number": 1, "number": 1}',
        b'{"inner": {"number": 1, "number": 2}}',
        b'{"inner": {"number": 1, "n\\u0075mber": 2}}',
        b'\xef\xbb\xbf{"number": 1}',
        '{"number": 1}'.encode("utf-16"),
        '{"number": 1}'.encode("utf-32"),
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "\xc0\xaf"}',
        b'{"text": "a\x00b"}',
        b'{"text": "a\nb"}',
        b'{"number": 01}',
        b'{"number": +1}',
        b'{"number": 0x10}',
        b'{"number": 1_000}',
        b'{"ratio": .5}',
        b'{"ratio": 1.}',
        b'{"number": ' + b"9" * 5000 + b"}",
        b'{"number": -' + b"9" * 21 + b"}",
        b'{"number": 9223372036854775808}',
        b'{"number": -9223372036854775809}',
        b'{"ratio": 1e' + b"9" * 100 + b"}",
        b'{"\\ud800": 1}',
        b'{"free": {"a\\udfff": 1}}',
        b'{"free": "\\ud800"}',
        b'{"free": ["\\udc00\\ud800"]}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b'{"free": ' + b"[" * 64 + b"]" * 64 + b"}",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_json_that_is_malformed_or_ambiguous_is_400(client: FlaskClient, body: bytes) -> None:
    response = post(client, body)

    assert is_error(response, 400, "bad_request")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b' \t\r\n{"number": 1} \n', {"number": 1}),
        (b'{"number": 9223372036854775807}', {"number": 2**63 - 1}),
        (b'{"number": -9223372036854775808}', {"number": -(2**63)}),
        (b'{"number": -0}', {"number": 0}),
        (b'{"ratio": 1e308}', {"ratio": 1e308}),
        (b'{"ratio": 1e-999}', {"ratio": 0.0}),
        ('{"text": "Zoë 🎈"}'.encode(), {"text": "Zoë 🎈"}),
        (b'{"text": "\\ud83c\\udf88"}', {"text": "🎈"}),
        (b'{"text": "\\\\ud800"}', {"text": "\\ud800"}),
        (b'{"free": ' + b"[" * 63 + b"]" * 63 + b"}", None),
        (b'{"free": "' + b"[{" * 500 + b'"}', {"free": "[{" * 500}),
        (b'{"free": [' + b"[]," * 500 + b"[]]}", {"free": [[]] * 501}),
        (b'{"free": ["\\"[", "[\\\\"]}', {"free": ['"[', "[\\"]}),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_json_that_is_well_formed_is_read(
    client: FlaskClient, body: bytes, expected: dict[str, Any] | None
) -> None:
    response = post(client, body)

    assert response.status_code == 200, response.text
    assert expected is None or response.json["data"]["got"] == expected


def test_a_depth_of_64_is_the_last_that_is_read() -> None:
    assert read_json(b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH)
    with pytest.raises(BadRequest):
        read_json(b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 65 + b'"' + b'\\"' * 500_000,
        b"[" * 65 + b'"' * 900_000,
        b"[" * 65 + b'"\\' * 450_000,
        b"[" * 65 + b"{" * 900_000,
        b"[" * 65 + b"\\" * 900_000,
        b'{"free": [' + b"1," * 500_000 + b"1]}",
        b'{"free": "' + b"\\u0041" * 150_000 + b'"}',
        b'{"number": ' + b"1" * 1_000_000 + b"}",
        b'{"ratio": 0.' + b"1" * 1_000_000 + b"}",
        b"{" + b",".join(b'"%d": 1' % number for number in range(80_000)) + b"}",
    ],
    ids=lambda body: repr(body[-12:]),
)
def test_the_time_to_read_a_body_grows_with_its_length_alone(
    client: FlaskClient, body: bytes
) -> None:
    assert len(body) <= LIMIT + 200
    started = time.monotonic()

    response = post(client, body[:LIMIT])

    assert response.status_code in (200, 400, 422)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("body", [b"[]", b"[{}]", b'"text"', b"1", b"true", b"null"])
def test_json_that_is_no_object_is_422(client: FlaskClient, body: bytes) -> None:
    response = post(client, body)

    assert is_error(response, 422, "validation_error")
    assert response.json["error"]["details"] == {"json": {"_schema": ["Send a JSON object."]}}


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "application/jsonp",
        "application/json, text/plain",
        "json",
        "application/xml",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
    ],
)
def test_a_body_that_is_not_declared_as_json_is_415(client: FlaskClient, content_type: str) -> None:
    response = post(client, b"{}", content_type)

    assert is_error(response, 415, "unsupported_media_type")


def test_a_body_without_any_content_type_is_415(client: FlaskClient) -> None:
    environ = client.environ_base | {"CONTENT_LENGTH": "2", "wsgi.input": None}

    response = client.open(ECHO, method="POST", data=b"{}", environ_overrides=environ)

    assert is_error(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "APPLICATION/JSON",
        "application/merge-patch+json",
    ],
)
def test_a_json_content_type_is_welcome_in_all_its_forms(
    client: FlaskClient, content_type: str
) -> None:
    assert post(client, b'{"number": 1}', content_type).status_code == 200


def test_a_compressed_body_is_415(client: FlaskClient) -> None:
    response = client.post(
        ECHO, data=b"{}", content_type="application/json", headers={"Content-Encoding": "gzip"}
    )

    assert is_error(response, 415, "unsupported_media_type")


def test_a_plain_flask_view_reads_json_by_the_same_rules(client: FlaskClient) -> None:
    good = client.post("/plain/json", json={"a": 1})
    doubled = client.post("/plain/json", data='{"a": 1, "a": 2}', content_type="application/json")
    untyped = client.post("/plain/json", data="{}")

    assert good.json == {"got": {"a": 1}}
    assert is_error(doubled, 400, "bad_request")
    assert is_error(untyped, 415, "unsupported_media_type")


def test_a_body_that_is_read_silently_is_none_when_it_is_no_json(app: Flask) -> None:
    for body, content_type in ((b"{", "application/json"), (b"{}", "text/plain")):
        with app.test_request_context("/", data=body, content_type=content_type, method="POST"):
            assert request.get_json(silent=True) is None
    with app.test_request_context("/", data=b"{}", content_type="text/plain", method="POST"):
        assert request.get_json(force=True) == {}


@pytest.mark.parametrize("body", [{"surprise": 1}, [1], "text"])
def test_a_view_without_a_body_refuses_its_fields(client: FlaskClient, body: Any) -> None:
    response = client.delete(f"{LAB}/nothing", json=body)

    assert is_error(response, 422, "validation_error")
    assert client.delete(f"{LAB}/nothing", json={}).status_code == 204


# --- Sizes ----------------------------------------------------------------------------------------


def test_a_body_of_the_limit_is_read_and_one_byte_more_is_413(client: FlaskClient) -> None:
    body = b'{"free": "' + b"a" * (LIMIT - 12) + b'"}'
    assert len(body) == LIMIT

    assert post(client, body).status_code == 200
    assert is_error(post(client, body + b" "), 413, "payload_too_large")


class TestSmallLimit:
    @pytest.fixture
    def app_config(self) -> Mapping[str, Any]:
        return {"app": {"max_body": 1024}}

    @pytest.mark.parametrize("path", ["/plain/data", "/plain/stream", "/plain/json", ECHO])
    def test_the_limit_is_the_configured_one_for_every_way_of_reading(
        self, client: FlaskClient, path: str
    ) -> None:
        body = b'{"text": "' + b"a" * 1020 + b'"}'

        response = client.post(path, data=body, content_type="application/json")

        assert is_error(response, 413, "payload_too_large")

    def test_a_form_is_limited_too(self, client: FlaskClient) -> None:
        response = client.post(f"{LAB}/form", data={"number": "1", "text": "a" * 1020})

        assert is_error(response, 413, "payload_too_large")

    def test_a_body_that_is_shorter_than_declared_is_400(self, client: FlaskClient) -> None:
        response = client.post(
            ECHO,
            data=b'{"number": 1}',
            content_type="application/json",
            environ_overrides={"CONTENT_LENGTH": "500"},
        )

        assert is_error(response, 400, "bad_request")


# --- Real servers ---------------------------------------------------------------------------------


class Wire:
    """What a server says to bytes that no client library would send."""

    def __init__(self, port: int) -> None:
        self.port = port

    def send(self, *parts: bytes, end: bool = False, seconds: float = 10.0) -> bytes:
        """Send parts, and read until the server closes, or has been silent.

        :param end: whether the client says that it has no more to send.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):
                for part in parts:
                    connection.sendall(part)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            answer = b""
            with suppress(ConnectionResetError, TimeoutError):
                while more := connection.recv(65536):
                    answer += more
            return answer

    def chunked(self, path: str, *chunks: bytes) -> bytes:
        """Post JSON in chunks."""
        body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        return self.send(self._head(path), body, b"0\r\n\r\n")

    def broken_chunks(self, path: str, body: bytes) -> bytes:
        """Post what is declared as chunks and is none, and end."""
        return self.send(self._head(path), body, end=True)

    def _head(self, path: str) -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        ).encode()

    def get(self, path: str | bytes, *headers: bytes) -> bytes:
        path = path if isinstance(path, bytes) else path.encode()
        lines = (b"GET " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *headers)
        return self.send(b"\r\n".join(lines) + b"\r\n\r\n")


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def body_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@contextmanager
def werkzeug_server(app: Flask) -> Iterator[Wire]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Wire(server.server_port)
    finally:
        server.shutdown()
        thread.join(10)


@contextmanager
def gunicorn_server(environ: Mapping[str, str], folder: Path) -> Iterator[Wire]:
    """gunicorn as it is deployed, with the lab behind it."""
    port = free_port()
    (folder / "lab_wsgi.py").write_text("from lab import build_lab\n\napp = build_lab({})\n")
    tests = str(Path(__file__).parent)
    environ = dict(environ) | {"API_PORT": str(port), "WEB_CONCURRENCY": "1"}
    environ["PYTHONPATH"] = os.pathsep.join((str(folder), tests, environ.get("PYTHONPATH", "")))
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "python:ghost.server", "lab_wsgi:app"],
        env=environ,
        cwd=folder,
    )
    try:
        wait_for_port(port, process)
        yield Wire(port)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def wait_for_port(port: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/health/live")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise AssertionError("the server did not start")


@pytest.fixture(params=["werkzeug", pytest.param("gunicorn", marks=pytest.mark.slow)])
def wire(
    request: pytest.FixtureRequest, app: Flask, app_environ: dict[str, str], tmp_path: Path
) -> Iterator[Wire]:
    if request.param == "werkzeug":
        with werkzeug_server(app) as found:
            yield found
    else:
        with gunicorn_server(app_environ, tmp_path) as found:
            yield found


def test_chunked_bodies_keep_to_the_limits_on_a_real_server(wire: Wire) -> None:
    """One server for all of these: starting one takes long."""
    small = b'{"text": "' + b"a" * 50 + b'"}'
    big = b'{"free": "' + b"a" * LIMIT + b'"}'
    pieces = [big[at : at + 65536] for at in range(0, len(big), 65536)]

    good = wire.chunked(ECHO, small[:10], small[10:])
    assert (status_of(good), body_of(good)["data"]["got"]) == (200, {"text": "a" * 50})
    # Exactly the limit, then a byte too much, sent so that cutting it would leave valid JSON.
    full = b'{"free": "' + b"a" * (LIMIT - 12) + b'"}'
    assert status_of(wire.chunked(ECHO, full)) == 200
    assert status_of(wire.chunked(ECHO, full, b" ")) == 413
    for path in (ECHO, "/plain/data", "/plain/stream", "/plain/json"):
        answer = wire.chunked(path, *pieces)
        assert status_of(answer) == 413, (path, answer[:300])
        assert body_of(answer)["error"]["code"] == "payload_too_large"
    # A view that reads no body is not disturbed by one.
    assert status_of(wire.chunked("/plain/unread", b"x" * 1000)) == 200
    for body in (b"zz\r\n", b"-1\r\n", b"f" * 18 + b"\r\n{}", b"5\r\nab", b"2\r\n{}0\r\n", b""):
        for path in (ECHO, "/plain/stream"):
            answer = wire.broken_chunks(path, body)
            assert status_of(answer) in (400, 413), (path, body, answer[:300])
            assert body_of(answer)["success"] is False
    assert status_of(wire.get(f"{LAB}/hello")) == 200


def test_odd_requests_are_never_a_500_on_a_real_server(wire: Wire) -> None:
    odd_paths = [
        b"/%ff", b"/%00", b"/api/v1/lab/names/%ff%fe", b"/api/v1/lab/names/%00",
        b"/api/v1/lab/names/%0d%0aSet-Cookie:x", b"/api/v1/lab/hello?%ff=%fe",
        b"/api/v1/lab/hello?\xff=\xfe", b"/..%2f..%2fetc/passwd", b"//", b"///api", b"/api/v1//lab",
        b"/api/v1/lab/names/" + b"a" * 3000, b"/" + b"%41" * 1000, b"/?" + b"&" * 3000,
        b"/api/v1/lab/query?number=%F0%9F%8E%88", b"/%e2%80%ae", b"/api/v1/lab/things/%2e%2e",
    ]  # fmt: skip
    for path in odd_paths:
        answer = wire.get(path)
        assert 200 <= status_of(answer) < 500, (path, answer[:300])
        assert b"X-Content-Type-Options" in answer
    for header in (
        b"Authorization: Bearer \xff\xfe", b"Authorization: Bearer", b"Authorization: \xff",
        b"X-Request-ID: \xff", b"If-None-Match: \xff\"", b"If-Match: ,,,\"", b"Cookie: a=\xff",
        b"Cookie: session=broken", b"Origin: \xff", b"Accept: \xff", b"User-Agent: \xff" * 10,
        b"Idempotency-Key: \xff", b"Range: bytes=9-1", b"If-Modified-Since: \xff",
        b"X-Forwarded-For: \xff", b"Content-Type: \xff", b"Accept-Language: " + b"a" * 5000,
    ):  # fmt: skip
        for path in ("/api/v1/lab/hello", "/api/v1/lab/me", "/api/v1/auth/me"):
            answer = wire.get(path, header)
            assert status_of(answer) in (200, 304, 400, 401), (path, header, answer[:300])


def test_what_the_server_itself_refuses_is_no_500(wire: Wire) -> None:
    for path, header in (
        (b"/" + b"a" * 200_000, b"X: y"),
        (b"/api/v1/lab/hello", b"X-Long: " + b"a" * 200_000),
        (b"/api/v1/lab/hello", b"\r\n".join(b"X-%d: y" % number for number in range(500))),
        (b"/api/v1/lab/hello", b"Content-Length: x"),
        (b"/api/v1/lab/hello", b"No colon"),
    ):
        answer = wire.get(path, header)
        assert status_of(answer) in (0, 200, 400, 414, 431), answer[:300]
        if b"gunicorn" in wire.get("/nowhere") and status_of(answer) != 200:
            assert body_of(answer)["success"] is False
            assert b"X-Content-Type-Options: nosniff" in answer
    assert status_of(wire.get(f"{LAB}/hello")) == 200


# --- Request ids ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["a", "A-z_0.9", "0" * 128, "..", "-"])
def test_a_good_request_id_is_kept(client: FlaskClient, wanted: str) -> None:
    response = client.get(f"{LAB}/hello", headers={"X-Request-ID": wanted})

    assert response.headers.getlist("X-Request-ID") == [wanted]
    assert response.json["meta"]["request_id"] == wanted


@pytest.mark.parametrize(
    "wanted", ["", "0" * 129, "a b", "a/b", "ä", "a,b", "<x>", "a\tb", "{x}", "٣"]
)
def test_another_request_id_is_replaced(client: FlaskClient, wanted: str) -> None:
    header = wanted.encode().decode("latin-1")

    response = client.get(f"{LAB}/hello", headers={"X-Request-ID": header})

    made = response.headers["X-Request-ID"]
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made
    )
    assert response.json["meta"]["request_id"] == made


def test_each_request_has_an_id_of_its_own(client: FlaskClient) -> None:
    ids = {client.get(f"{LAB}/hello").headers["X-Request-ID"] for _ in range(20)}

    assert len(ids) == 20


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", f"{LAB}/boom", 500),
        ("POST", f"{LAB}/hello", 405),
        ("POST", ECHO, 415),
        ("GET", f"{LAB}/me", 401),
        ("DELETE", f"{LAB}/nothing", 204),
        ("GET", "/docs", 200),
    ],
)
def test_every_answer_has_the_request_id(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    response = client.open(path, method=method, headers={"X-Request-ID": "mine"})

    assert response.status_code == status
    assert response.headers.getlist("X-Request-ID") == ["mine"]


# --- Paths and methods ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [f"{LAB}/hello", f"{LAB}/things", "/health/live", "/health", "/api/v1/auth/me", "/openapi.json",
     "/docs", "/redoc", "/plain/json", "/metrics", "/account/verify-email"],
)  # fmt: skip
def test_a_slash_at_the_end_changes_nothing(client: FlaskClient, path: str) -> None:
    without, with_slash = client.get(path), client.get(path + "/")

    assert with_slash.status_code == without.status_code
    assert with_slash.status_code in (200, 401)
    assert "Location" not in with_slash.headers


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/api/v1/lab//hello", "//api/v1/lab/hello", f"{LAB}/hello/more", f"{LAB}/HELLO",
     f"{LAB}/things/not-an-id", f"{LAB}/things/{'0' * 32}", "/api/v2/lab/hello", "/static/x",
     "/docs/static/../../views.py", "/docs/static/%2e%2e/%2e%2e/views.py", f"{LAB}/abort/9x"],
)  # fmt: skip
def test_an_unknown_path_is_404_in_the_envelope(client: FlaskClient, path: str) -> None:
    assert is_error(client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", f"{LAB}/hello", {"GET", "HEAD", "OPTIONS"}),
        ("GET", ECHO, {"POST", "PUT", "OPTIONS"}),
        ("DELETE", f"{LAB}/versioned", {"GET", "HEAD", "PATCH", "OPTIONS"}),
        ("TRACE", f"{LAB}/hello", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", f"{LAB}/hello", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/openapi.json", {"GET", "HEAD", "OPTIONS"}),
        ("CONNECT", f"{LAB}/hello", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_another_method_is_405_with_allow(
    client: FlaskClient, method: str, path: str, allowed: set[str]
) -> None:
    response = client.open(path, method=method)

    assert is_error(response, 405, "method_not_allowed")
    assert {word.strip() for word in response.headers["Allow"].split(",")} == allowed


@pytest.mark.parametrize(
    "headers",
    [
        {"X-HTTP-Method-Override": "DELETE"},
        {"X-HTTP-Method": "DELETE"},
        {"X-Method-Override": "DELETE"},
    ],
)
def test_no_header_overrides_the_method(client: FlaskClient, headers: dict[str, str]) -> None:
    got = client.get(f"{LAB}/nothing", headers=headers)
    posted = client.post(f"{LAB}/nothing", headers=headers)
    with_query = client.get(f"{LAB}/hello?_method=DELETE")

    assert (got.status_code, posted.status_code, with_query.status_code) == (405, 405, 422)


@pytest.mark.parametrize(
    "path", [f"{LAB}/hello", f"{LAB}/things", "/docs", "/nowhere", f"{LAB}/boom"]
)
def test_head_is_get_without_a_body(client: FlaskClient, path: str) -> None:
    got, head = client.get(path), client.head(path)

    assert head.status_code == got.status_code
    assert head.data == b""
    assert head.headers["Content-Type"] == got.headers["Content-Type"]
    assert set(head.headers.keys()) == set(got.headers.keys())


def test_options_answers_what_is_allowed_and_runs_no_view(client: FlaskClient) -> None:
    response = client.options(f"{LAB}/boom")

    assert response.status_code in (200, 204)
    assert response.data == b""
    allowed = {word.strip() for word in response.headers["Allow"].split(",")}
    assert allowed == {"GET", "HEAD", "POST", "OPTIONS"}
    assert client.options("/nowhere").status_code == 404


# --- Headers of the answer ------------------------------------------------------------------------


EXPECTED_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{LAB}/hello", 200),
        ("HEAD", f"{LAB}/hello", 200),
        ("OPTIONS", f"{LAB}/hello", 200),
        ("DELETE", f"{LAB}/nothing", 204),
        ("GET", "/nowhere", 404),
        ("POST", f"{LAB}/hello", 405),
        ("POST", ECHO, 415),
        ("GET", f"{LAB}/me", 401),
        ("GET", f"{LAB}/hello?x=1", 422),
        ("GET", f"{LAB}/boom", 500),
        ("GET", f"{LAB}/busy", 503),
        ("GET", "/plain/json", 200),
        ("GET", "/plain/boom", 500),
        ("GET", "/health/live", 200),
    ],
)
def test_every_answer_has_each_security_header_once(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    response = client.open(path, method=method)

    assert response.status_code == status
    for name, value in EXPECTED_HEADERS.items():
        assert response.headers.getlist(name) == [value]
    assert "Strict-Transport-Security" not in response.headers
    assert "Server" not in response.headers


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/account/verify-email", "/openapi.json"])
def test_pages_have_a_policy_of_their_own_and_the_other_headers(
    client: FlaskClient, path: str
) -> None:
    response = client.get(path)

    assert len(response.headers.getlist("Content-Security-Policy")) == 1
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers.getlist("X-Content-Type-Options") == ["nosniff"]
    assert response.headers.getlist("X-Frame-Options") == ["DENY"]


PRODUCTION: Mapping[str, Any] = {
    "app": {
        "env": "production",
        "secret_key": "7c1fd0e2b9a8463f5e6d7c8b9a0f1e2d",
        "public_url": "https://api.example.org",
    },
    "auth": {"jwt_secret_key": "0f9e8d7c6b5a49382716f5e4d3c2b1a0", "bcrypt_rounds": 12},
    "database": {"allow_sqlite": True},
    "mail": {"url": "smtps://someone:secret@mail.example.org"},
    "redis": {"url": "redis://127.0.0.1:1/0"},
}


def test_production_adds_strict_transport_security(app: Flask, make_app: Make) -> None:
    client = make_app(PRODUCTION).test_client()

    for path in (f"{LAB}/hello", "/nowhere", f"{LAB}/boom"):
        response = client.get(path, headers={"Host": "api.example.org"})
        assert "max-age=31536000" in response.headers["Strict-Transport-Security"], path


@pytest.mark.parametrize(
    "host",
    ["evil.example", "api.example.org.evil.example", "evilapi.example.org", "api.example.org@evil",
     "api.example.org:80:80", "api.example.org/", "xapi.example.org", "[::2]", " ", "a b", "\xff",
     "127.0.0.1.evil.example", "localhost.evil.example"],
)  # fmt: skip
def test_another_host_than_the_trusted_is_400(app: Flask, make_app: Make, host: str) -> None:
    client = make_app(PRODUCTION).test_client()

    response = client.get(f"{LAB}/hello", headers={"Host": host})

    assert is_error(response, 400, "bad_request")
    assert "evil" not in response.text


@pytest.mark.parametrize(
    "host",
    [
        "api.example.org",
        "api.example.org:8080",
        "API.Example.org",
        "localhost",
        "127.0.0.1:8080",
        "[::1]:8080",
    ],
)
def test_trusted_hosts_are_served_whatever_their_port(
    app: Flask, make_app: Make, host: str
) -> None:
    client = make_app(PRODUCTION).test_client()

    assert client.get(f"{LAB}/hello", headers={"Host": host}).status_code == 200


def test_forwarded_addresses_count_only_from_configured_proxies(app: Flask, make_app: Make) -> None:
    headers = {"X-Forwarded-For": "192.0.2.1, 192.0.2.2", "X-Forwarded-Host": "evil.example"}
    seen: list[str | None] = []

    for proxies in (0, 1, 2):
        other = make_app({"app": {"trusted_proxies": proxies}})

        @other.after_request
        def note(response: Any) -> Any:
            seen.append(request.remote_addr)
            return response

        assert other.test_client().get("/nowhere", headers=headers).status_code == 404

    assert seen == ["127.0.0.1", "192.0.2.2", "192.0.2.1"]

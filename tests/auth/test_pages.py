"""The landing pages of mailed links: what they send, and what they show in a browser.

The API behind them is a scripted one in most tests: the pages have to make sense of each answer
that the real one may give. The last tests go the whole way, from the mail to the real API.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from browser import EXECUTABLE, Browser
from flask import Flask, Response, request
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from ghost.auth.pages import pages_bp
from ghost.config import Config
from ghost.extensions import State
from ghost.http import SECURITY_HEADERS
from ghost.responses import error_response
from ghost.testing.background import Jobs, Mailbox
from ghost.testing.clients import Client

PAGES = ["/account/verify-email", "/account/reset-password"]
TOKEN = "abc.DEF-123_~="


@dataclass
class Site:
    """An application with the pages, and with an API that answers as `answer` says."""

    app: Flask
    url: str = ""
    answer: Callable[[], Any] = lambda: {"success": True}
    visited: list[str] = field(default_factory=list)
    posted: list[tuple[str, Any]] = field(default_factory=list)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    app = Flask("site", static_folder=None)
    settings = {"app": {"env": "testing", "name": "Acme <b>& Söhne"}}
    settings["auth"] = {"password_min_length": 10}
    app.extensions["ghost"] = State(Config.load(settings, root=tmp_path, environ={}))
    app.register_blueprint(pages_bp)
    made = Site(app)

    @app.before_request
    def note() -> None:
        made.visited.append(request.full_path)

    @app.after_request
    def usual_headers(response: Response) -> Response:
        for name, value in SECURITY_HEADERS:
            response.headers.setdefault(name, value)
        return response

    @app.post("/api/v1/auth/<action>")
    def act(action: str) -> Any:
        assert request.content_type == "application/json"
        assert "Cookie" not in request.headers
        made.posted.append((action, request.get_json()))
        return made.answer()

    return made


@pytest.fixture
def visitor(site: Site) -> FlaskClient:
    return site.app.test_client()


# --- Without a browser ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_strict_and_not_kept(visitor: FlaskClient, path: str) -> None:
    response = visitor.get(path)

    assert response.status_code == 200
    assert response.headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_inline_script_or_style_and_loads_nothing_from_elsewhere(
    visitor: FlaskClient, path: str
) -> None:
    page = visitor.get(path).text

    assert page.count("<script") == page.count('<script src="/account/static/') == 1
    assert "<style" not in page
    assert " style=" not in page
    assert "://" not in page


@pytest.mark.parametrize("path", PAGES)
def test_the_applications_name_is_escaped(visitor: FlaskClient, path: str) -> None:
    page = visitor.get(path).text

    assert "Acme &lt;b&gt;&amp; Söhne" in page
    assert "<b>" not in page


@pytest.mark.parametrize("path", PAGES)
def test_a_trailing_slash_makes_no_difference(visitor: FlaskClient, path: str) -> None:
    assert visitor.get(path + "/").data == visitor.get(path).data


@pytest.mark.parametrize("path", PAGES)
def test_a_page_takes_no_other_method(visitor: FlaskClient, path: str) -> None:
    assert visitor.post(path).status_code == 405


@pytest.mark.parametrize(
    ("name", "mimetype"), [("account.js", "text/javascript"), ("account.css", "text/css")]
)
def test_script_and_style_are_served(visitor: FlaskClient, name: str, mimetype: str) -> None:
    response = visitor.get(f"/account/static/{name}")

    assert (response.status_code, response.mimetype) == (200, mimetype)
    assert response.headers["X-Content-Type-Options"] == "nosniff"


# --- In Chromium ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if EXECUTABLE is None:
        if os.environ.get("CI", "").lower() in ("true", "1", "yes"):
            pytest.fail("there is no Chromium", pytrace=False)
        pytest.skip("there is no Chromium")
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@contextmanager
def serving(app: Flask, browser: Browser) -> Iterator[str]:
    """Serve an application; no page of it may break a rule of its own policy."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    browser.problems.clear()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
        browser.open("about:blank")
        server.shutdown()
        thread.join()
        server.server_close()
    assert browser.problems == []


@pytest.fixture
def tab(browser: Browser, site: Site) -> Iterator[Browser]:
    """The browser, with the site running."""
    with serving(site.app, browser) as url:
        site.url = url
        yield browser


def press(tab: Browser) -> None:
    tab.run("document.querySelector('button').click()")


def type_password(tab: Browser, password: str) -> None:
    tab.run("document.getElementById('new_password').focus()")
    tab.command("Input.insertText", text=password)


def outcome(tab: Browser) -> str:
    tab.wait_for("document.getElementById('outcome').textContent")
    text: str = tab.run("document.getElementById('outcome').textContent")
    return text


@pytest.mark.integration
@pytest.mark.slow
class TestInChromium:
    @pytest.mark.parametrize("path", PAGES)
    def test_opening_a_link_sends_nothing_and_hides_the_token(
        self, tab: Browser, site: Site, path: str
    ) -> None:
        tab.open(f"{site.url}{path}#token={TOKEN}")

        assert tab.run("location.href") == f"{site.url}{path}"
        assert tab.run("document.querySelector('button').offsetHeight") > 40
        assert site.posted == []
        assert not any(TOKEN in visited for visited in site.visited)

    def test_the_button_confirms_the_address(self, tab: Browser, site: Site) -> None:
        tab.open(f"{site.url}/account/verify-email#token={TOKEN}")
        press(tab)

        assert "Your e-mail address is confirmed." in outcome(tab)
        assert site.posted == [("verify-email", {"token": TOKEN})]
        assert "Thank you" in tab.text()
        assert "Confirm my address" not in tab.text()

    def test_the_form_sets_a_password_of_any_characters(self, tab: Browser, site: Site) -> None:
        password = ' "corréct\\ 馬 🔋 staple" '
        tab.open(f"{site.url}/account/reset-password#token={TOKEN}")
        type_password(tab, password)
        press(tab)

        assert "Your new password is set" in outcome(tab)
        assert site.posted == [("reset-password", {"token": TOKEN, "new_password": password})]
        assert tab.run("document.getElementById('new_password').value") == ""

    def test_the_password_can_be_looked_at(self, tab: Browser, site: Site) -> None:
        tab.open(f"{site.url}/account/reset-password#token={TOKEN}")
        kinds = [tab.run("document.getElementById('new_password').type")]
        tab.run("document.getElementById('show').click()")
        kinds.append(tab.run("document.getElementById('new_password').type"))

        assert kinds == ["password", "text"]

    def test_a_short_password_is_not_even_sent(self, tab: Browser, site: Site) -> None:
        tab.open(f"{site.url}/account/reset-password#token={TOKEN}")
        type_password(tab, "2short")
        press(tab)

        assert tab.run("document.querySelector('form').matches(':invalid')")
        assert site.posted == []

    def test_a_weak_password_can_be_mended(self, tab: Browser, site: Site) -> None:
        message = "This password is one of the commonest <b>10,000</b>."
        details = {"json": {"new_password": [message]}}
        site.answer = lambda: error_response(422, "validation_error", "No.", details, {})
        tab.open(f"{site.url}/account/reset-password#token={TOKEN}")
        type_password(tab, "password123")
        press(tab)
        tab.wait_for("document.getElementById('new_password-error').textContent")

        assert message in tab.text()
        site.answer = lambda: {"success": True}
        type_password(tab, " and a horse")
        tab.wait_for("!document.querySelector('button').disabled")
        press(tab)
        assert "is set" in outcome(tab)
        assert "commonest" not in tab.text()
        assert [sent["new_password"] for _, sent in site.posted] == [
            "password123",
            "password123 and a horse",
        ]

    @pytest.mark.parametrize("path", PAGES)
    @pytest.mark.parametrize(
        "answer",
        [
            lambda: error_response(410, "token_used", "Used.", None, {}),
            lambda: error_response(
                422, "validation_error", "No.", {"json": {"token": ["Too long."]}}, {}
            ),
        ],
        ids=["used", "malformed"],
    )
    def test_a_link_that_no_longer_works_says_what_to_do(
        self, tab: Browser, site: Site, path: str, answer: Callable[[], Any]
    ) -> None:
        site.answer = answer
        tab.open(f"{site.url}{path}#token={TOKEN}")
        if "reset" in path:
            type_password(tab, "correct horse battery")
        press(tab)

        assert "This link was used already" in outcome(tab)
        assert "This link no longer works" in tab.text()
        assert tab.run("document.querySelector('form').hidden")

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (
                lambda: error_response(429, "rate_limited", "Slow.", None, {"Retry-After": "42"}),
                "Please try again in 42 seconds.",
            ),
            (
                lambda: error_response(429, "rate_limited", "Slow.", None, {"Retry-After": "61"}),
                "Please try again in 2 minutes.",
            ),
            (lambda: error_response(503, "service_unavailable", "Away.", None, {}), "on our side"),
            (lambda: Response("<h1>Bad gateway</h1>", 502), "on our side"),
            (lambda: error_response(403, "forbidden", "You may not.", None, {}), "You may not."),
        ],
        ids=["429 seconds", "429 minutes", "503", "a proxy's 502", "any other"],
    )
    def test_a_failure_that_may_pass_leaves_the_button(
        self, tab: Browser, site: Site, answer: Callable[[], Any], words: str
    ) -> None:
        site.answer = answer
        tab.open(f"{site.url}/account/verify-email#token={TOKEN}")
        press(tab)

        assert words in outcome(tab)
        site.answer = lambda: {"success": True}
        tab.wait_for("!document.querySelector('button').disabled")
        press(tab)
        tab.wait_for("document.querySelector('form').hidden")
        assert "confirmed" in outcome(tab)
        assert [sent["token"] for _, sent in site.posted] == [TOKEN, TOKEN]

    def test_two_quick_clicks_send_once(self, tab: Browser, site: Site) -> None:
        tab.open(f"{site.url}/account/verify-email#token={TOKEN}")
        tab.run("for (let i = 0; i < 3; i++) document.querySelector('button').click()")

        outcome(tab)
        assert len(site.posted) == 1

    def test_a_lost_connection_is_said_in_words(self, tab: Browser, site: Site) -> None:
        tab.open(f"{site.url}/account/verify-email#token={TOKEN}")
        tab.command("Network.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        tab.command("Network.emulateNetworkConditions", **offline)
        press(tab)
        said = outcome(tab)
        tab.command("Network.emulateNetworkConditions", **offline | {"offline": False})
        tab.command("Network.disable")

        assert "could not be reached" in said

    @pytest.mark.parametrize("path", PAGES)
    @pytest.mark.parametrize("fragment", ["", "#", "#token=", "#other=1"])
    def test_a_page_without_its_token_says_so(
        self, tab: Browser, site: Site, path: str, fragment: str
    ) -> None:
        tab.open(f"{site.url}{path}{fragment}")

        assert "Please open the link in your mail again." in outcome(tab)
        assert tab.run("document.querySelector('form').hidden")

    def test_a_second_link_in_the_same_tab_is_taken(self, tab: Browser, site: Site) -> None:
        tab.open(f"{site.url}/account/verify-email")
        tab.run("location.hash = 'token=second'")
        tab.wait_for("!location.hash && !document.querySelector('form').hidden")
        press(tab)

        assert "confirmed" in outcome(tab)
        assert site.posted == [("verify-email", {"token": "second"})]

    @pytest.mark.parametrize("path", PAGES)
    def test_without_script_the_page_says_what_to_do(
        self, tab: Browser, site: Site, path: str
    ) -> None:
        tab.command("Emulation.setScriptExecutionDisabled", value=True)
        tab.open(f"{site.url}{path}#token={TOKEN}")

        seen = tab.text()
        assert "needs JavaScript" in seen
        assert "Confirm my address" not in seen
        assert "Set the password" not in seen

    @pytest.mark.parametrize("path", PAGES)
    def test_a_phone_shows_all_of_it_without_scrolling_sideways(
        self, tab: Browser, site: Site, path: str, tmp_path: Path
    ) -> None:
        tab.open(f"{site.url}{path}#token={TOKEN}")
        tab.screenshot(tmp_path / "phone.png", width=320, height=640, dark=True)

        assert tab.run("document.documentElement.scrollWidth") <= 320
        assert tab.run("document.querySelector('button').getBoundingClientRect().bottom") < 640


# --- From the mail to the real API ----------------------------------------------------------------

ADA = "ada@example.org"


def path_in(text: str) -> str:
    """The link of a mail without scheme and host: the test's server has a port of its own."""
    found = re.search(r"^http://[^/]+(/account/\S+)$", text, re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.integration
@pytest.mark.slow
class TestMailedLinks:
    def test_a_mailed_link_confirms_the_address_once(
        self, app: Flask, client: Client, jobs: Jobs, mailbox: Mailbox, browser: Browser
    ) -> None:
        registration = {"email": ADA, "password": "correct horse battery"}
        answer = client.post("/api/v1/auth/register", json=registration)
        access = {"Authorization": f"Bearer {answer.json['data']['access_token']}"}  # type: ignore[index]
        jobs.run_all()
        link = path_in(mailbox.to(ADA).text)

        def is_verified() -> bool:
            me = client.get("/api/v1/auth/me", headers=access).json
            return bool(me["data"]["is_verified"])  # type: ignore[index]

        with serving(app, browser) as url:
            browser.open(url + link)
            assert not is_verified()
            press(browser)
            assert "Your e-mail address is confirmed." in outcome(browser)
            assert is_verified()
            browser.open(url + link)
            press(browser)
            assert "This link was used already" in outcome(browser)

    def test_a_mailed_link_sets_a_new_password(
        self, app: Flask, client: Client, jobs: Jobs, mailbox: Mailbox, browser: Browser
    ) -> None:
        registration = {"email": ADA, "password": "correct horse battery"}
        client.post("/api/v1/auth/register", json=registration)
        jobs.run_all()
        client.post("/api/v1/auth/forgot-password", json={"email": ADA})
        jobs.run_all()

        with serving(app, browser) as url:
            browser.open(url + path_in(mailbox.to(ADA).text))
            type_password(browser, "password123")
            press(browser)
            browser.wait_for("document.getElementById('new_password-error').textContent")
            type_password(browser, " 馬 and a staple")
            browser.wait_for("!document.querySelector('button').disabled")
            press(browser)
            assert "Your new password is set" in outcome(browser)

        login = {"email": ADA, "password": "password123 馬 and a staple"}
        assert client.post("/api/v1/auth/login", json=login).status_code == 200
        jobs.run_all()
        assert mailbox.to(ADA).subject == "Your Ghost password was changed"

"""The development mailbox in a browser: a click on everything."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.serving import make_server

sys.path.append(str(Path(__file__).parents[2] / "auth"))
from browser import EXECUTABLE, Browser

Send = Callable[..., str]

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HTML = """<!doctype html><html><head><title>x</title></head><body><h1>Welcome</h1>
<script>document.body.innerHTML = "taken over"</script>
<a href="http://127.0.0.1:9/verify#token=1">Confirm</a><img src="http://127.0.0.1:9/x.png"></body>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if EXECUTABLE is None:
        if os.environ.get("CI", "").lower() in ("true", "1", "yes"):
            pytest.fail("there is no Chromium", pytrace=False)
        pytest.skip("there is no Chromium")
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def url(dev_app: Flask) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, dev_app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/dev/mail"
    server.shutdown()
    thread.join()
    server.server_close()


def click(browser: Browser, selector: str, until: str) -> None:
    browser.run(f"document.querySelector({selector!r}).click()")
    browser.wait_for(f"({until}) && document.readyState === 'complete'")


def test_a_reader_clicks_through_a_mail(browser: Browser, url: str, send: Send) -> None:
    send("Confirm, please", "The text: http://127.0.0.1:9/verify#token=1", HTML)

    browser.open(url)
    assert "Confirm, please" in browser.text()
    click(browser, ".row", "document.querySelector('iframe')")
    assert browser.run("document.querySelector('iframe').contentDocument") is None
    click(browser, "#tab-text", "document.querySelector('pre')")
    assert "The text:" in browser.text()
    click(browser, "#tab-links", "document.querySelector('.links a')")
    assert browser.run("document.querySelector('.links a').href").endswith("/verify#token=1")
    click(browser, "#tab-headers", "document.querySelector('table.headers')")
    assert "Message-ID" in browser.text()
    click(browser, "#tab-source", "document.querySelector('pre.code')")
    click(browser, "#tab-html", "document.querySelector('iframe')")
    click(browser, "#show-images", "location.search.includes('images')")
    click(browser, ".mail form button", "document.querySelector('.empty')")
    assert "No mail yet" in browser.text()


def test_a_mails_script_does_not_run(browser: Browser, url: str, send: Send) -> None:
    name = send("Hello", "x", HTML)

    browser.open(f"{url}/{name}/html")

    assert "Welcome" in browser.text()
    assert "taken over" not in browser.text()
    assert browser.run(
        "document.querySelector('a').target || document.querySelector('base').target"
    )


def test_a_template_is_previewed(browser: Browser, url: str) -> None:
    browser.problems.clear()

    browser.open(f"{url}/templates")
    click(browser, "a[href$='verify-email']", "document.querySelector('iframe')")
    assert "Confirm your e-mail address for Acme" in browser.text()
    click(browser, "#tab-text", "document.querySelector('pre')")

    assert "Hello Ada Lovelace," in browser.text()
    assert browser.problems == []


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(
    browser: Browser, url: str, send: Send, tmp_path: Path, is_dark: bool
) -> None:
    name = send("Confirm, please " * 20, "x", HTML)

    for path in ("", f"/{name}", f"/{name}?tab=headers", f"/{name}?tab=source", "/templates"):
        browser.open(f"{url}{path}")
        browser.screenshot(tmp_path / "phone.png", width=400, height=800, dark=is_dark)
        assert browser.run("document.documentElement.scrollWidth") <= 400, path

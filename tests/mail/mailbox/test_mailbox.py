"""The development mailbox: what it keeps, what it shows, and whom it answers."""

from __future__ import annotations

import os
import random
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from ghost.mail import Attachment, Message
from ghost.mail.mailbox import reading, store

Send = Callable[..., str]

pytestmark = pytest.mark.integration

HERE = {"Sec-Fetch-Site": "same-origin"}
BROKEN = {
    "empty": b"",
    "zeros": bytes(1000),
    "random": random.Random(1).randbytes(5000),
    "cut": b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\nContent-Type: text/ht',
    "huge header": b"Subject: " + b"a" * 300_000 + b"\r\n\r\nx",
    "charset": b"Content-Type: text/plain; charset=nope\r\n\r\n\xff\xfe",
    "charset that is none": b"Content-Type: text/plain; charset=base64\r\n\r\nx",
    "header charset": b"Subject: =?nope?b?////?=\r\nTo: =?utf-8?q?=FF?=\r\n\r\nx",
    "base64": b"Content-Transfer-Encoding: base64\r\n\r\n!!!=",
    "uuencode": b"Content-Transfer-Encoding: uuencode\r\n\r\nbegin 6\n~~~",
    "raw header": b"Subject: \xff\xfe\x80\r\nFrom: \x00\r\n\r\nx",
    "date": b"Date: Mon, 99 Foo 99999 99:99:99 +9999\r\n\r\nx",
    "deep": b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(300)
    ),
    "name": b'Content-Disposition: attachment; filename="../../a\r\n b\x00"\r\n\r\nx',
    "type": b"Content-Type: a/b; c\r\nContent-Disposition: attachment\r\n\r\nx",
}


def test_it_is_there_in_development_alone(app: Flask, visitor: FlaskClient) -> None:
    rules = {rule.rule for rule in app.url_map.iter_rules()}

    assert visitor.get("/dev/mail").status_code == 200
    assert app.test_client().get("/dev/mail").status_code == 404
    assert not any(rule.startswith("/dev") for rule in rules)


def test_a_sent_mail_is_kept_for_its_owners_eyes(send: Send, place: Path) -> None:
    name = send("Hello")

    file = place / f"{name}.eml"
    assert oct(place.stat().st_mode & 0o777) == "0o700"
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    assert b"Subject: Hello\r\n" in file.read_bytes()
    assert [path.name for path in place.iterdir()] == [file.name]


def test_a_mail_told_of_twice_is_kept_once(send: Send, place: Path) -> None:
    row = uuid4()

    send("Hello", row=row)
    send("Hello", row=row)

    assert len(list(place.iterdir())) == 1


def test_the_newest_are_kept(send: Send, place: Path) -> None:
    place.mkdir(mode=0o700)
    for number in range(store.MAX_KEPT):
        path = place / f"old-{number}.eml"
        path.write_bytes(b"")
        os.utime(path, (number, number))

    name = send("New")

    names = [kept.name for kept in store.list_kept(place)]
    assert len(names) == store.MAX_KEPT
    assert names[0] == name
    assert "old-0" not in names


def test_a_mail_that_cannot_be_written_is_no_failure(send: Send, place: Path) -> None:
    place.write_text("a file where the folder should be")

    send("Hello")

    assert place.read_text() == "a file where the folder should be"


def test_a_mail_is_listed_and_shown(send: Send, visitor: FlaskClient) -> None:
    name = send(
        "Grüße & <b>", "See https://a.example/x?y=1.", "<p>Hello <a href='https://b.example'>"
    )

    index = visitor.get("/dev/mail").text
    pages = {
        tab: visitor.get(f"/dev/mail/{name}?tab={tab}").text
        for tab in ("html", "text", "links", "headers", "attachments", "source")
    }

    assert "Grüße &amp; &lt;b&gt;" in index
    assert "Ada &lt;ada@example.org&gt;" in index
    assert f'src="/dev/mail/{name}/html"' in pages["html"]
    assert "https://a.example/x?y=1." in pages["text"]
    assert 'href="https://a.example/x?y=1"' in pages["links"]
    assert 'href="https://b.example"' in pages["links"]
    assert "Auto-Submitted" in pages["headers"]
    assert "There is no file" in pages["attachments"]
    assert "MIME-Version: 1.0" in pages["source"]


def test_a_mails_html_is_locked_in(send: Send, visitor: FlaskClient) -> None:
    name = send(html="<html><head></head><script>alert(1)</script><img src='https://a.example/x'>")

    response = visitor.get(f"/dev/mail/{name}/html")
    shown = visitor.get(f"/dev/mail/{name}/html?images=1")

    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith(
        "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    )
    assert "img-src data:;" in policy
    assert "script" not in policy
    assert "img-src data: https: http:;" in shown.headers["Content-Security-Policy"]
    assert '<head><base target="_blank">' in response.text


def test_an_html_of_many_heads_is_shown_at_once(send: Send, visitor: FlaskClient) -> None:
    name = send(html="<head " * 10_000)
    started = time.process_time()

    response = visitor.get(f"/dev/mail/{name}/html")

    assert time.process_time() - started < 1
    assert response.text.startswith('<base target="_blank"><head ')


def test_each_image_stands_at_its_own_address() -> None:
    images = [
        Attachment(f"{name}.png", name.encode(), "image/png", name)
        for name in ("logo", "logo2", "logo.2")
    ]
    message = Message(
        "ada@example.org", "Hello", "Hello", attachments=images, sender="app@example.org",
        html="<img src='cid:logo'><img src=cid:logo2><img src=\"cid:logo.2\"><img src=cid:logo3>",
        message_id="<1@example.org>",
    )  # fmt: skip

    mail = reading.parse("x", datetime.now(UTC), message.as_bytes())

    addresses = [f"data:image/png;base64,{b64encode(image.content).decode()}" for image in images]
    assert mail.html_with_images() == (
        f"<img src='{addresses[0]}'><img src={addresses[1]}>"
        f'<img src="{addresses[2]}"><img src=cid:logo3>'
    )


def test_a_list_reads_each_mail_once_and_decodes_no_attachment(
    visitor: FlaskClient, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.mkdir()
    attachments = [
        Attachment("1.pdf", bytes(500_000)),
        Attachment("logo.png", b"png", "image/png", "logo"),
    ]
    message = Message(
        "ada@example.org", "Hello", "A  text", "<img src='cid:logo'>", attachments=attachments,
        sender="app@example.org", message_id="<1@example.org>",
    )  # fmt: skip
    (place / "large.eml").write_bytes(message.as_bytes())
    opened: list[str] = []
    read = store.read
    monkeypatch.setattr(reading, "read", lambda kept: opened.append(kept.name) or read(kept))
    monkeypatch.setattr(reading, "_file", lambda *_: pytest.fail("an attachment was decoded"))

    pages = [visitor.get("/dev/mail").text for _ in range(3)]
    os.utime(place / "large.eml", (1, 1))
    pages.append(visitor.get("/dev/mail").text)

    for page in pages:
        assert 'title="1 attachment(s)"' in page
        assert '<span class="row-snippet">A text</span>' in page
    assert opened == ["large", "large"]


def test_a_page_is_strict(send: Send, visitor: FlaskClient) -> None:
    name = send(html="<p>Hello</p>")

    for path in ("", f"/{name}", "/templates", "/templates/verify-email"):
        response = visitor.get(f"/dev/mail{path}")
        assert response.status_code == 200
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; ")
        assert "<script" not in response.text
        assert "style=" not in response.text
        assert response.headers["Cache-Control"] == "no-store"


def test_a_file_is_saved_and_not_shown(visitor: FlaskClient, place: Path) -> None:
    place.mkdir()
    (place / "one.eml").write_bytes(
        b'Content-Type: text/html; name="x"\r\n'
        b"Content-Disposition: attachment; filename*=utf-8''%e2%82%ac%22%2f..%0a.html\r\n\r\n"
        b"<script>"
    )

    response = visitor.get("/dev/mail/one/files/1")

    assert response.data == b"<script>"
    disposition = response.headers["Content-Disposition"]
    assert disposition.startswith("attachment; ")
    assert "filename*=UTF-8''%E2%82%AC" in disposition
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert visitor.get("/dev/mail/one/files/2").status_code == 404


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_a_broken_mail_is_shown_as_far_as_it_goes(
    visitor: FlaskClient, place: Path, raw: bytes
) -> None:
    place.mkdir()
    (place / "broken.eml").write_bytes(raw)

    assert visitor.get("/dev/mail").status_code == 200
    for tab in ("html", "text", "links", "headers", "attachments", "source"):
        assert visitor.get(f"/dev/mail/broken?tab={tab}").status_code == 200
    assert visitor.get("/dev/mail/broken/files/1").status_code in (200, 404)
    assert visitor.get("/dev/mail/broken/html").status_code in (200, 404)
    assert visitor.get("/dev/mail/broken/source.eml").data == raw


HEADERS = st.sampled_from(
    [b"Subject: ", b"Content-Type: ", b"text/html", b"multipart/mixed; boundary=x", b"\r\n", b"--x",
     b"\r\n\r\n", b"=?utf-8?b?", b"?=", b"charset=", b"Content-Disposition: attachment; filename*=",
     b"Content-Transfer-Encoding: base64", b"Date: ", b"To: ", b"\xff", b"message/rfc822"]
)  # fmt: skip


@given(st.lists(HEADERS | st.binary(max_size=8)).map(b"".join))
def test_anything_is_a_mail(raw: bytes) -> None:
    mail = reading.parse("x", datetime.now(UTC), raw)

    "".join((mail.subject, mail.sender, mail.to, mail.text, mail.html or "", mail.source)).encode()
    assert len(mail.files) <= reading.MAX_PARTS


# --- Whom it answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_another_name_of_this_machine_is_refused(visitor: FlaskClient, host: str) -> None:
    assert visitor.get("/dev/mail", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080"])
def test_this_machine_has_names(visitor: FlaskClient, host: str) -> None:
    assert visitor.get("/dev/mail", headers={"Host": host}).status_code == 200


def test_another_machine_is_refused(visitor: FlaskClient) -> None:
    response = visitor.get("/dev/mail", environ_overrides={"REMOTE_ADDR": "192.0.2.1"})

    assert response.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_another_page_deletes_nothing(
    send: Send, visitor: FlaskClient, headers: dict[str, str], place: Path
) -> None:
    name = send()

    one = visitor.post(f"/dev/mail/{name}/delete", headers=headers)
    everything = visitor.post("/dev/mail/delete", headers=headers)

    assert (one.status_code, everything.status_code) == (403, 403)
    assert len(list(place.iterdir())) == 1


@pytest.mark.parametrize("headers", [HERE, {"Origin": "http://localhost"}], ids=str)
def test_the_mailbox_deletes_one_and_all(
    send: Send, visitor: FlaskClient, headers: dict[str, str], place: Path
) -> None:
    first, _second, _third = send(), send(), send()

    visitor.post(f"/dev/mail/{first}/delete", headers=headers)
    left = len(list(place.iterdir()))
    visitor.post("/dev/mail/delete", headers=headers)

    assert (left, len(list(place.iterdir()))) == (2, 0)
    assert visitor.get(f"/dev/mail/{first}").status_code == 404


# --- Previews -------------------------------------------------------------------------------------


def test_templates_are_shown_in_each_language(visitor: FlaskClient, tmp_path: Path) -> None:
    (tmp_path / "mails/shipped.subject.txt").write_text("On its way")
    (tmp_path / "mails/shipped.de.subject.txt").write_text("Unterwegs")
    (tmp_path / "mails/shipped.txt").write_text("{{ number }}")
    (tmp_path / "mails/shipped.sample.json").write_text('{"number": 7}')

    default = visitor.get("/dev/mail/templates/shipped").text
    german = visitor.get("/dev/mail/templates/shipped?locale=de").text

    assert "On its way" in default
    assert "Unterwegs" in german


def test_a_template_that_fails_says_why(visitor: FlaskClient, tmp_path: Path) -> None:
    (tmp_path / "mails/shipped.subject.txt").write_text("{{ number }}")
    (tmp_path / "mails/shipped.txt").write_text("x")

    page = visitor.get("/dev/mail/templates/shipped")

    assert page.status_code == 200
    assert "&#39;number&#39; is undefined" in page.text
    assert visitor.get("/dev/mail/templates/shipped/html").status_code == 404
    assert visitor.get("/dev/mail/templates/nothing").status_code == 404

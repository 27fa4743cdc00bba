"""Folders, the console and memory as ways out, and which URL means which."""

from __future__ import annotations

import email
import email.policy
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from sinks import deliver

from ghost.config import Config, ConfigError
from ghost.mail import Message, NotSent, outbox
from ghost.mail.providers import provider_for
from ghost.mail.providers.local import ConsoleProvider, FileProvider, MemoryProvider
from ghost.mail.providers.smtp import SmtpProvider

pytestmark = pytest.mark.unit

Configured = Callable[..., Flask]

LINK = f"https://app.example.com/account/verify-email#token={'x' * 100}"
MESSAGE = Message("ada@example.org", "Grüße", f"Öffne\n\n{LINK}\n", message_id="<1@example.com>")


# --- Folder ---------------------------------------------------------------------------------------


def test_a_folder_gets_one_readable_file_per_mail(configured: Configured, tmp_path: Path) -> None:
    configured(url=f"file://{tmp_path}/mails/today")

    deliver(MESSAGE)
    deliver(Message("bob@example.org", "Hello", "Hello.\n"))

    files = sorted((tmp_path / "mails/today").iterdir())
    assert len(files) == 2
    assert {file.suffix for file in files} == {".eml"}
    raw = (tmp_path / "mails/today/1@example.com.eml").read_bytes()
    assert LINK in raw.decode()
    assert email.message_from_bytes(raw, policy=email.policy.default)["Subject"] == "Grüße"


def test_a_repeated_attempt_replaces_its_own_file(configured: Configured, tmp_path: Path) -> None:
    configured(url=f"file://{tmp_path}/mails")

    deliver(MESSAGE)
    deliver(MESSAGE)

    assert [file.name for file in (tmp_path / "mails").iterdir()] == ["1@example.com.eml"]


def test_mail_files_are_for_their_owner_only(configured: Configured, tmp_path: Path) -> None:
    configured(url=f"file://{tmp_path}/mails")

    deliver(MESSAGE)

    (file,) = (tmp_path / "mails").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "mails").stat().st_mode) == 0o700


def test_a_reader_never_sees_half_a_mail(configured: Configured, tmp_path: Path) -> None:
    configured(url=f"file://{tmp_path}")
    message = Message("ada@example.org", "Long", "x" * 500_000, message_id="<1@example.com>")
    deliver(message)
    file = tmp_path / "1@example.com.eml"
    full = file.stat().st_size
    sizes: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            sizes.add(len(file.read_bytes()))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        deliver(message)
    stop.set()
    reader.join()

    assert sizes == {full}


def test_a_folder_that_cannot_be_written_is_for_a_later_attempt(
    configured: Configured, tmp_path: Path
) -> None:
    (tmp_path / "mails").write_text("a file is in the way")
    configured(url=f"file://{tmp_path}/mails")

    with pytest.raises(NotSent, match="could not be written"):
        deliver(MESSAGE)


def test_a_failed_write_leaves_nothing_behind(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    configured(url=f"file://{tmp_path}")
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(NotSent, match="No space left"):
        deliver(MESSAGE)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "message_id", ["<../../etc/x@example.com>", "<.x@example.com>", f"<{'x' * 300}@a.b>"]
)
def test_a_message_id_cannot_choose_another_place(
    configured: Configured, tmp_path: Path, message_id: str
) -> None:
    configured(url=f"file://{tmp_path}/mails")

    deliver(Message("ada@example.org", "Hello", "Hello.\n", message_id=message_id))

    (file,) = (tmp_path / "mails").iterdir()
    assert file.suffix == ".eml"
    assert not file.name.startswith(".")


# --- Console and memory ---------------------------------------------------------------------------


def test_the_console_shows_the_whole_mail_with_its_link(
    configured: Configured, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(url="console://")

    deliver(MESSAGE)

    printed = capsys.readouterr().out
    assert f"\n{LINK}\n" in printed
    assert "To:      ada@example.org\nSubject: Grüße\n" in printed
    assert "From:    Ghost <no-reply@app.example.com>\n" in printed


def test_the_console_is_not_steered_by_a_mail(
    configured: Configured, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(url="console://")

    deliver(Message("ada@example.org", "Hello", "one\x1b[2J\x9btwo\rthree\u202d\n"))

    printed = capsys.readouterr().out
    assert "one[2Jtwothree" in printed
    assert not set(printed) & set("\x1b\x9b\r")


def test_memory_keeps_the_mails_of_each_application(configured: Configured) -> None:
    first = configured()
    deliver(MESSAGE)
    configured()

    assert outbox() == []
    with first.app_context():
        assert [message.subject for message in outbox()] == ["Grüße"]
        assert outbox()[0].recipients == ("ada@example.org",)


# --- Sender and Message-ID ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app_settings", "mail_settings", "expected"),
    [
        ({}, {}, "Ghost <no-reply@app.example.com>"),
        ({"name": "Acme, Inc."}, {}, '"Acme, Inc." <no-reply@app.example.com>'),
        ({"public_url": "http://127.0.0.1:8080"}, {}, "Ghost <no-reply@localhost>"),
        ({"public_url": "http://[::1]:8080"}, {}, "Ghost <no-reply@localhost>"),
        ({}, {"sender": "shop@acme.example"}, "Ghost <shop@acme.example>"),
        ({}, {"sender": "Acme Shop <shop@acme.example>"}, "Acme Shop <shop@acme.example>"),
    ],
)
def test_the_sender_comes_from_the_settings(
    configured: Configured,
    app_settings: dict[str, str],
    mail_settings: dict[str, str],
    expected: str,
) -> None:
    configured(app_settings=app_settings, **mail_settings)

    deliver(MESSAGE)

    assert str(outbox()[0].sender_address) == expected
    assert outbox()[0].as_bytes()


# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("console://", ConsoleProvider),
        ("memory://", MemoryProvider),
        ("file:///var/mail", FileProvider),
        ("smtps://mail.example.org", SmtpProvider),
    ],
)
def test_a_url_chooses_the_provider(url: str, expected: type) -> None:
    assert isinstance(provider_for(url, root=Path("/app"), timeout_seconds=1), expected)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("smtp://mail.example.org", "mail.example.org", 587, "starttls"),
        ("smtp://mail.example.org?tls=none", "mail.example.org", 25, "none"),
        ("smtp://mail.example.org:2525?tls=starttls", "mail.example.org", 2525, "starttls"),
        ("smtp://localhost", "localhost", 25, "none"),
        ("smtp://127.0.0.1:1025", "127.0.0.1", 1025, "none"),
        ("smtp://[::1]?tls=starttls", "::1", 587, "starttls"),
        ("smtp://127.evil.example", "127.evil.example", 587, "starttls"),
        ("smtps://mail.example.org", "mail.example.org", 465, "implicit"),
        ("smtps://bücher.example", "xn--bcher-kva.example", 465, "implicit"),
    ],
)
def test_encryption_is_what_the_url_leaves_open(url: str, host: str, port: int, tls: str) -> None:
    provider = provider_for(url, root=Path("/app"), timeout_seconds=1)

    assert isinstance(provider, SmtpProvider)
    assert (provider.server.host, provider.server.port, provider.server.tls) == (host, port, tls)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.org",
        "http://mail.example.org",
        "smtp://",
        "smtp://mail.example.org:port",
        "smtp://mail.example.org:99999",
        "smtp://a b",
        "smtp://mail.example.org?tls=starttsl",
        "smtp://mail.example.org?tls",
        "smtp://mail.example.org?verify=no",
        "smtps://mail.example.org?tls=none",
        "smtp://mail.example.org?ca=/no/such/file",
        "smtp://ada@mail.example.org",
        "smtp://:s3cret@mail.example.org",
        "smtp://ada:s3cret@mail.example.org?tls=none",
        "file://",
        "file:///",
        "file:///var/mail?x=1",
        "console://?x=1",
    ],
)
def test_a_wrong_url_is_refused_in_words_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"mail\.url") as caught:
        provider_for(url, root=Path("/app"), timeout_seconds=1)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "smtp://ada:s3cret@mail.example.org?tls=none",
        "smtp://ada@mail.example.org?tls=starttls",
        "smtps://ada@mail.example.org",
        "smtps://mail.example.org?ca=none.pem",
    ],
)
def test_what_no_provider_could_use_stops_the_start(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mail\.url"):
        Config.load({"mail": {"url": url}}, root=tmp_path, environ={})

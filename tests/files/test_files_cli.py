"""`flask files`."""

from __future__ import annotations

import os
from typing import Any

import pytest
from flask import Flask
from stored_files import FileFactory, path_of

from ghost.files.storage import current_storage
from ghost.files.storage.base import StorageUnavailable
from ghost.files.storage.disk import DiskStorage
from ghost.models import utcnow, uuid7

pytestmark = pytest.mark.integration


def test_stats_counts_files_by_category(app: Flask, make_file: FileFactory) -> None:
    make_file(b"123")
    make_file(b"12345", category="image", deleted_at=utcnow())

    result = app.test_cli_runner().invoke(args=["files", "stats"])

    assert result.exit_code == 0
    assert [line.split() for line in result.output.splitlines()] == [
        ["image", "1", "files", "5", "bytes", "1", "of", "them", "deleted"],
        ["text", "1", "files", "3", "bytes"],
        ["all", "2", "files", "8", "bytes", "1", "of", "them", "deleted"],
    ]


def test_verify_is_content_with_files_as_they_were_stored(
    app: Flask, make_file: FileFactory
) -> None:
    make_file()

    result = app.test_cli_runner().invoke(args=["files", "verify"])

    assert result.exit_code == 0
    assert "All files are as they were stored." in result.output


def test_verify_names_what_is_missing_or_damaged(app: Flask, make_file: FileFactory) -> None:
    missing, damaged, _ = make_file(), make_file(), make_file()
    with app.app_context():
        current_storage().delete([missing.key])
        path = path_of(damaged.key)
        path.write_bytes(b"0123456780")

    result = app.test_cli_runner().invoke(args=["files", "verify"])

    assert result.exit_code == 1
    assert f"{missing.id} missing: {missing.key}" in result.output
    assert f"{damaged.id} damaged: {damaged.key}" in result.output
    assert "2 of the files are not as they were stored." in result.output


def test_sweep_says_what_it_did(app: Flask, make_file: FileFactory) -> None:
    make_file(deleted_at=utcnow().replace(year=2020))

    result = app.test_cli_runner().invoke(args=["files", "sweep"])

    assert result.exit_code == 0
    assert (
        "1 deleted files purged, 0 variants, 0 orphans and 0 temporary files removed."
    ) in result.output


def test_sweep_names_files_that_have_lost_their_bytes(app: Flask, make_file: FileFactory) -> None:
    lost = make_file(created_at=utcnow().replace(year=2020))
    with app.app_context():
        current_storage().delete([lost.key])

    result = app.test_cli_runner().invoke(args=["files", "sweep"])

    assert result.exit_code == 1
    assert f"{lost.id} missing" in result.output


def test_verify_goes_on_behind_what_it_can_not_read(
    app: Flask, make_file: FileFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable, damaged = make_file(), make_file(sha256="0" * 64)
    fail_for(monkeypatch, "read", unreadable.key)

    result = app.test_cli_runner().invoke(args=["files", "verify"])

    assert result.exit_code == 1
    assert f"{unreadable.id} unreadable: {unreadable.key}" in result.output
    assert f"{damaged.id} damaged: {damaged.key}" in result.output


def test_verify_shows_what_it_found_before_the_storage_was_away(
    app: Flask, make_file: FileFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = make_file(sha256="0" * 64)
    away = [make_file().key for _ in range(12)]
    fail_for(monkeypatch, "read", *away)

    result = app.test_cli_runner().invoke(args=["files", "verify"])

    assert result.exit_code == 1
    assert f"{damaged.id} damaged" in result.output
    assert result.output.count(" unreadable: ") == 10
    assert "Files can't be stored or read at the moment." in result.output


def test_sweep_counts_what_it_removed_alone(
    app: Flask, make_file: FileFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_file()
    key = f"2026/11/{uuid7()}"
    with app.app_context():
        with current_storage().create(key, "text/plain") as writer:
            writer.write(b"orphan")
            writer.commit()
        path = path_of(key)
        os.utime(path, (0, 0))
    fail_for(monkeypatch, "delete", [key])

    result = app.test_cli_runner().invoke(args=["files", "sweep"])

    assert result.exit_code == 1
    assert " 0 orphans and 0 temporary files removed." in result.output
    assert "1 orphans could not be deleted." in result.output


def test_sweep_leaves_the_storage_of_another_database_alone(
    app: Flask, make_file: FileFactory
) -> None:
    make_file()
    with app.app_context():
        current_storage().claim("somebody-else")

    result = app.test_cli_runner().invoke(args=["files", "sweep"])

    assert result.exit_code == 1
    assert "The storage belongs to another database" in result.output


def fail_for(monkeypatch: pytest.MonkeyPatch, method: str, *values: Any) -> None:
    """Have a disk fail when it is asked for these."""
    real = getattr(DiskStorage, method)

    def fail(self: DiskStorage, asked: Any, *more: Any) -> Any:
        if asked in map(type(asked), values):
            raise StorageUnavailable
        return real(self, asked, *more)

    monkeypatch.setattr(DiskStorage, method, fail)

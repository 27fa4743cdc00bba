"""`flask files`."""

from __future__ import annotations

import pytest
from flask import Flask
from stored_files import FileFactory

from ghost.files.storage import current_storage
from ghost.models import utcnow

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
        path = current_storage().local_path(damaged.key)
        assert path is not None
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

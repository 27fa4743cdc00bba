"""What /health says about the place of files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from object_stores import Moto

from ghost.files.storage import current_storage
from ghost.testing.clients import Client

pytestmark = pytest.mark.integration


def check(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/health").json["data"]["checks"]["storage"]
    return found


class TestOfAFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "uploads"

    @pytest.fixture
    def app_config(self, folder: Path) -> Mapping[str, Any]:
        return {"storage": {"url": f"file://{folder}"}}

    def test_a_folder_that_can_be_written_to_is_ok(self, client: Client, folder: Path) -> None:
        assert check(client)["status"] == "ok"
        assert [path for path in folder.rglob("*") if path.is_file()] == []

    def test_a_folder_that_can_not_be_made_is_down_until_it_can(
        self, client: Client, folder: Path
    ) -> None:
        folder.write_text("in its place")
        assert check(client)["status"] == "down"
        assert client.get("/health/ready").status_code == 200

        folder.unlink()

        assert check(client)["status"] == "ok"

    def test_a_disk_that_is_nearly_full_is_degraded(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room = SimpleNamespace(total=100 * 2**30, free=2**30)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: room)

        found = check(client)

        assert found["status"] == "degraded"
        assert found["message"] == "The disk is nearly full: 1024 MiB are free."

    def test_what_works_is_not_tried_at_each_probe(
        self, app: Flask, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert check(client)["status"] == "ok"

        with app.app_context():
            monkeypatch.setattr(current_storage(), "check", lambda: pytest.fail("tried again"))

        assert check(client)["status"] == "ok"


class TestOfABucket:
    @pytest.fixture
    def app_config(self, moto: Moto) -> Mapping[str, Any]:
        return {"storage": {"url": moto.storage_url()}}

    def test_a_bucket_that_answers_is_ok(self, client: Client) -> None:
        assert check(client)["status"] == "ok"


class TestOfABucketThatHangs:
    @pytest.fixture
    def app_config(self, moto: Moto) -> Mapping[str, Any]:
        return {"storage": {"url": moto.storage_url(), "timeout": 8.0}}

    @pytest.mark.slow
    def test_it_keeps_nobody_waiting(self, client: Client, moto: Moto) -> None:
        moto.pause()
        try:
            started = time.monotonic()
            found = check(client)
            elapsed = time.monotonic() - started
        finally:
            moto.resume()

        assert found["status"] == "down"
        assert elapsed < 2

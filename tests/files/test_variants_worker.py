"""A variant of a large picture, from a request to a real worker and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hostile import encode, picture
from photographs import open_picture
from stored_files import FileFactory

from ghost.files import variants
from ghost.files.models import PUBLIC
from ghost.testing.background import Jobs
from ghost.testing.clients import Client
from ghost.testing.servers import Redis

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WIDE, HIGH = 4500, 4000  # 18 megapixels


@pytest.fixture
def app_config(redis_server: Redis) -> Mapping[str, Any]:
    return {"redis": {"url": redis_server.url}}


def test_a_worker_makes_what_requests_ask_for(
    client: Client, jobs: Jobs, make_file: FileFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "WAIT_SECONDS", 0.2)
    file = make_file(
        encode(picture(WIDE, HIGH), "PNG"), filename="map.png", content_type="image/png",
        category="image", visibility=PUBLIC, width=WIDE, height=HIGH,
    )  # fmt: skip
    url = f"/api/v1/files/{file.id}/images/medium"
    assert client.get(url).status_code == 503

    jobs.work()

    made = client.get(url)
    assert made.status_code == 200
    assert open_picture(made.data).size == (800, 711)

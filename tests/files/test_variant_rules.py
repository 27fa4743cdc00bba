"""The decisions behind variants: names, states, and what is small enough for a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from flask import Flask

from ghost.config_storage import VariantSetting
from ghost.files import workshop
from ghost.files.variant_rows import State, state_of, stored_name

NOW = datetime(2026, 11, 29, tzinfo=UTC)
EARLIER, LATER = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("setting", "name"),
    [
        (VariantSetting(128, 128, "cover"), "thumb:128x128-cover"),
        (VariantSetting(128, 96), "thumb:128x96-inside"),
        (VariantSetting(128, 128, "cover", 70), "thumb:128x128-cover-q70"),
    ],
)
def test_all_that_the_configuration_says_is_in_the_stored_name(
    setting: VariantSetting, name: str
) -> None:
    assert stored_name("thumb", setting) == name


@pytest.mark.unit
def test_the_longest_name_fits_its_column() -> None:
    assert len(stored_name("a" * 50, VariantSetting(8192, 8192, "inside", 100))) <= 100


@pytest.mark.unit
@pytest.mark.parametrize(
    ("made_at", "size", "claimed_until", "state"),
    [
        (None, 0, LATER, State.CLAIMED),
        (None, 0, EARLIER, State.ABANDONED),
        (None, 0, NOW, State.ABANDONED),
        (EARLIER, 9, EARLIER, State.MADE),
        (EARLIER, 9, LATER, State.MADE),
        (EARLIER, 0, LATER, State.HOPELESS),
        (EARLIER, 0, EARLIER, State.FREE),
    ],
)
def test_a_row_tells_how_far_a_variant_is(
    made_at: datetime | None, size: int, claimed_until: datetime, state: State
) -> None:
    row = SimpleNamespace(made_at=made_at, size=size, claimed_until=claimed_until)

    assert state_of(row, NOW) is state


@pytest.mark.unit
def test_without_a_row_nobody_has_begun() -> None:
    assert state_of(None, NOW) is State.FREE


@pytest.mark.integration
@pytest.mark.parametrize(
    ("content_type", "width", "height", "frames", "expected"),
    [
        ("image/jpeg", 4000, 4000, 1, True),
        ("image/jpeg", 4001, 4000, 1, False),
        ("image/png", 4000, 2000, 1, True),
        ("image/heic", 4000, 3000, 1, False),
        ("image/gif", 400, 400, 50, True),
        ("image/gif", 400, 400, 51, False),
        ("image/jpeg", None, None, 1, False),
    ],
)
def test_a_request_works_on_small_pictures_only(
    app: Flask, content_type: str, width: int | None, height: int | None, frames: int,
    expected: bool,
) -> None:  # fmt: skip
    with app.app_context():
        assert workshop.is_light(content_type, width, height, frames) is expected


@pytest.mark.unit
def test_a_process_works_on_two_pictures_at_once_and_others_wait_for_a_while() -> None:
    with (
        workshop.bench(time.monotonic()),
        workshop.bench(time.monotonic()),
        pytest.raises(workshop.WorkshopFull),
        workshop.bench(time.monotonic() + 0.1),
    ):
        pass

    with workshop.bench(time.monotonic()):
        pass


@pytest.mark.unit
def test_who_waits_for_a_bench_gets_it_when_it_is_left() -> None:
    got = threading.Event()

    def wait() -> None:
        with workshop.bench(time.monotonic() + 10):
            got.set()

    with workshop.bench(time.monotonic()), workshop.bench(time.monotonic()):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(0.1)
    assert got.wait(10)
    thread.join()


@pytest.mark.integration
def test_variants_count_as_downloads(make_app: Callable[..., Flask]) -> None:
    client = make_app(
        {"ratelimit": {"enabled": True}, "storage": {"download_limit": "2/minute"}}
    ).test_client()
    url = f"/api/v1/files/{uuid4()}/images/huge"

    assert [client.get(url).status_code for _ in range(3)] == [404, 404, 429]

"""Which processors a process uses."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ghost import affinity

pytestmark = pytest.mark.unit

on_linux = pytest.mark.skipif(
    sys.platform != "linux" or os.cpu_count() == 1, reason="needs Linux and two processors"
)


@pytest.mark.parametrize(
    ("used", "chosen"),
    [([], 0), ([0], 1), ([0, 1], 0), ([1, 0], 1), ([None, 0, 1, 1], 0), ([0, 0, 1], 1)],
)
def test_a_new_worker_gets_the_processor_that_the_fewest_have(
    used: list[int | None], chosen: int
) -> None:
    assert affinity.least_used([0, 1], used) == chosen


@pytest.fixture
def pinned() -> Iterator[set[int]]:
    """This thread kept on one processor; what it had before."""
    before = os.sched_getaffinity(0)
    affinity.pin(min(before))
    yield before
    os.sched_setaffinity(0, before)
    affinity._all = None


@on_linux
def test_work_that_needs_no_interpreter_leaves_the_processor_and_comes_back(
    pinned: set[int],
) -> None:
    with affinity.on_any_processor():
        assert os.sched_getaffinity(0) == pinned
        with ThreadPoolExecutor(1) as beside:
            assert beside.submit(os.sched_getaffinity, 0).result() == pinned

    assert os.sched_getaffinity(0) == {min(pinned)}


@on_linux
def test_an_error_brings_it_back_too(pinned: set[int]) -> None:
    with pytest.raises(ValueError, match="bad"), affinity.on_any_processor():
        raise ValueError("bad")

    assert os.sched_getaffinity(0) == {min(pinned)}


@on_linux
def test_processors_that_are_no_longer_ours_change_nothing(pinned: set[int]) -> None:
    affinity._all = {4000}

    with affinity.on_any_processor():
        assert os.sched_getaffinity(0) == {min(pinned)}


def test_without_a_pin_nothing_is_changed() -> None:
    before = affinity.allowed_processors()

    with affinity.on_any_processor():
        assert affinity.allowed_processors() == before
    assert affinity.allowed_processors() == before


def test_a_sandbox_that_refuses_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _processors: set[int]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(affinity.os, "sched_getaffinity", lambda _pid: {0, 1}, raising=False)
    monkeypatch.setattr(affinity.os, "sched_setaffinity", refuse, raising=False)

    affinity.pin(0)
    with affinity.on_any_processor():
        pass

    assert affinity._all is None

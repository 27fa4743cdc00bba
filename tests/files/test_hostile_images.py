"""Files made to hurt end in a clear answer, within 1 second and 200 MB."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
CLEAR = re.compile(r"4(13|15) [A-Z].+\.")


def measure(*arguments: str) -> list[dict]:
    """What became of each file of a corpus, each in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", HERE / "measure_hostile.py", *arguments],
        cwd=HERE.parent.parent,
        env={"PYTHONPATH": str(HERE.parent.parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def dear(found: list[dict], seconds: float = 1.0) -> list[dict]:
    """Those that cost more than they may; of processor time, since other tests run beside."""
    return [one for one in found if one["seconds"] > seconds or one["peak_mb"] > 200]


def test_hostile_files_are_refused_in_time_and_memory():
    found = measure("refused")

    assert len(found) > 60
    unclear = [
        one for one in found if not all(CLEAR.fullmatch(said) for said in one["said"].split(" / "))
    ]
    assert unclear == []
    assert dear(found) == []


def test_pictures_with_hostile_additions_are_taken_without_them():
    found = measure("harmless")

    assert len(found) > 15
    assert [one for one in found if one["said"] != "taken / taken / taken"] == []
    assert dear(found) == []


def test_damaged_pictures_are_refused_or_good_whatever_the_damage():
    found = measure("mutations", "300")

    assert len(found) == 6
    unclear = [
        said
        for one in found
        for said in re.split(" / |\n", one["said"])
        if said != "taken" and not CLEAR.fullmatch(said)
    ]
    assert unclear == []
    # 300 of them, in one process.
    assert dear(found, seconds=30) == []

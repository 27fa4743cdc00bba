"""The short form of the trials; see scripts/faults/files.py for the long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
TRIAL = ROOT / "scripts/faults/files.py"


@pytest.mark.parametrize(
    "options",
    [("--uploads", "50", "--kills", "6"), ("--uploads", "20", "--full")],
    ids=["workers are killed", "the disk is full"],
)
def test_nothing_is_lost_and_nothing_is_left_when(options: tuple[str, ...]) -> None:
    kind = os.environ.get("GHOST_TEST_DATABASE") or "sqlite"

    done = subprocess.run(
        [sys.executable, str(TRIAL), *options, "--seed", "7", "--database", kind],
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is lost, nothing is left" in done.stdout

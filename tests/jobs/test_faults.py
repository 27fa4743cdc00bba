"""The short form of the trial; see scripts/faults/jobs.py for the long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.each_database]

ROOT = Path(__file__).parent.parent.parent


def test_no_job_is_lost_while_workers_and_redis_are_killed() -> None:
    trial = ROOT / "scripts/faults/jobs.py"
    kind = os.environ.get("GHOST_TEST_DATABASE") or "sqlite"

    done = subprocess.run(
        [
            *(sys.executable, str(trial), "--jobs", "150", "--kills", "5"),
            *("--seed", "7", "--database", kind),
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 lost, 0 of the rolled back ran" in done.stdout
    assert " 0 at the same time" in done.stdout

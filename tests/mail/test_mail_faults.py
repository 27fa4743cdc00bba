"""The short form of the trial; see scripts/faults/mail.py for the long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.each_database]

ROOT = Path(__file__).parent.parent.parent


def test_everybody_gets_a_batchs_mail_while_its_worker_is_killed() -> None:
    trial = ROOT / "scripts/faults/mail.py"
    kind = os.environ.get("GHOST_TEST_DATABASE") or "sqlite"

    done = subprocess.run(
        [
            *(sys.executable, str(trial), "--messages", "150", "--kills", "3"),
            *("--seed", "7", "--database", kind, "--what", "child"),
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert ": 0 lost, " in done.stdout
    assert "150 sent, 0 failed" in done.stdout

"""The short form of the trial; see scripts/faults/uploads.py for the long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
# It takes 13 on a machine that does nothing else; then it tells what it waited for, and cleans up.
SECONDS, STOP_SECONDS = 180, 60


@pytest.mark.parametrize("storage", ["disk", "s3"])
def test_a_client_of_others_resumes_an_upload_over_cuts_and_kills(storage: str) -> None:
    trial = ROOT / "scripts/faults/uploads.py"
    kind = os.environ.get("GHOST_TEST_DATABASE") or "sqlite"

    done = subprocess.run(
        [
            *(sys.executable, str(trial), "--megabytes", "40", "--cuts", "1", "--kills", "1"),
            *("--seed", "1", "--database", kind, "--storage", storage, "--seconds", str(SECONDS)),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS + STOP_SECONDS,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 faults did not come" in done.stdout
    assert "SHA-256 agrees" in done.stdout

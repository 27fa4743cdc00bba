"""Jobs on the clock for the tests, for child processes alone: the registry is the process's."""

from __future__ import annotations

import os

from job_samples import note

from ghost import every


@every(seconds=1, name="beat")
def beat() -> None:
    """Note that it ran, where the environment says."""
    note(os.environ["BEAT_FILE"], "beat")

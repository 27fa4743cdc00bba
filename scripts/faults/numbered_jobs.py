"""Jobs that write down by themselves that they ran, for jobs.py."""

import os
import random
import time

from ghost import job


@job(queue="default")
def write_down(number: int) -> None:
    """Note a number in a file that knows nothing of the ledger; one write, so that it is whole."""
    handle = os.open(os.environ["FAULTS_DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{number}\n".encode())
    finally:
        os.close(handle)
    if number % 50 == 0:  # some are long enough to be killed in the middle
        time.sleep(random.uniform(0, 1))


@job(queue="high")
def write_down_first(number: int) -> None:
    """The same from another queue: workers listen to several."""
    write_down(number)

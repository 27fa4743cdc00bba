"""Jobs that write down by themselves that they ran, for jobs.py."""

import fcntl
import os
import random
import time

from ghost import job


@job(queue="default")
def write_down(number: int) -> None:
    """Note a number in a file that knows nothing of the ledger; one write, so that it is whole.

    A job that finds itself running already, by a lock that ends with its process, notes `-number`.
    """
    handle = os.open(os.environ["FAULTS_DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except BlockingIOError:
            os.write(handle, f"-{number}\n".encode())
        os.write(handle, f"{number}\n".encode())
        if number % 50 == 0:  # some are long enough to be killed in the middle
            time.sleep(random.uniform(0, 1))
    finally:
        os.close(handle)


@job(queue="high")
def write_down_first(number: int) -> None:
    """The same from another queue: workers listen to several."""
    write_down(number)

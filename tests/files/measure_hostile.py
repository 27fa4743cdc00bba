"""Feeds hostile files to `ghost.files.images`, each in a process of its own.

Prints a line of JSON for each: its name, what was said of it, seconds of processor time, peak of
memory in MB. The process is a fork, so that its peak begins with what the libraries take.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from io import BytesIO

import hostile

from ghost.errors import GhostError
from ghost.files.images import Limits, Variant, inspect, make_variant, strip

LIMITS = Limits()


def judge(data: bytes) -> str:
    """What each of the three ways to use a file says of it."""
    said = []
    for use in (
        lambda: inspect(BytesIO(data), LIMITS),
        lambda: make_variant(BytesIO(data), Variant("thumb", 32, 32), "image/webp", LIMITS),
        lambda: strip(BytesIO(data), LIMITS),
    ):
        try:
            use()
            said.append("taken")
        except GhostError as error:
            said.append(f"{error.status} {error.message}")
    return " / ".join(said)


def in_a_fork(name: str, work: Callable[[], str]) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = work()
        except BaseException as error:
            said = f"raised {error!r}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status, usage = os.wait4(pid, 0)
    print(
        json.dumps(
            {
                "name": name,
                "said": said if status == 0 else f"died: {status}",
                "seconds": usage.ru_utime + usage.ru_stime,
                "peak_mb": usage.ru_maxrss / 1024,
            }
        ),
        flush=True,
    )


def judge_mutations(name: str, count: int) -> str:
    said = {judge(data) for data in hostile.mutations(name, count)}
    return "\n".join(sorted(said))


if __name__ == "__main__":
    corpus = sys.argv[1]
    judge(hostile.encode(hostile.picture(), "JPEG"))  # imports what the files need
    judge(hostile.encode(hostile.picture(), "HEIC"))
    if corpus == "mutations":
        for format_name in hostile.FORMATS:
            in_a_fork(format_name, lambda one=format_name: judge_mutations(one, int(sys.argv[2])))
    else:
        for file_name, content in getattr(hostile, corpus)():
            in_a_fork(file_name, lambda one=content: judge(one))

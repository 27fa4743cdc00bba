"""Parts of a group: judged after a death, and ended without leftovers."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ghost.processes import Output, Part, end_session, judge_death, session_members

# A leader, a child in another process group that ignores SIGTERM, and a grandchild.
FAMILY = """
import os, signal, subprocess, sys, time
if os.fork() == 0:
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        time.sleep(60)
    print("ready", flush=True)
    time.sleep(60)
time.sleep(60)
"""


PARENT = """
import os, sys, time
from pathlib import Path
from ghost.processes import Output, Part

part = Part("part", ["sleep", "60"], Path("/"), os.environ, Output(sys.stderr))
part.start()
print(part.process.pid, flush=True)
time.sleep(60)
"""


def start_family() -> subprocess.Popen[str]:
    leader = subprocess.Popen(
        [sys.executable, "-S", "-c", FAMILY],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert leader.stdout is not None
    assert leader.stdout.readline() == "ready\n"
    return leader


def make_part(*command: str, stream: io.StringIO | None = None) -> Part:
    return Part("part", [*command], Path.cwd(), os.environ, Output(stream or io.StringIO()))


@pytest.mark.unit
def test_a_session_has_the_members_of_all_its_groups():
    leader = start_family()

    members = session_members(leader.pid)

    assert leader.pid in members
    assert len(members) == 3
    end_session(leader.pid, 0.0)
    leader.wait()


@pytest.mark.unit
def test_ending_a_session_leaves_nobody_even_without_its_leader():
    leader = start_family()
    leader.kill()
    leader.wait()
    assert len(session_members(leader.pid)) == 2

    end_session(leader.pid, 0.1)

    assert session_members(leader.pid) == []


@pytest.mark.unit
def test_our_own_session_is_listed_without_ourselves():
    assert os.getpid() not in session_members(os.getsid(0))


@pytest.mark.unit
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child")
def test_a_part_ends_when_its_parent_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())

    parent.kill()
    parent.wait()

    deadline = time.monotonic() + 5
    while child in session_members(parent.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.unit
def test_each_line_of_a_part_follows_its_name():
    stream = io.StringIO()
    part = make_part("sh", "-c", r"echo one; printf 'two\nthree \377'; exit 3", stream=stream)

    part.start()
    assert part.process is not None
    part.process.wait()
    part.finish_output()

    assert stream.getvalue() == "part      | one\npart      | two\npart      | three \ufffd\n"
    assert part.describe_end() == "ended with exit code 3"


@pytest.mark.unit
def test_a_killed_part_takes_its_group_along():
    part = make_part("sh", "-c", "sleep 60 & echo $!; wait")
    part.start()
    while not part.last_lines:
        time.sleep(0.01)
    child = int(part.last_lines[0])

    part.kill()

    assert part.describe_end() == "was killed by SIGKILL"
    deadline = time.monotonic() + 5
    while child in session_members(os.getsid(0)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.unit
def test_a_reader_that_is_gone_stops_nobody():
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stream:
        output = Output(stream)

        output.line("api", "nobody reads this")
        output.plain("nor this")
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for the flush at the end


@pytest.mark.unit
@pytest.mark.parametrize(
    ("deaths", "failed_starts", "is_after_change", "was_killed", "verdict"),
    [
        ([100.0], 0, False, False, "restart"),
        ([100.0], 1, False, False, "restart"),
        ([100.0], 1, True, False, "wait"),
        ([100.0], 1, True, True, "restart"),
        ([100.0], 0, True, False, "restart"),
        ([92.0, 94.0, 96.0, 98.0, 100.0], 0, False, True, "give up"),
        ([60.0, 70.0, 80.0, 90.0, 100.0], 0, False, True, "restart"),
        ([60.0, 70.0, 80.0, 90.0, 100.0], 5, False, False, "give up"),
    ],
    ids=[
        "crashed",
        "did-not-start",
        "broken-by-a-change",
        "killed-after-a-change",
        "crashed-long-after-a-change",
        "killed-often",
        "killed-seldom",
        "never-started",
    ],
)
def test_a_death_is_judged_by_how_it_came(
    deaths, failed_starts, is_after_change, was_killed, verdict
):
    assert judge_death(deaths, failed_starts, is_after_change, was_killed, 100.0) == verdict


def test_a_signal_reaches_only_a_part_that_runs():
    part = make_part("true")
    part.signal(signal.SIGTERM)
    part.kill()

    part.start()
    assert part.process is not None
    part.process.wait()
    part.signal(signal.SIGTERM)

    assert part.describe_end() == "ended with exit code 0"

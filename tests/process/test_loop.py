"""The loop's waits in real time: it wakes when it was asked to, and no standstill of the machine passes unseen."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.helpers.running import ROOT, wait_until
from watchdogd.model import MILLISECOND
from watchdogd.observe.loop import stood_still

Wait = Callable[..., tuple[float, float, float, float]]
WAITS = """import json, sys, time
from watchdogd.observe import loop as observed
if sys.argv[3] == "python": observed.doze = None
else: assert observed.doze is not None
loop = observed.Loop(lambda numbers: None)
print("waits", flush=True)
begun, ran = time.monotonic_ns(), time.thread_time_ns()
loop.wait(begun)
while time.thread_time_ns() - ran < int(sys.argv[2]) * 10**6: pass
woke = loop.wait(begun + int(sys.argv[1]) * 10**6)
print(json.dumps([time.monotonic_ns() - begun, *woke, time.thread_time_ns() - ran]))
"""


@pytest.fixture(params=["native", "python"])
def waited(request: pytest.FixtureRequest) -> Wait:
    return functools.partial(_waited, request.param)


def _waited(
    how: str, milliseconds: int, stand_still: tuple[float, float] | None = None, works: int = 0
) -> tuple[float, float, float, float]:
    """How long, how late, for how long it may have stood still, and how long it ran, in ms. ``stand_still``: when, and
    how long. ``works``: so many ms of processor time before it waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(milliseconds), str(works), how], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "waits\n"
        if stand_still is not None:
            begin, seconds = stand_still
            _let_pass(begin)
            os.kill(process.pid, signal.SIGSTOP)
            _let_pass(seconds)
            os.kill(process.pid, signal.SIGCONT)
        lasted, late, stalled, ran = (value / MILLISECOND for value in json.loads(process.stdout.readline()))
    return lasted, late, stalled, ran


def _let_pass(seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until)


def test_a_wait_on_a_machine_that_runs_lasts_as_long_as_asked_and_tells_of_no_standstill(
    waited: Wait,
) -> None:
    for _ in range(10):  # a machine that is busy with other tests is late now and then
        lasted, late, stalled, _ = waited(300)
        if stalled == 0:
            break
    assert (lasted >= 300, late < 20, stalled) == (True, True, 0)


@pytest.mark.parametrize("begin", [0.01, 0.05, 0.1, 0.15])
def test_a_standstill_between_two_looks_ends_the_wait_and_is_told_whole(waited: Wait, begin: float) -> None:
    for _ in range(10):
        lasted, late, stalled, _ = waited(2000, (begin, 0.15))
        if lasted >= 150:
            break  # else one of a busy machine's own ended it before ours
    assert (late, lasted < 1500) == (0, True)
    assert stalled >= 145


def test_a_standstill_past_the_instant_asked_for_is_told_from_its_begin_on(
    waited: Wait,
) -> None:
    _, late, stalled, _ = waited(400, (0.06, 0.6))  # also where the signal to stand still comes late
    assert late >= 220
    assert stalled >= 595


def test_a_supervisor_s_own_work_is_no_standstill_however_late_it_makes_a_wait(
    waited: Wait,
) -> None:
    lasted, late, stalled, ran = waited(50, works=200)
    assert (late >= 150, ran >= 200) == (True, True)
    assert stalled <= lasted - ran + 1  # what else runs here may have kept it from its work, and that is told


def test_only_a_wake_up_later_than_usual_tells_of_a_standstill_and_that_may_have_begun_at_once() -> None:
    assert stood_still(100, 120, 140, 20) == 0
    assert stood_still(100, 120, 141, 20) == 41

"""Launches are stamped lightly: to the kernel's tick, and counted later. What is seen of them all the same."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.helpers import shim
from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import wait_until
from tests.process.test_shim import front, heartbeat, lanes_by_tid, run, talking
from watchdogd import abi, abi_driver

__all__ = ["front", "heartbeat"]
LAUNCH = abi.OPERATION["launch"]
CLOCK_MONOTONIC_COARSE = 6
TICK_NS = int(time.clock_getres(CLOCK_MONOTONIC_COARSE) * 1e9)
ONE_IN = 64


HANGS = """
begin(); stream = ok(d.cuStreamCreate(0)); function = kernel(10); ok(launch(function, stream))
say("here"); say(int(stream), threading.get_native_id()); hear()
while True:
    before_ns = time.monotonic_ns(); say(before_ns); launch(function, stream)
"""


def in_flight(heartbeat: HeartbeatFile, lane: int) -> int:
    wait_until(lambda: heartbeat.lane(lane, "outer") != 0)
    return heartbeat.lane(lane, "outer")


def test_a_launch_that_hangs_is_in_flight_from_now_to_two_ticks_later_and_not_from_before(
    front: Path, tmp_path: Path
) -> None:
    late = []
    for number in range(3):
        heartbeat = HeartbeatFile(tmp_path / f"heartbeat.{number}", version=abi.VERSION)
        with talking(HANGS, front, heartbeat, SIMCUDA_FAULT="call_hang call=launch after=40") as process:
            stream, tid = map(int, process.hear().split())
            lane = lanes_by_tid(heartbeat)[tid]
            process.tell("go")
            begun = [int(process.hear()) for _ in range(40)][-1]
            word = in_flight(heartbeat, lane)
            assert word & abi.CODE_MASK == LAUNCH
            assert shim.line(heartbeat, lane)["object"] == stream
            late.append((word & ~abi.CODE_MASK) + 256 - begun)
    assert max(late) <= 3 * TICK_NS
    assert sorted(late)[1] >= 0  # one may have begun while the machine's tick was late by more


def test_every_launch_counts_and_one_in_so_many_tells_how_long_they_take(front: Path, heartbeat: HeartbeatFile) -> None:
    source = """
begin(); function = kernel(1)
for i in range(200): ok(launch(function))
ok(d.cuCtxSynchronize()); say("here"); say(threading.get_native_id()); hear()
"""
    with talking(source, front, heartbeat) as process:
        lane = lanes_by_tid(heartbeat)[int(process.hear())]
        total_ns, counts = heartbeat.histogram(lane, LAUNCH)
        timed = [word for word, _ in heartbeat.ring(lane) if word & abi.CODE_MASK == LAUNCH]
        assert len(timed) == 200 // ONE_IN
        assert sum(counts) == len(timed) * ONE_IN
        assert shim.uncounted(heartbeat, lane) == 200 % ONE_IN
        assert shim.line(heartbeat, lane)["queued"] == 200
        assert total_ns > 0


def test_the_first_launch_after_a_wait_is_told_at_once_and_the_others_with_the_next_wait(
    front: Path, heartbeat: HeartbeatFile
) -> None:
    source = """
begin(); function, stream = kernel(1), ok(d.cuStreamCreate(0)); say("here"); say(threading.get_native_id()); hear()
ok(launch(function, stream)); say("one"); hear()
for i in range(9): ok(launch(function, stream))
say("ten"); hear(); ok(d.cuStreamSynchronize(stream)); say("waited"); hear()
"""
    with talking(source, front, heartbeat) as process:
        lane = lanes_by_tid(heartbeat)[int(process.hear())]
        told = []
        for _ in range(3):
            process.ask("go")
            entries = shim.streams(heartbeat)
            told.append((shim.line(heartbeat, lane)["queued"], *(entry["queued"] for entry in entries)))
        assert told == [(1, 1), (1, 1), (10, 10)]


def test_work_of_a_stream_that_another_thread_has_found_idle_is_news_again(
    front: Path, heartbeat: HeartbeatFile
) -> None:
    """The launching thread makes no other call in between, and does not look at the stream's entry at each launch."""
    source = """
context = begin(); function, stream = kernel(1), ok(d.cuStreamCreate(0))
for i in range(3): ok(launch(function, stream))
def wait(): ok(d.cuCtxSetCurrent(context)); ok(d.cuStreamSynchronize(stream)); ok(d.cuStreamSynchronize(stream))
for i in range(5):
    waiting = threading.Thread(target=wait); waiting.start(); waiting.join(); ok(launch(function, stream))
say("here"); say(int(stream)); hear()
"""
    with talking(source, front, heartbeat) as process:
        stream = int(process.hear())
        assert [entry["completed"] for entry in shim.streams(heartbeat) if entry["handle"] == stream] == [5]


def test_launches_in_turn_into_two_streams_are_counted_in_each(front: Path, heartbeat: HeartbeatFile) -> None:
    source = """
begin(); function, streams = kernel(1), [ok(d.cuStreamCreate(0)) for i in range(2)]
for i in range(30): ok(launch(function, streams[i % 3 % 2]))
ok(d.cuCtxSynchronize()); say("here"); hear()
"""
    with talking(source, front, heartbeat):
        assert sorted(entry["queued"] for entry in shim.streams(heartbeat)) == [10, 20]


def test_a_thread_that_ends_leaves_nothing_untold(front: Path, heartbeat: HeartbeatFile) -> None:
    source = """
context = begin(); function = kernel(1)
def work():
    ok(d.cuCtxSetCurrent(context))
    for i in range(7): ok(launch(function))
for i in range(3): thread = threading.Thread(target=work); thread.start(); thread.join()
"""
    run(source, front, heartbeat)
    assert shim.total_calls(heartbeat)["launch"] == 21
    assert sum(shim.line(heartbeat, lane)["queued"] for lane in range(abi.LANES)) == 21


@pytest.mark.parametrize("checked", [True, False])
def test_where_contexts_are_checked_every_launch_is_stamped_precisely(
    checked: bool, front: Path, heartbeat: HeartbeatFile
) -> None:
    heartbeat.set_header("driver", abi_driver.OPTION["check_context"] if checked else 0)
    run("begin(); f = kernel(1)\nfor i in range(9): ok(launch(f))\nok(d.cuCtxSynchronize())", front, heartbeat)
    (uncounted,) = {shim.uncounted(heartbeat, lane) for lane in range(abi.LANES)} - {0} or {0}
    assert uncounted == (0 if checked else 9)
    assert shim.total_calls(heartbeat)["launch"] == 9

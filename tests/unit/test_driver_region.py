"""What the driver shim saw, read and shown: figures as they are, and nothing where nobody wrote."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.fake_runtime import MS, FakeHeartbeat, FakeRuntime
from watchdogd import abi
from watchdogd.model import SECOND
from watchdogd.observe.driver_region import Context, Driver, HostFunction, Misuse, Stream
from watchdogd.observe.heartbeat import HeartbeatReader
from watchdogd.view import shim, status
from watchdogd.view.notes import notes

STREAM, CONTEXT = 0x7F0000001000, 0x7F0000002000


@pytest.fixture
def beat(tmp_path: Path) -> Iterator[FakeHeartbeat]:
    beat = FakeHeartbeat(tmp_path / "beat", 3, 5 * SECOND)
    yield beat
    beat.close()


def read(beat: FakeHeartbeat) -> Driver | None:
    reader = HeartbeatReader(str(beat.path))
    try:
        return reader.driver()
    finally:
        reader.close()


def told(beat: FakeHeartbeat) -> Driver:
    driver = read(beat)
    assert driver is not None
    return driver


def test_a_shim_that_nobody_loaded_says_nothing(beat: FakeHeartbeat) -> None:
    assert read(beat) is None


def test_a_file_of_an_older_version_has_no_region(beat: FakeHeartbeat) -> None:
    beat.driver()
    os.truncate(beat.path, abi.SIZE)
    assert read(beat) is None


def test_every_entry_that_has_an_owner_is_told(beat: FakeHeartbeat) -> None:
    beat.driver(
        driver_version=13010, contexts_unkept=2, streams_unkept=3, ranges_unkept=7, host_functions_unkept=4,
        host_functions_run=1,
    )  # fmt: skip
    beat.host_function(0, owner=11 << 32 | 1, queued_ns=6)
    beat.host_function(1, owner=11 << 32 | 1)
    beat.host_function(127, owner=11 << 32 | 1, queued_ns=5, stream=STREAM)
    beat.driver_lane(0, queued=5, completed=3, object=STREAM)
    beat.driver_lane(319, queued=7, completed=6)
    beat.context(0, owner=11 << 32 | 2, handle=CONTEXT)
    beat.context(31, owner=12 << 32, handle=9, gone_ns=8)
    beat.stream(63, owner=11 << 32 | 1, handle=STREAM, context=CONTEXT, queued=4, completed=3, completed_ns=17)
    driver = told(beat)
    assert driver == Driver(
        13010, 12, 10, 0, None, (Context(11, 1, CONTEXT, None), Context(12, None, 9, 8)),
        (Stream(11, STREAM, CONTEXT, 4, 3, 17),), (HostFunction(5, 11, STREAM), HostFunction(6, 11, 0)), 9, 7,
        driver.objects,
    )  # fmt: skip
    assert [driver.objects[lane] for lane in (0, 1, 319)] == [STREAM, None, 0]


def test_the_last_misuse_of_a_context_is_told_with_both(beat: FakeHeartbeat) -> None:
    owner = 11 << 32 | 12
    beat.driver(misuses=4, misuse_owner=owner, misuse_expected=CONTEXT, misuse_found=0, misuse_ns=6)
    assert told(beat).misuse == Misuse(11, 12, CONTEXT, 0, 6)


# --- shown ---


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    return FakeRuntime(tmp_path)


def shown(runtime: FakeRuntime) -> str:
    runtime.publish()
    view = status.collect(str(runtime.directory), time.monotonic_ns())
    return "\n".join(shim.lines(view.workers[0], view.as_of_ns))


def begun(runtime: FakeRuntime, why: str = "") -> FakeHeartbeat:
    driver = {"driver": "/usr/lib/libcuda.so.1", "loaded": True, "why": why}
    return runtime.incarnation("model_h", 3, shim=driver)


def test_a_worker_without_a_shim_has_no_line_of_it(runtime: FakeRuntime) -> None:
    runtime.incarnation("model_h", 3)
    assert shown(runtime) == ""


def test_a_call_in_flight_names_the_stream_it_waits_for(runtime: FakeRuntime) -> None:
    beat = begun(runtime)
    beat.driver(driver_version=13010)
    beat.driver_lane(2, queued=1, object=STREAM)
    beat.stream(0, owner=41 << 32 | 1, handle=STREAM, queued=12, completed=11)
    beat.lane(2, owner=41 << 32 | 41)
    beat.enter(2, "sync", time.monotonic_ns() - 40 * MS)
    beat.enter(1, "sync", time.monotonic_ns() - 4 * MS)
    text = shown(runtime)
    assert f"its sync waits for stream {STREAM:#x} (12 pieces queued, 11 waits completed)" in text
    assert "driver shim in front of CUDA 13.1, /usr/lib/libcuda.so.1" in text


def test_a_call_that_another_library_stamped_names_none(runtime: FakeRuntime) -> None:
    beat = begun(runtime)
    beat.driver()
    beat.enter(2, "sync", time.monotonic_ns() - 40 * MS)
    assert "waits for" not in shown(runtime).replace("waits for it", "")


def test_a_call_that_waits_for_no_stream_names_none(runtime: FakeRuntime) -> None:
    beat = begun(runtime)
    beat.driver()
    beat.driver_lane(2, queued=1, object=STREAM)
    beat.enter(2, "alloc", time.monotonic_ns() - 40 * MS)
    assert f"{STREAM:#x}" not in shown(runtime)


def test_the_oldest_host_function_that_has_not_run_is_named(runtime: FakeRuntime) -> None:
    beat = begun(runtime)
    beat.driver()
    assert "host function" not in shown(runtime)
    now_ns = time.monotonic_ns()
    beat.host_function(4, owner=41 << 32 | 1, queued_ns=now_ns - 12 * SECOND, stream=STREAM)
    assert f"a host function queued 12 s ago in stream {STREAM:#x} of pid 41 has not run" in shown(runtime)
    beat.host_function(5, owner=41 << 32 | 1, queued_ns=now_ns)
    assert "has not run, and 1 after it" in shown(runtime)


def test_a_misused_context_is_shown_with_both(runtime: FakeRuntime) -> None:
    beat = begun(runtime)
    before_ns = time.monotonic_ns()
    beat.driver(misuses=3, misuse_owner=41 << 32 | 43, misuse_expected=CONTEXT, misuse_ns=before_ns)
    text = shown(runtime)
    assert "3 calls with another context than the thread had used before" in text
    assert f"by thread 43 of pid 41: no context was current, {CONTEXT:#x} before" in text


def test_more_entries_than_a_person_reads_are_counted(runtime: FakeRuntime) -> None:
    beat = begun(runtime)
    beat.driver()
    for entry in range(11):
        beat.stream(entry, owner=41 << 32 | 1, handle=STREAM + entry)
        beat.context(entry, owner=41 << 32 | 1, handle=CONTEXT + entry, gone_ns=entry // 10)
    text = shown(runtime)
    assert "and 3 streams more" in text
    assert "and 2 contexts more" in text
    assert f"context {CONTEXT + 10:#x}" not in text  # it is gone


@pytest.mark.parametrize(("cas", "locked"), [(3, 0), (0, 3), (2, 1)])
def test_threads_without_a_lane_are_told(runtime: FakeRuntime, cas: int, locked: int) -> None:
    begun(runtime).header(laneless_cas=cas, laneless_locked=locked)
    runtime.publish()
    view = status.collect(str(runtime.directory), time.monotonic_ns())
    assert "3 threads of it found no lane" in " ".join(notes(view.workers[0], view.now_ns))


def test_where_every_thread_has_a_lane_there_is_no_such_note(runtime: FakeRuntime) -> None:
    begun(runtime)
    runtime.publish()
    view = status.collect(str(runtime.directory), time.monotonic_ns())
    assert "found no lane" not in " ".join(notes(view.workers[0], view.now_ns))

"""The driver shim in front of the simulated driver: unmodified programs, and what the heartbeat then says of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import shim
from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import ROOT, LineProcess, wait_until
from tests.simulator.control import SimulatedDevice
from watchdogd import abi, abi_driver
from watchdogd.instrument import elf

SIMULATOR = ROOT / "build" / "simulator"
SOURCES = ROOT / "tests" / "native"

# How the simulated driver's names of calls are stamped; those that are not here are not.
STAMPED = {
    "init": "other", "ctx_create": "other", "ctx_destroy": "other", "ctx_synchronize": "sync",
    "primary_retain": "other", "primary_release": "other", "stream_create": "other", "stream_destroy": "other",
    "stream_synchronize": "sync", "stream_wait_event": "launch", "event_create": "other", "event_destroy": "other",
    "event_record": "launch", "event_synchronize": "event", "alloc": "alloc", "alloc_managed": "alloc",
    "alloc_async": "alloc", "alloc_host": "alloc", "host_register": "alloc", "host_unregister": "free", "free": "free",
    "free_async": "free", "free_host": "free", "mem_info": "other", "copy": "copy", "copy_async": "copy", "set": "copy",
    "set_async": "copy", "module_load": "other", "module_unload": "other", "launch": "launch", "launch_host": "launch",
}  # fmt: skip

PRELUDE = """
import ctypes, os, sys, threading, time
from cuda.bindings import driver as d

def ok(answer):
    assert int(answer[0]) == 0, answer
    return answer[1] if len(answer) == 2 else answer[1:] or None

def say(*words): print(*words, flush=True)
def hear():
    line = sys.stdin.readline()
    if not line: os._exit(3)
    return line.strip()

def kernel(us):
    module = ok(d.cuModuleLoadData(b"x" * 64))
    return ok(d.cuModuleGetFunction(module, b"sim_sleep_us_%d" % us))
def launch(function, stream=0):
    return d.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, 0, 0)
def begin():
    ok(d.cuInit(0))
    return ok(d.cuCtxCreate(None, 0, 0))
"""


@pytest.fixture(scope="session")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    SimulatedDevice(tmp_path_factory.mktemp("device") / "state")  # builds the library
    return shim.prepare(tmp_path_factory.mktemp("front") / "shim", SIMULATOR / "libcuda.so.1")


@pytest.fixture
def heartbeat(tmp_path: Path) -> HeartbeatFile:
    return HeartbeatFile(tmp_path / "heartbeat", version=abi.VERSION)


def run(source: str, front: Path, heartbeat: HeartbeatFile | None, **more: str) -> str:
    """What the program prints; it must succeed and be silent on stderr."""
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + source],
        env=shim.environment(front, heartbeat, more), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout


def talking(source: str, front: Path, heartbeat: HeartbeatFile, **more: str) -> LineProcess:
    process = LineProcess([sys.executable, "-c", PRELUDE + source], shim.environment(front, heartbeat, more))
    assert process.hear() == "here"
    return process


def lanes_by_tid(heartbeat: HeartbeatFile) -> dict[int, int]:
    return {tid: lane for lane, (_, tid) in heartbeat.owners().items()}


# --- every call -----------------------------------------------------------------------------------------------------

MANY_CALLS = """
import collections
begin()
def work(times):
    ok(d.cuCtxSetCurrent(context))
    stream, event = ok(d.cuStreamCreate(0)), ok(d.cuEventCreate(0))
    function, address = kernel(20), ok(d.cuMemAlloc(4096))
    host = ok(d.cuMemHostAlloc(4096, 0))
    held = ok(d.cuMemAllocManaged(4096, 1))
    for i in range(times):
        ok(launch(function, stream))
        ok(d.cuMemcpyHtoDAsync(address, host, 4096, stream))
        ok(d.cuMemcpyDtoD(address, held, 64))
        ok(d.cuMemsetD8(address, 0, 64)); ok(d.cuMemsetD32Async(address, 0, 16, stream))
        ok(d.cuEventRecord(event, stream)); ok(d.cuStreamWaitEvent(stream, event, 0))
        d.cuStreamQuery(stream); d.cuEventQuery(event)
        ok(d.cuEventSynchronize(event)); ok(d.cuStreamSynchronize(stream)); ok(d.cuCtxSynchronize())
        ok(d.cuMemFreeAsync(ok(d.cuMemAllocAsync(64, stream)), stream)); ok(d.cuMemGetInfo())
    ok(d.cuMemFreeHost(host)); ok(d.cuMemFree(address)); ok(d.cuMemFree(held))
    ok(d.cuEventDestroy(event)); ok(d.cuStreamDestroy(stream))
context = ok(d.cuCtxGetCurrent())
threads = [threading.Thread(target=lambda n=n: (work(n), tids.append(threading.get_native_id()), gate.wait(60)))
           for n in (3, 5)]
tids, gate = [], threading.Event()
for thread in threads: thread.start()
work(7)
while len(tids) < 2: time.sleep(0.001)
say("here")
hear()
gate.set()
"""


def compared(front: Path, heartbeat: HeartbeatFile, log: Path) -> list[tuple[dict[str, int], dict[str, int]]]:
    """For each thread that called: what was stamped, and what the driver logged."""
    with talking(MANY_CALLS, front, heartbeat, SIMCUDA_CALLS=str(log)):
        expected: dict[int, Counter[str]] = {}
        for line in log.read_text().splitlines():
            thread, name = line.split()
            if name in STAMPED:
                expected.setdefault(int(thread), Counter())[STAMPED[name]] += 1
        lanes = lanes_by_tid(heartbeat)
        pairs = [(shim.calls(heartbeat, lanes[tid]), dict(counts)) for tid, counts in expected.items()]
        in_ring = {tid: heartbeat.lane(lanes[tid], "calls") + shim.uncounted(heartbeat, lanes[tid]) for tid in expected}
        assert list(in_ring.values()) == [sum(seen.values()) for seen, _ in pairs]
    for seen, _ in pairs:
        seen["other"] -= 1  # the look-up of a kernel, which the simulated driver does not name; each thread made one
    return pairs


def test_every_call_that_the_driver_saw_is_stamped_in_the_lane_of_its_thread(
    front: Path, heartbeat: HeartbeatFile, tmp_path: Path
) -> None:
    pairs = compared(front, heartbeat, tmp_path / "calls")
    assert len(pairs) == 3
    for seen, expected in pairs:
        assert seen == expected


@pytest.mark.parametrize(
    ("row", "operation"),
    [
        ("cuStreamSynchronize", "sync"),
        ("cuEventSynchronize", "event"),
        ("cuMemAllocAsync", "alloc"),
        ("cuMemFree_v2", "free"),
        ("cuMemcpyDtoD_v2", "copy"),
        ("cuLaunchKernel", "launch"),
        ("cuStreamDestroy_v2", "other"),
    ],
)
def test_a_function_without_its_row_is_missed(
    row: str, operation: str, heartbeat: HeartbeatFile, tmp_path: Path
) -> None:
    """So that the test above can fail: the driver's own function is then what the program gets."""
    driver, lacking = SIMULATOR / "libcuda.so.1", tmp_path / "front"
    lacking.mkdir()
    exports = elf.of_bytes(driver.read_bytes()).exports()
    # As if the driver lacked it: the shim exports none. Nor has it the text, by which it would look for the function.
    content = elf.patched(shim.SHIM.read_bytes(), str(driver), exports - {row})
    name = b"\0" + row.encode() + b"\0"
    assert content.count(name) >= 2
    (lacking / "libcuda.so.1").write_bytes(content.replace(name, name.replace(b"cu", b"no", 1)))
    for seen, expected in compared(lacking, heartbeat, tmp_path / "calls"):
        assert {name for name in expected if seen.get(name) != expected[name]} == {operation}
        assert seen.get(operation, 0) < expected[operation]


@pytest.mark.parametrize("way", ["link", "dlsym", "deepbind", "proc_address"])
def test_a_program_is_seen_however_it_finds_the_driver(
    way: str, front: Path, heartbeat: HeartbeatFile, tmp_path: Path
) -> None:
    program, log = tmp_path / "program", tmp_path / "calls"
    command = ["gcc", "-std=c11", f"-I{ROOT}/tests/simulator/src", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]
    linked = [f"-L{SIMULATOR}", "-lcuda", "-ldl"]
    subprocess.run([*command, str(program), str(SOURCES / "shim_program.c"), *linked], check=True, timeout=60)
    # Linked or not, each of them depends on the library by its name.
    environment = shim.environment(front, heartbeat, {"SIMCUDA_CALLS": str(log)})
    subprocess.run([program, way], env=environment, check=True, timeout=60)
    expected = Counter(STAMPED[name] for _, name in map(str.split, log.read_text().splitlines()) if name in STAMPED)
    seen = shim.total_calls(heartbeat)
    assert {**seen, "other": seen["other"] - 2} == dict(expected)
    assert expected["copy"] == 3 * 10


def test_a_call_that_hangs_shows_what_it_is_and_what_it_waits_for(front: Path, heartbeat: HeartbeatFile) -> None:
    source = """
begin(); stream = ok(d.cuStreamCreate(0)); function = kernel(100)
say("here"); say(int(stream), threading.get_native_id()); hear()
ok(launch(function, stream)); d.cuStreamSynchronize(stream)
"""
    fault = "call_hang call=stream_synchronize"
    with talking(source, front, heartbeat, SIMCUDA_FAULT=fault) as process:
        stream, tid = map(int, process.hear().split())
        lane = lanes_by_tid(heartbeat)[tid]
        assert heartbeat.lane(lane, "outer") == 0
        before_ns = time.monotonic_ns()
        process.tell("go")
        wait_until(lambda: heartbeat.lane(lane, "outer") != 0)
        wait_until(lambda: heartbeat.lane(lane, "outer") & abi.CODE_MASK == abi.OPERATION["sync"])
        assert heartbeat.lane(lane, "outer") >= before_ns - 256
        line = shim.line(heartbeat, lane)
        assert line["object"] == stream
        assert (line["queued"], line["completed"]) == (1, 0)
        # A launch is stamped by the kernel's tick, and the tick of a virtual machine may come late.
        assert before_ns - 2 * abi_driver.LONGEST_TICK_NS <= line["queued_ns"] <= time.monotonic_ns()


# --- progress -------------------------------------------------------------------------------------------------------


def test_queued_and_completed_work_is_counted_by_lane_and_by_stream(front: Path, heartbeat: HeartbeatFile) -> None:
    source = """
begin(); first, second = ok(d.cuStreamCreate(0)), ok(d.cuStreamCreate(0)); short, long = kernel(10), kernel(300000)
for i in range(4): ok(launch(short, first))
ok(launch(long, second))
assert int(d.cuStreamQuery(second)[0]) == 600
ok(d.cuStreamSynchronize(first)); ok(d.cuStreamSynchronize(first))
say("here"); say(int(first), int(second), int(ok(d.cuCtxGetCurrent()))); hear()
ok(d.cuStreamSynchronize(second)); ok(d.cuStreamQuery(second)); ok(d.cuStreamDestroy(first)); say("done"); hear()
"""
    with talking(source, front, heartbeat) as process:
        first, second, context = map(int, process.hear().split())
        (lane,) = heartbeat.thread_lanes(process.pid)
        line = shim.line(heartbeat, lane)
        assert (line["queued"], line["completed"], line["context"]) == (5, 1, context)  # the second time it was known
        assert 0 < line["unready_ns"] <= line["completed_ns"] <= time.monotonic_ns()
        by_handle = {entry["handle"]: entry for entry in shim.streams(heartbeat)}
        assert [by_handle[stream]["queued"] for stream in (first, second)] == [4, 1]
        assert [by_handle[stream]["completed"] for stream in (first, second)] == [1, 0]
        assert {entry["context"] for entry in by_handle.values()} == {context}
        assert {entry["owner"] for entry in by_handle.values()} == {process.pid << 32 | 1}
        assert process.ask("go") == "done"
        assert shim.line(heartbeat, lane)["completed"] == 2
        assert [entry["handle"] for entry in shim.streams(heartbeat)] == [second]
        assert shim.streams(heartbeat)[0]["completed"] == 1


def test_a_query_is_progress_and_no_call(front: Path, heartbeat: HeartbeatFile) -> None:
    source = """
begin(); s = ok(d.cuStreamCreate(0)); a = ok(d.cuMemAlloc(64))
for i in range(9):
    ok(d.cuMemsetD8Async(a, 0, 64, s)); ok(d.cuStreamSynchronize(s)); ok(d.cuMemsetD8Async(a, 0, 64, s))
    while int(d.cuStreamQuery(s)[0]) == 600: pass
"""
    run(source, front, heartbeat)
    assert shim.total_calls(heartbeat) == {"other": 3, "alloc": 1, "copy": 18, "sync": 9}
    assert sum(shim.line(heartbeat, lane)["completed"] for lane in range(4)) == 18


def test_streams_beyond_the_table_are_counted_and_found_again_once_there_is_room(
    front: Path, heartbeat: HeartbeatFile
) -> None:
    source = """
begin(); streams = [ok(d.cuStreamCreate(1)) for i in range(70)]
ok(d.cuStreamSynchronize(streams[69])); ok(d.cuStreamDestroy(streams[0])); ok(d.cuStreamSynchronize(streams[69]))
say("here"); say(int(streams[69])); hear()
"""
    with talking(source, front, heartbeat) as process:
        last = int(process.hear())
        assert len(shim.streams(heartbeat)) == abi_driver.STREAMS
        assert shim.header(heartbeat)["streams_unkept"] == 6
        assert [entry["completed"] for entry in shim.streams(heartbeat) if entry["handle"] == last] == [1]


def test_the_entries_of_a_process_that_is_gone_are_taken_over(front: Path, heartbeat: HeartbeatFile) -> None:
    source = "begin(); s = [ok(d.cuStreamCreate(1)) for i in range(60)]; os._exit(0)"
    pids = []
    for _ in range(3):
        run(source, front, heartbeat)
        pids.append(shim.header(heartbeat)["loaded_pid"])
    assert shim.header(heartbeat)["streams_unkept"] == 0
    assert pids[2] in {entry["owner"] >> 32 for entry in shim.streams(heartbeat)}
    assert len(set(pids)) == 3


# --- contexts -------------------------------------------------------------------------------------------------------


def test_contexts_are_told_with_their_device_and_their_end(front: Path, heartbeat: HeartbeatFile) -> None:
    source = """
first = begin(); second = ok(d.cuCtxCreate(None, 0, 1)); primary = ok(d.cuDevicePrimaryCtxRetain(1))
ok(d.cuDevicePrimaryCtxRetain(1)); ok(d.cuDevicePrimaryCtxRelease(1))
say("here"); say(int(first), int(second), int(primary)); hear()
ok(d.cuCtxDestroy(second)); ok(d.cuDevicePrimaryCtxRelease(1)); say("done"); hear()
"""
    with talking(source, front, heartbeat, SIMCUDA_DEVICES="2") as process:
        first, second, primary = map(int, process.hear().split())
        entries = {entry["handle"]: entry for entry in shim.contexts(heartbeat)}
        ordinals = {handle: (entry["owner"] & 0xFFFF_FFFF) - 1 for handle, entry in entries.items()}
        assert ordinals == {first: 0, second: 1, primary: 1}
        assert {entry["gone_ns"] for entry in entries.values()} == {0}
        assert process.ask("go") == "done"
        gone = {entry["handle"]: entry["gone_ns"] > entry["made_ns"] for entry in shim.contexts(heartbeat)}
        assert gone == {first: False, second: True, primary: True}


@pytest.mark.parametrize(("option", "flags"), [("sync_spin", 1), ("sync_yield", 2), ("sync_blocking", 4), (None, 0)])
def test_the_sync_mode_is_what_every_context_is_made_with(
    option: str | None, flags: int, front: Path, heartbeat: HeartbeatFile
) -> None:
    heartbeat.set_header("driver", abi_driver.OPTION[option] if option else 0)
    source = """
begin(); own = ok(d.cuCtxGetFlags())
primary = ok(d.cuDevicePrimaryCtxRetain(0)); ok(d.cuCtxSetCurrent(primary)); print(own & 7, ok(d.cuCtxGetFlags()) & 7)
"""
    assert run(source, front, heartbeat).split() == [str(flags)] * 2


LOST = """
context = begin(); stream = ok(d.cuStreamCreate(0)); address = ok(d.cuMemAlloc(64))
def other_thread(*calls):
    thread = threading.Thread(target=lambda: [call() for call in calls]); thread.start(); thread.join()
"""


def test_a_thread_without_the_context_that_its_call_needs_is_told(front: Path, heartbeat: HeartbeatFile) -> None:
    """As a goroutine that goes on in another thread of the system finds none."""
    heartbeat.set_header("driver", abi_driver.OPTION["check_context"])
    with talking(LOST + "other_thread(lambda: d.cuMemAlloc(64)); say('here', ); say(int(context)); hear()",
                 front, heartbeat) as process:  # fmt: skip
        context = int(process.hear())
        header = shim.header(heartbeat)
        assert (header["misuses"], header["misuse_expected"], header["misuse_found"]) == (1, context, 0)
        assert header["misuse_owner"] >> 32 == process.pid != header["misuse_owner"] & 0xFFFF_FFFF
        assert header["misuse_ns"]


def test_a_launch_into_a_stream_of_another_context_is_told(front: Path, heartbeat: HeartbeatFile) -> None:
    heartbeat.set_header("driver", abi_driver.OPTION["check_context"])
    source = (
        LOST
        + """
second = ok(d.cuCtxCreate(None, 0, 0)); function = kernel(10); assert int(launch(function, stream)[0]) == 400
say('here'); say(int(context), int(second)); hear()
"""
    )
    with talking(source, front, heartbeat) as process:
        first, second = map(int, process.hear().split())
        header = shim.header(heartbeat)
        assert (header["misuses"], header["misuse_expected"], header["misuse_found"]) == (1, first, second)


BEHIND = """
real = ctypes.CDLL(os.environ["REAL"])  # what the shim does not see: a library that has the driver's own function
"""


def test_a_context_that_was_changed_behind_a_thread_s_back_is_told_with_both(
    front: Path, heartbeat: HeartbeatFile
) -> None:
    heartbeat.set_header("driver", abi_driver.OPTION["check_context"])
    source = (
        LOST
        + BEHIND
        + """
second = ok(d.cuCtxCreate(None, 0, 0)); ok(d.cuCtxSetCurrent(context)); ok(d.cuStreamSynchronize(stream))
assert real.cuCtxSetCurrent(ctypes.c_void_p(int(second))) == 0
ok(d.cuCtxSynchronize()); ok(d.cuCtxSynchronize()); say('here'); say(int(context), int(second)); hear()
"""
    )
    with talking(source, front, heartbeat, REAL=str(SIMULATOR / "libcuda.so.1")) as process:
        first, second = map(int, process.hear().split())
        header = shim.header(heartbeat)
        assert (header["misuses"], header["misuse_expected"], header["misuse_found"]) == (1, first, second)


@pytest.mark.parametrize("checked", [True, False])
def test_what_a_thread_does_itself_or_does_unasked_is_no_misuse(
    checked: bool, front: Path, heartbeat: HeartbeatFile
) -> None:
    heartbeat.set_header("driver", abi_driver.OPTION["check_context"] if checked else 0)
    source = (
        LOST
        + """
second = ok(d.cuCtxCreate(None, 0, 0)); ok(d.cuCtxSynchronize()); ok(d.cuCtxPopCurrent()); ok(d.cuCtxSynchronize())
ok(d.cuCtxPushCurrent(second)); ok(d.cuMemFree(ok(d.cuMemAlloc(64)))); ok(d.cuCtxDestroy(second))
ok(d.cuCtxSetCurrent(context)); ok(d.cuCtxSynchronize())
other_thread(lambda: ok(d.cuCtxSetCurrent(context)), lambda: ok(d.cuCtxSynchronize()))
"""
    )
    if not checked:
        source += "other_thread(lambda: d.cuMemAlloc(64))"
    run(source, front, heartbeat)
    assert shim.header(heartbeat)["misuses"] == 0


# --- the header -----------------------------------------------------------------------------------------------------


def test_the_first_completed_synchronize_makes_the_worker_ready_where_that_is_asked(
    front: Path, heartbeat: HeartbeatFile
) -> None:
    heartbeat.set_header("driver", abi_driver.OPTION["ready_on_sync"])
    source = """
begin(); a = ok(d.cuMemAlloc(64)); ok(d.cuMemsetD8(a, 0, 64)); say('here'); hear()
d.cuCtxSynchronize(); say(1); hear()
"""
    with talking(source, front, heartbeat) as process:
        assert heartbeat.state == "attached"
        process.ask("go")
        assert heartbeat.state == "ready"


def test_a_synchronize_makes_nobody_ready_unasked(front: Path, heartbeat: HeartbeatFile) -> None:
    run("begin(); ok(d.cuCtxSynchronize())", front, heartbeat)
    assert heartbeat.state == "attached"


def test_a_sticky_error_is_recorded_and_stays_and_a_benign_one_is_not(front: Path, heartbeat: HeartbeatFile) -> None:
    source = """
begin(); f = kernel(10); assert int(d.cuMemAlloc(1 << 60)[0]) == 2; d.cuStreamQuery(12345); say('here'); hear()
launch(f); say(int(d.cuCtxSynchronize()[0])); hear()
d.cuStreamSynchronize(12345); d.cuMemAlloc(1 << 60); say('done'); hear()
"""
    with talking(source, front, heartbeat, SIMCUDA_FAULT="error code=719") as process:
        assert heartbeat.header("last_error") == 0
        assert process.ask("go") == "719"
        word = heartbeat.header("last_error")
        assert word & abi.ERROR_MASK == 719
        assert process.ask("go") == "done"
        assert heartbeat.header("last_error") == word


def test_the_region_tells_who_loaded_the_shim_and_over_which_driver(front: Path, heartbeat: HeartbeatFile) -> None:
    before_ns = time.monotonic_ns()
    pid = int(run("begin(); print(os.getpid())", front, heartbeat, SIMCUDA_VERSION="12060"))
    header = shim.header(heartbeat)
    assert (header["loaded_pid"], header["driver_version"]) == (pid, 12060)
    assert before_ns < header["loaded_ns"] < time.monotonic_ns()


# --- out of the way -------------------------------------------------------------------------------------------------

WORKS = "begin(); ok(d.cuMemFree(ok(d.cuMemAlloc(64)))); ok(d.cuCtxSynchronize()); print('works')"


def test_without_a_heartbeat_a_program_runs_and_nothing_is_said(front: Path) -> None:
    assert run(WORKS, front, None) == "works\n"


@pytest.mark.parametrize("spoiled", ["missing", "truncated", "magic", "newer"])
def test_with_a_heartbeat_that_is_none_it_runs_and_one_line_is_said(
    spoiled: str, front: Path, heartbeat: HeartbeatFile
) -> None:
    if spoiled == "missing":
        heartbeat.path.unlink()
    elif spoiled == "truncated":
        os.truncate(heartbeat.path, abi.SIZE - 1)
    elif spoiled == "magic":
        heartbeat.set_header("magic", 1)
    else:
        heartbeat.set_header("oldest_writer", abi.VERSION + 1)
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + WORKS],
        env=shim.environment(front, heartbeat), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "works\n")
    assert result.stderr.startswith(f"watchdogd: heartbeat {heartbeat.path}: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_without_the_region_is_stamped_all_the_same(version: int, front: Path, heartbeat: HeartbeatFile) -> None:
    heartbeat.set_header("version", version)
    if version == 3:
        os.truncate(heartbeat.path, abi.SIZE)
    run(WORKS, front, heartbeat)
    assert shim.total_calls(heartbeat) == {"other": 2, "alloc": 1, "free": 1, "sync": 1}
    if version == 2:
        assert not any(heartbeat.words(abi_driver.OFFSET, abi_driver.SIZE // abi.WORD))


def test_an_unprepared_shim_says_so_once_and_answers_as_a_stub(heartbeat: HeartbeatFile) -> None:
    source = f"import ctypes; l = ctypes.CDLL({str(shim.SHIM)!r}); print(l.cuInit(0), l.cuCtxSynchronize())"
    result = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, abi.ENVIRONMENT: str(heartbeat.path)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert result.stdout == "34 34\n"
    assert result.stderr == "watchdogd: driver shim: not prepared: it has no driver\n"


# --- processes and threads ------------------------------------------------------------------------------------------


def test_a_child_of_a_fork_claims_lanes_of_its_own_and_leaves_its_parent_s(
    front: Path, heartbeat: HeartbeatFile
) -> None:
    source = """
begin(); say('here'); say(threading.get_native_id()); hear()
child = os.fork()
if child == 0:
    d.cuCtxSynchronize()
    say(os.getpid()); hear()
    os._exit(0)
os.waitpid(child, 0)
"""
    with talking(source, front, heartbeat) as process:
        parent = lanes_by_tid(heartbeat)[int(process.hear())]
        calls = heartbeat.lane(parent, "calls")
        child = int(process.ask("fork"))
        assert sorted(tid != 0 for pid, tid in heartbeat.owners().values() if pid == child) == [False, True]
        assert heartbeat.lane(parent, "calls") == calls


def test_a_thread_s_lane_is_free_once_it_has_ended(front: Path, heartbeat: HeartbeatFile) -> None:
    source = LOST + "\nfor i in range(5): other_thread(lambda: d.cuCtxSynchronize())\nsay('here'); hear()"
    with talking(source, front, heartbeat) as process:
        wait_until(lambda: len(heartbeat.thread_lanes(process.pid)) == 1)  # a thread may be joined before it is gone
        assert heartbeat.header("lanes_used_cas") < 2 + 5


def test_processes_that_a_worker_starts_are_seen_and_an_exec_frees_what_was_before(
    front: Path, heartbeat: HeartbeatFile
) -> None:
    source = f"""
import subprocess
begin(); keep = ok(d.cuStreamCreate(0))
code = {PRELUDE + "begin(); ok(d.cuCtxSynchronize()); print(os.getpid())"!r}
child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
say('here'); say(child); hear()
code = {PRELUDE + "begin(); ok(d.cuCtxSynchronize()); say('again'); hear()"!r}
os.execv(sys.executable, [sys.executable, "-c", code])
"""
    with talking(source, front, heartbeat) as process:
        assert int(process.hear()) in {pid for pid, _ in heartbeat.owners().values()} | {
            entry["owner"] >> 32 for entry in shim.contexts(heartbeat)
        }
        assert len([1 for entry in shim.streams(heartbeat) if entry["owner"] >> 32 == process.pid]) == 1
        assert process.ask("exec") == "again"
        assert len(heartbeat.thread_lanes(process.pid)) == 1
        assert shim.streams(heartbeat) == []
        assert len([1 for entry in shim.contexts(heartbeat) if entry["owner"] >> 32 == process.pid]) == 1


def test_threads_beyond_the_lanes_are_counted_and_work(front: Path, heartbeat: HeartbeatFile) -> None:
    source = """
context = begin(); gate, ready = threading.Event(), []
def work():
    ok(d.cuCtxSetCurrent(context)); ok(d.cuCtxSynchronize()); ready.append(1); gate.wait(60)
threading.stack_size(256 << 10)
threads = [threading.Thread(target=work) for i in range(270)]
for thread in threads: thread.start()
while len(ready) < 270: time.sleep(0.001)
say('here'); hear(); gate.set()
"""
    with talking(source, front, heartbeat):
        assert heartbeat.header("laneless_cas") == 270 + 2 - 256

"""The simulated driver does what the rest of the tests rely on: real cuda-python in processes of its own.

Each test that needs the driver talks to a `Driver`: a process with cuda.bindings on the simulator that evaluates what
it is sent, so that a call that hangs hangs there.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.control import Fault, SimulatedDevice, load_between, make

ROOT = Path(__file__).resolve().parents[2]
SIMULATOR = ROOT / "tests" / "simulator"
MS = 1_000_000

PRELUDE = r"""
import ctypes, json, os, struct, sys, threading, time
from cuda.bindings import driver

def ok(answer):
    assert int(answer[0]) == 0, answer
    return answer[1] if len(answer) == 2 else answer[1:]

def code(answer):
    return int(answer[0])

def context(flags=4):
    try:
        return ok(driver.cuCtxCreate(None, flags, 0))
    except TypeError:  # before 13.0
        return ok(driver.cuCtxCreate(flags, 0))

functions = {}
def function(name):
    key = (int(ok(driver.cuCtxGetCurrent())), name)
    if key not in functions:
        functions[key] = ok(driver.cuModuleGetFunction(ok(driver.cuModuleLoadData(b"any bytes")), name.encode()))
    return functions[key]

def launch(stream, name="sim_sleep_us_1000", *arguments):
    values = tuple(value for value, _ in arguments)
    types = tuple(kind for _, kind in arguments)
    return driver.cuLaunchKernel(function(name), 1, 1, 1, 1, 1, 1, 0, stream, (values, types) if values else 0, 0)

def sync(stream=0):
    return code(driver.cuStreamSynchronize(stream))

def floats(address, count):
    data = bytearray(b"\xff" * 4 * count)
    buffer = (ctypes.c_char * len(data)).from_buffer(data)
    ok(driver.cuMemcpyDtoH(ctypes.addressof(buffer), address, len(data)))
    return list(struct.unpack(f"{count}f", data))

def upload(*values):
    data = struct.pack(f"{len(values)}f", *values)
    address = ok(driver.cuMemAlloc(len(data)))
    ok(driver.cuMemcpyHtoD(address, data, len(data)))
    return address

beats = {}
def beat(name, stream, owner):
    def work():
        ok(driver.cuCtxSetCurrent(owner))
        while True:
            ok(launch(stream, "sim_beat__300us"))
            ok(driver.cuStreamSynchronize(stream))
            beats[name] = time.monotonic_ns()
    threading.Thread(target=work, daemon=True).start()

def in_thread(call):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    thread.join()
    return answers[0]

ok(driver.cuInit(0))
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    source = json.loads(line)
    try:
        value = eval(source)
    except SyntaxError:
        exec(source)
        value = None
    print(json.dumps(value, default=int), flush=True)
"""


def wait_until(predicate: Callable[[], bool], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, "the deadline passed"
        time.sleep(0.002)


def readable(process: subprocess.Popen[bytes], timeout: float) -> bool:
    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], timeout)[0])


class Driver:
    """A process that uses the simulated driver."""

    def __init__(self, device: SimulatedDevice, label: str, **environment: str) -> None:
        self.label = label
        self._process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **device.environment(label), **environment},
        )
        assert self.answer() == "ready"

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, source: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(source).encode() + b"\n")
        self._process.stdin.flush()

    def answers(self, timeout: float) -> bool:
        return readable(self._process, timeout)

    def answer(self, timeout: float = 10.0) -> Any:
        assert self._process.stdout is not None
        assert self.answers(timeout), f"{self.label} does not answer"
        line = self._process.stdout.readline()
        assert line, f"{self.label} is gone"
        return json.loads(line)

    def run(self, source: str) -> Any:
        self.send(source)
        return self.answer()

    def kill(self) -> float:
        """Kills it and returns the seconds until it was gone."""
        begin = time.monotonic()
        self._process.kill()
        self._process.wait(timeout=10)
        return time.monotonic() - begin

    def close(self) -> None:
        self._process.kill()
        self._process.wait(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


Start = Callable[..., Driver]


@pytest.fixture
def start(device: SimulatedDevice) -> Iterator[Start]:
    started: list[Driver] = []

    def begin(label: str = "one", **environment: str) -> Driver:
        driver = Driver(device, label, **environment)
        started.append(driver)
        return driver

    yield begin
    for driver in started:
        driver.close()


# What the driver is


@pytest.mark.parametrize("version", ["13000", "12060"])
def test_it_says_what_it_is(start: Start, version: str) -> None:
    driver = start(SIMCUDA_VERSION=version, SIMCUDA_DEVICES="3")
    assert driver.run("ok(driver.cuDriverGetVersion())") == int(version)
    assert driver.run("ok(driver.cuDeviceGetCount())") == 3
    assert driver.run("ok(driver.cuDeviceGetName(64, 0)).split(b'\\0')[0].decode()") == "Simulated Orin (no GPU)"


def test_a_function_it_lacks_is_not_found(start: Start) -> None:
    driver = start()
    driver.run(
        "try:\n"
        "    outcome = code(driver.cuGraphCreate(0))\n"
        "except Exception as error:\n"  # the bindings differ in the type of error, not in its text
        "    outcome = str(error)\n"
    )
    assert "not found" in driver.run("outcome")


def test_every_error_has_its_name_and_text(start: Start) -> None:
    driver = start()
    assert driver.run("ok(driver.cuGetErrorName(driver.CUresult(719))).decode()") == "CUDA_ERROR_LAUNCH_FAILED"
    assert driver.run("ok(driver.cuGetErrorString(driver.CUresult(700))).decode()") == (
        "an illegal memory access was encountered"
    )


def test_a_forked_child_is_not_initialised(start: Start) -> None:
    driver = start()
    driver.run("context()")
    driver.run("child = os.fork()\nif child == 0: os._exit(code(driver.cuCtxSynchronize()))")
    assert driver.run("os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])") == 3


# Contexts, streams, memory


def test_each_thread_has_a_context_of_its_own(start: Start) -> None:
    driver = start()
    driver.run("one = context()")
    assert driver.run("in_thread(sync)") == 201
    assert driver.run("in_thread(lambda: int(ok(driver.cuCtxGetCurrent())))") == 0
    assert driver.run("in_thread(lambda: (ok(driver.cuCtxSetCurrent(one)), sync())[1])") == 0
    driver.run("two = context()")
    assert driver.run("int(ok(driver.cuCtxPopCurrent())) == int(two)") is True
    assert driver.run("int(ok(driver.cuCtxGetCurrent())) == int(one)") is True


def test_nothing_works_without_a_context(start: Start) -> None:
    driver = start()
    assert driver.run("[sync(), code(driver.cuMemAlloc(4)), code(driver.cuStreamCreate(0))]") == [201, 201, 201]


def test_a_destroyed_context_is_told_apart_from_none(start: Start) -> None:
    driver = start()
    driver.run("one = context()")
    driver.run("in_thread(lambda: ok(driver.cuCtxDestroy(one)))")
    assert driver.run("sync()") == 709
    assert driver.run("code(driver.cuCtxSetCurrent(driver.CUcontext(12345)))") == 201


def test_a_bad_handle_is_refused(start: Start) -> None:
    driver = start()
    driver.run("context(); gone = ok(driver.cuStreamCreate(1)); ok(driver.cuStreamDestroy(gone))")
    assert driver.run("[sync(gone), sync(driver.CUstream(0xDEAD)), code(driver.cuEventQuery(driver.CUevent(7)))]") == [
        400,
        400,
        400,
    ]


def test_the_primary_context_is_counted(start: Start) -> None:
    driver = start()
    driver.run("one = ok(driver.cuDevicePrimaryCtxRetain(0)); two = ok(driver.cuDevicePrimaryCtxRetain(0))")
    assert driver.run("int(one) == int(two)") is True
    driver.run("ok(driver.cuCtxSetCurrent(one)); ok(driver.cuDevicePrimaryCtxRelease(0))")
    assert driver.run("sync()") == 0
    driver.run("ok(driver.cuDevicePrimaryCtxRelease(0))")
    assert driver.run("[sync(), ok(driver.cuDevicePrimaryCtxGetState(0))[1]]") == [709, 0]


def test_a_launch_returns_at_once_and_its_sync_takes_the_kernels_time(start: Start) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1)); function('sim_sleep_us_400000')")
    driver.run(
        "begin = time.monotonic(); ok(launch(stream, 'sim_sleep_us_400000')); launched = time.monotonic() - begin\n"
        "busy = code(driver.cuStreamQuery(stream)); sync(stream); synced = time.monotonic() - begin\n"
    )
    launched, busy, synced = driver.run("[launched, busy, synced]")
    assert launched < 0.2
    assert busy == 600
    assert 0.4 <= synced < 1.3


def test_a_kernel_computes_what_its_name_says(start: Start) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1)); data = upload(1.5, 2.5, 3.5); out = upload(0, 0, 0)")
    driver.run("ok(launch(stream, 'sim_add_one__50us', (data, None), (3, ctypes.c_int)))")
    driver.run(
        "ok(launch(stream, 'sim_copy_scale__50us', (out, None), (data, None), (3, ctypes.c_int),"
        " (2.0, ctypes.c_float)))"
    )
    assert driver.run("sync(stream)") == 0
    assert driver.run("floats(out, 3)") == [5.0, 7.0, 9.0]


def test_a_kernel_outside_its_memory_is_an_illegal_address(start: Start) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1)); data = upload(1.0)")
    driver.run("ok(launch(stream, 'sim_add_one', (data, None), (2, ctypes.c_int)))")
    assert driver.run("[sync(stream), code(driver.cuMemAlloc(4))]") == [700, 700]


def test_streams_run_side_by_side_and_an_event_orders_them(start: Start) -> None:
    driver = start()
    driver.run("context(); one = ok(driver.cuStreamCreate(1)); two = ok(driver.cuStreamCreate(1))")
    driver.run("events = [ok(driver.cuEventCreate(0)) for _ in range(3)]; function('sim_sleep_us_60000')")
    driver.run(
        "ok(driver.cuEventRecord(events[0], one)); ok(launch(one, 'sim_sleep_us_60000'))\n"
        "ok(driver.cuEventRecord(events[1], one)); ok(driver.cuEventRecord(events[2], two))\n"
    )
    driver.run("ok(driver.cuEventSynchronize(events[1]))")
    assert driver.run("ok(driver.cuEventElapsedTime(events[0], events[1]))") >= 60
    assert driver.run("ok(driver.cuEventElapsedTime(events[0], events[2]))") < 60
    driver.run(
        "ok(launch(one, 'sim_sleep_us_60000')); ok(driver.cuEventRecord(events[1], one))\n"
        "ok(driver.cuStreamWaitEvent(two, events[1], 0)); ok(driver.cuEventRecord(events[2], two)); sync(two)\n"
    )
    assert driver.run("ok(driver.cuEventElapsedTime(events[1], events[2]))") >= 0


def test_the_legacy_stream_waits_for_blocking_streams_only(start: Start) -> None:
    driver = start()
    driver.run("context(); blocking = ok(driver.cuStreamCreate(0)); other = ok(driver.cuStreamCreate(1))")
    driver.run("data = upload(1.0); ok(launch(other, 'sim_spin')); ok(launch(blocking, 'sim_sleep_us_50000'))")
    assert driver.run("[floats(data, 1), code(driver.cuStreamQuery(blocking))]") == [[1.0], 0]
    driver.run("ok(launch(blocking, 'sim_sleep_us_50000'))")
    assert driver.run("[sync(0), code(driver.cuStreamQuery(blocking)), code(driver.cuStreamQuery(other))]") == [
        0,
        0,
        600,
    ]


def test_freeing_waits_for_the_context(start: Start) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1)); data = upload(1.0)")
    driver.run("ok(launch(stream, 'sim_sleep_us_50000')); ok(driver.cuMemFree(data))")
    assert driver.run("code(driver.cuStreamQuery(stream))") == 0
    assert driver.run("code(driver.cuMemFree(data))") == 1


def test_an_asynchronous_copy_to_pageable_memory_waits(start: Start) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1)); data = upload(2.5); function('sim_sleep_us_50000')")
    driver.run("pageable = ctypes.c_float(); pinned = ok(driver.cuMemAllocHost(4)); times = []")
    driver.run(
        "for target in (ctypes.addressof(pageable), pinned):\n"
        "    begin = time.monotonic(); ok(launch(stream, 'sim_sleep_us_50000'))\n"
        "    ok(driver.cuMemcpyDtoHAsync(target, data, 4, stream)); times.append(time.monotonic() - begin)\n"
    )
    assert driver.run("[seconds >= 0.05 for seconds in times]") == [True, False]
    assert driver.run("[sync(stream), pageable.value, ctypes.c_float.from_address(pinned).value]") == [0, 2.5, 2.5]


def test_a_driver_call_in_a_host_function_is_not_permitted(start: Start) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1)); seen = []")
    driver.run(
        "callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: seen.append(code(driver.cuCtxSynchronize())))\n"
        "ok(driver.cuLaunchHostFunc(stream, ctypes.cast(callback, ctypes.c_void_p).value, 0)); sync(stream)\n"
    )
    assert driver.run("seen") == [800]


@pytest.mark.parametrize(("flags", "state"), [(1, "R"), (2, "R"), (4, "S"), (0, "S")])
def test_a_sync_waits_as_its_context_says(start: Start, flags: int, state: str) -> None:
    driver = start()
    driver.run(f"context({flags}); stream = ok(driver.cuStreamCreate(1)); ok(launch(stream, 'sim_spin'))")
    driver.send("sync(stream)")
    assert not driver.answers(0.05)
    # Whether it wants the processor, as opposed to whether it gets it: the machine may be busy.
    seen = set()
    for _ in range(20):
        seen.add(Path(f"/proc/{driver.pid}/stat").read_text().rpartition(")")[2].split()[0])
        time.sleep(0.001)
    assert seen == {state}


# Hangs


def hang_one(device: SimulatedDevice, driver: Driver, stream: str, **keys: str | int | float) -> Fault:
    """Hangs the stream by its next operation and returns once it hangs."""
    fault = device.fault("hang", label=driver.label, **keys)
    assert driver.run(f"code(launch({stream}))") == 0
    wait_until(lambda: fault.fired == 1)
    return fault


def test_the_operation_after_n_others_hangs_and_queueing_goes_on(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1))")
    fault = device.fault("hang", label="one", after=2)
    assert driver.run("[code(launch(stream)), code(launch(stream)), sync(stream)]") == [0, 0, 0]
    assert fault.fired == 0
    assert driver.run("[code(launch(stream)) for _ in range(100)]") == [0] * 100
    wait_until(lambda: fault.fired == 1)
    assert fault.culprit == driver.pid
    driver.send("sync(stream)")
    assert not driver.answers(0.1)
    fault.clear()
    assert driver.answer() == 0


def test_a_fault_for_another_label_does_not_fire(start: Start, device: SimulatedDevice) -> None:
    driver = start("one")
    fault = device.fault("hang", label="two")
    driver.run("context(); stream = ok(driver.cuStreamCreate(1))")
    assert driver.run("[code(launch(stream)), sync(stream)]") == [0, 0]
    assert fault.fired == 0


def test_a_fault_with_another_label_fires_only_while_that_process_is_there(
    start: Start, device: SimulatedDevice
) -> None:
    driver = start("one")
    fault = device.fault("hang", label="one", **{"with": "two"}, after=2)
    driver.run("context(); stream = ok(driver.cuStreamCreate(1))")
    both = "[code(launch(stream)) for _ in range(5)] + [sync(stream)]"
    other = start("two")
    other.kill()
    assert driver.run(both) == [0] * 6
    assert fault.fired == 0
    start("three")
    assert driver.run(both) == [0] * 6
    assert fault.fired == 0
    start("two")
    driver.send(both)
    wait_until(lambda: fault.fired == 1)
    assert not driver.answers(0.1)
    assert fault.culprit == driver.pid


@pytest.mark.parametrize(
    ("scope", "reached"),
    [
        ("stream", set()),
        ("context", {"same context"}),
        ("process", {"same context", "other context"}),
        ("device", {"same context", "other context", "other process"}),
    ],
)
def test_a_freeze_spreads_as_far_as_its_scope(
    start: Start, device: SimulatedDevice, scope: str, reached: set[str]
) -> None:
    culprit, other = start("one"), start("two")
    culprit.run("second = context(); c = ok(driver.cuStreamCreate(1))")
    culprit.run("first = context(); a = ok(driver.cuStreamCreate(1)); b = ok(driver.cuStreamCreate(1))")
    other.run("first = context(); a = ok(driver.cuStreamCreate(1))")

    fault = hang_one(device, culprit, "a", scope=scope, spread_ms=300)
    culprit.run("beat('same context', b, first); beat('other context', c, second)")
    other.run("beat('other process', a, first)")
    fired_ns, spread_ns = fault.fired_ns, fault.spread_ns
    assert fired_ns is not None
    assert spread_ns == (None if scope == "stream" else fired_ns + 300 * MS)

    def beats() -> dict[str, int]:
        return {**culprit.run("beats"), **other.run("beats")}

    wait_until(lambda: len(beats()) == 3)
    assert max(beats().values()) < fired_ns + 300 * MS, "too slow to see the time before the spread"
    wait_until(lambda: time.monotonic_ns() > fired_ns + 450 * MS)
    # A kernel takes 0.3 ms; what the thread noted up to 100 ms late may still be of before the spread.
    stopped = {name for name, beat_ns in beats().items() if beat_ns < fired_ns + 400 * MS}
    assert stopped == reached


@pytest.mark.parametrize("shared", [True, False])
def test_a_mixed_hang_takes_an_operation_beside_one_of_another_accelerator_in_its_context_alone(
    start: Start, device: SimulatedDevice, shared: bool
) -> None:
    driver = start("one")
    driver.run("first = context(); gpu = ok(driver.cuStreamCreate(1)); other = ok(driver.cuStreamCreate(1))")
    driver.run("ok(launch(gpu)); sync(gpu)" if shared else "second = context(); function('sim_dla0_h__100us')")
    driver.run("dla = ok(driver.cuStreamCreate(1)); ok(driver.cuCtxSetCurrent(first))")
    fault = device.fault("hang", label="one", at="dla0", mixed=1)
    driver.run("ok(launch(gpu, 'sim_sleep_us_300000')); ok(launch(other)); sync(other)")  # the GPU alone, and together
    wait_until(lambda: device.load_sample("gpu0").busy_ns > 0)
    assert fault.fired == 0
    driver.run(f"{'0' if shared else 'ok(driver.cuCtxSetCurrent(second))'}; ok(launch(dla, 'sim_dla0_h__100us'))")
    if shared:
        wait_until(lambda: fault.fired == 1)
    else:
        assert (driver.run("sync(dla)"), fault.fired) == (0, 0)
        assert driver.run("code(driver.cuStreamQuery(gpu))") == 600  # it was running all the while


def test_a_mixed_hang_leaves_alone_what_runs_by_itself(start: Start, device: SimulatedDevice) -> None:
    driver = start("one")
    driver.run("context(); gpu = ok(driver.cuStreamCreate(1)); dla = ok(driver.cuStreamCreate(1))")
    fault = device.fault("hang", label="one", at="dla0", mixed=1)
    assert driver.run("ok(launch(gpu)); sync(gpu); ok(launch(dla, 'sim_dla0_h__100us'))") is None
    assert (driver.run("sync(dla)"), fault.fired) == (0, 0)


def test_a_hang_at_an_accelerator_passes_the_others_by(start: Start, device: SimulatedDevice) -> None:
    driver = start("one")
    driver.run("context(); gpu = ok(driver.cuStreamCreate(1)); dla = ok(driver.cuStreamCreate(1))")
    fault = device.fault("hang", label="one", at="dla1")
    driver.run("ok(launch(gpu)); ok(launch(dla, 'sim_dla0_h__100us'))")
    assert (driver.run("[sync(gpu), sync(dla)]"), fault.fired) == ([0, 0], 0)
    driver.run("ok(launch(dla, 'sim_dla1_h__100us'))")
    wait_until(lambda: fault.fired == 1)


def test_a_frozen_device_is_free_again_once_the_culprit_is_killed(start: Start, device: SimulatedDevice) -> None:
    culprit, other = start("one"), start("two")
    culprit.run("context(); stream = ok(driver.cuStreamCreate(1))")
    other.run("context(); stream = ok(driver.cuStreamCreate(1))")
    fault = hang_one(device, culprit, "stream", scope="device")
    other.run("ok(launch(stream))")
    other.send("sync(stream)")
    assert not other.answers(0.1)
    os.kill(culprit.pid, signal.SIGKILL)  # and not reaped: what it had is given back all the same
    assert other.answer(1.0) == 0
    assert not fault.active
    assert fault.lifted_ns is not None


def test_a_permanent_freeze_outlives_the_culprit(start: Start, device: SimulatedDevice) -> None:
    culprit, other = start("one"), start("two")
    culprit.run("context(); stream = ok(driver.cuStreamCreate(1))")
    other.run("context(); stream = ok(driver.cuStreamCreate(1))")
    fault = hang_one(device, culprit, "stream", scope="device", permanent=1)
    culprit.kill()
    other.run("ok(launch(stream))")
    other.send("sync(stream)")
    assert not other.answers(0.1)
    fault.clear()
    assert other.answer() == 0


def test_a_hang_may_heal_by_itself(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1))")
    fault = hang_one(device, driver, "stream", heal_ms=150)
    assert driver.run("sync(stream)") == 0
    assert fault.fired_ns is not None
    assert time.monotonic_ns() >= fault.fired_ns + 150 * MS


def test_a_hang_hits_each_new_process_as_often_as_it_was_told(start: Start, device: SimulatedDevice) -> None:
    fault = device.fault("hang", label="one", times=2)
    for fired in (1, 2):
        driver = start()
        driver.run("context(); stream = ok(driver.cuStreamCreate(1)); ok(launch(stream))")
        wait_until(lambda expected=fired: fault.fired == expected)  # type: ignore[misc]  # the default binds the loop variable
        driver.kill()
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1)); ok(launch(stream))")
    assert driver.run("sync(stream)") == 0


def test_a_fault_in_the_environment_is_for_that_process_alone(start: Start) -> None:
    hung, well = start("one", SIMCUDA_FAULT="slow factor=2; hang after=1"), start("two")
    for driver in (well, hung):
        driver.run("context(); stream = ok(driver.cuStreamCreate(1))")
        assert driver.run("[code(launch(stream)), sync(stream), code(launch(stream))]") == [0, 0, 0]
    assert well.run("sync(stream)") == 0
    hung.send("sync(stream)")
    assert not hung.answers(0.1)


@pytest.mark.parametrize("flags", [1, 4])
def test_a_hung_sync_dies_at_once_on_sigkill(start: Start, device: SimulatedDevice, flags: int) -> None:
    driver = start()
    driver.run(f"context({flags}); stream = ok(driver.cuStreamCreate(1))")
    hang_one(device, driver, "stream")
    driver.send("sync(stream)")
    assert not driver.answers(0.05)
    assert driver.kill() < 1.0


# Calls that hang


def test_a_call_can_hang_and_be_let_go(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context(); data = upload(1.0)")
    fault = device.fault("call_hang", call="free", label="one")
    driver.send("code(driver.cuMemFree(data))")
    wait_until(lambda: fault.fired == 1)
    assert not driver.answers(0.1)
    fault.clear()
    assert driver.answer() == 0


def test_a_call_can_be_held_for_a_time(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context()")
    device.fault("call_hang", call="alloc", for_ms=80)
    driver.run("begin = time.monotonic(); ok(driver.cuMemAlloc(4)); took = time.monotonic() - begin")
    assert driver.run("took") >= 0.08


def test_two_calls_deadlock_when_they_meet(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("one = context(); data = upload(1.0); done = []")
    fault = device.fault("deadlock", calls="alloc_managed,free", window_ms=500)
    driver.run(
        "def other():\n"
        "    ok(driver.cuCtxSetCurrent(one)); done.append(code(driver.cuMemAllocManaged(4, 1)))\n"
        "threading.Thread(target=other, daemon=True).start()\n"
    )
    driver.send("code(driver.cuMemFree(data))")
    wait_until(lambda: fault.fired == 1)
    assert not driver.answers(0.6)
    fault.clear()
    assert driver.answer() == 0
    wait_until(lambda: driver.run("done") == [0])


def test_either_call_alone_does_not_deadlock(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context(); data = upload(1.0)")
    fault = device.fault("deadlock", calls="alloc_managed,free")
    assert driver.run("[code(driver.cuMemAllocManaged(4, 1)), code(driver.cuMemFree(data))]") == [0, 0]
    assert fault.fired == 0


# Errors and wrong results


@pytest.mark.parametrize("error", [700, 702, 719])
def test_an_error_sticks_to_the_process(start: Start, device: SimulatedDevice, error: int) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1))")
    device.fault("error", code=error, label="one", after=1)
    assert driver.run("[code(launch(stream)), sync(stream), code(launch(stream)), sync(stream)]") == [0, 0, 0, error]
    assert driver.run("[sync(0), code(driver.cuMemAlloc(4)), code(driver.cuDeviceGetCount())]") == [error] * 3


def test_an_assert_ends_its_context_alone(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("one = context(); stream = ok(driver.cuStreamCreate(1))")
    device.fault("error", code=710)
    assert driver.run("[code(launch(stream)), sync(stream), sync(0)]") == [0, 710, 710]
    driver.run("two = context()")
    assert driver.run("[code(driver.cuCtxDestroy(one)), sync(0)]") == [0, 0]


def test_results_can_be_zero_silently(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context(); data = upload(1.5, 2.5)")
    fault = device.fault("zero", label="one")
    assert driver.run("floats(data, 2)") == [0.0, 0.0]
    assert fault.fired == 1
    fault.clear()
    assert driver.run("floats(data, 2)") == [1.5, 2.5]


def test_kernels_can_be_slow(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1)); events = [ok(driver.cuEventCreate(0)) for _ in '12']")
    fault = device.fault("slow", factor=10)
    driver.run(
        "ok(driver.cuEventRecord(events[0], stream)); ok(launch(stream, 'sim_sleep_us_5000'))\n"
        "ok(driver.cuEventRecord(events[1], stream)); sync(stream)\n"
    )
    assert driver.run("ok(driver.cuEventElapsedTime(events[0], events[1]))") >= 50
    assert fault.fired == 3  # the kernel and both events


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hang lable=x", "takes no key 'lable'"),
        ("hang scope=all", "'all' is no value for scope"),
        ("hang after=-1", "'-1' is no value for after"),
        ("hang at=dla2", "'dla2' is no value for at"),
        ("hang at=npu0", "'npu0' is no value for at"),
        ("hang mixed=2", "'2' is no value for mixed"),
        ("zero factor=2", "takes no key 'factor'"),
        ("call_hang", "needs call="),
        ("call_hang call=cuFree", "'cuFree' is no value for call"),
        ("deadlock calls=free,free", "'free,free' is no value for calls"),
        ("burn", "'burn' is no kind of fault"),
        ("", "'' is no kind of fault"),
    ],
)
def test_a_fault_that_is_none_is_refused(device: SimulatedDevice, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        device.fault_text(text)


# Load


def test_load_is_the_time_in_which_something_executed(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context(); one = ok(driver.cuStreamCreate(1)); two = ok(driver.cuStreamCreate(1))")
    driver.run("function('sim_sleep_us_50000')")
    before = device.load_sample()
    driver.run("[code(launch(one, 'sim_sleep_us_50000')), code(launch(two, 'sim_sleep_us_50000'))]")
    driver.run("[sync(one), sync(two)]")
    after = device.load_sample()
    busy_ms = (after.busy_ns - before.busy_ns) / MS
    assert 49.9 <= busy_ms < 95, "two kernels side by side count once"
    assert load_between(before, after) == pytest.approx(
        100 * (after.busy_ns - before.busy_ns) / (after.now_ns - before.now_ns)
    )
    device.load()
    wait_until(lambda: time.monotonic_ns() > after.now_ns + 20 * MS)
    assert device.load() == 0


def test_processes_that_overlap_count_once(start: Start, device: SimulatedDevice) -> None:
    one, two = start("one"), start("two")
    for driver in (one, two):
        driver.run(
            "context(); stream = ok(driver.cuStreamCreate(1));"
            " function('sim_sleep_us_300000'); function('sim_sleep_us_80000')"
        )
    begin_ns = device.load_sample().busy_ns
    one.run("ok(launch(stream, 'sim_sleep_us_300000'))")
    wait_until(lambda: device.load_sample().busy_ns - begin_ns > 30 * MS)
    two.run("ok(launch(stream, 'sim_sleep_us_80000'))")
    assert [one.run("sync(stream)"), two.run("sync(stream)")] == [0, 0]
    assert 299 * MS <= device.load_sample().busy_ns - begin_ns < 355 * MS


def test_a_hung_device_is_busy_until_its_process_is_gone(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1))")
    hang_one(device, driver, "stream")
    device.load()
    begin_ns = time.monotonic_ns()
    wait_until(lambda: time.monotonic_ns() > begin_ns + 20 * MS)
    assert device.load() > 99
    driver.kill()
    device.load()
    wait_until(lambda: time.monotonic_ns() > begin_ns + 60 * MS)
    assert device.load() == 0


def test_a_freeze_can_show_a_load_of_its_own(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1))")
    fault = hang_one(device, driver, "stream", load=43)
    assert device.load() == 43
    device.set_load("gpu", 0)
    assert device.load() == 0
    device.set_load("gpu", None)
    assert device.load() == 43
    fault.clear()
    assert driver.run("sync(stream)") == 0
    device.load()
    assert device.load() == 0


def test_a_dla_kernel_loads_the_dla(start: Start, device: SimulatedDevice) -> None:
    driver = start()
    driver.run("context(); stream = ok(driver.cuStreamCreate(1)); ok(launch(stream, 'sim_dla1_net__20000us'))")
    driver.run("sync(stream)")
    assert device.load("dla1") > 0
    assert device.load("dla0") == 0
    assert device.load("gpu0") == 0


def test_processes_are_listed_while_they_live(start: Start, device: SimulatedDevice) -> None:
    one, two = start("one"), start("two")
    one.run("context(); data = ok(driver.cuMemAlloc(4096))")
    listed = {process.label: process for process in device.processes()}
    assert {label: process.pid for label, process in listed.items()} == {"one": one.pid, "two": two.pid}
    assert listed["one"].memory_bytes == 4096
    one.kill()
    assert [process.label for process in device.processes()] == ["two"]


# tegrastats


class Tegrastats:
    """A running simulated tegrastats."""

    def __init__(self, device: SimulatedDevice, *options: str) -> None:
        command = [sys.executable, str(SIMULATOR / "tegrastats.py"), "--interval", "20", "--state", str(device.path)]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE)

    def line(self) -> str:
        assert self.process.stdout is not None
        assert readable(self.process, 10), "no line"
        return self.process.stdout.readline().decode()

    def line_with(self, part: str) -> str:
        deadline = time.monotonic() + 10
        while part not in (line := self.line()):
            assert time.monotonic() < deadline, line
        return line

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def tegrastats(device: SimulatedDevice) -> Iterator[Callable[..., Tegrastats]]:
    started: list[Tegrastats] = []

    def begin(*options: str) -> Tegrastats:
        started.append(Tegrastats(device, *options))
        return started[-1]

    yield begin
    for one in started:
        one.close()


def test_tegrastats_prints_the_load_in_a_captured_line(
    device: SimulatedDevice, tegrastats: Callable[..., Tegrastats]
) -> None:
    running = tegrastats("--board", "orin-r36")
    assert running.line_with("GR3D_FREQ 0%@[305,305]").count("NVDLA") == 2
    device.set_load("gpu", 77)
    assert "NVDLA0 off" in running.line_with("GR3D_FREQ 77%@[305,305]")
    device.set_load("dla0", 50)
    assert "NVDLA1 off" in running.line_with("NVDLA0_FREQ @1600")


def test_tegrastats_prints_no_load_where_the_board_has_none(
    device: SimulatedDevice, tegrastats: Callable[..., Tegrastats]
) -> None:
    device.set_load("gpu", 77)
    assert "GR3D_FREQ @[314,314,314]" in tegrastats("--board", "thor-r38").line()
    assert "GR3D" not in tegrastats("--board", "thor-r38-nonroot").line()


def test_tegrastats_can_stand_still_fall_silent_talk_nonsense_and_die(
    device: SimulatedDevice, tegrastats: Callable[..., Tegrastats]
) -> None:
    running = tegrastats()
    device.set_load("gpu", 77)
    running.line_with("GR3D_FREQ 77%")
    device.set_tegrastats("freeze", 43)
    running.line_with("GR3D_FREQ 43%")
    device.set_tegrastats("freeze", 0)
    running.line_with("GR3D_FREQ 0%")
    device.set_tegrastats("garbage")
    running.line_with("cannot read")
    device.set_tegrastats("silent")
    while readable(running.process, 0.2):
        running.line()
    assert running.process.poll() is None
    device.set_tegrastats("die")
    assert running.process.wait(timeout=10) == 1


def test_tegrastats_takes_its_mode_from_the_command_line_too(tegrastats: Callable[..., Tegrastats]) -> None:
    tegrastats("--mode", "freeze", "--percent", "43").line_with("GR3D_FREQ 43%")


# The command line, and the code itself


def test_the_command_line_sets_and_clears_faults(device: SimulatedDevice) -> None:
    def control(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.simulator.control", "--state", str(device.path), *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert control("fault", "hang", "label=x", "scope=device").stdout == "1\n"
    assert [fault.id for fault in device.faults()] == [1]
    assert control("clear").returncode == 0
    assert device.faults() == []
    refused = control("fault", "hang", "scope=moon")
    assert (refused.returncode, "moon" in refused.stderr) == (2, True)


@pytest.mark.parametrize("sanitizer", ["tsan", "asan"])
def test_the_harness_is_clean_under(sanitizer: str) -> None:
    make(sanitizer)


def test_a_state_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"not a simulated device")
    with pytest.raises(OSError, match="other"):
        SimulatedDevice(path)


def test_a_stopped_process_does_not_stop_the_others(start: Start, device: SimulatedDevice) -> None:
    one, two = start("one"), start("two")
    for driver in (one, two):
        driver.run("first = context(); stream = ok(driver.cuStreamCreate(1))")
    one.run("beat('one', stream, first)")
    wait_until(lambda: "one" in one.run("beats"))
    os.kill(one.pid, signal.SIGSTOP)
    assert two.run("[code(launch(stream)), sync(stream)]") == [0, 0]
    assert {process.label for process in device.processes()} == {"one", "two"}

"""A program whose code knows nothing of us, behind the driver shim: the verdicts that its own stamps would give."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import Supervised, wait_until
from tests.simulator.control import SimulatedDevice
from tests.simulator.control import build as simulator
from watchdogd.act import shimmed
from watchdogd.model import SECOND, Exit
from watchdogd.view import status, status_table
from watchdogd.view.status_detail import Detail

PLAIN = """
from cuda.bindings import driver
def ok(result):
    if int(result[0]):
        raise SystemExit(str(result[0]))
    return result[1] if len(result) == 2 else None
ok(driver.cuInit(0))
ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(ok(driver.cuDeviceGet(0))))))
stream, event = ok(driver.cuStreamCreate(0)), ok(driver.cuEventCreate(0))
kernel = ok(driver.cuModuleGetFunction(ok(driver.cuModuleLoadData(b"")), b"sim_sleep_us_500"))
host = bytearray(64)
while True:
    memory = ok(driver.cuMemAlloc(64))
    ok(driver.cuMemcpyHtoD(memory, host, 64))
    ok(driver.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, 0, 0))
    ok(driver.cuEventRecord(event, stream))
    ok(driver.cuEventSynchronize(event))
    ok(driver.cuStreamSynchronize(stream))
    ok(driver.cuMemFree(memory))
"""
OWN = """
import watchdogd.worker
from watchdogd.worker import cuda
worker = watchdogd.worker.attach()
ctx = cuda.Context()
stream, event = ctx.stream(), ctx.event()
kernel = ctx.module(b"").kernel("sim_sleep_us_500")
host = ctx.alloc_host(64)
worker.ready()
while True:
    memory = ctx.alloc(64)
    stream.copy_in(memory, host)
    stream.launch(kernel, 1, 1)
    event.record(stream)
    event.synchronize()
    stream.synchronize()
    memory.free()
"""
WAYS = {"own stamps": (OWN, "worker"), "the shim": (PLAIN, "driver"), "both": (OWN, "driver")}
DEADLINES = {"startup": "20s", **dict.fromkeys(("sync", "event", "alloc", "free", "copy", "launch"), "150ms")}


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as device:
        yield device


def program(device: SimulatedDevice, way: str = "the shim", **keys: Any) -> dict[str, Any]:
    body, instrument = WAYS[way]
    settings = {"instrument": instrument, "deadlines": DEADLINES, "environment": device.environment("a"), **keys}
    return {"command": [sys.executable, "-c", body], **settings}


def table(supervised: Supervised) -> str:
    """As ``watchdogd status a``."""
    view = status.collect(str(supervised.runtime), time.monotonic_ns(), "a")
    return status_table.table(view, 200, False, Detail())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("call", "operation"),
    [
        ("stream_synchronize", "sync"),
        ("event_synchronize", "event"),
        ("alloc", "alloc"),
        ("free", "free"),
        ("launch", "launch"),
    ],
)
def test_a_call_that_hangs_gets_the_same_verdict_however_it_is_stamped(
    device: SimulatedDevice, way: str, call: str, operation: str
) -> None:
    with Supervised({"a": program(device, way)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        fault = device.fault("call_hang", call=call)
        verdict = supervised.wait_event("verdict", "a")
        fault.clear()
        assert (verdict["verdict"], verdict["operation"]) == ("call", operation)
        supervised.wait_phase("a", "running", 2)
        assert supervised.wait_event("gone", "a")["exit"] == str(Exit(signal=9))


@pytest.mark.parametrize("way", WAYS)
def test_a_program_that_works_is_left_alone(device: SimulatedDevice, way: str) -> None:
    with Supervised({"a": program(device, way)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        begin_ns = device.load_sample().busy_ns
        wait_until(lambda: device.load_sample().busy_ns > begin_ns + 200_000_000)
        assert supervised.events("verdict") == []
        assert supervised.worker("a")["incarnation"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_sticky_error_is_one_however_it_is_stamped(device: SimulatedDevice, way: str) -> None:
    with Supervised({"a": program(device, way)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        fault = device.fault("error", code=700, times=1)
        verdict = supervised.wait_event("verdict", "a")
        assert fault.fired == 1
        assert verdict["verdict"] == "sticky_error"
        supervised.wait_phase("a", "running", 2)


def test_what_stands_in_front_of_its_driver_is_told_and_nothing_else(device: SimulatedDevice) -> None:
    with Supervised({"a": program(device)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        wait_until(lambda: supervised.worker("a")["shim"]["loaded"])
        driver = str(simulator() / "libcuda.so.1")
        assert supervised.worker("a")["shim"] == {"driver": driver, "loaded": True, "why": ""}
        supervised.let_pass(shimmed.EVERY_NS / SECOND + 2)  # two looks
        assert not supervised.worker("a")["uninstrumented"]


def test_a_worker_without_a_driver_runs_all_the_same_and_is_uninstrumented(device: SimulatedDevice) -> None:
    environment = {**device.environment("a"), "WATCHDOGD_CUDA_DRIVER": "/nowhere/libcuda.so.1"}
    with Supervised({"a": program(device, environment=environment)}) as supervised:
        event = supervised.wait_event("verdict", "a")
        assert event["verdict"] == "uninstrumented"
        assert "/nowhere/libcuda.so.1 is not there" in event["detail"]
        wait_until(lambda: device.load_sample().busy_ns > 0)  # it works
        assert supervised.worker("a")["uninstrumented"]
        assert supervised.events("signal") == []


def test_a_process_that_uses_cuda_past_the_shim_is_named_and_left_alone(device: SimulatedDevice) -> None:
    leaves = f"import os, sys; os.environ['LD_LIBRARY_PATH'] = {str(simulator())!r}\n"
    past = leaves + f"os.execv(sys.executable, [sys.executable, '-c', {PLAIN!r}])"
    command = {"command": [sys.executable, "-c", past]}
    with Supervised({"a": {**program(device), **command}}) as supervised:
        event = supervised.wait_event("verdict", "a")
        assert event["verdict"] == "uninstrumented"
        assert f"pid {supervised.worker('a')['pid']} (" in event["detail"]
        assert "LD_LIBRARY_PATH without the shim's folder" in event["detail"]
        assert supervised.phase("a") == "starting"
        assert supervised.events("signal") == []


def test_a_child_of_a_fork_that_uses_no_cuda_is_not_past_the_shim(device: SimulatedDevice) -> None:
    forks = PLAIN.replace("while True:", "import os, time\nif os.fork() == 0:\n    time.sleep(60)\nwhile True:")
    with Supervised({"a": {**program(device), "command": [sys.executable, "-c", forks]}}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.let_pass(shimmed.EVERY_NS / SECOND + 2)
        assert not supervised.worker("a")["uninstrumented"]


def test_a_worker_that_has_not_come_to_cuda_yet_is_neither_idle_nor_at_fault(device: SimulatedDevice) -> None:
    late = "import time; time.sleep(2.5)\n" + PLAIN
    with Supervised({"a": {**program(device), "command": [sys.executable, "-c", late]}}) as supervised:
        wait_until(lambda: supervised.worker("a")["shim"]["driver"] is not None)
        assert "no CUDA seen yet" in table(supervised)
        supervised.wait_phase("a", "running", 1)
        wait_until(lambda: "no CUDA seen yet" not in table(supervised))
        assert supervised.events("verdict") == []


def test_a_worker_that_never_comes_to_cuda_is_late_at_its_start_and_told_so(device: SimulatedDevice) -> None:
    waits = {"command": [sys.executable, "-c", "import time; time.sleep(60)"], "deadlines": {"startup": "500ms"}}
    with Supervised({"a": {**program(device), **waits}}) as supervised:
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["detail"]) == ("startup", "no CUDA seen yet")


def test_the_next_supervisor_finds_the_shim_again_and_a_later_start_removes_the_others(
    device: SimulatedDevice,
) -> None:
    with Supervised({"a": program(device)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        home = supervised.state / "shim"
        (folder,) = home.iterdir()
        inode = (folder / "libcuda.so.1").stat().st_ino
        assert supervised.stop() == 0
        ended = subprocess.Popen(["true"])
        ended.wait(10)
        for name in ("old", f".half.{ended.pid}"):
            (home / name).mkdir()
            os.utime(home / name, (0, 0))
        supervised.start()
        supervised.wait_phase("a", "running", 1)
        wait_until(lambda: [path.name for path in home.iterdir()] == [folder.name])
        assert (folder / "libcuda.so.1").stat().st_ino == inode


def test_a_call_in_flight_names_the_stream_that_it_waits_for(device: SimulatedDevice) -> None:
    with Supervised({"a": program(device, observe_only=True)}) as supervised:
        supervised.wait_phase("a", "observed", 1)
        device.fault("call_hang", call="stream_synchronize")
        supervised.wait_event("verdict", "a")
        (stream,) = (each for each in supervised.view("a")["shim"]["streams"] if int(each["handle"], 16) > 2)
        assert supervised.view("a")["call"]["waits_for"] == stream["handle"]
        wait_until(lambda: supervised.worker("a")["shim"]["driver"] is not None)
        told = table(supervised)
        assert "no CUDA seen yet" not in told
        assert f"its sync waits for stream {stream['handle']} (" in told
        assert re.search(rf"driver shim in front of CUDA 1\d\.\d+, {simulator()}/libcuda.so.1", told)
        assert "on device 0 of pid" in told

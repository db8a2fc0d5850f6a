"""Progress as the real shim tells it, of programs that wait for the simulated driver without a blocking call.

Those that are told of their work by a host function do as JAX does: their main thread waits for a condition that it
sets, and another thread asks some streams again and again, of which all but one are idle.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import Supervised
from tests.simulator.control import SimulatedDevice

PROGRAM = """
import ctypes, os, pathlib, sys, threading, time
from cuda.bindings import driver
here, first = pathlib.Path(os.environ['HERE']), os.environ['WATCHDOGD_HEARTBEAT'].endswith('.1')
def ok(result):
    if int(result[0]):
        raise SystemExit(str(result[0]))
    return result[1] if len(result) == 2 else None
ok(driver.cuInit(0))
ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(ok(driver.cuDeviceGet(0))))))
stream, event = ok(driver.cuStreamCreate(0)), ok(driver.cuEventCreate(0))
module = ok(driver.cuModuleLoadData(b""))
names = b"sim_sleep_us_500", b"sim_sleep_us_50000", b"sim_spin"
quick, slow, hung = (ok(driver.cuModuleGetFunction(module, name)) for name in names)
def launch(kernel): ok(driver.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, 0, 0))
def poll(kernel):
    launch(kernel)
    ok(driver.cuEventRecord(event, stream))
    while int(driver.cuEventQuery(event)[0]) == 600:  # not ready
        time.sleep(0.001)
def request():
    launch(quick)
    ok(driver.cuStreamSynchronize(stream))
done = threading.Event()
tell = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: done.set())
def call_back():
    ok(driver.cuLaunchHostFunc(stream, ctypes.cast(tell, ctypes.c_void_p).value, 0))
def be_told(kernel):
    done.clear()
    launch(kernel)
    call_back()
    done.wait()
def ask_streams():
    streams = [stream, *(ok(driver.cuStreamCreate(1)) for _ in range(4))]
    context = ok(driver.cuCtxGetCurrent())
    def ask():
        ok(driver.cuCtxSetCurrent(context))
        while True:
            answers = [int(driver.cuStreamQuery(each)[0]) for each in streams]
            assert not set(answers) - {0, 600}, answers
            time.sleep(0.05)
    threading.Thread(target=ask, daemon=True).start()
request()
while not (here / 'go').exists(): poll(quick)
"""
THEN = {
    "polls a hung kernel for ever": "if first: poll(hung)\nwhile True: request()",
    "idles": "time.sleep(600)",
    "launches once more and idles": "request(); launch(quick); time.sleep(600)",
    "goes on": "while True: poll(quick)",
    "is told of its work, which hangs": "if first: ask_streams(); be_told(hung)\nwhile True: request()",
    "is told of its work, which hangs, and nobody asks": "if first: be_told(hung)\nwhile True: request()",
    "asks idle streams too, and one whose kernel hangs": """
if first: ask_streams(); launch(hung); time.sleep(600)
while True: request()""",
    "is told of its work, and idles": "ask_streams(); be_told(quick); time.sleep(600)",
    "is told of its work, and goes on": "ask_streams()\nwhile True: be_told(quick)",
    "has a deep queue": "while True:\n for _ in range(60): launch(slow); call_back()\n be_told(quick)",
    "waits for idle streams": "ask_streams()\nwhile True: ok(driver.cuStreamSynchronize(stream))",
}


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as device:
        yield device


def program(device: SimulatedDevice, then: str, **keys: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "instrument": "driver",
        "progress": "sync",
        "deadlines": {"startup": "20s", "progress": "800ms"},
        "environment": device.environment("a"),
        **keys,
    }
    return {"command": [sys.executable, "-c", PROGRAM + THEN[then]], **settings}


@pytest.mark.parametrize("then", ["polls a hung kernel for ever", "asks idle streams too, and one whose kernel hangs"])
def test_a_program_that_polls_a_hung_kernel_for_ever_stalls_and_is_replaced(device: SimulatedDevice, then: str) -> None:
    with Supervised({"a": program(device, then)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.let_pass(1.2)
        assert supervised.events("verdict") == []
        supervised.touch("go")
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["verdict"] == "stall" and "a query found work undone" in verdict["detail"]
        supervised.wait_phase("a", "running", 2)


@pytest.mark.parametrize(
    "then", ["is told of its work, which hangs", "is told of its work, which hangs, and nobody asks"]
)
def test_a_program_that_a_hung_kernel_never_calls_back_stalls_and_is_replaced(
    device: SimulatedDevice, then: str
) -> None:
    with Supervised({"a": program(device, then)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["verdict"] == "stall"
        assert "a host function queued" in verdict["detail"] and "has not run" in verdict["detail"]
        supervised.wait_phase("a", "running", 2)


@pytest.mark.parametrize(
    "then",
    [
        "idles",
        "launches once more and idles",
        "goes on",
        "is told of its work, and idles",
        "is told of its work, and goes on",
        "has a deep queue",
        "waits for idle streams",
    ],
)
def test_a_program_that_is_idle_or_gets_on_does_not(device: SimulatedDevice, then: str) -> None:
    with Supervised({"a": program(device, then)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        supervised.let_pass(2.5)
        assert supervised.events("verdict") == [] and supervised.worker("a")["incarnation"] == 1
        assert supervised.worker("a")["progress"]["value"] > 0


def test_with_a_probe_the_first_synchronize_does_not_make_it_ready(device: SimulatedDevice) -> None:
    probe = {"progress": "command:sh -c 'test -e $HERE/well'", "progress_interval": "100ms"}
    with Supervised({"a": program(device, "idles", **probe)}) as supervised:
        supervised.wait_phase("a", "starting", 1)
        supervised.touch("go")
        supervised.let_pass(2)
        assert supervised.phase("a") == "starting"
        supervised.touch("well")
        supervised.wait_phase("a", "running", 1)

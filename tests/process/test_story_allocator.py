"""The allocator's deadlocks on the simulated driver, under a real supervisor: both sides are named; guarded, none is.

Unguarded, two threads of one worker wait for each other in the driver, or in it and in a mutex around the allocator.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import Supervised, wait_until, worker
from tests.simulator.control import SimulatedDevice
from watchdogd.view import status, status_table

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

DEADLINES = dict.fromkeys(("alloc", "free", "launch", "other"), "200ms")
UNGUARDED = """from watchdogd.worker import cuda
context = cuda.Context()
stream = context.stream()
kernel = context.module(b"").kernel("sim_sleep_us_10")
mutex, waits = threading.Lock(), threading.Event()
def waits_for_it():
    waits.set()
    with mutex: pass
def allocates(): context.alloc_managed(64)
def frees():
    context.alloc(64).free()
def launches(): stream.launch(kernel, 1, 1)
def frees_under_the_mutex():
    buffer = context.alloc(64)
    with mutex:
        stream.host_function(waits_for_it)
        waits.wait()
        buffer.free()
def for_ever(call):
    while True:
        call()
        time.sleep(0.001)
worker.ready()
"""
STORIES = pytest.mark.parametrize(
    ("program", "fault", "sides"),
    [
        (
            "threading.Thread(target=for_ever, args=(allocates,)).start(); for_ever(frees)",
            "alloc_managed,free",
            {"alloc", "free"},
        ),
        (
            "threading.Thread(target=for_ever, args=(launches,)).start(); for_ever(frees)",
            "launch,free",
            {"launch", "free"},
        ),
        ("wait_for('go'); frees_under_the_mutex()", None, {"free", "other"}),
    ],
    ids=["managed against free", "launch against free", "free under a mutex"],
)


def shown(supervised: Supervised) -> str:
    return status_table.table(status.collect(str(supervised.runtime), time.monotonic_ns(), None), 200, False)


@STORIES
def test_a_deadlock_is_told_with_the_operations_of_both_sides(
    tmp_path: Path, program: str, fault: str | None, sides: set[str]
) -> None:
    with SimulatedDevice(tmp_path / "device") as device:
        environment = device.environment("a")
        body: dict[str, Any] = worker(UNGUARDED + program, environment=environment, deadlines=DEADLINES)
        with Supervised({"a": body}) as supervised:
            supervised.wait_phase("a", "running", 1)
            if fault is not None:
                device.fault("deadlock", calls=fault, times=1)
            supervised.touch("go")
            verdict = supervised.wait_event("verdict", "a")
            assert verdict["verdict"] == "call"
            (other,) = verdict["also_in_flight"]
            assert {verdict["operation"], other["operation"]} == sides
            assert verdict["tid"] != other["tid"]
            incident = supervised.wait_phase("a", "running", 2)["last_incident"]
            assert incident["also_in_flight"] == [other["operation"]]
            assert f"call {verdict['operation']} (with {other['operation']} in flight) at" in shown(supervised)
            if fault is None:
                assert "host function" in (verdict["stage"], other["stage"])


def test_a_hang_beside_which_nothing_is_in_flight_names_nothing() -> None:
    hung = 'worker.ready()\nwith worker.call("other"), worker.call("free"): hang()'
    with Supervised({"a": worker(hung, deadlines={"free": "100ms"})}) as supervised:
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["operation"], verdict["also_in_flight"]) == ("free", [])
        assert "also_in_flight" not in supervised.worker("a")["last_incident"]


GUARDED = """from watchdogd.worker.cuda_memory import DeferredFree
from watchdogd.worker.cuda_thread import CudaThread
gpu = CudaThread()
mutex = threading.Lock()
def do(function, *arguments):
    return gpu.submit(function, *arguments).result(10)
deferred = do(DeferredFree, gpu.context, 64)
stream = do(gpu.context.stream)
kernel = do(lambda: gpu.context.module(b"").kernel("sim_sleep_us_10"))
def waits_for_it():
    with mutex: pass
def allocates():
    deferred.free(do(gpu.context.alloc_managed, 64), stream)
def launches():
    with worker.step():
        do(stream.launch, kernel, 1, 1)
        do(stream.host_function, waits_for_it)
        do(stream.synchronize)
        do(deferred.collect)
def frees_under_the_mutex():
    buffer = do(gpu.context.alloc, 64)
    with mutex:
        deferred.free(buffer, stream)
def for_ever(call):
    while True:
        call()
        time.sleep(0.001)
worker.ready()
for call in (allocates, frees_under_the_mutex):
    threading.Thread(target=for_ever, args=(call,)).start()
for_ever(launches)
"""


def test_with_the_guards_none_of_them_happens(tmp_path: Path) -> None:
    with SimulatedDevice(tmp_path / "device") as device:
        body: dict[str, Any] = worker(
            GUARDED, environment=device.environment("a"), deadlines={**DEADLINES, "step": "2s"}
        )
        with Supervised({"a": body}) as supervised:
            supervised.wait_phase("a", "running", 1)
            faults = [
                device.fault("deadlock", calls=calls, window_ms=1) for calls in ("alloc_managed,free", "launch,free")
            ]
            wait_until(lambda: supervised.view("a")["steps"] > 100, what=supervised.log)
            assert [fault.fired for fault in faults] == [0, 0]
            assert supervised.events("verdict", "a") == []

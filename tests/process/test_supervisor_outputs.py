"""The all-zero report, on the simulated driver: outputs become zero, no call fails, health is OK; and what follows.

Invariant of the programs here: nothing but their outputs says that something is wrong.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.running import Supervised, wait_until, worker
from tests.simulator.control import SimulatedDevice

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

BAD_IN_A_ROW = 5
RULE = {"bad_in_a_row": BAD_IN_A_ROW}
FRAMES = """import struct
from watchdogd.worker import cuda
from watchdogd.worker.output import Canary, OutputCheck
COUNT = 1024
check = OutputCheck(dtype="f", bounds=(0.0, 1e6))
with cuda.Context() as context:
    stream, kernel = context.stream(), context.module(b"").kernel("sim_copy_scale__50us")
    given, taken = context.alloc_host(4 * COUNT), context.alloc_host(4 * COUNT)
    device_in, device_out = context.alloc(4 * COUNT), context.alloc(4 * COUNT)
    def infer(number):
        given.view[:] = struct.pack(f"{COUNT}f", *(number + at for at in range(COUNT)))
        stream.copy_in(device_in, given)
        stream.launch(kernel, 1, 1, (device_out, device_in, COUNT, 2.0))
        stream.copy_out(taken, device_out)
        stream.synchronize()
        return taken.view
    golden = struct.pack(f"{COUNT}f", *(2.0 * (1 + at) for at in range(COUNT)))
    canary = Canary(infer, 1, golden, dtype="f", every_seconds=0.05)
    if not canary.run():
        sys.exit("wrong output for the golden input")
    worker.ready()
    number = 0
    while True:
        number += 1
        with worker.step():
            bad = check(infer(number))
        if INCARNATION == 1 and bad:
            with (HERE / "bad").open("a") as file: file.write(bad + chr(10))
        LOOP
        time.sleep(0.01)
"""


def model(device: SimulatedDevice, name: str, *, canary: bool = False, **keys: object) -> dict[str, object]:
    program = FRAMES.replace("LOOP", "if canary.due(): canary.run()" if canary else "")
    if canary:  # alone: without what needs no golden output
        program = program.replace("bad = check(infer(number))", "bad = infer(number) and None")
    return worker(program, environment=device.environment(name), deadlines={"sync": "2s"}, **keys)


def test_a_worker_whose_outputs_become_zero_is_replaced_after_so_many_frames_and_a_healthy_one_is_not(
    tmp_path: Path,
) -> None:
    with SimulatedDevice(tmp_path / "device") as device:
        workers = {name: model(device, name, accelerator="gpu0", outputs=RULE) for name in ("sick", "healthy")}
        with Supervised(workers) as supervised:
            healthy = supervised.wait_phase("healthy", "running", 1)["pid"]
            supervised.wait_phase("sick", "running", 1)
            wait_until(lambda: supervised.view("sick")["outputs"]["good"] > 10)
            fault = device.fault("zero", label="sick")
            verdict = supervised.wait_event("verdict", "sick")
            fault.clear()
            assert (verdict["verdict"], verdict["operation"]) == ("silent_output", None)
            assert "bad outputs in a row, the last one all zero" in verdict["detail"]
            supervised.wait_phase("sick", "running")
            assert supervised.worker("sick")["restarts"]["silent_output"] >= 1
            frames = (supervised.directory / "bad").read_text().split()
            assert len(frames) >= BAD_IN_A_ROW and set(frames) == {"zero"}
            assert supervised.wait_event("ready", "sick", count=2)["recovery_seconds"] > 0
            assert supervised.worker("healthy")["pid"] == healthy
            assert supervised.events("verdict", "healthy") == []
            assert supervised.view("healthy")["outputs"]["zero"] == 0


def test_without_a_rule_bad_outputs_are_counted_and_shown_and_nobody_is_killed(tmp_path: Path) -> None:
    with SimulatedDevice(tmp_path / "device") as device, Supervised({"a": model(device, "a")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        fault = device.fault("zero", label="a")
        wait_until(lambda: supervised.view("a")["bad_outputs_in_a_row"] > 3 * BAD_IN_A_ROW)
        supervised.wait_tick()
        fault.clear()
        wait_until(lambda: supervised.view("a")["bad_outputs_in_a_row"] == 0)
        assert supervised.view("a")["outputs"]["zero"] > 3 * BAD_IN_A_ROW
        assert (supervised.phase("a"), supervised.events("verdict")) == ("running", [])


def test_the_golden_input_alone_finds_it_too(tmp_path: Path) -> None:
    with SimulatedDevice(tmp_path / "device") as device:
        sick = model(device, "a", canary=True, outputs={"bad_in_a_row": 2})
        with Supervised({"a": sick}) as supervised:
            supervised.wait_phase("a", "running", 1)
            fault = device.fault("zero", label="a")
            assert "wrong for the golden input" in supervised.wait_event("verdict", "a")["detail"]
            fault.clear()
            supervised.wait_phase("a", "running")


def test_a_worker_that_is_wrong_from_the_start_never_takes_work(tmp_path: Path) -> None:
    with SimulatedDevice(tmp_path / "device") as device:
        device.fault("zero", label="a")
        with Supervised({"a": model(device, "a", restart={"budget": 1})}) as supervised:
            supervised.wait_phase("a", "quarantined")
            assert supervised.events("ready") == []
            assert "wrong output for the golden input" in supervised.log()


def test_outputs_that_are_good_again_before_the_kill_end_the_verdict(tmp_path: Path) -> None:
    with (
        SimulatedDevice(tmp_path / "device") as device,
        Supervised({"a": model(device, "a", outputs=RULE)}, supervisor={"observe_only": True}) as supervised,
    ):
        supervised.wait_phase("a", "observed", 1)
        fault = device.fault("zero", label="a")
        incident = supervised.wait_event("verdict", "a", would_have_killed=True)["incident"]
        fault.clear()
        near_miss = supervised.wait_event("near_miss", "a", operation="outputs")
        assert near_miss["incident"] == incident
        wait_until(lambda: supervised.worker("a")["last_incident"].get("outcome") == "returned")
        assert supervised.phase("a") == "observed"

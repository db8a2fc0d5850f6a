"""TensorRT workers under a real supervisor, by the double of the module on the simulated driver.

Invariant: the plans ask of the device what the field's did: H on the DLA, A on the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import Supervised, wait_until, worker
from tests.simulator.control import SimulatedDevice
from tests.simulator.tensorrt_plan import DOUBLE, dynamic, output, plan

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

FRAMES = """
sys.path.insert(0, {double!r})
from watchdogd.worker.tensorrt import Engine
engine = Engine({path!r}, {accelerator!r})
worker.ready()
while True:
    with worker.step():
        engine.infer({{}})
    {between}
    time.sleep(0.01)
"""
SWITCH = "if (HERE / 'switch').exists(): (HERE / 'switch').unlink(); engine.use_profile(1 - engine.profile)"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as opened:
        yield opened


def model(
    device: SimulatedDevice, name: str, accelerator: str, content: bytes, between: str = "", **deadlines: str
) -> dict[str, Any]:
    path = device.path.parent / f"{name}.plan"
    path.write_bytes(content)
    program = FRAMES.format(double=DOUBLE, path=str(path), accelerator=accelerator, between=between)
    return worker(program, environment=device.environment(name), accelerator=accelerator, deadlines=deadlines)


@pytest.mark.parametrize(
    ("fault", "stage", "operation"),
    [
        ({"kind": "hang", "scope": "process"}, "sync", "sync"),
        ({"kind": "call_hang", "call": "launch"}, "enqueue", "launch"),
    ],
    ids=["sync", "enqueue"],
)
def test_a_hung_engine_is_replaced_with_its_stage_in_the_verdict_and_the_other_one_loses_nothing(
    device: SimulatedDevice, fault: dict[str, Any], stage: str, operation: str
) -> None:
    workers = {
        "h": model(device, "h", "dla0", plan(kernels=["sim_dla{core}_h__500us"]), sync="200ms", launch="200ms"),
        "a": model(device, "a", "gpu0", plan(), sync="200ms", launch="200ms"),
    }
    with Supervised(workers) as supervised:
        other = supervised.wait_phase("a", "running", 1)["pid"]
        supervised.wait_phase("h", "running", 1)
        device.fault(label="h", **fault)
        verdict = supervised.wait_event("verdict", "h")
        assert (verdict["verdict"], verdict["operation"], verdict["stage"]) == ("call", operation, stage)
        for set_fault in device.faults():
            set_fault.clear()
        supervised.wait_phase("h", "running", 2)
        assert supervised.worker("a")["pid"] == other
        assert supervised.events("verdict", "a") == []


@pytest.mark.parametrize("first_step", ["5s", "100ms"])
def test_a_profile_switch_is_judged_by_the_deadline_of_a_first_step(device: SimulatedDevice, first_step: str) -> None:
    content = plan(
        inputs={"x": dynamic((1, 2, 4), (4, 8, 16))}, outputs={"y": output(shape=(-1, 4))}, profiles=2,
        switch="sim_sleep_us_400000",
    )  # fmt: skip
    workers = {"a": model(device, "a", "gpu0", content, SWITCH, first_step=first_step, step="100ms")}
    with Supervised(workers) as supervised:
        supervised.wait_phase("a", "running", 1)
        done = supervised.view("a")["steps"]
        (supervised.directory / "switch").touch()
        wait_until(lambda: not (supervised.directory / "switch").exists())
        if first_step == "100ms":
            assert supervised.wait_event("verdict", "a")["verdict"] == "first_step"
        else:
            wait_until(lambda: supervised.view("a")["steps"] > done + 10)
            assert supervised.events("verdict", "a") == []

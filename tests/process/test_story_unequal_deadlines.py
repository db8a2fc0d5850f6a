"""The field report's story, on the simulated driver: a freeze that begins in the DLA worker and spreads to the GPU.

Unequal deadlines: the DLA worker has 200 ms, the GPU workers 50 ms, so that the victims' verdicts come first. The
freeze ends when its culprit is gone. The DLA worker is to be killed first, and no GPU worker ever.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker
from tests.simulator.control import SimulatedDevice

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

FRAMES = """from watchdogd.worker import cuda
with cuda.Context() as context:
    stream = context.stream()
    kernel = context.module(b"").kernel("{kernel}")
    worker.ready()
    while True:
        with worker.step():
            stream.launch(kernel, 1, 1)
            stream.synchronize()
        time.sleep({pause})"""
SPREAD_MS = 5
ROUNDS = 3
GPUS = ("model_a", "model_b")


def model(device: SimulatedDevice, name: str, kernel: str, pause: float, **keys: object) -> dict[str, object]:
    environment = device.environment(name)
    return worker(FRAMES.format(kernel=kernel, pause=pause), environment=environment, **keys)


def test_a_device_wide_freeze_with_unequal_deadlines_kills_its_culprit_first_and_loses_no_innocent_worker(
    tmp_path: Path,
) -> None:
    with SimulatedDevice(tmp_path / "device") as device:
        workers = {
            name: model(device, name, f"sim_sleep_us_{us}", pause, accelerator="gpu0", deadlines={"sync": "50ms"})
            for name, us, pause in (("model_a", 3000, 0.007), ("model_b", 2000, 0.011))
        }
        workers["model_h"] = model(
            device, "model_h", "sim_dla0_sleep_us_30000", 0.005, accelerator="dla0", deadlines={"sync": "200ms"},
            coupled_with=["gpu0"], restart={"budget": ROUNDS + 1, "backoff": "10ms"},
        )  # fmt: skip
        with Supervised(workers) as supervised:
            innocent = {name: supervised.wait_phase(name, "running", 1)["pid"] for name in GPUS}
            for number in range(1, ROUNDS + 1):
                culprit = supervised.wait_phase("model_h", "running", number)["pid"]
                wait_until(lambda: all(supervised.view(name)["sync_seconds"]["count"] > 35 for name in workers))
                fault = device.fault("hang", label="model_h", scope="device", spread_ms=SPREAD_MS)
                supervised.wait_phase("model_h", "running", number + 1)
                assert fault.culprit == culprit
                assert gone(culprit)
                fault.clear()
            killed = {event["worker"] for event in supervised.events("signal")}
            assert killed == {"model_h"}, supervised.log()
            assert {name: supervised.worker(name)["pid"] for name in GPUS} == innocent
            # The victims' verdicts were not delayed, only their kills.
            assert any(supervised.events("verdict", name) for name in GPUS)

"""From the verdict to the document: a kernel that spins on the (simulated) GPU is named in its worker's incident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.helpers.gpu_core import spinning
from tests.helpers.running import KEPT, Supervised, wait_until, worker
from tests.simulator.control import SimulatedDevice

BODY = """
from watchdogd.worker import cuda
with cuda.Context(wait="blocking") as ctx:
    stream = ctx.stream()
    kernel = ctx.module(b"module\\0").kernel("sim_spin")
    def waits_for_the_gpu():
        stream.synchronize()
    serve_until("go")
    if INCARNATION == 1:
        with worker.step():
            stream.launch(kernel, 1, 1)
            waits_for_the_gpu()
    serve()
"""
KEYS: dict[str, Any] = {
    "deadlines": {"sync": "200ms"},
    "evidence": "full",
    "evidence_budget": "3s",
    "accelerator": "gpu0",
}


def document(running: Supervised) -> dict[str, Any]:
    """The only one, once it is complete."""

    def there() -> list[dict[str, Any]]:
        found = [json.loads(path.read_text()) for path in running.state.glob("incidents/*/incident.json")]
        return [each for each in found if each.get("state") == "closed"]

    wait_until(there, what=running.log)
    (told,) = there()
    return told


def hung(tmp_path: Path, **keys: Any) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Its document, the files beside it, and the event of the worker's end."""
    (tmp_path / "core").write_bytes(spinning())
    with SimulatedDevice(tmp_path / "device") as device:
        environment = {**device.environment("w"), "SIMCUDA_COREDUMP": str(tmp_path / "core")}
        with Supervised({"w": worker(BODY, **{**KEYS, **keys})}, environment=environment, incidents=KEPT) as running:
            running.wait_phase("w", "running", 1)
            wait_until(lambda: running.snapshot()["incidents"]["tools"] is not None, what=running.log)
            running.touch("go")
            running.wait_phase("w", "running", 2)
            told = document(running)
            files = sorted(path.name for path in running.state.glob("incidents/*/*"))
            return told, files, running.wait_event("gone", "w")


def test_an_incident_names_the_kernel_and_where_its_worker_waited(tmp_path: Path) -> None:
    told, files, gone = hung(tmp_path, gpu_core_dump=True)
    outcomes = {each["collector"]: each for each in told["collectors"]}
    assert outcomes["gpu core dump"]["outcome"] == "ok", outcomes
    assert outcomes["kernel log after"]["began_ns"] > told["times"]["gone_ns"] > outcomes["kernel log"]["began_ns"]
    assert told["kernels"] == [
        {"name": "spin_deep", "grid": "(3,1,1)", "block": "(32,1,1)", "location": "/tmp/example/spin.cu:7", "device": 0}
    ]
    main_stacks = [each["frames"] for each in told["stacks"] if each["tid"] == gone["pid"]]  # py-spy may tell it, too
    assert main_stacks and all(any("waits_for_the_gpu " in frame for frame in frames) for frames in main_stacks)
    main = next(each for each in told["threads"] if each["tid"] == gone["pid"])
    assert main["state"] == "S" and "futex" in (main["wchan"] or main["syscall"])
    (process,) = told["processes"]
    assert process["command"] and any("libcuda.so" in path for path in process["mapped"]) and process["resident"]
    assert f"gpu.{gone['pid']}.nvcudmp" in files


def test_without_the_setting_the_hung_call_is_left_alone_and_the_rest_is_there(tmp_path: Path) -> None:
    told, files, _ = hung(tmp_path)
    outcomes = {each["collector"]: each["outcome"] for each in told["collectors"]}
    assert outcomes["proc"] == outcomes["python stacks"] == "ok"
    assert outcomes.get("gpu core dump", "not asked for") == "not asked for"
    assert "kernels" not in told and not [name for name in files if name.endswith(".nvcudmp")]

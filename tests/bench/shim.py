"""What the driver shim costs an unmodified program, and how soon a hang of one is found, on the simulated driver.

The same programs measure on a real GPU (``tests/gpu/test_shim.py``, docs/GPU_RESULTS.md). Invariant: what is compared
takes turns, in one process or in pairs of processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.bench import rig
from tests.bench.report import Row, Scale, median, quantile
from tests.gpu.shim.programs import PTX, built
from tests.simulator.control import SimulatedDevice
from watchdogd import abi, exits
from watchdogd.instrument import front, words
from watchdogd.observe import heartbeat, procfs

SYNC_BAR_NS = 80.0
START_BAR_MS = 2.0
LATENESS_BAR_MS = 1.0  # the spine's p99


def run(scale: Scale) -> list[Row]:
    with rig.scratch() as directory, SimulatedDevice(directory / "device") as device:
        bare = rig.ENVIRONMENT | device.environment("bench")
        shim, environment = front.stand(words.Request((str(directory),)), bare, str(directory), None)
        if not shim.folder or not shim.driver:
            raise rig.Failed(shim.problem or "no shim")
        file = str(directory / "heartbeat")
        heartbeat.create(file, boot_id=procfs.boot_id(), incarnation=1, spawned_ns=1).close()
        shimmed = environment | {abi.ENVIRONMENT: file}
        cost = [str(built("cost.c", directory)), f"{shim.folder}/libcuda.so.1", shim.driver, str(PTX), "sim_sleep_us_1"]
        rows = _calls([*cost, str(int(scale.pick(20_000, 2_000)))], shimmed)
        rows += _starts(built("startup.c", directory), bare, shimmed, int(scale.pick(40, 8)))
        return rows + _hangs(directory, device, int(scale.pick(20, 4)))


def _calls(command: list[str], environment: Mapping[str, str]) -> list[Row]:
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=True)
    took = json.loads(ran.stdout)
    idle, launched = took["idle_synchronize"], took["launch_and_synchronize"]
    against = "the bare call, in turn"
    return [
        Row("shim", "a synchronize of an idle stream: more than bare", idle["more_ns"], "ns", SYNC_BAR_NS, against),
        Row("shim", "launch + synchronize of a 1 us kernel: more than bare", launched["more_ns"], "ns", None, against),
        Row("shim", "launch + synchronize, bare", launched["bare_ns"] / 1e3, "us"),
    ]


def _starts(program: Path, bare: Mapping[str, str], shimmed: Mapping[str, str], pairs: int) -> list[Row]:
    def start(environment: Mapping[str, str]) -> int:
        ran = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60, check=True)
        return int(ran.stdout)

    differences = []
    for number in range(pairs):
        order = (bare, shimmed) if number % 2 else (shimmed, bare)
        took = [start(environment) for environment in order]
        differences.append((took[1] - took[0]) * (1 if number % 2 else -1) / 1e6)
    what = "load of the driver, cuInit and context: more than bare"
    return [Row("shim", what, median(differences), "ms", START_BAR_MS, "the bare start, in pairs")]


def _hangs(directory: Path, device: SimulatedDevice, hangs: int) -> list[Row]:
    late_ms = []
    for number in range(hangs):
        told = directory / f"events.{number}"
        command = [sys.executable, "-m", "watchdogd", "exec", "--sync", "200ms", "--json-events", str(told), "--"]
        program = rig.python_program("unmodified")
        environment = rig.ENVIRONMENT | device.environment(f"hung{number}")
        ran = subprocess.run([*command, *program], env=environment, timeout=60, check=False, stderr=subprocess.DEVNULL)
        if ran.returncode != exits.VERDICT:
            raise rig.Failed(f"an unmodified program that hangs ended with {ran.returncode}")
        happened = map(json.loads, told.read_text(encoding="utf-8").splitlines())
        verdict = next(event for event in happened if event["kind"] == "verdict")
        late_ms.append((verdict["detected_ns"] - verdict["deadline_ns"]) / 1e6)
    return [
        Row("shim", f"{hangs} hangs under exec: deadline to verdict, p50", median(late_ms), "ms"),
        Row("shim", "p99", quantile(late_ms, 0.99), "ms", LATENESS_BAR_MS, "its deadline"),
    ]

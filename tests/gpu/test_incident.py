"""From a kernel that spins on the GPU to the three lines of `incidents show` that say so, with nobody's help."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.gpu.conftest import Machine
from tests.gpu.results import Results
from tests.gpu.test_incident_dump import LINES, compiled
from tests.helpers.gpu_core import spinning
from tests.helpers.running import KEPT, Supervised, wait_until, worker

SERVES = """
import ctypes
from watchdogd.worker import cuda
with cuda.Context(wait="blocking") as ctx:
    stream, out = ctx.stream(), ctx.alloc(4)
    def infer(hangs=False):
        with worker.step():
            if hangs:
                kernel = ctx.module(open({image!r}, "rb").read()).kernel({name!r})
                stream.launch(kernel, 3, 32, (ctypes.c_void_p(out.address),) if {name!r} == "spin_deep" else ())
            stream.synchronize()
    infer()
    serve_until("go")
    if INCARNATION == 1 and {hangs}:
        infer(hangs=True)
    while True:
        infer()
        frame()
"""


def wait_running(running: Supervised, name: str, incarnation: int) -> None:
    def there() -> bool:
        body = running.worker(name)
        return (body["phase"], body["incarnation"]) == ("running", incarnation)

    wait_until(there, timeout=60, what=running.log)  # a real driver takes its time to start


def document(running: Supervised) -> dict[str, Any] | None:
    found = [json.loads(path.read_text()) for path in running.state.glob("incidents/*/incident.json")]
    return next((each for each in found if each.get("state") == "closed"), None)


def test_the_first_three_lines_name_the_kernel_that_spins_and_its_line(
    machine: Machine, results: Results, tmp_path: Path
) -> None:
    (tmp_path / "core").write_bytes(spinning())
    image, name = (compiled(tmp_path), "spin_deep") if machine.real else (tmp_path / "core", "sim_spin")
    keys: dict[str, Any] = {"accelerator": "gpu0", "deadlines": {"sync": machine.deadline, "startup": "60s"}}
    full = {"evidence": "full", "evidence_budget": "3s", "gpu_core_dump": True}
    body = SERVES.replace("{image!r}", repr(str(image))).replace("{name!r}", repr(name))
    workers = {
        "victim": worker(body.replace("{hangs}", "True"), **keys, **full),
        "neighbour": worker(body.replace("{hangs}", "False"), **keys),
    }
    environment = {**machine.environment, "SIMCUDA_COREDUMP": str(tmp_path / "core")}
    with Supervised(workers, environment=environment, incidents=KEPT) as running:
        for each in workers:
            wait_running(running, each, 1)
        wait_until(lambda: running.snapshot()["incidents"]["tools"] is not None, what=running.log)
        running.touch("go")
        wait_running(running, "victim", 2)
        wait_until(lambda: document(running) is not None, timeout=30, what=running.log)
        told = document(running)
        assert told is not None
        shown = subprocess.run(
            [sys.executable, "-m", "watchdogd", "incidents", "show", "last", "-c", str(running.config)],
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip
        neighbour = running.worker("neighbour")
    print(f"\n{shown}", file=sys.__stdout__)
    first = re.sub(r"\s+", " ", " ".join(re.split(r"\n(?=\S)", shown)[:3]))
    assert "victim#1 hung: call sync" in first and "kernel_without_end" in first
    line = next(iter(re.findall(r"Kernel spin_deep \(\S*spin\.cu:(\d+)\)", first)), None)
    assert line in (LINES if machine.real else {"7"}), first
    assert neighbour["incarnation"] == 1
    times, verdict = told["times"], told["verdict"]
    for what, begin, end in (
        ("deadline to verdict", verdict["deadline_ns"], verdict["detected_ns"]),
        ("verdict to commit", verdict["detected_ns"], times["committed_ns"]),
        ("commit to SIGKILL, with the core dump whole", times["committed_ns"], times["signal_ns"]),
        ("SIGKILL to gone", times["signal_ns"], times["gone_ns"]),
        ("verdict to ready again", verdict["detected_ns"], times["ready_ns"]),
    ):
        results.add(f"incident: {what}", (end - begin) / 1e6, "ms")
    results.add("incident: what was in shared memory, read in", told["captures"][0]["took_ns"] / 1e6, "ms")

"""What a guard costs a worker, in Python and in C, on a real heartbeat with histogram, ring and lane lookup.

Invariant: a figure counts only if the heartbeat's own histogram holds every call that was timed.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import rig
from tests.bench.report import Row, Scale, median
from watchdogd import abi
from watchdogd.observe import heartbeat

PYTHON_RUNS = 5  # a process lays out its memory anew: what one run shows is not what the next does


def in_python(scale: Scale) -> list[Row]:
    runs = int(scale.pick(PYTHON_RUNS, 1))
    rows = []
    with rig.scratch() as directory:
        clocks = _measured([rig.compile_c("guard", directory)], directory)["two_clock_reads_ns"]
        for implementation, bar, pure in (("native", 250.0, "0"), ("python", 1200.0, "1")):
            figures = []
            for _ in range(runs):
                measured = _measured(rig.python_program("guarded_loop"), directory, WATCHDOGD_PURE_PYTHON=pure)
                if measured["implementation"] != implementation:
                    raise rig.Failed(f"the {implementation} guard is not available")
                figures.append(measured["guard_ns"])
            against = f"the empty loop, subtracted; two bare clock reads in C {clocks:.0f} ns"
            rows.append(
                Row("guard", f"call('sync') enter + exit, {implementation}", median(figures), "ns", bar, against)
            )
    return rows


def in_c(_scale: Scale) -> list[Row]:
    with rig.scratch() as directory:
        measured = _measured([rig.compile_c("guard", directory)], directory)
    against = (
        f"alternating: guard {measured['guard_ns']:.1f} ns, two clock reads {measured['two_clock_reads_ns']:.1f} ns"
    )
    return [Row("guard_c", "C guard beyond two clock reads", measured["difference_ns"], "ns", 20.0, against)]


def _measured(command: Sequence[str | Path], directory: Path, **environment: str) -> dict[str, Any]:
    """Run a program on a fresh heartbeat, take what it prints."""
    path = directory / "heartbeat"
    path.unlink(missing_ok=True)
    reader = heartbeat.create(str(path), boot_id=1, incarnation=1, spawned_ns=time.monotonic_ns())
    try:
        variables = rig.ENVIRONMENT | {abi.ENVIRONMENT: str(path)} | environment
        output = subprocess.run(command, env=variables, check=True, timeout=120, stdout=subprocess.PIPE).stdout
        measured: dict[str, Any] = json.loads(output)
        counted = reader.histograms(reader.read())["sync"].count
    finally:
        reader.close()
    if counted != measured["calls"]:
        raise rig.Failed(f"{measured['calls']} calls were timed, but the heartbeat counted {counted}")
    return measured

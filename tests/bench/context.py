"""What it costs to ask whether the expected context is current to the right thread, on the simulated driver.

Invariant: the driver's own ``cuCtxGetCurrent`` is asked each time, so the figure holds for this driver; the simulated
one looks through its faults at each call.
"""

from __future__ import annotations

import json
import subprocess

from tests.bench import rig
from tests.bench.report import Row, Scale, median
from tests.simulator.control import SimulatedDevice

RUNS = 5
BAR_NS = 150.0


def run(scale: Scale) -> list[Row]:
    rows = []
    with rig.scratch() as directory, SimulatedDevice(directory / "device") as device:
        for implementation, bar, pure in (("native", BAR_NS, "0"), ("python", None, "1")):
            environment = rig.ENVIRONMENT | device.environment("bench") | {"WATCHDOGD_PURE_PYTHON": pure}
            figures = []
            for _ in range(int(scale.pick(RUNS, 1))):
                command = rig.python_program("context_check")
                output = subprocess.run(command, env=environment, check=True, timeout=120, stdout=subprocess.PIPE)
                figures.append(json.loads(output.stdout))
            if figures[0]["implementation"] != implementation:
                raise rig.Failed(f"the {implementation} check is not available")
            for what, key, doubled in (("check()", "check_ns", 1), ("with context.expected", "block_ns", 2)):
                figure = median([measured[key] for measured in figures])
                limit = None if bar is None else doubled * bar
                name = f"context {what}, {implementation}"
                rows.append(Row("context", name, figure, "ns", limit, "the empty loop, subtracted"))
    return rows

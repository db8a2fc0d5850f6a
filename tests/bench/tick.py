"""A full tick (observe, decide, publish) as workers grow from 1 to 256, 64 lanes each, all of them in a call.

Figures are CPU time. Invariant: each size runs in a process of its own, so that none warms the next.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.bench import rig
from tests.bench.report import Row, Scale
from watchdogd import abi_driver

SIZES = (1, 4, 16, 64, 256)


def run(scale: Scale) -> list[Row]:
    count = int(scale.pick(200, 20))
    measured: dict[int, dict[str, float]] = {}
    for size in SIZES:
        with rig.scratch() as directory:
            space = os.statvfs(directory)
            if space.f_bavail * space.f_frsize < 2 * size * abi_driver.FILE_SIZE:
                raise rig.Failed(f"{directory} has no room for {size} heartbeats")
            measured[size] = _measured(size, count, directory)
    quiet = {size: figures["quiet_ns"] / 1000 for size, figures in measured.items()}
    base, slope = _fit(quiet)
    worst = max(abs(base + slope * size - us) / us for size, us in quiet.items() if size >= 16)
    largest = measured[SIZES[-1]]
    shares = ", ".join(f"{name} {largest[f'{name}_share']:.0%}" for name in ("observe", "decide", "publish"))
    rows = [
        Row("tick", "per worker (slope of the fit)", slope, "us", 15.0, f"{base:.0f} us + {slope:.2f} us a worker"),
        Row("tick", f"per worker at {SIZES[-1]} workers", quiet[SIZES[-1]] / SIZES[-1], "us", 15.0, shares),
        Row(
            "tick", "worst distance from the line, from 16 workers on", worst, "of it", 0.25, "least squares of ratios"
        ),
    ]
    rows += [Row("tick", f"{size} workers, nothing new", us, "us") for size, us in quiet.items()]
    for what, key in (("one of them changed", "one_changed_ns"), ("every call past its soft level", "all_slow_ns")):
        rows.append(Row("tick", f"{SIZES[-1]} workers, {what}", largest[key] / 1000, "us"))
    return rows


def _measured(size: int, count: int, directory: Path) -> dict[str, float]:
    command = rig.python_program("ticking", size, count, directory)
    with (directory / "log").open("w+b") as log:  # the recorder's echo
        result = subprocess.run(
            command, env=rig.ENVIRONMENT, timeout=300, stdout=subprocess.PIPE, stderr=log, check=False
        )
        if result.returncode != 0:
            log.seek(0)
            raise rig.Failed(log.read().decode(errors="replace")[-2000:])
    measured: dict[str, Any] = json.loads(result.stdout)
    return measured


def _fit(points: dict[int, float]) -> tuple[float, float]:
    """Base and slope by least squares of relative errors, so that 256 workers do not decide alone."""
    weights = {x: 1 / y**2 for x, y in points.items()}
    total = sum(weights.values())
    mean_x = sum(weights[x] * x for x in points) / total
    mean_y = sum(weights[x] * y for x, y in points.items()) / total
    slope = sum(weights[x] * (x - mean_x) * (y - mean_y) for x, y in points.items())
    slope /= sum(weights[x] * (x - mean_x) ** 2 for x in points)
    return mean_y - slope * mean_x, slope

"""What the supervisor and the exporter themselves take: CPU over many seconds, memory after that.

Eight workers at 100 Hz with 100 ms deadlines; no load source runs (each is a child with a cost of its own). Invariant:
a figure is the difference of two readings of the same process around the measured span.
"""

from __future__ import annotations

import time

import psutil

from tests.bench import rig
from tests.bench.report import Row, Scale

WORKERS = 8
MIB = 1 << 20


def run(scale: Scale) -> list[Row]:
    seconds = scale.pick(45.0, 10.0)
    deadlines = {"startup": "30s", "sync": "100ms"}
    workers = [
        rig.worker_table(f"w{i}", rig.python_program("paced"), accelerator="gpu0", deadlines=deadlines)
        for i in range(WORKERS)
    ]
    rows = []
    with rig.Rig(workers) as running, rig.scraped(running.address):
        processes = {
            "supervisor": psutil.Process(running.process.pid),
            "exporter": psutil.Process(running.child("watchdogd.exporter")),
            "recorder": psutil.Process(running.child("watchdogd.publish.recorder")),
        }
        time.sleep(2)
        ticks, before, start = running.published().ticks, _cpu(processes), time.monotonic()
        time.sleep(seconds)
        after, span = _cpu(processes), time.monotonic() - start
        ticks = running.published().ticks - ticks
        if running.verdicts():
            raise rig.Failed(f"verdicts without a hang: {running.verdicts()[:2]}")
        for name, bar in (("supervisor", 1.0), ("exporter", 2.0)):
            used = 100 * (after[name] - before[name]) / span
            against = f"{span:.0f} s; {ticks / span:.0f} ticks a second; 2 scrapes a second"
            rows.append(Row("cpu", f"{name}, share of one core", used, "%", bar, against))
        for name, limit in (("supervisor", 40.0), ("exporter", 60.0), ("recorder", None)):
            memory = processes[name].memory_full_info()
            against = f"PSS {memory.pss / MIB:.1f} MiB, unshared {memory.uss / MIB:.1f} MiB"
            rows.append(Row("rss", name, memory.rss / MIB, "MiB", limit, against))
    return rows


def _cpu(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Seconds of user and system time."""
    return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}

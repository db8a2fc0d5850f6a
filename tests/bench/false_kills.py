"""Verdicts on workers whose syncs come close to their deadline, but never reach it, on a machine with too much to do.

Many threads a worker, so that 100,000 calls take a minute and not ten. At the end one worker really hangs: a supervisor
that was asleep would show no false kill either. Invariant: the calls are counted by the heartbeats' own histograms.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.bench import rig
from tests.bench.report import Row, Scale
from tests.simulator.control import SimulatedDevice
from watchdogd.histogram import Histogram, add
from watchdogd.model import MILLISECOND
from watchdogd.observe.heartbeat import HeartbeatReader

WORKERS = 8
THREADS = 16
DEADLINE_MS = 100
LONGEST_SECONDS = 0.090


def run(scale: Scale) -> list[Row]:
    rows = []
    for name, count in (("unsteady", scale.pick(100_000, 8_000)), ("unsteady_cuda", scale.pick(30_000, 3_000))):
        with rig.scratch() as directory, SimulatedDevice(directory / "device") as device:
            rows += _measured(name, int(count), directory, device)
    return rows


def _measured(program: str, calls: int, directory: Path, device: SimulatedDevice) -> list[Row]:
    cores = os.cpu_count() or 1
    hang, never = directory / "hang", directory / "never"
    names = [f"w{i}" for i in range(WORKERS)]
    workers = [
        rig.worker_table(
            name, rig.python_program(program, THREADS, LONGEST_SECONDS, hang if name == "w0" else never),
            accelerator="gpu0", environment=device.environment(name),
            deadlines={"startup": "60s", "sync": f"{DEADLINE_MS}ms"},
        )
        for name in names
    ]  # fmt: skip
    with rig.Rig(workers) as running, rig.busy(2 * cores), rig.scraped(running.address):
        readers = [HeartbeatReader(worker["heartbeat"]) for worker in running.workers()]
        start = time.monotonic()
        rig.wait_until(lambda: _syncs(readers).count >= calls, 120 + calls / 500, f"{calls} calls", 1)
        seconds, syncs, false = time.monotonic() - start, _syncs(readers), running.verdicts()
        hang.touch()
        rig.wait_until(lambda: len(running.verdicts()) > len(false), 10, "the verdict on a real hang", 0.2)
        found = running.verdicts()[len(false)]
        if (found["worker"], found["verdict"]) != ("w0", "call"):
            raise rig.Failed(f"the worker that hung was w0, the verdict {found}")
        for reader in readers:
            reader.close()
    what = "calls" if program == "unsteady" else "syncs of the simulated driver"
    load = f"{WORKERS} workers x {THREADS} threads, {2 * cores} busy processes on {cores} cores, {seconds:.0f} s"
    longest = (syncs.quantile_ns(1.0) or 0) / MILLISECOND
    rows = [Row("false_kills", f"verdicts in {syncs.count} {what} of up to 90 ms", len(false), "", 0.0, load)]
    end = "a real hang at the end was found"
    return [*rows, Row("false_kills", "longest of them, at most (deadline 100 ms)", longest, "ms", None, end)]


def _syncs(readers: list[HeartbeatReader]) -> Histogram:
    total = Histogram()
    for reader in readers:
        total = add(total, reader.histograms(reader.read())["sync"])
    return total

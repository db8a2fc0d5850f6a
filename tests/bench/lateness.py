"""Detection lateness: from the moment a deadline passes to the verdict, while real workers hang at random times.

Invariant: a hang that the worker made and that got no verdict would show as a run that does not reach its count.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench import rig
from tests.bench.report import Row, Scale, quantile
from watchdogd.model import MILLISECOND

WORKERS = 8
DEADLINE = "100ms"
HANG_BETWEEN = (1.5, 8.5)  # seconds after ready: 1.6 a second in all, so that few fall into another's restart
P50_MS, IDLE_P99_MS, BUSY_P99_MS = 0.2, 1.0, 5.0
SAME = 1.5  # times as late; the idle median itself was 0.063 to 0.090 ms in six runs on two cores
CLIENTS = 100
RESTARTS = {"backoff": "1ms", "backoff_max": "50ms", "budget": 100_000}


@dataclass(frozen=True, slots=True)
class Lateness:
    """In ms, per verdict."""

    detected: list[float]
    published: list[float]
    scrapes: int


def run(scale: Scale) -> list[Row]:
    """Judged by the class that the service asks for, real-time where that is permitted; the other is information."""
    cores = os.cpu_count() or 1
    judged = "FIFO 1" if rig.fifo_permitted() else "normal"
    rows: list[Row] = []
    for name in dict.fromkeys((judged, "normal")):
        count = int(scale.pick(150 if name == judged else 60, 20))
        fifo = name != "normal"
        bars = (P50_MS, IDLE_P99_MS, BUSY_P99_MS, SAME) if name == judged else (None, None, None, None)
        idle = measure(count, fifo=fifo)
        busy = measure(count, fifo=fifo, spinners=2 * cores)
        scraped = measure(count, fifo=fifo, clients=CLIENTS)
        rows += _rows(f"{name}, idle", idle, bars[0], bars[1])
        rows += _rows(f"{name}, {2 * cores} busy processes on {cores} cores", busy, None, bars[2])
        rows += _rows(f"{name}, {CLIENTS} clients scraping without pause", scraped, None, bars[1])
        with_ms, without_ms = quantile(scraped.detected, 0.5), quantile(idle.detected, 0.5)
        against = f"p50 {with_ms:.3f} ms with, {without_ms:.3f} ms without; {scraped.scrapes} scrapes were answered"
        ratio = with_ms / without_ms
        rows.append(Row("lateness", f"{name}, p50 with {CLIENTS} clients / without", ratio, "x", bars[3], against))
    return rows


def _rows(what: str, lateness: Lateness, p50_bar: float | None, p99_bar: float | None) -> list[Row]:
    count = f"{len(lateness.detected)} hangs"
    published = f"{count}; published p99 {quantile(lateness.published, 0.99):.3f} ms after the deadline"
    return [
        Row("lateness", f"{what}: p50", quantile(lateness.detected, 0.5), "ms", p50_bar, count),
        Row("lateness", f"{what}: p99", quantile(lateness.detected, 0.99), "ms", p99_bar, published),
    ]


def measure(count: int, *, fifo: bool = False, spinners: int = 0, clients: int = 0) -> Lateness:
    command = rig.python_program("paced", *HANG_BETWEEN)
    deadlines = {"startup": "30s", "sync": DEADLINE}
    workers = [
        rig.worker_table(f"w{i}", command, accelerator="gpu0", deadlines=deadlines, restart=RESTARTS)
        for i in range(WORKERS)
    ]
    with rig.Rig(workers, fifo=fifo, supervisor={"max_kills": 100_000}) as running, rig.scraped(running.address):
        report = running.directory / "scrapes"
        with ExitStack() as load:
            load.enter_context(rig.busy(spinners))
            if clients:
                load.enter_context(rig.hammering(running.address, clients, report))
            time.sleep(1)
            already = len(running.verdicts())
            rig.wait_until(lambda: len(running.verdicts()) >= already + count, 60 + 2 * count, f"{count} verdicts", 2)
            verdicts = running.verdicts()[already:]
        scrapes = int(report.read_text(encoding="ascii").split()[0]) if clients else 0
    wrong = [v for v in verdicts if v["verdict"] != "call"]
    if wrong:
        raise rig.Failed(f"other verdicts than hung calls: {wrong[:3]}")
    return Lateness(
        [(v["detected_ns"] - v["deadline_ns"]) / MILLISECOND for v in verdicts],
        [(v["published_ns"] - v["deadline_ns"]) / MILLISECOND for v in verdicts],
        scrapes,
    )

"""Supervisors killed at random moments; the workers, and what the next one makes of it.

Four healthy workers at 100 Hz and one that hangs and crashes all the time, so that a kill, a spawn or a publication is
under way at most moments. Invariant: every supervisor but the last dies by SIGKILL, some before their first tick.
"""

from __future__ import annotations

import compileall
import json
import random
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import rig
from tests.bench.report import Row, Scale
from watchdogd.act import sweep
from watchdogd.publish import board
from watchdogd.publish.events import EventKind, read_file

HEALTHY = 4
LONGEST_LIFE_SECONDS = 0.35
QUIET_SECONDS = 3.0
DEADLINES = {"startup": "30s", "first_step": "400ms", "step": "400ms", "sync": "200ms"}
VERDICTS_OF = {"hang": ("call",), "hang_step": ("step", "first_step"), "crash": ("crashed",), "exit": ("exited",)}
RESTARTS = {"backoff": "10ms", "backoff_max": "50ms", "budget": 1_000_000}


@dataclass(slots=True)
class Outcome:
    done: Counter[str] = field(default_factory=Counter)
    missed: list[dict[str, Any]] = field(default_factory=list)
    false: list[dict[str, Any]] = field(default_factory=list)
    unrecovered: list[dict[str, Any]] = field(default_factory=list)


def run(scale: Scale) -> list[Row]:
    lives = round(scale.pick(200, 20))
    compileall.compile_dir(rig.ROOT / "watchdogd", quiet=1)  # as what is installed is; else each start compiles it anew
    with rig.scratch() as directory:
        until = time.monotonic() + lives * (LONGEST_LIFE_SECONDS / 2 + 0.05)
        truth = directory / "truth"
        truth.touch()
        keys = {"deadlines": DEADLINES, "restart": RESTARTS, "on_supervisor_exit": "keep"}
        counts = [directory / f"w{i}" for i in range(HEALTHY)]
        workers = [rig.worker_table(f.name, rig.python_program("steady", f), **keys) for f in counts]
        workers.append(rig.worker_table("fickle", rig.python_program("fickle", "fickle", truth, until, 20), **keys))
        settings = {"max_kills": 1_000_000, "events_max_bytes": "64MiB"}
        with rig.Rig(workers, metrics=False, fifo=rig.fifo_permitted(), supervisor=settings) as running:
            first = {worker["name"]: worker["pid"] for worker in running.workers()}
            unreadable, died_early = 0, 0
            started_ns: dict[int, int] = {}
            for _ in range(lives):
                time.sleep(random.uniform(0, LONGEST_LIFE_SECONDS))
                running.process.send_signal(signal.SIGKILL)
                running.process.wait()
                try:
                    died_early += running.published().pid != running.process.pid
                except board.BoardError:
                    unreadable += 1
                at_ns = time.monotonic_ns()
                started_ns[running.launch()] = at_ns
            running.wait_running()
            time.sleep(QUIET_SECONDS)
            rows = _judge(running, first, counts, truth)
            rows += _adoption(running, started_ns)
    return [
        Row("adoption", "supervisors killed", lives, "times"),
        Row("adoption", "of these before their first tick", died_early, "times"),
        Row("adoption", "state files that could not be read", unreadable, "times", 0),
        *rows,
    ]


def _judge(running: rig.Rig, first: dict[str, int], counts: list[Path], truth: Path) -> list[Row]:
    workers = {worker["name"]: worker for worker in running.workers()}
    replaced = sum(workers[f.name]["pid"] != first[f.name] or workers[f.name]["incarnation"] != 1 for f in counts)
    processes = Counter(sweep.marks(stat.pid) for stat in sweep.leftovers(str(running.runtime / "heartbeats")))
    known = {str(worker["heartbeat"]).encode() for worker in workers.values()}
    doubled = sum(count - (mark in known) for mark, count in processes.items())
    steps = {name: _steps(running, name) for name in first}
    own = {f.name: struct.unpack("=QQ", f.read_bytes()) for f in counts}
    lost = sum(abs(own[name][0] - steps[name]) > 1 for name in own)
    bad: list[bytes] = []
    events = list(read_file(str(running.state / "events.jsonl"), on_bad=bad.append))
    found = compare([json.loads(line) for line in truth.read_text().splitlines()], events)
    healthy = [event for event in events if event["kind"] == EventKind.VERDICT and event["worker"] != "fickle"]
    return [
        Row("adoption", "healthy workers replaced", replaced, "workers", 0),
        Row("adoption", "verdicts on healthy workers", len(healthy), "verdicts", 0),
        Row("adoption", "workers doubled or left behind", doubled, "processes", 0),
        Row("adoption", "workers whose steps were lost", lost, "workers", 0),
        Row("adoption", "longest pause of a healthy worker", max(gap for _, gap in own.values()) / 1e6, "ms"),
        Row("adoption", "torn lines of the record", len(bad), "lines", 0),
        Row("adoption", "faults of the fickle worker", found.done.total(), "faults"),
        Row("adoption", "of these not recovered from", len(found.unrecovered), "faults", 0),
    ]


def _steps(running: rig.Rig, name: str) -> int:
    from watchdogd.view import status, status_json  # noqa: PLC0415 - not what is measured

    told = status_json.to_json(status.collect(str(running.runtime), time.monotonic_ns(), name))
    return int(told["workers"][0]["steps"])


def _adoption(running: rig.Rig, started_ns: dict[int, int]) -> list[Row]:
    """From before the fork of the supervisor to the moment right before its first tick."""
    told = [event for event in running.events(EventKind.SUPERVISOR) if event["change"] == "adopted"]
    took = sorted((e["monotonic_ns"] - started_ns[e["pid"]]) / 1e6 for e in told if e["pid"] in started_ns)
    bare = []
    for _ in range(5):
        before_ns = time.monotonic_ns()
        subprocess.run([sys.executable, "-c", ""], check=True, timeout=60)
        bare.append((time.monotonic_ns() - before_ns) / 1e6)
    interpreter = f"a bare interpreter takes {statistics.median(bare):.0f} ms here"
    return [
        Row("adoption", "exec to first tick, median", statistics.median(took), "ms", 150, interpreter),
        Row("adoption", "exec to first tick, p99", took[int(0.99 * len(took))], "ms"),
    ]


def compare(truth: list[dict[str, Any]], events: list[dict[str, Any]]) -> Outcome:
    """Each fault against the verdict of the same worker that came next, and the worker's next ready."""
    outcome = Outcome(Counter(fault["does"] for fault in truth))
    verdicts = [event for event in events if event["kind"] == EventKind.VERDICT]
    # The latest ready will do: a successor that crashes within ms of its ready may never be seen ready.
    ready = {event["worker"]: event["seq"] for event in events if event["kind"] == EventKind.READY}
    explained = set()
    for fault in truth:
        following = (v for v in verdicts if v["worker"] == fault["worker"] and v["monotonic_ns"] >= fault["at_ns"])
        verdict = next(following, None)
        if verdict is None or verdict["verdict"] not in VERDICTS_OF[fault["does"]] or verdict["seq"] in explained:
            outcome.missed.append(fault)
            continue
        explained.add(verdict["seq"])
        if ready[fault["worker"]] < verdict["seq"]:
            outcome.unrecovered.append(verdict)
    outcome.false = [verdict for verdict in verdicts if verdict["seq"] not in explained]
    return outcome

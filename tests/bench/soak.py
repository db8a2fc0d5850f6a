"""``python -m tests.bench.soak --minutes N``: random hangs, crashes, exits, slow calls; all found, nothing else.

Each worker writes what it is about to do before it does it; at the end that is compared with the record of events.
Exit status 1 if anything was missed, false, or not recovered from. Invariant: a fault is only injected when there is
still time to find it and to recover.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import rig
from watchdogd.publish.events import EventKind

WORKERS = 6
SETTLE_SECONDS = 10.0
VERDICTS_OF = {"hang": ("call",), "hang_step": ("step", "first_step"), "crash": ("crashed",), "exit": ("exited",)}
DEADLINES = {"startup": "30s", "first_step": "300ms", "step": "300ms", "sync": "100ms"}
RESTARTS = {"backoff": "10ms", "backoff_max": "200ms", "budget": 1_000_000}


@dataclass(slots=True)
class Outcome:
    done: Counter[str] = field(default_factory=Counter)
    missed: list[dict[str, Any]] = field(default_factory=list)
    false: list[dict[str, Any]] = field(default_factory=list)
    unrecovered: list[dict[str, Any]] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.done.total() > 0 and not (self.missed or self.false or self.unrecovered)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    seconds = 60 * parser.parse_args().minutes
    with rig.scratch() as directory:
        truth = directory / "truth"
        until = time.monotonic() + seconds
        workers = [
            rig.worker_table(
                f"w{i}", rig.python_program("fickle", f"w{i}", truth, until),
                accelerator=f"gpu{i % 2}", deadlines=DEADLINES, restart=RESTARTS,
            )
            for i in range(WORKERS)
        ]  # fmt: skip
        settings = {"max_kills": 1_000_000, "events_max_bytes": "64MiB"}
        with rig.Rig(workers, supervisor=settings) as running, rig.scraped(running.address):
            while (rest := until - time.monotonic()) > 0:
                time.sleep(min(60.0, rest))
                print(f"{max(0.0, rest - 60) / 60:.0f} min left, {len(running.verdicts())} verdicts", file=sys.stderr)
            time.sleep(SETTLE_SECONDS)
            phases = {worker["name"]: worker["phase"] for worker in running.workers()}
            outcome = compare(lines(truth), running.events())
    for kind, count in sorted(outcome.done.items()):
        print(f"{kind:10} {count}")
    found = outcome.done.total() - len(outcome.missed)
    print(f"missed     {len(outcome.missed)}\nfalse      {len(outcome.false)}")
    print(f"recovered  {found - len(outcome.unrecovered)} of {found}")
    for what in ("missed", "false", "unrecovered"):
        for item in getattr(outcome, what):
            print(f"{what}: {json.dumps(item)}")
    not_running = [name for name, phase in phases.items() if phase != "running"]
    if not_running:
        print(f"not running at the end: {', '.join(not_running)}")
    return 0 if outcome.good and not not_running else 1


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


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


if __name__ == "__main__":
    sys.exit(main())

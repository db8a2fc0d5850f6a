"""What evidence costs: the kill beyond its budget, the detection of other hangs meanwhile; and whether it is there when
the supervisor is killed in the middle.

Invariant: what collectors do wrong they do in the real keeper, each time; a hang of which no incident was kept would
show as a count that is too low.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import rig
from tests.bench.report import Row, Scale, median, quantile
from tests.helpers.collectors import environment
from watchdogd.incidents import folders
from watchdogd.model import MILLISECOND, SECOND
from watchdogd.publish import board
from watchdogd.publish.events import EventKind

BUDGET_MS = 400
OVER_P99_MS, OVER_MAX_MS = 5.0, 25.0
IDLE_P99_MS, BUSY_P99_MS = 1.0, 5.0  # of ``lateness``
SPOOL_MS = 5.0
COLLECTED = 4  # workers at once
JUDGED = 8  # others, whose hangs are detected meanwhile
DEADLINES = {"startup": "30s", "sync": "50ms"}
RESTARTS = {"backoff": "1ms", "backoff_max": "50ms", "budget": 100_000}
SETTINGS = {"max_kills": 100_000, "events_max_bytes": "256MiB"}
FULL = {"deadlines": DEADLINES, "restart": RESTARTS, "evidence": "full"}


def run(scale: Scale) -> list[Row]:
    with rig.scratch() as directory:
        program = rig.compile_c("first", directory)
        return [*_delay(program, directory, scale), *_meanwhile(program, directory, scale),
                *_killed(program, directory, scale)]  # fmt: skip


# --- the kill beyond its budget -------------------------------------------------------------------------------------


def _delay(program: Path, directory: Path, scale: Scale) -> list[Row]:
    count = int(scale.pick(500, 24))
    hangs = "hangs works fails missing floods"
    rows = []
    for names, share, bars in ((hangs, count, (OVER_P99_MS, OVER_MAX_MS)), ("works fails missing", count // 5, None)):
        over, kept, lost = _over(program, directory, names, share)
        against = f"{len(over)} hangs; budget {BUDGET_MS} ms; {kept} documents were kept, {lost} incidents were not"
        if bars is None:
            spent = [value + BUDGET_MS for value in over]
            rows.append(Row("evidence", "verdict to SIGKILL where nothing hangs: median", median(spent), "ms"))
            continue
        what = f"kill over its budget ({names})"
        rows.append(Row("evidence", f"{what}: p99", quantile(over, 0.99), "ms", bars[0], against))
        rows.append(Row("evidence", f"{what}: max", max(over), "ms", bars[1], f"median {median(over):.2f} ms"))
        rows.append(Row("evidence", "incidents of these that were not kept", lost, "", 0.0))
    return rows


def _over(program: Path, directory: Path, names: str, count: int) -> tuple[list[float], int, int]:
    """In ms, per hang; then how many documents there are, and of how many incidents there is none."""
    tables = [
        rig.worker_table(f"w{i}", [program, directory / "times", "300"], accelerator=f"gpu{i}", **FULL,
                         evidence_budget=f"{BUDGET_MS}ms")
        for i in range(COLLECTED)
    ]  # fmt: skip
    told = environment(rig.ROOT, names)
    with rig.Rig(tables, metrics=False, fifo=rig.fifo_permitted(), supervisor=SETTINGS, environment=told) as running:
        rig.wait_until(lambda: _is_warm(running), 30, "the keeper")
        already = len(running.verdicts())
        rig.wait_until(lambda: len(running.verdicts()) > already + count, 60 + count, f"{count} hangs", 1)
        events = running.events()
        kept = len(list(running.state.glob("incidents/*/incident.json")))
    begun = {e["incident"] for e in events if e["kind"] == EventKind.EVIDENCE and e["step"] == "begin"}
    signalled = {e["incident"]: e["monotonic_ns"] for e in events if e["kind"] == EventKind.SIGNAL}
    verdicts = [e for e in events if e["kind"] == EventKind.VERDICT][already:]
    measured = [e for e in verdicts if e["incident"] in signalled and e["incident"] in begun]
    lost = sum(e["kind"] == EventKind.EVIDENCE and e["step"] == "lost" for e in events)
    if len(measured) < 0.9 * count:
        raise rig.Failed(f"evidence was taken of {len(measured)} hangs of {len(verdicts)}")
    over = [(signalled[e["incident"]] - e["detected_ns"]) / MILLISECOND - BUDGET_MS for e in measured]
    return over, kept, lost


def _is_warm(running: rig.Rig) -> bool:
    incidents = running.published().body.get("incidents") or {}
    return incidents.get("tools") is not None


# --- detection meanwhile --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Meanwhile:
    detected: list[float]
    spooled: list[float]
    at_once: float  # workers of which evidence was taken, on average


def _meanwhile(program: Path, directory: Path, scale: Scale) -> list[Row]:
    count = int(scale.pick(100, 15))
    spinners = 2 * (os.cpu_count() or 1)
    rows, spooled = [], []
    for what, busy, bar in (("idle", 0, IDLE_P99_MS), (f"{spinners} busy processes", spinners, BUSY_P99_MS)):
        found = _lateness(program, directory, count, busy)
        spooled += found.spooled
        against = f"{len(found.detected)} hangs; evidence was taken of {found.at_once:.1f} workers at a time"
        title = f"detection meanwhile, {what}"
        rows.append(Row("evidence", f"{title}: p50", median(found.detected), "ms", None, against))
        rows.append(Row("evidence", f"{title}: p99", quantile(found.detected, 0.99), "ms", bar, against))
    against = (
        f"{len(spooled)} incidents, shared memory of {COLLECTED + JUDGED} workers; median {median(spooled):.2f} ms"
    )
    rows.append(Row("evidence", "what is kept before the kill: p99", quantile(spooled, 0.99), "ms", SPOOL_MS, against))
    rows.append(Row("evidence", "the same: max", max(spooled), "ms", None, against))
    return rows


def _lateness(program: Path, directory: Path, count: int, spinners: int) -> Meanwhile:
    collected = [
        rig.worker_table(f"c{i}", [program, directory / "times", "1500"], accelerator=f"gpu{i}", **FULL,
                         evidence_budget="10s")
        for i in range(COLLECTED)
    ]  # fmt: skip
    judged = [
        rig.worker_table(f"w{i}", rig.python_program("paced", 1.5, 8.5), accelerator="dla0",
                         deadlines={"startup": "30s", "sync": "100ms"}, restart=RESTARTS)
        for i in range(JUDGED)
    ]  # fmt: skip
    told = environment(rig.ROOT, "real hangs")
    fifo = rig.fifo_permitted()
    with (
        rig.Rig([*judged, *collected], metrics=False, fifo=fifo, supervisor=SETTINGS, environment=told) as running,
        ExitStack() as load,
    ):
        load.enter_context(rig.busy(spinners))
        rig.wait_until(lambda: _is_warm(running), 60, "the keeper")
        already, began_ns = len(_others(running.verdicts())), time.monotonic_ns()
        want = already + count
        rig.wait_until(lambda: len(_others(running.verdicts())) >= want, 60 + 3 * count, f"{count} verdicts", 2)
        verdicts, ended_ns = _others(running.verdicts())[already:], time.monotonic_ns()
        events = running.events(EventKind.EVIDENCE)
    wrong = [v for v in verdicts if v["verdict"] != "call"]
    if wrong:
        raise rig.Failed(f"other verdicts than hung calls: {wrong[:3]}")
    begun = {e["incident"]: e["monotonic_ns"] for e in events if e["step"] == "begin"}
    over = [e for e in events if e["step"] == "collected" and begun.get(e["incident"], 0) >= began_ns]
    taken_ns = sum(e["monotonic_ns"] - begun[e["incident"]] for e in over)
    return Meanwhile(
        [(v["detected_ns"] - v["deadline_ns"]) / MILLISECOND for v in verdicts],
        [1e3 * e["seconds"] for e in events if e["step"] == "memory"],
        taken_ns / (ended_ns - began_ns),
    )


def _others(verdicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [v for v in verdicts if v["worker"].startswith("w")]


# --- a supervisor killed in the middle ------------------------------------------------------------------------------


def _killed(program: Path, directory: Path, scale: Scale) -> list[Row]:
    """At any moment from the verdict on; every other time its keeper as well, as systemd may."""
    count = int(scale.pick(100, 6))
    table = rig.worker_table("only", [program, directory / "times", "50"], **FULL, evidence_budget="200ms")
    told = environment(rig.ROOT, "hangs works")
    readable = 0
    with rig.Rig([table], metrics=False, supervisor=SETTINGS, environment=told) as running:
        for number in range(count):
            incident = _incident(running)
            time.sleep(random.uniform(0, 0.3))
            keeper = running.child("watchdogd.incidents.keeper")
            running.process.kill()
            if number % 2:
                with suppress(ProcessLookupError):
                    os.kill(keeper, signal.SIGKILL)
            running.process.wait(10)
            running.launch()
            with suppress(rig.Failed):
                rig.wait_until(lambda: _is_readable(running.state, incident), 15, "a document")  # noqa: B023 - at once
                readable += 1
    against = f"{count} times; after half of them its keeper was killed too"
    return [Row("evidence", "supervisor killed in the middle: not readable", count - readable, "", 0.0, against)]


def _incident(running: rig.Rig) -> str:
    """That of a verdict which has just been published."""
    found: list[str] = []
    fresh_ns = time.monotonic_ns() - SECOND // 2

    def there() -> bool:
        with suppress(board.BoardError, IndexError, KeyError):
            (only,) = running.workers()
            if running.published().pid != running.process.pid:
                return False  # that of the one before
            if only["phase"] in ("collecting", "killing") and only["phase_since_ns"] > fresh_ns and _is_warm(running):
                found.append(only["remembered"]["incident"])
        return bool(found) and found[-1] is not None

    rig.wait_until(there, 30, f"a hang\n{running.log()}", 0.002)
    return found[-1]


def _is_readable(state: Path, incident: str) -> bool:
    try:
        kept = folders.read(str(state / "incidents" / incident))
    except (OSError, folders.BadFolder):
        return False
    return kept.verdict.operation == "sync" and bool(kept.captures)

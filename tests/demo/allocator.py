"""The story ``allocator``: three deadlocks of a framework's allocator, without a supervisor, with one, and cured.

Each worker is a real process on the simulated driver, which has two calls wait for each other when told. First nobody
watches; then a real ``watchdogd run`` does; then the worker does the same with ``watchdogd.worker``'s allocator.

Invariant: every figure was measured in this run, and what had to happen and did not raises NotObserved.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.demo.allocator_cases import (
    BACKLOG,
    CASES,
    COUNTED,
    DEADLINE_MS,
    deadlock,
    guarded,
    meet,
    supervised,
    unguarded,
)
from tests.demo.counters import Counters
from tests.demo.story import HEADING, ROOT, Say, milliseconds, observe, shown, table, until
from tests.helpers.running import KEPT, Supervised
from tests.simulator.control import SimulatedDevice

STILL_SECONDS = 1.5  # a deadlock, where a healthy worker counts one each ms
SECONDS = 20.0  # for anything that is waited for
PATIENCE_SECONDS = 20.0  # for the deadlock and its verdict
ENOUGH = 20  # operations of a healthy worker
OPERATIONS = 400  # of each kind, with our allocator
FORBIDDEN = "HostFunctionError: cuMemAlloc: no CUDA call is allowed in a host function"

Cured = Callable[[Path], Sequence[str]]


class Found(NamedTuple):
    """What the supervisor did about one."""

    after_ms: float  # of the call that hung
    gone_ms: float
    ready_ms: float
    incident: str


def play(directory: Path, say: Say, cured: Cured = guarded) -> list[str]:
    """``cured``: the command of the worker that none of it happens to."""
    with SimulatedDevice(directory / "device") as device:
        say("1. Unguarded, nobody watches")
        alone = stand_still(made(directory / "alone"), device, say)
        say(f"\n2. Unguarded, with a supervisor; each call may take {DEADLINE_MS} ms")
        found = are_found(made(directory / "supervised"), device, say)
        say("\n3. Guarded: DeferredFree, Pool and CudaThread; the same faults are in force all the time")
        counts = none_happens(made(directory / "guarded"), device, cured, say)
    each = {
        "managed": f"{counts['allocations']} allocations, {counts['frees']} frees",
        "launch": f"{counts['launches']} launches, {counts['frees']} frees",
        "mutex": f"{counts['given_back']} under it, {counts['callbacks']} callbacks",
    }
    rows = [["", "alone", "supervised", "our allocator"]]
    for name, case in CASES.items():
        stood = f"stands still after {alone[name]} operations"
        rows.append(
            [case.words, stood, f"killed, runs again after {found[name].ready_ms:.0f} ms", f"{each[name]}, no deadlock"]
        )
    return ["", *table(rows)]


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def stand_still(directory: Path, device: SimulatedDevice, say: Say) -> dict[str, int]:
    """Each does nothing more, says nothing and does not end. How many operations each has done."""
    workers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in CASES:
            environment = {**os.environ, **device.environment(name)}
            with (directory / f"{name}.stderr").open("wb") as errors:
                workers[name] = subprocess.Popen(unguarded(name, directory), env=environment, cwd=ROOT, stderr=errors)
        counters = {name: Counters(directory / f"{name}.counters", COUNTED) for name in CASES}
        for name in CASES:
            work(name, counters[name])
        for name in CASES:
            they_meet(name, device, directory)
        stood = none_for(STILL_SECONDS, counters)
        for name, worker in workers.items():
            said = (directory / f"{name}.stderr").read_text(encoding="utf-8")
            observe(worker.poll() is None and not said, f"{name} did not stand still but ended, or said: {said}")
            say(f"  {CASES[name].words}: {stood[name]} operations, then none for {STILL_SECONDS} s, no error, no exit")
        return stood
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait(SECONDS)


def work(name: str, counters: Counters, more_than: int = ENOUGH) -> None:
    until(f"{name}: operation {more_than}", SECONDS, lambda: operations(counters) > more_than)


def operations(counters: Counters) -> int:
    return sum(counters.all().values())


def they_meet(name: str, device: SimulatedDevice, directory: Path) -> None:
    fault = meet(name, device, directory)
    if fault is not None:
        until(f"{CASES[name].words}: two calls that wait for each other", SECONDS, lambda: fault.fired)


def none_for(seconds: float, counters: Mapping[str, Counters]) -> dict[str, int]:
    """How many operations each had done, once none has done any for so long."""
    last: dict[str, int] = {}
    since = time.monotonic()

    def all_stand_still() -> bool:
        nonlocal last, since
        seen = {name: operations(words) for name, words in counters.items()}
        if seen != last:
            last, since = seen, time.monotonic()
        return time.monotonic() - since >= seconds

    until(f"no operation of any for {seconds} s", PATIENCE_SECONDS, all_stand_still)
    return last


def are_found(directory: Path, device: SimulatedDevice, say: Say) -> dict[str, Found]:
    """Each with the operations of both sides named, killed, and replaced by one that works."""
    workers = {name: supervised(unguarded(name, directory), device, name) for name in CASES}
    with Supervised(workers, directory=directory, incidents=KEPT) as supervisor:
        counters = {name: Counters(directory / f"{name}.counters", COUNTED) for name in CASES}
        for name in CASES:
            work(name, counters[name])
        for name in CASES:
            they_meet(name, device, directory)
        found = {name: is_found(name, supervisor, counters[name], say) for name in CASES}
        say(f"  {HEADING}")
        for one in found.values():
            for line in shown(supervisor.config, one.incident):
                say(line)
        return found


def is_found(name: str, supervisor: Supervised, counters: Counters, say: Say) -> Found:
    def recorded(kind: str, incarnation: int = 1, seconds: float = SECONDS) -> dict[str, Any]:
        what = f"{CASES[name].words}: {kind} of incarnation {incarnation}"
        (event, *_) = until(what, seconds, lambda: supervisor.events(kind, name, incarnation=incarnation))
        return event

    verdict = recorded("verdict", seconds=PATIENCE_SECONDS)
    (supervisor.directory / f"{name}.go").unlink(missing_ok=True)
    others = verdict["also_in_flight"]
    named = {verdict["operation"], *(other["operation"] for other in others)}
    observe(named == CASES[name].sides, f"{CASES[name].words}: the verdict names {named}, not {CASES[name].sides}")
    killed, gone, ready = recorded("signal"), recorded("gone"), recorded("ready", 2)
    work(name, counters, operations(counters) + ENOUGH)
    sides = [f"{in_words(side)} in thread {side['tid']}" for side in (verdict, *others)]
    entered = verdict["entered_ns"]
    found = Found(
        milliseconds(entered, verdict["detected_ns"]),
        milliseconds(entered, gone["monotonic_ns"]),
        milliseconds(entered, ready["ready_ns"]),
        str(verdict["incident"]),
    )
    say(f"  {CASES[name].words}: {' against '.join(sides)}, incident {verdict['incident']}")
    say(
        f"    found after {found.after_ms:.1f} ms, {killed['signal']}, gone after {found.gone_ms:.1f} ms,"
        f" replaced after {found.ready_ms:.0f} ms"
    )
    return found


def in_words(side: dict[str, Any]) -> str:
    return f"{side['operation']} ({side['stage']})" if side["stage"] else str(side["operation"])


def none_happens(directory: Path, device: SimulatedDevice, cured: Cured, say: Say) -> dict[str, int]:
    """What a worker with our allocator has done by then."""
    body = supervised(list(cured(directory)), device, "cured", step="2s")
    with Supervised({"cured": body}, directory=directory) as supervisor:
        counters = Counters(directory / "guarded.counters", COUNTED)
        until("the worker with our allocator", SECONDS, lambda: supervisor.events("ready", "cured"))
        faults = [fault for name in CASES if (fault := deadlock(name, device, "cured"))]
        kinds = [name for name in COUNTED if name != "backlog"]

        def enough() -> bool:
            verdicts = supervisor.events("verdict")
            fired = [fault.fired for fault in faults]
            observe(not verdicts and not any(fired), f"deadlocks do happen: {fired} fired, verdicts {verdicts}")
            return min(counters[name] for name in kinds) >= OPERATIONS

        until(f"{OPERATIONS} operations of each kind", SECONDS, enough)
        counts = counters.all()
        words = (directory / "guarded.words").read_text(encoding="utf-8")
    observe(words.startswith(FORBIDDEN), f"a CUDA call in a callback was not refused: it raised {words}")
    observe(counts["backlog"] <= BACKLOG, f"{counts['backlog']} buffers waited, {BACKLOG} may")
    say("  " + ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in kinds))
    say(f"  at most {counts['backlog']} buffers waited, {len(faults)} faults in force, 0 fired, 0 verdicts")
    say(f"  a CUDA call in a callback: {words}")
    return counts

"""The story ``lost-context``: a context that is current in one thread is used from others, unguarded and guarded.

Two real processes on the simulated driver serve the same requests by the same threads: ``lost_context_plain`` with
cuda-python alone, ``lost_context_guarded`` with the guards of ``watchdogd.worker``.
Then two that nothing guards run under a supervisor.

Invariant: every figure was measured in this run, and what had to happen and did not raises NotObserved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from tests.demo.lost_context_requests import (
    BOXES,
    EARLIER,
    FEWER,
    HANDLERS,
    LEFTOVERS,
    LOST_BEFORE,
    REQUESTS,
    REQUESTS_ON_ONE_THREAD,
    RIGHT,
    Tally,
)
from tests.demo.story import HEADING, ROOT, Say, answer, command, milliseconds, observe, shown, table
from tests.helpers.running import KEPT, Supervised
from tests.simulator.control import SimulatedDevice

PLAIN = "tests.demo.lost_context_plain"
GUARDED = "tests.demo.lost_context_guarded"
WORKER = "tests.demo.lost_context_worker"
ENDED = {"no-context": "none", "destroyed": "destroyed"}  # workers, and what befalls each
TIMEOUT_SECONDS = 60.0
PAUSE_MS = 50.0  # after which a request is queued again
NO_CONTEXT, DESTROYED = "CUDA_ERROR_INVALID_CONTEXT", "CUDA_ERROR_CONTEXT_IS_DESTROYED"
LOST, UNWRITTEN = "ContextLost", "UnwrittenError"
SHORT = REQUESTS_ON_ONE_THREAD // 2  # requests with fewer boxes

Facts = dict[str, Any]


def play(directory: Path, say: Say, plain: str = PLAIN, guarded: str = GUARDED) -> list[str]:
    """``plain`` and ``guarded``: the modules of the two services."""
    with SimulatedDevice(directory / "device") as device:
        say(
            f"1. Unguarded: the predictor's context is current in {HANDLERS[0]}; four threads take its requests in turn"
        )
        before = served(device, plain)
        for line in happened(before):
            say(f"  {line}")
        say("\n2. Guarded: the same requests by the same threads")
        after = served(device, guarded)
        for line in caught(after):
            say(f"  {line}")
        say("\n3. Unguarded, with a supervisor: nothing catches the error")
        supervised = are_told(directory, device, say)
    return [*report(before, after), "", *supervised]


def served(device: SimulatedDevice, module: str) -> Facts:
    """What a service tells of itself: facts, most of them Tallies."""
    environment = {**os.environ, **device.environment(module.rpartition(".")[2])}
    facts = answer(command(module), environment, TIMEOUT_SECONDS)
    return {name: Tally(**fact) if "came" in fact else fact for name, fact in facts.items()}


def are_told(directory: Path, device: SimulatedDevice, say: Say) -> list[str]:
    """Two that nothing guards, each of which ends by its error: the lines of their incidents."""
    workers = {
        name: {
            "command": command(WORKER, case, directory / name), "working_directory": str(ROOT), "accelerator": "gpu0",
            "environment": device.environment(name), "instrument": "driver", "check_context": True,
        }
        for name, case in ENDED.items()
    }  # fmt: skip
    here = directory / "supervisor"
    here.mkdir()
    with Supervised(workers, directory=here, incidents=KEPT) as supervisor:
        for name in workers:
            supervisor.wait_phase(name, "running", 1)
            (directory / name).touch()
        lines = []
        for name in workers:
            verdict = supervisor.wait_event("verdict", name)
            ready = supervisor.wait_event("ready", name, incarnation=2)
            observe(verdict["verdict"] == "crashed", f"{name}: the verdict was {verdict['verdict']}")
            took = milliseconds(verdict["detected_ns"], ready["ready_ns"])
            say(f"  {name}: {verdict['detail']}, replaced after {took:.0f} ms")
            lines += shown(supervisor.config, verdict["incident"])
    return [
        "Such an error ends a worker that is not guarded, under a supervisor, with `instrument` and `check_context`.",
        HEADING,
        *lines,
    ]


def happened(plain: Facts) -> list[str]:
    """As reported: NULL, the two errors, and answers that are not the request's. Raises NotObserved."""
    mixed = tally(plain, "mixed")
    lines = []
    for name, kind in zip(HANDLERS, (RIGHT, EARLIER, NO_CONTEXT, DESTROYED), strict=True):
        words = mixed.said.get(f"{name}: {kind}")
        need(words is not None, f"unguarded, {name}: {kind}", mixed)
        note = f", {words}" if kind == EARLIER else ""
        seen = ", ".join(f"{plain[when][name]:#x} {when}" for when in ("before", "after"))
        lines.append(f"{name}: cuCtxGetCurrent {seen}: {kind}{note}")
    reused, lost = tally(plain, "reused"), tally(plain, "lost")
    need(reused.came == {RIGHT: REQUESTS_ON_ONE_THREAD - SHORT, LEFTOVERS: SHORT}, "unguarded, leftovers", reused)
    need(lost.came == {RIGHT: LOST_BEFORE[0], DESTROYED: REQUESTS_ON_ONE_THREAD - LOST_BEFORE[0]}, "a loss", lost)
    return lines


def caught(guarded: Facts) -> list[str]:
    """Each misuse at its call, with both contexts and both threads. Raises NotObserved."""
    misused = tally(guarded, "misused")
    lines = []
    for name in HANDLERS[1:]:
        words = misused.said.get(f"{name}: {LOST}", "")
        found = f"context {guarded['left'][name]:#x}" if guarded["left"][name] else "no context"
        expected = f"context {guarded['left'][HANDLERS[0]]:#x} of thread '{HANDLERS[0]}' (tid "
        for part in (f": expected {expected}", f", found {found} in thread '{name}' (tid "):
            need(part in words, f"guarded, {name}: {LOST}{part}", misused)
        lines.append(f"{LOST}: {words}")
    elsewhere = REQUESTS // len(HANDLERS) * (len(HANDLERS) - 1)
    need(misused.came == {RIGHT: REQUESTS - elsewhere, LOST: elsewhere}, "guarded, each misuse caught", misused)
    poisoned = tally(guarded, "poisoned")
    need(poisoned.came == {RIGHT: REQUESTS_ON_ONE_THREAD - SHORT, UNWRITTEN: SHORT}, "leftovers named", poisoned)
    words = poisoned.said[f"{HANDLERS[0]}: {UNWRITTEN}"]
    ranges = f"elements {FEWER} to {BOXES - 1} of {BOXES} were never written"
    need(words == f"boxes: {ranges}", "the elements never written", poisoned)
    lines.append(f"{UNWRITTEN}: {words}")
    need(tally(guarded, "pinned").came == {RIGHT: REQUESTS}, "pinned, every answer right", tally(guarded, "pinned"))
    for name in ("rebuilt", "retried"):
        recovered = tally(guarded, name)
        need(recovered.came == {RIGHT: REQUESTS_ON_ONE_THREAD}, f"{name}, every answer right", recovered)
    return lines


def report(plain: Facts, guarded: Facts) -> list[str]:
    """The measured difference."""
    rebuilt, retried = tally(guarded, "rebuilt"), tally(guarded, "retried")
    need(min(met_a_loss(retried)) >= PAUSE_MS, "a retry after its pause", retried)
    return [
        "",
        f"{REQUESTS} requests by {len(HANDLERS)} threads for the predictor of one:",
        *compared({"unguarded": plain["mixed"], 'owner="thread"': guarded["misused"], "CudaThread": guarded["pinned"]}),
        "",
        f"A reused predictor, {REQUESTS_ON_ONE_THREAD} requests, every second with {FEWER} boxes instead of {BOXES}:",
        *compared({"unguarded": plain["reused"], "Poison": guarded["poisoned"]}),
        "",
        f"Its context destroyed by another library before {len(LOST_BEFORE)} of {REQUESTS_ON_ONE_THREAD} requests:",
        *compared({"unguarded": plain["lost"], "Rebuilt": rebuilt, "retried": retried}),
        "",
        "Time to the answer of a request that met the loss:",
        *table([["", "median", "most", "others' median"], took("Rebuilt", rebuilt), took("retried", retried)]),
    ]


def compared(columns: Mapping[str, Tally]) -> list[str]:
    """How many requests came to what."""
    kinds = dict.fromkeys(kind for column in columns.values() for kind in column.came)
    counts = ([kind, *(str(column.came.get(kind, 0)) for column in columns.values())] for kind in kinds)
    return table([["", *columns], *counts])


def met_a_loss(served: Tally) -> list[float]:
    return [served.milliseconds[number] for number in LOST_BEFORE]


def took(name: str, served: Tally) -> list[str]:
    met = met_a_loss(served)
    others = [took for number, took in enumerate(served.milliseconds) if number not in LOST_BEFORE]
    return [name, *(f"{figure:.1f} ms" for figure in (median(met), max(met), median(others)))]


def tally(facts: Facts, name: str) -> Tally:
    observe(isinstance(facts.get(name), Tally), f"{name} was not observed: the service tells of {', '.join(facts)}")
    return Tally(*facts[name])


def need(observed: bool, what: str, served: Tally) -> None:
    observe(observed, f"{what} was not observed, but {served.came}, {served.said}")

"""The DLA deadlock as it was reported: six models in one process and one context, and nobody who watches.

Invariant: only looks from outside: frames, the load's line, and the threads' stacks, which it dumps when asked.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.demo import story
from tests.demo.story import Say, Told, milliseconds, observe, until
from tests.demo.vehicle import DLA_MODEL, MODELS, PERIOD_NS, counts
from tests.simulator.control import SimulatedDevice

BEFORE_NS = 1_000_000_000
SILENCE_NS = 3_000_000_000
SETTLED_NS = 500_000_000  # a line of tegrastats is about the 200 ms before it
FREEZE_SECONDS = 10.0  # that it is waited for
FREEZE: dict[str, Any] = {"at": "dla0", "spread_ms": 5}
STACK = re.compile(r"hread 0x([0-9a-f]+) .*\n((?:  .*\n)+)")


def unguarded(here: Path, device: SimulatedDevice, say: Say) -> Told:
    say("1. Unguarded: six models as threads of one process, with one CUDA context ...")
    with _load(here, device) as load, _vehicle(here, device) as process:
        until("frames of all models", 30, lambda: all(count.done for count in counts(here).values()))
        began_ns = time.monotonic_ns()
        _pass(began_ns + BEFORE_NS)
        until("the load", 30, lambda: len(load()) >= 3)
        load_before, written, seen = load()[-3:], _words(here), counts(here)[DLA_MODEL].done
        fault = device.fault("hang", mixed=1, scope="context", **FREEZE)
        frozen_ns = until("work of H beside work of A to E in one context", FREEZE_SECONDS, lambda: fault.fired_ns)
        frame = counts(here)[DLA_MODEL].done - seen + 1
        say(f"   H froze, in frame {frame} after the fault was set; does anything tell of it?")
        _pass(frozen_ns + SETTLED_NS)
        before_settled = len(load()) + 1
        _pass(frozen_ns + SILENCE_NS)
        until("the load after it", 30, lambda: len(load()) > before_settled + 3)
        load_after = load()[before_settled:]
        observe(process.poll() is None, "the process ended by itself")
        observe(_words(here) == written, "the process told of it")
        observe(len(load_after) > 3 and len(set(load_after)) == 1, f"the load did not stand still: {load_after}")
        waiting = _in_synchronize(here, process)
        observe(waiting == set(MODELS), f"only {sorted(waiting)} are in synchronize")
    spread_ns = until("the spread", 1, lambda: fault.spread_ns)
    done = counts(here)
    moved = [name for name, count in done.items() if count.ends_ns[-1] > spread_ns + 2 * PERIOD_NS]
    observe(not moved, f"{moved} went on")
    rate = sum(count.between(began_ns, frozen_ns) for count in done.values()) * 1e9 / (frozen_ns - began_ns)
    last = ", ".join(f"{name[-1].upper()} {milliseconds(frozen_ns, done[name].ends_ns[-1]):.0f}" for name in MODELS)
    spread_ms, lost = milliseconds(frozen_ns, spread_ns), SILENCE_NS // PERIOD_NS
    loads = " ".join(map(str, load_before))
    lines = [
        "1. Unguarded: one process, one context",
        f"  frozen: H at 0 ms, A to E at {spread_ms:.1f} ms; last frames at (ms): {last}",
        "  every enqueue returned success; all six threads stand in Stream.synchronize, by their stacks",
        f"  {rate:.0f} frames/s before, 0 after; GPU load {loads} % before, {load_after[0]} % in each of "
        f"{len(load_after)} lines after",
        f"  for {SILENCE_NS / 1e9:g} s no error, no word, no exit; then the demo ended it",
    ]
    froze, gpu_lost, dla_lost = f"H, A to E +{spread_ms:.0f} ms", f"all ({lost} each by then)", f"all ({lost} by then)"
    return Told(lines, [["one context, unguarded", froze, "never", "-", gpu_lost, dla_lost, "never"]])


def _pass(instant_ns: int) -> None:
    until("the time", 60, lambda: time.monotonic_ns() > instant_ns)


def _words(here: Path) -> bytes:
    return here.joinpath("stderr").read_bytes()


@contextmanager
def _vehicle(here: Path, device: SimulatedDevice) -> Iterator[subprocess.Popen[bytes]]:
    line = story.command("tests.demo.vehicle", here, "shared", *MODELS)
    environment = {**os.environ, **device.environment("vehicle")}
    with (
        here.joinpath("stderr").open("wb") as words,
        subprocess.Popen(line, env=environment, cwd=story.ROOT, stdout=words, stderr=words) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _load(here: Path, device: SimulatedDevice) -> Iterator[Callable[[], list[int]]]:
    """What tegrastats has said of the GPU so far."""
    path = here / "tegrastats"
    with path.open("wb") as file, subprocess.Popen(story.tegrastats(device), stdout=file, cwd=story.ROOT) as process:
        try:
            yield lambda: [int(percent) for percent in re.findall(r"GR3D_FREQ (\d+)%", path.read_text())]
        finally:
            process.kill()


def _in_synchronize(here: Path, process: subprocess.Popen[bytes]) -> set[str]:
    """The models whose threads are in there."""
    models = {ident: name for name, (ident, _) in json.loads(here.joinpath("threads.json").read_text()).items()}
    process.send_signal(signal.SIGUSR1)
    dump = until("the stacks", 5, lambda: text if "Current thread" in (text := _stacks(here)) else None)
    stacks = {int(ident, 16): lines for ident, lines in STACK.findall(dump)}
    return {models[ident] for ident, lines in stacks.items() if ident in models and "in synchronize\n" in lines}


def _stacks(here: Path) -> str:
    return here.joinpath("stacks").read_text()

"""The DLA deadlock under watchdogd, by both cures: a context for each model in one process, and a process for each.

Invariant: what must not happen was looked for: a freeze without its trigger, a kill of A to E, a frame of theirs lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.demo import story
from tests.demo.dla_episode import Episode, gpu_models, lost
from tests.demo.dla_unguarded import FREEZE
from tests.demo.story import Say, Told, milliseconds, observe, until
from tests.demo.vehicle import DLA_MODEL, GPU_MODELS, MODELS, PERIOD_NS, QUEUE, counts
from tests.helpers.running import KEPT, Supervised
from tests.simulator.control import SimulatedDevice

CONTEXTS = "apart"
FRAMES_TOGETHER = 50
HISTORY = 40  # frames: who froze first is told by each one's usual calls
SYNC, VICTIMS_SYNC = "300ms", "250ms"  # the victims' verdicts come first


def apart(here: Path, device: SimulatedDevice, say: Say) -> Told:
    say("2. Guarded: a CUDA context for each model, in one process, H's results to A by copy and synchronize")
    with _supervised(here, device, {"vehicle": MODELS}) as supervised:
        _wait_frames(here, 5)
        before = counts(here)
        trigger = device.fault("hang", mixed=1, scope="context", **FREEZE)
        _wait_frames(here, FRAMES_TOGETHER)
        observe(trigger.fired == 0, "H froze beside the others")
        trigger.clear()
        after = counts(here)
        done = {name: count.done - before[name].done for name, count in after.items()}
        beside = f"{done[DLA_MODEL]} frames of H beside {sum(done.values()) - done[DLA_MODEL]} of A to E"
        say(f"   no freeze in {beside}; now one that needs no trigger, in H's context")
        threads = {thread: name for name, (_, thread) in json.loads(here.joinpath("threads.json").read_text()).items()}
        freeze = Episode(here, device, supervised, "vehicle", "context")
        shown = story.shown(supervised.config, freeze.verdict["incident"])
    hung = threads.get(freeze.verdict["tid"])
    observe(hung == DLA_MODEL, f"the verdict is on the thread of {hung}")
    until_ns = freeze.signal["monotonic_ns"]
    gaps = {name: freeze.after[name].longest_gap_ns(freeze.frozen_ns, until_ns) for name in GPU_MODELS}
    observe(max(gaps.values()) < (QUEUE + 1) * PERIOD_NS, f"A to E stood still before the kill: {gaps}")
    lines = [
        "2. Guarded: one process, a context for each model",
        f"  the same fault came in none of {beside}: it needs both in one context",
        "  a freeze that needs none, in H's context (the verdict is on H's thread):",
        *freeze.times(),
        "  A to E went on until the kill, but a process is killed whole: all six were replaced",
        freeze.losses(),
        f"  {story.HEADING}",
        *shown,
    ]
    lost_by = lost(before, after)
    losses = [gpu_models(lost_by), str(lost_by.get(DLA_MODEL, 0))]
    none = ["contexts apart, the same fault", "nobody", "-", "-", *losses, "-"]
    return Told(lines, [none, freeze.row("contexts apart, H's context", "H")])


def processes(here: Path, device: SimulatedDevice, say: Say) -> Told:
    say("3. Guarded: a process for each model; H's process freezes")
    with _supervised(here, device, {name: (name,) for name in MODELS}) as supervised:
        _wait_frames(here, HISTORY)
        pids = _pids(supervised)
        inside = Episode(here, device, supervised, DLA_MODEL, "process")
        observe(inside.killed == [DLA_MODEL], f"killed: {inside.killed}")
        observe(inside.suspect == DLA_MODEL, f"the suspect was {inside.suspect}")
        observe(inside.lost().keys() <= {DLA_MODEL}, f"A to E lost frames: {inside.lost()}")
        say("4. Guarded: a process for each model; the whole device freezes, beginning with H")
        _wait_frames(here, HISTORY)
        whole = Episode(here, device, supervised, DLA_MODEL, "device")
        observe(whole.killed == [DLA_MODEL], f"killed: {whole.killed}")
        observe(whole.suspect == DLA_MODEL, f"the suspect was {whole.suspect}")
        observe(_pids(supervised) == pids, "A to E were replaced")
        shown = [story.shown(supervised.config, one.verdict["incident"]) for one in (inside, whole)]
    lines = [
        "3. Guarded: a process for each model, a freeze of H's process",
        *inside.times(),
        "  killed: H alone, the suspect; A to E are the same processes",
        inside.losses(),
        f"  {story.HEADING}",
        *shown[0],
        "",
        "4. Guarded: a process for each model, a freeze of the whole device",
        *whole.times(),
        "  killed: H alone, the suspect; with it the freeze was over, and A to E went on, the same processes",
        whole.losses(),
        f"  {story.HEADING}",
        *shown[1],
    ]
    spread_ms = milliseconds(whole.frozen_ns, whole.spread_ns)
    rows = [
        inside.row("a process each, H's process", "H"),
        whole.row("a process each, the device", f"H, A to E +{spread_ms:.0f} ms"),
    ]
    return Told(lines, rows)


def _pids(supervised: Supervised) -> dict[str, int]:
    return {name: int(supervised.worker(name)["pid"]) for name in GPU_MODELS}


def _wait_frames(here: Path, number: int) -> None:
    """So many more of each model."""
    before = counts(here)
    until(
        f"{number} frames of each model", 30,
        lambda: all(count.done >= before[name].done + number for name, count in counts(here).items()),
    )  # fmt: skip


def _supervised(here: Path, device: SimulatedDevice, workers: Mapping[str, Collection[str]]) -> Supervised:
    """``workers``: which models each one runs."""
    directory = here / "supervisor"
    directory.mkdir()
    tables = {
        name: {
            "command": story.command("tests.demo.vehicle", here, CONTEXTS, *models),
            "environment": device.environment(name),
            "accelerator": "dla0" if name == DLA_MODEL else "gpu0",
            "deadlines": {"sync": VICTIMS_SYNC if name in GPU_MODELS else SYNC, "startup": "30s"},
            **({"coupled_with": ["gpu0"]} if name == DLA_MODEL else {}),
        }
        for name, models in workers.items()
    }
    return Supervised(tables, directory=directory, incidents=KEPT, tegrastats={"command": story.tegrastats(device)})

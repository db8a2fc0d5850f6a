"""One freeze under watchdogd, from the fault to the last model at work again, and what is told of it.

Invariant: it comes from the event record and the models' frames; the device says only what froze, and when.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.demo.dla_unguarded import FREEZE
from tests.demo.frames import Count
from tests.demo.story import at, milliseconds, until
from tests.demo.vehicle import DLA_MODEL, GPU_MODELS, MODELS, counts
from tests.helpers.running import Supervised
from tests.simulator.control import SimulatedDevice

AFTERWARDS = 5  # frames of each model


class Episode:
    """``worker``: the one that H is in."""

    def __init__(self, here: Path, device: SimulatedDevice, supervised: Supervised, worker: str, scope: str) -> None:
        self.before = counts(here)
        incarnation = supervised.worker(worker)["incarnation"]
        self._fault = device.fault("hang", label=worker, scope=scope, **FREEZE)
        self.frozen_ns = until("the freeze", 10, lambda: self._fault.fired_ns)
        self.spread_ns = until("its spread", 1, lambda: self._fault.spread_ns)
        self.verdict = supervised.wait_event("verdict", worker, incarnation=incarnation)
        self.signal = supervised.wait_event("signal", worker, incarnation=incarnation)
        self.gone = supervised.wait_event("gone", worker, incarnation=incarnation)
        self.ready = supervised.wait_event("ready", worker, incarnation=incarnation + 1)
        until("frames of all models", 10, lambda: self._at_work(here))
        self.after = counts(here)
        self.events = [event for event in supervised.events() if event["monotonic_ns"] > self.frozen_ns]
        self.killed = [str(event["worker"]) for event in self.events if event["kind"] == "signal"]
        """In that order."""

    def _at_work(self, here: Path) -> bool:
        from_ns = self.ready["ready_ns"]
        return all(sum(end > from_ns for end in count.ends_ns) >= AFTERWARDS for count in counts(here).values())

    @property
    def suspect(self) -> str | None:
        """Who froze first, by the verdict."""
        suspects = self.verdict["suspects"]
        return str(suspects[0]["worker"]) if suspects else None

    def lost(self) -> dict[str, int]:
        return lost(self.before, self.after)

    def again_ns(self) -> int:
        """When the last model had done its first frame after the kill."""
        killed_ns = self.signal["monotonic_ns"]
        return max(next(end for end in count.ends_ns if end > killed_ns) for count in self.after.values())

    # --- words ---

    def times(self) -> list[str]:
        """In their order; with the verdicts on A to E, and why nobody was killed for them."""
        verdict = self.verdict
        late = milliseconds(verdict["deadline_ns"], verdict["detected_ns"])
        where = f"{verdict['operation']} in stage {verdict['stage']}, {late:.2f} ms after its deadline"
        held = [event for event in self.events if event["kind"] == "verdict" and event["worker"] in GPU_MODELS]
        told = [
            (self.frozen_ns, "H froze", ""),
            (verdict["detected_ns"], f"verdict on {verdict['worker']}", where),
            *((event["detected_ns"], f"verdict on {event['worker']}", f"held: {event['held']}") for event in held),
            (self.signal["monotonic_ns"], "killed", f"{self.signal['signal']} to pid {self.signal['pid']}"),
            (self.gone["monotonic_ns"], "gone", str(self.gone["exit"])),
            (self.ready["ready_ns"], "successor ready", f"pid {self.ready['pid']}"),
            (self.again_ns(), "all models at work", ""),
        ]
        return [at(what, self.frozen_ns, instant, note) for instant, what, note in sorted(told)]

    def losses(self) -> str:
        lost_by = self.lost()
        gaps = {name: self.after[name].longest_gap_ns(self.frozen_ns, self.again_ns()) for name in MODELS}
        told = (f"{letter(name)} {lost_by.get(name, 0)} ({gaps[name] / 1e6:.0f} ms)" for name in MODELS)
        return f"  frames lost (longest time with none): {', '.join(told)}"

    def row(self, what: str, froze: str) -> list[str]:
        lost_by = self.lost()
        noticed, again = (milliseconds(self.frozen_ns, end) for end in (self.verdict["detected_ns"], self.again_ns()))
        killed = "all six" if self.killed == ["vehicle"] else ", ".join(map(letter, self.killed))
        return [
            what,
            froze,
            f"{noticed:.0f} ms",
            killed,
            gpu_models(lost_by),
            str(lost_by.get(DLA_MODEL, 0)),
            f"{again:.0f} ms",
        ]


def lost(before: Mapping[str, Count], after: Mapping[str, Count]) -> dict[str, int]:
    """Frames, of those models that lost any."""
    return {name: count.lost - before[name].lost for name, count in after.items() if count.lost > before[name].lost}


def gpu_models(lost_by: Mapping[str, int]) -> str:
    """Of A to E, the least and the most."""
    counts = sorted(lost_by.get(name, 0) for name in GPU_MODELS)
    return str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def letter(model: str) -> str:
    return model[-1].upper()

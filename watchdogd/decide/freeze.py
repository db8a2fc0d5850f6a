"""Frozen load: an accelerator whose load stands still while work is pending. Corroborates a verdict; never kills.

Invariant: pure, and silence is no freeze: not an idle worker, not a silent source, not one that prints no load, not an
engine that is suspended.
"""

from __future__ import annotations

from typing import NamedTuple

from watchdogd.model import LoadSample


def reading(sample: LoadSample) -> float | None:
    """What must move: its load. Of an engine that is only known to be on, that it is; off it has nothing to do."""
    if sample.power is None:
        return sample.load_ratio
    return 1.0 if sample.power == "active" else None


class LoadPoint(NamedTuple):
    """One load sample and what the accelerator's workers were doing when it arrived."""

    arrived_ns: int
    load_ratio: float | None
    pending: bool  # a worker of this accelerator was in a call
    completed: int  # calls completed by all of them so far
    since_ns: int  # since when the load and the completed calls have stood still, with a call pending

    def follows(self, last: LoadPoint, stale_after_ns: int) -> bool:
        """Whether nothing has moved since ``last``; a source that was silent in between may have missed a change."""
        busy = self.pending and last.pending and self.load_ratio is not None
        same = (self.load_ratio, self.completed) == (last.load_ratio, last.completed)
        return busy and same and self.arrived_ns - last.arrived_ns <= stale_after_ns


def next_point(
    last: LoadPoint | None, load_ratio: float | None, pending: bool, completed: int, stale_after_ns: int, now_ns: int
) -> LoadPoint:
    """The point of a sample that has just arrived."""
    point = LoadPoint(now_ns, load_ratio, pending, completed, now_ns)
    if last is None or not point.follows(last, stale_after_ns):
        return point
    return LoadPoint(now_ns, load_ratio, pending, completed, last.since_ns)


def is_frozen(point: LoadPoint, frozen_after_ns: int, stale_after_ns: int, now_ns: int) -> bool:
    """Load constant (at any value, zero too) for ``frozen_after_ns``, by a source that is not stale."""
    fresh = now_ns - point.arrived_ns <= stale_after_ns
    return fresh and point.arrived_ns - point.since_ns >= frozen_after_ns

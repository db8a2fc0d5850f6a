"""Ghost load: an accelerator that is busy although nobody who could keep it busy is there any more.

Invariant: pure, and silence is no ghost: not an idle accelerator, not a silent source, not one that prints no load.
"""

from __future__ import annotations

from typing import NamedTuple


class GhostPoint(NamedTuple):
    """What one load sample says of it."""

    arrived_ns: int
    since_ns: int | None  # since when it has been busy with nobody there; None = it is not


def next_point(
    last: GhostPoint | None, load_ratio: float | None, vacant: bool, stale_after_ns: int, now_ns: int
) -> GhostPoint:
    """The point of a sample that has just arrived. ``vacant``: a worker was there, and none is now."""
    if not vacant or not load_ratio:
        return GhostPoint(now_ns, None)
    seen = last is not None and now_ns - last.arrived_ns <= stale_after_ns
    return GhostPoint(now_ns, last.since_ns if last and seen and last.since_ns is not None else now_ns)


def is_ghost(point: GhostPoint, after_ns: int, stale_after_ns: int, now_ns: int) -> bool:
    """Busy for ``after_ns`` with nobody there, by a source that is not stale."""
    fresh = now_ns - point.arrived_ns <= stale_after_ns
    return fresh and point.since_ns is not None and point.arrived_ns - point.since_ns >= after_ns

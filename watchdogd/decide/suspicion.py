"""Who froze first? A suspect with a confidence and runners-up, never proof.

Entry order alone names the wrong worker in most phases: a healthy GPU synchronize in flight when the DLA freezes has
the earlier entry. What is left to go by, of those that are outside their own distribution:

1. a DLA before the others: in the field report that began this, the DLA froze first, and a DLA's calls may be longer
   than the few ms until the freeze spreads, so that no clock can tell;
2. the one whose call *should have returned* first, entered + the worker's own median: it was frozen before that
   instant. That is right where calls are shorter than the spread takes, or the first mover's are the shorter ones.

Invariant: pure, and a total order (ties by name), so that two workers never wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from watchdogd.histogram import Histogram
from watchdogd.model import WorkerSettings

ENOUGH_HISTORY = 30  # calls; with fewer, the configured soft level stands in for the distribution


class Stuck(NamedTuple):
    """One worker's longest pending call, against its own history."""

    worker: str
    operation: str
    entered_ns: int
    expected_ns: int  # when it should have returned
    outside: bool  # past its own p99.9, or past its soft level
    on_dla: bool
    deadline_ns: int | None  # when its own verdict is due; None = never


def stuck(
    settings: WorkerSettings, operation: str, entered_ns: int, allowance_ns: int | None, history: Histogram, now_ns: int
) -> Stuck:
    """``history``: the worker's durations of this operation; ``allowance_ns``: its deadline."""
    age = now_ns - entered_ns
    level = None if allowance_ns is None else int(allowance_ns * (settings.soft or 1.0))
    outside = level is not None and age >= level
    expected = entered_ns if level is None else entered_ns + level
    if history.count >= ENOUGH_HISTORY:
        median, extreme = history.quantile_ns(0.5), history.quantile_ns(0.999)
        if median is not None and extreme is not None:
            expected = entered_ns + median
            outside = outside or age > extreme
    deadline = None if allowance_ns is None else entered_ns + allowance_ns
    on_dla = (settings.accelerator or "").startswith("dla")
    return Stuck(settings.name, operation, entered_ns, expected, outside, on_dla, deadline)


def coupled(one: WorkerSettings, other: WorkerSettings) -> bool:
    """Whether a hang of one can freeze the other: the same accelerator, or declared by either."""
    if one.accelerator is not None and one.accelerator == other.accelerator:
        return True
    if not one.coupled_with and not other.coupled_with:
        return False
    return bool(
        {one.name, one.accelerator} & set(other.coupled_with) or {other.name, other.accelerator} & set(one.coupled_with)
    )


class Suspicion(NamedTuple):
    suspect: Stuck
    confidence: float  # 0.5 = a coin toss against the next one, 1.0 = nobody else is stuck
    runners_up: tuple[Stuck, ...]


def rank(candidates: Iterable[Stuck]) -> Suspicion | None:
    """The most likely first mover among those that are outside their own distribution."""
    order = sorted((c for c in candidates if c.outside), key=lambda c: (not c.on_dla, c.expected_ns, c.worker))
    if not order:
        return None
    first, rest = order[0], tuple(order[1:])
    if not rest:
        return Suspicion(first, 1.0, ())
    gap = max(0, rest[0].expected_ns - first.expected_ns)  # a DLA put first against the clock: a coin toss
    doubt = max(first.expected_ns - first.entered_ns, rest[0].expected_ns - rest[0].entered_ns, 1)
    return Suspicion(first, 0.5 + 0.5 * gap / (gap + doubt), rest)

"""What an incident was, as far as its evidence decides: one cause with the facts it rests on, or ``unknown``.

The causes are asked in turn, and the first whose facts are there is it. Their order is part of the judgement: what
explains why everything waits comes before what only shows that something waits.

Invariant: pure, and total over every document that can be read; nothing is named that the facts do not name.
"""

from __future__ import annotations

from collections.abc import Callable

from watchdogd.decide.causes import device, ended, others, pairs, rest, waits
from watchdogd.decide.causes.case import Case
from watchdogd.decide.causes.unknown import unknown
from watchdogd.decide.causes.words import Cause
from watchdogd.incident import Diagnosis, Incident

CAUSES = tuple(cause.value for cause in Cause)

_RULES: tuple[Callable[[Case], Diagnosis | None], ...] = (
    # Results and ends: what the verdict is about is a fact already.
    ended.silent_output,
    ended.leak,
    ended.sticky_error,
    ended.lost_context,
    ended.ended,
    # Then hangs. First what makes any call look hung, then who held this one up, then what it waits for itself.
    rest.stalled_machine,
    device.fault,
    others.dla_waited_for,
    others.killed_first,
    others.neighbour_first,
    rest.late,
    pairs.host_function,
    pairs.allocator,
    waits.uninterruptible,
    others.dla_first,
    device.kernel_without_end,
    # No call stands still.
    waits.still_working,
    waits.cpu_loop,
    waits.lock_wait,
    rest.startup,
    rest.stall,
)


def diagnose(incident: Incident) -> Diagnosis:
    case = Case(incident)
    return next((found for rule in _RULES if (found := rule(case)) is not None), None) or unknown(case)

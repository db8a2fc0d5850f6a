"""Between a verdict and its kill: evidence is taken of the worker that hangs, within a budget.

Two steps. What harms nobody comes first; then, where it is asked for, the core dump of the GPU, which itself makes the
hung call return. Before that one the verdict's fact is read again, and from there on the kill is committed.

Invariant: pure. Until it is committed the kill rests on that fact; afterwards it comes whatever the fact says; in
either case at the budget's end at the latest, whoever collects or does not.
"""

from __future__ import annotations

from dataclasses import replace

from watchdogd.decide.orders import KILL, Action, Collect, Commit, Dump, Occasion, Signal, WorkerState
from watchdogd.model import Phase

# Of the budget, for what comes before a core dump: the dump itself took 260 ms on an H200, of the default 400 ms.
SHARE_BEFORE_DUMP = 4

Step = tuple[WorkerState, tuple[Action, ...]]


def begin(state: WorkerState, occasion: Occasion) -> Step:
    """Of the standing finding: its kill, at once where nobody collects."""
    settings, now_ns = occasion.settings, occasion.now_ns
    incident = state.incident
    if settings.evidence != "full" or not occasion.collects or incident is None:
        return kill(state, occasion)
    budget_ns = settings.evidence_budget_ns
    state = replace(state, phase=Phase.COLLECTING, since_ns=now_ns, deadline_ns=now_ns + budget_ns)
    harmless_ns = budget_ns // SHARE_BEFORE_DUMP if settings.gpu_core_dump else budget_ns
    return state, (Collect(incident, now_ns + harmless_ns),)


def collected(state: WorkerState, occasion: Occasion) -> Step:
    """All that was asked for is there, or nobody collects any more."""
    if state.committed or not (occasion.settings.gpu_core_dump and occasion.collects) or state.finding is None:
        return kill(state, occasion)
    return state, (Commit(state.finding),)


def committed(state: WorkerState, _occasion: Occasion) -> Step:
    """The fact still stood: what comes next may make the call return, which changes nothing any more."""
    if state.committed or state.incident is None or state.deadline_ns is None:
        return state, ()  # once is enough
    return replace(state, committed=True), (Dump(state.incident, state.deadline_ns),)


def kill(state: WorkerState, occasion: Occasion) -> Step:
    deadline_ns = occasion.now_ns + occasion.kill_grace_ns
    killing = replace(state, phase=Phase.KILLING, since_ns=occasion.now_ns, deadline_ns=deadline_ns)
    return killing, (Signal(KILL, confirm=None if state.committed else state.finding),)

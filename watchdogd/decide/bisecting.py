"""Where it hangs: when a worker is to synchronize after each stage, and what a verdict then says.

A hang kills under one of three signs. The call that hangs does not wait for the device, and says its stage (a launch in
``enqueue``). Or it waits for what earlier stages have queued, or only the step is known: then the stage does not tell.
Or the worker is bisected: then what hangs was queued in the stage of the call.

Invariant: pure, and what was turned on here is turned off by the next kill for a hang, whatever that tells: a worker
that is too slow for its deadlines when it is bisected is not bisected to death.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from watchdogd import abi
from watchdogd.decide.orders import AUTOMATIC, HANGS, Bisect, WorkerState
from watchdogd.model import Finding, Phase, Verdict

TELLING = frozenset(("alloc", "launch", "other"))  # calls that wait for nothing that another stage has queued
_OBEYED, _IGNORED = "synchronized after each stage", "asked to synchronize after each stage, and did not"


def described(finding: Finding, word: int, calls: Sequence[Mapping[str, Any]]) -> Finding:
    """With what ``word`` of the heartbeat says. ``calls``: in flight besides, the oldest first."""
    if word == abi.BISECT["off"]:
        return finding
    obeyed = word == abi.BISECT["done"]
    detail = "; ".join(filter(None, (finding.detail, _OBEYED if obeyed else _IGNORED)))
    stage = finding.stage
    if obeyed and finding.operation is None:  # a step has no stage; the call that it hangs in has
        stage = next((call["stage"] for call in calls if call["stage"]), None)
    return replace(finding, detail=detail, stage=stage, bisected=obeyed)


def learnt(state: WorkerState, after: int) -> tuple[WorkerState, tuple[Bisect, ...]]:
    """From the standing finding of a worker that was killed. ``after``: of those that do not tell; 0: never."""
    finding = state.finding
    killed = state.phase in (Phase.KILLING, Phase.UNKILLABLE)
    if not killed or finding is None or finding.verdict not in HANGS:
        return state, ()
    if state.bisecting:
        if state.bisect != AUTOMATIC:
            return state, ()
        return replace(state, bisect=None, untold=0), (Bisect("off", _answer(finding)),)
    if not after or state.bisect is not None or _tells(finding):
        return state, ()
    untold = state.untold + 1
    if untold < after:
        return replace(state, untold=untold), ()
    reason = f"{untold} {'hang' if untold == 1 else 'hangs'} whose stage does not tell where"
    return replace(state, bisect=AUTOMATIC, untold=0), (Bisect("on", reason),)


def _tells(finding: Finding) -> bool:
    if finding.verdict is Verdict.STARTUP:  # not of what a stage queues
        return True
    return finding.operation in TELLING and finding.stage not in (None, "sync")


def _answer(finding: Finding) -> str:
    if not finding.bisected:
        return "it hung, and nothing in it synchronized after its stages"
    return f"it hung {f'in stage {finding.stage}' if finding.stage else 'outside of its stages'}"

"""What makes a call look hung that is not, and a start or a stall of which only so much is known.

Invariant: pure; a call that returned by itself was not hung, unless another worker may have held it up.
"""

from __future__ import annotations

from watchdogd.decide.causes import others
from watchdogd.decide.causes.case import Case
from watchdogd.decide.causes.device import kernel_facts
from watchdogd.decide.causes.unknown import FULL, detail, states
from watchdogd.decide.causes.words import Cause, found, in_stage, span
from watchdogd.incident import Diagnosis
from watchdogd.model import Verdict

_DEADLINES = "compare the deadline with `watchdogd report --suggest-deadlines`"


def stalled_machine(case: Case) -> Diagnosis | None:
    """Without the time in which the machine ran nobody, nothing would be overdue."""
    stalled, deadline = case.incident.stalled_ns, case.verdict.deadline_ns
    if stalled is None or deadline is None or not case.is_hang:
        return None
    allowed, age = deadline - case.since_ns, case.verdict.detected_ns - case.since_ns
    if not 0 < stalled <= age or age - stalled >= allowed:  # longer than the call is old: not all of it was during it
        return None
    sentence = (
        f"The machine stood still for {span(stalled)}: {case.what} was {span(age)} old, of which it could "
        f"use {span(max(0, age - stalled))}, less than the {span(allowed)} that it may take."
    )
    return found(
        Cause.STALLED_MACHINE,
        sentence,
        [f"the machine ran nobody for {span(stalled)} meanwhile", f"the deadline is {span(allowed)}"],
        "look for what stops the machine: suspend, a hypervisor, thermal throttling, real-time tasks",
        "a deadline below such pauses condemns healthy workers",
    )


def late(case: Case) -> Diagnosis | None:
    """It returned though nobody had touched it."""
    if not case.is_hang or others.unsettled(case):
        return None
    moved = case.incident.moved_ns
    dumps = [o.began_ns for o in case.incident.collectors if o.collector == "gpu core dump" and o.began_ns is not None]
    if moved is not None and (moved < min(dumps) if dumps else not case.dumped):  # a dump makes it return
        when = f" {case.before(moved)}"
    elif case.incident.outcome == "returned" and not case.dumped:
        when = " before it was killed"
    elif case.is_over:
        when = " before its evidence was taken"
    else:
        return None
    sentence = (
        f"It was late and not hung: {case.what}, begun {case.before(case.since_ns)}, returned by "
        f"itself{when}{others.order(case)}."
    )
    said = [*kernel_facts(case), *others.facts(case)]
    if case.verdict.deadline_ns is not None:
        said.append(f"its deadline was {span(case.verdict.deadline_ns - case.since_ns)}")
    return found(Cause.LATE, sentence, said, _DEADLINES)


def startup(case: Case) -> Diagnosis | None:
    if case.verdict.verdict != Verdict.STARTUP.value:
        return None
    hung, main = case.hung, min((thread.pid for thread in case.threads), default=case.verdict.pid)
    source = case.source(hung.lane.tid if hung is not None else main)
    if hung is not None:
        call = f"{in_stage(hung.call)}{case.thread_words(hung.lane.tid)}"
        stands = f"it stands in {call} since {case.before(hung.call.entered_ns)}"
    else:
        stands = case.verdict.detail or "how far it got is not known"
    at = f", Python code at {source}" if source else ""
    sentence = (
        f"Worker {case.incident.worker} did not become ready, started {case.before(case.since_ns)}: "
        f"{stands}{at}{others.order(case)}."
    )
    said = [*detail(case), *states(case), *others.facts(case)]
    if source and main:
        said.append(f"Python code: {' < '.join(case.frames(hung.lane.tid if hung is not None else main)[:4])}")
    return found(
        Cause.STARTUP,
        sentence,
        said,
        *([] if source else [FULL]),
        "if it builds an engine or loads a model: give `deadlines.startup` the time that takes",
    )


def stall(case: Case) -> Diagnosis | None:
    if case.verdict.verdict != Verdict.STALL.value or case.hung is not None:
        return None
    told = case.verdict.detail or "its progress source tells no more"
    return found(
        Cause.STALL,
        f"Work of worker {case.incident.worker} stands still, in no call that is known to be stuck: {told}.",
        [*detail(case), *states(case)],
        *([] if case.threads else [FULL]),
        "look at what feeds it and what takes its results: a queue, a peer, a scheduler that does not run",
    )

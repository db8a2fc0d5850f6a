"""What is left: it was late, the machine stood still, a start or a stall of which only so much is known; and unknown.

Invariant: pure; ``unknown`` says which causes remain and what evidence would decide between them.
"""

from __future__ import annotations

from watchdogd.decide.causes import others, pairs, waits
from watchdogd.decide.causes.case import Case
from watchdogd.decide.causes.device import WAITS_FOR_GPU, kernel_facts, named
from watchdogd.decide.causes.words import Cause, found, in_stage, listed, span
from watchdogd.incident import Diagnosis
from watchdogd.model import Verdict

FULL = 'set `evidence = "full"`: threads, their waits and their stacks are kept then'
DUMP = "set `gpu_core_dump = true` with it: whether a kernel runs, and which, decides"


def stalled_machine(case: Case) -> Diagnosis | None:
    """Without the time in which the machine ran nobody, nothing would be overdue."""
    stalled, deadline = case.incident.stalled_ns, case.verdict.deadline_ns
    if stalled is None or deadline is None or not case.is_hang:
        return None
    allowed, age = deadline - case.since_ns, case.verdict.detected_ns - case.since_ns
    if stalled <= 0 or allowed <= 0 or age - stalled >= allowed:
        return None
    sentence = (
        f"The machine stood still for {span(stalled)}: {case.where} is {span(age)} old, of which it had "
        f"{span(max(0, age - stalled))}, within the {span(allowed)} that it may take."
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
    moved, dumps = case.incident.moved_ns, [o for o in case.incident.collectors if "dump" in o.collector]
    begun = [o.began_ns for o in dumps if o.began_ns is not None]
    if not case.is_hang:
        return None
    if moved is not None and (moved < min(begun) if begun else not case.dumped):
        when = f" {case.before(moved)}"
    elif case.incident.outcome == "returned" and not case.dumped:
        when = " before it was killed"
    else:
        return None
    late_by = (
        ""
        if case.verdict.deadline_ns is None
        else f", {span(case.at_ns - case.verdict.deadline_ns)} past its deadline then"
    )
    sentence = (
        f"It was late and not hung: {case.where}, begun {case.before(case.since_ns)}{late_by}, "
        f"returned by itself{when}{others.order(case)}."
    )
    steps = ["compare the deadline with `watchdogd report --suggest-deadlines`"]
    if case.coupled:
        steps.append(
            f"{listed([s.worker.name for s in case.coupled])} stood still too: see if it returned as one "
            "of them was replaced"
        )
    return found(Cause.LATE, sentence, [*kernel_facts(case), *others.facts(case)], *steps)


def startup(case: Case) -> Diagnosis | None:
    if case.verdict.verdict != Verdict.STARTUP.value:
        return None
    worker, since = case.incident.worker, case.before(case.since_ns)
    main = next(
        (
            s.frames[0]
            for s in sorted(case.incident.stacks, key=repr)
            if s.tid == s.pid and s.kind == "python" and s.frames
        ),
        None,
    )
    tid = None if case.hung is None else case.hung.lane.tid
    source = case.source(tid) or main
    at = f" Python code at {source}" if source else ""
    if case.hung is not None:
        stands = (
            f"it stands in {in_stage(case.hung.call)}{case.thread_words(tid)} since "
            f"{case.before(case.hung.call.entered_ns)}"
        )
        stands += f",{at}" if at else ""
    else:
        stands = case.verdict.detail or "how far it got is not known"
        stands += f";{at}" if at else ""
    sentence = f"Worker {worker} did not become ready, started {since}: {stands}{others.order(case)}."
    steps = [] if source or case.hung is not None else [FULL]
    return found(
        Cause.STARTUP,
        sentence,
        [*_detail(case), *_threads(case), *others.facts(case)],
        *steps,
        "if it builds an engine or loads a model: give `deadlines.startup` the time that takes",
    )


def stall(case: Case) -> Diagnosis | None:
    if case.verdict.verdict != Verdict.STALL.value or case.hung is not None:
        return None
    sentence = (
        f"Work of worker {case.incident.worker} stands still, in no call that is stuck: "
        f"{case.verdict.detail or 'its progress source tells no more'}."
    )
    return found(
        Cause.STALL,
        sentence,
        [*_detail(case), *_threads(case)],
        *([] if case.incident.threads else [FULL]),
        "look at what feeds it and what takes its results: a queue, a peer, a scheduler that does not run",
    )


# --- unknown --------------------------------------------------------------------------------------------------------


def unknown(case: Case) -> Diagnosis:
    hung, since = case.hung, case.before(case.since_ns)
    if not case.is_hang or (case.verdict.entered_ns is None and hung is None):
        return found(
            Cause.UNKNOWN,
            f"What happened to worker {case.incident.worker} is not known: the evidence does not tell.",
            _detail(case),
        )
    said = [*_detail(case), *others.facts(case), *_state(case), *kernel_facts(case), *_messages(case)]
    if hung is None:
        kind = {Verdict.STEP.value: "A step", Verdict.FIRST_STEP.value: "The first step"}.get(
            case.verdict.verdict, "Work"
        )
        remain, steps = _outside(case)
        sentence = (
            f"{kind} of worker {case.incident.worker} does not end, begun {since}, and no CUDA call is "
            f"known to be stuck: {remain}."
        )
        return found(Cause.UNKNOWN, sentence, said, *steps)
    source = case.source(hung.lane.tid)
    at = f" at {source}" if source else ""
    remain, steps = _inside(case)
    sentence = f"Blocked in {case.where}{at} since {case.before(hung.call.entered_ns)}: {remain}{others.order(case)}."
    return found(Cause.UNKNOWN, sentence, said, *steps)


def _inside(case: Case) -> tuple[str, list[str]]:
    """What remains for a call that does not return, and what would decide."""
    unsettled, other, hung = others.unsettled(case), pairs.partner(case), case.hung
    state = waits.d_state(case)
    if state is not None:
        return (
            "its thread is in D state, where in the kernel is not known, so the driver, a page fault or a disk remain",
            ["wchan and kernel stacks are read by root alone: run the supervisor with CAP_SYS_PTRACE", FULL],
        )
    if unsettled:
        names = listed([s.worker.name for s in unsettled])
        also = f", though kernel {named(case.kernels[0])} was on the GPU" if case.kernels else ""
        return (
            f"whether it or {names} was first cannot be told, as their usual times overlap{also}",
            [f"compare with the incidents of {names}: whose end let the others go on was the first", DUMP],
        )
    if other is not None:
        return (
            f"dead-locked against {in_stage(other.call)}{case.thread_words(other.lane.tid)}, or both wait "
            "for a kernel that does "
            "not end; without a GPU core dump that cannot be told",
            [FULL, DUMP],
        )
    if case.kernels and hung is not None:
        times = case.age_ns(hung) // max(1, hung.usual_ns or 1)
        return (
            f"kernel {named(case.kernels[0])} was on the GPU, but at {times} times its usual time the "
            "call may only have "
            "more work to wait for than the deadline allows",
            [
                "compare the deadline with `watchdogd report --suggest-deadlines`",
                "a second core dump would tell if it moves",
            ],
        )
    if case.dumped:
        return (
            "no kernel was on the GPU, so a lost completion or a wait for another engine remain",
            [
                "look at the kernel log for host1x, nvdla and Xid lines",
                "save the incident for the vendor: watchdogd incidents export",
            ],
        )
    if hung is not None and hung.call.operation in WAITS_FOR_GPU:
        return ("whether a kernel never ends or the driver waits cannot be told without a GPU core dump", [FULL, DUMP])
    return ("whether the driver waits for a lock or for work on the GPU cannot be told without stacks", [FULL, DUMP])


def _outside(case: Case) -> tuple[str, list[str]]:
    stamped = case.own is not None and any(lane.calls or lane.ring or lane.in_flight for lane in case.own.lanes)
    if not stamped:
        return (
            "its CUDA calls are not stamped, so a hung call or the CPU remain",
            ['stamp its calls: `instrument = "driver"`, or the guards of watchdogd.worker', FULL],
        )
    if case.incident.threads:
        return (
            "a loop, a lock or a wait for somebody outside remain, and its threads do not tell which",
            ["install py-spy: Python stacks tell where", "look at what it reads from: a queue, a socket, a pipe"],
        )
    return ("a loop on the CPU, a lock, or a wait for input cannot be told apart without its threads' states", [FULL])


def _detail(case: Case) -> list[str]:
    return [f"the verdict said: {case.verdict.detail}"] if case.verdict.detail else []


def _state(case: Case) -> list[str]:
    thread = case.hung_thread
    return (
        _threads(case)
        if thread is None or thread.state is None
        else [f"thread {thread.tid} is in state {thread.state}{f' at {thread.wchan}' if thread.wchan else ''}"]
    )


def _threads(case: Case) -> list[str]:
    states = [thread.state for thread in case.threads if thread.state]
    if not states:
        return []
    counts = ", ".join(f"{states.count(state)} in {state}" for state in sorted(set(states)))
    return [f"threads: {counts}"]


def _messages(case: Case) -> list[str]:
    return [f"the kernel said {case.before(line.at_ns)}: {line.text}" for line in case.messages[-4:]]

"""Where the evidence does not decide: what is known all the same, which causes remain, and what would decide.

Invariant: pure, and always an answer.
"""

from __future__ import annotations

from typing import NamedTuple

from watchdogd.decide.causes import others, pairs, waits
from watchdogd.decide.causes.case import Case, Stuck
from watchdogd.decide.causes.device import WAITS_FOR_GPU, kernel_facts, named, threads_going_on
from watchdogd.decide.causes.words import Cause, found, in_stage, listed
from watchdogd.incident import Diagnosis
from watchdogd.model import Verdict

FULL = 'set `evidence = "full"` in the configuration: threads, what they wait for and their stacks are kept then'
DUMP = "set `gpu_core_dump = true` as well: whether a kernel runs, and which, decides"
_DEADLINES = "compare the deadline with `watchdogd report --suggest-deadlines`"
_OVERDUE = {Verdict.STEP.value: "A step", Verdict.FIRST_STEP.value: "The first step", Verdict.STALL.value: "The work"}


_LACKS = ("missing tool", "no permission")


class Remaining(NamedTuple):
    text: str
    steps: tuple[str, ...]


def unknown(case: Case) -> Diagnosis:
    worker, hung = case.incident.worker, case.hung
    if not case.is_hang or (hung is None and case.verdict.entered_ns is None):
        sentence = f"What happened to worker {worker} is not known: the evidence does not tell."
        return found(Cause.UNKNOWN, sentence, detail(case))
    said = [*detail(case), *others.facts(case), *states(case), *kernel_facts(case), *_messages(case)]
    if hung is None:
        what, remaining = _OVERDUE.get(case.verdict.verdict, "The call"), _outside(case)
        sentence = (
            f"{what} of worker {worker} does not end, begun {case.before(case.since_ns)}, and no CUDA call is known "
            f"to be stuck: {remaining.text}."
        )
        return found(Cause.UNKNOWN, sentence, said, *_still_to_do(case, remaining.steps))
    source = case.source(hung.lane.tid)
    at = f" at {source}" if source else ""
    since, remaining = case.before(hung.call.entered_ns), _inside(case, hung)
    sentence = f"Blocked in {case.where}{at} since {since}: {remaining.text}."
    return found(Cause.UNKNOWN, sentence, said, *_still_to_do(case, remaining.steps))


def _still_to_do(case: Case, steps: tuple[str, ...]) -> list[str]:
    """Without what is set already; with what collectors lacked."""
    done = ({FULL} if case.incident.level == "full" else set()) | ({DUMP} if case.is_dump_read else set())
    lacked = sorted(
        {f"{o.collector}: {o.detail}" for o in case.incident.collectors if o.outcome in _LACKS and o.detail}
    )
    return [step for step in steps if step not in done] + lacked


def _inside(case: Case, hung: Stuck) -> Remaining:
    """For a call that does not return."""
    unsettled = others.unsettled(case)
    if unsettled:
        names = listed([stuck.worker.name for stuck in unsettled])
        returned = "; it returned before it was killed" if case.incident.outcome == "returned" else ""
        also = f", though kernel {named(case.kernels[0])} was on the GPU" if case.kernels else ""
        return Remaining(
            f"whether it or {names} was first cannot be told by their entries and usual times{also}{returned}",
            (f"look at the incidents of {names}: whose end let the others go on was the first", DUMP),
        )
    alone = _alone(case, hung)
    return alone._replace(text=f"{alone.text}{others.among_threads(case)}{_beside(case)}{others.order(case)}")


def _beside(case: Case) -> str:
    """For a sentence: that it is this thread's alone."""
    going_on = len(threads_going_on(case))
    if not going_on or case.kernels:
        return ""
    return f"; {going_on} other threads of the process go on" if going_on > 1 else "; another thread of it goes on"


def _alone(case: Case, hung: Stuck) -> Remaining:
    """As nobody else was before it."""
    state, partner = waits.d_state(case), pairs.partner(case)
    if state is not None:
        place = f"at {state.places[0]} at one look" if state.places else "where in the kernel is not known"
        return Remaining(
            f"its thread is in D state, {place}, so that the driver, a page fault or a disk remain",
            ("kernel stacks are for root alone: run the supervisor as root, or with CAP_SYS_PTRACE", FULL),
        )
    if partner is not None:
        against = f"{in_stage(partner.call)}{case.thread_words(partner.lane.tid)}"
        return Remaining(
            f"it is dead-locked against {against}, or both wait for a kernel that does not end; without a GPU core "
            "dump that cannot be told",
            (FULL, DUMP),
        )
    return _on_device(case, hung)


def _on_device(case: Case, hung: Stuck) -> Remaining:
    """As nothing of its own process tells more."""
    going_on = len(threads_going_on(case))
    if case.kernels and going_on:
        return Remaining(
            f"kernel {named(case.kernels[0])} was on the GPU, but {going_on} other threads of the process go on, and "
            "it may be theirs, so that a kernel that never ends and the driver remain",
            ("a process for each model tells whose kernel it is, and spares the others its restart",),
        )
    if case.kernels and case.is_stuck(hung):
        return Remaining(
            f"kernel {named(case.kernels[0])} was on the GPU, but such a call need not wait for it, so that a lock in "
            "the driver remains",
            (FULL, "native stacks (py-spy --native) tell if it waits for a lock"),
        )
    if case.kernels:
        times = case.age_ns(hung) // max(1, hung.usual_ns or 1)
        return Remaining(
            f"kernel {named(case.kernels[0])} was on the GPU, but at {times} times its usual time the call may only "
            "have more work to wait for than its deadline allows",
            (_DEADLINES, "look if the next incident shows the same kernel, in the same place"),
        )
    if case.is_dump_read:
        return Remaining(
            "no kernel was on the GPU, so that a lost completion or a wait for another engine remain",
            ("look at the kernel log for host1x, nvdla and Xid lines", "`watchdogd incidents export` for the vendor"),
        )
    return _with_no_dump(hung)


def _with_no_dump(hung: Stuck) -> Remaining:
    """As what is on the GPU is not known."""
    if others.on_dla(hung.worker):
        what = f"its task on {hung.worker.accelerator} or a kernel of its own on the GPU does not end, and which"
        steps: tuple[str, ...] = (FULL, DUMP, "look at the kernel log for host1x and nvdla lines")
        return Remaining(f"{what} cannot be told without a GPU core dump", steps)
    if hung.call.operation in WAITS_FOR_GPU:
        text = "whether a kernel never ends or the driver waits cannot be told without a GPU core dump"
        return Remaining(text, (FULL, DUMP))
    text = "whether the driver waits for a lock or for work on the GPU cannot be told without stacks"
    return Remaining(text, (FULL, DUMP))


def _outside(case: Case) -> Remaining:
    """For what is overdue with no call that stands still."""
    own = case.own
    if own is None or own.unread is not None:
        text = "its shared memory was not read, so that a hung call or the CPU remain"
        return Remaining(text, ("look at why: the incident's `left_out` and `unread`",))
    if not waits.is_stamped(own):
        return Remaining(
            "its CUDA calls are not stamped, so that a hung call or the CPU remain",
            ('stamp its calls: `instrument = "driver"`, or the guards of watchdogd.worker', FULL),
        )
    if case.threads:
        return Remaining(
            "a loop, a lock or a wait for somebody outside remain, and its threads do not tell which",
            ("install py-spy: Python stacks tell where", "look at what it reads from: a queue, a socket, a pipe"),
        )
    return Remaining("a loop on the CPU, a lock and a wait for input remain, and only its threads could tell", (FULL,))


# --- facts ----------------------------------------------------------------------------------------------------------


def detail(case: Case) -> list[str]:
    told, thread = case.verdict.detail, case.hung_thread
    is_in_states = told.startswith("thread state ") and thread is not None and thread.state is not None
    return [] if not told or is_in_states else [f"the verdict said: {told}"]


def states(case: Case) -> list[str]:
    """Of the hung thread, else how many are in which state."""
    thread = case.hung_thread
    if thread is not None and thread.state is not None:
        return [waits.told(thread)]
    seen = [item.state for item in case.threads if item.state]
    counts = ", ".join(f"{seen.count(state)} in {state}" for state in sorted(set(seen)))
    return [f"threads by state: {counts}"] if seen else []


def _messages(case: Case) -> list[str]:
    return [f"the kernel said {case.before(line.at_ns)}: {line.text}" for line in case.messages[-4:]]

"""Who was first: a DLA before the GPU, a neighbour before this worker, or nobody can tell.

Entries alone name the wrong one: a healthy call that was in flight when another worker froze has the earlier entry. So
the order is certain only where one should have returned before the other began; and it is shown where the others went
on as soon as this one was gone. Nothing less names a culprit.

Invariant: pure; who is named stood still at the verdict, and before the one that it is told to have held up.
"""

from __future__ import annotations

from watchdogd.decide.causes.case import Case, Stuck
from watchdogd.decide.causes.words import Cause, found, in_stage, listed, span
from watchdogd.incident import Capture, Diagnosis, Worker
from watchdogd.model import SECOND, KernelKind

LETS_GO_NS = 2 * SECOND  # a kill that lets others' calls return does so within this


def on_dla(worker: Worker) -> bool:
    return (worker.accelerator or "").startswith("dla")


def certainly_before(one: Stuck, other: Stuck) -> bool:
    """Whether ``one`` should have returned before ``other`` began."""
    return one.back_ns is not None and one.back_ns <= other.call.entered_ns


def _went_on(stuck: Stuck, capture: Capture) -> bool | None:
    """Whether this call is over by then, in the same incarnation; None: nobody can tell."""
    after = next((w for w in sorted(capture.workers, key=repr) if w.name == stuck.worker.name), None)
    if after is None or after.unread is not None or after.incarnation != stuck.worker.incarnation or not after.lanes:
        return None
    return all(stuck.call not in lane.in_flight for lane in after.lanes if lane.tid == stuck.lane.tid)


def freed(case: Case) -> list[Stuck]:
    """Those that stood still with this worker until its kill and went on when it was gone; of all that can tell."""
    if case.hung is None or not case.later:
        return []
    if any(_went_on(stuck, capture) for stuck in case.coupled for capture in case.signalled):
        return []  # before the kill, so not because of it
    told = [(stuck, _went_on(stuck, case.later[-1])) for stuck in case.coupled]
    return [] if any(went is False for _, went in told) else [stuck for stuck, went in told if went]


def unsettled(case: Case) -> list[Stuck]:
    """Those that may have been first, for all that is known."""
    hung = case.hung
    if hung is None or freed(case):
        return []
    return [stuck for stuck in case.coupled if not certainly_before(hung, stuck)]


def dla_waited_for(case: Case) -> Diagnosis | None:
    """The kernel names the DLA's syncpoint that this worker waits for."""
    lines = [
        line
        for line in case.messages
        if line.about == KernelKind.SYNCPOINT.value
        and line.worker == case.incident.worker
        and (line.accelerator or "").startswith("dla")
    ]
    if not lines or case.hung is None:
        return None
    line, since = lines[0], case.before(case.hung.call.entered_ns)
    sentence = (
        f"The DLA was first: {line.accelerator} did not finish its task, and {case.where} waits for it since "
        f"{since}{order(case)}."
    )
    return found(Cause.DLA_FIRST, sentence, [_message(case, line.text, line.at_ns), *facts(case)], *_OF_DLA)


def killed_first(case: Case) -> Diagnosis | None:
    """One of those that stood still with this worker was killed, and that let this call return.

    Whose call was still in flight by then, that was not what this one waited for. Whose had returned before the kill,
    that may have been it.
    """
    hung, after = case.hung, case.closing
    if hung is None or after is None or case.unseen:
        return None
    killed = {worker.name: worker.killed_ns or 0 for worker in after.workers}
    stayed = [stuck for stuck in case.coupled if killed.get(stuck.worker.name, 0) > stuck.call.entered_ns]
    if len(stayed) != 1:
        return None
    first, at_ns = stayed[0], killed[stayed[0].worker.name]
    rest = [stuck for stuck in case.coupled if stuck is not first and _went_on(stuck, after) is not False]
    back_ns = _returned_ns(hung, after)
    ends = [back_ns, *(_returned_ns(stuck, after) for stuck in rest)]
    if back_ns is None or not all(end is not None and at_ns <= end <= at_ns + LETS_GO_NS for end in ends):
        return None
    with_it = f", as did those of {listed([stuck.worker.name for stuck in rest])}" if rest else ""
    on_a_dla = on_dla(first.worker) and not on_dla(hung.worker)
    who = f"worker {first.worker.name}{f' on {first.worker.accelerator}' if first.worker.accelerator else ''}"
    sentence = (
        f"{'The DLA' if on_a_dla else 'Another worker'} was first: {who}, its {in_stage(first.call)} entered "
        f"{case.before(first.call.entered_ns)}, was killed, and {span(back_ns - at_ns)} later {case.where} "
        f"returned{with_it}."
    )
    said = [*facts(case), f"{first.worker.name} was killed {case.before(at_ns)}, in that call"]
    if on_a_dla:
        return found(Cause.DLA_FIRST, sentence, said, *_OF_DLA)
    return found(Cause.NEIGHBOUR, sentence, said, f"look at the incident of {first.worker.name}: this is its victim")


def _returned_ns(stuck: Stuck, capture: Capture) -> int | None:
    """When this call did, in the same incarnation; None: it has not, or nobody can tell."""
    ends = [
        call.entered_ns + call.duration_ns
        for worker in capture.workers
        if (worker.name, worker.incarnation) == (stuck.worker.name, stuck.worker.incarnation)
        for lane in worker.lanes
        for call in lane.ring
        if lane.tid == stuck.lane.tid and call.duration_ns is not None and call.entered_ns == stuck.call.entered_ns
    ]
    return min(ends, default=None)


def neighbour_first(case: Case) -> Diagnosis | None:
    """Another worker should have returned before this one's call began; it is named if no third may have been first."""
    hung = case.hung
    if hung is None:
        return None
    stayed = [s for s in case.coupled if not any(_went_on(s, c) for c in (*case.signalled, *case.later))]
    if not any(certainly_before(stuck, hung) for stuck in stayed):
        return None
    firsts = [stuck for stuck in stayed if not any(certainly_before(other, stuck) for other in stayed)]
    mine = f"{case.where} began after that, {case.before(hung.call.entered_ns)}, and does not return"
    if len(firsts) > 1:
        names = [stuck.worker.name for stuck in firsts]
        sentence = (
            f"Another worker hung before this one: {mine}; which of {listed(names)} was the first cannot be told, "
            "as their usual times overlap."
        )
        step = f"look at the incidents of {listed(names)}: whose end let the others go on was the first"
        return found(Cause.NEIGHBOUR, sentence, facts(case), step)
    first = firsts[0]
    other = f"its {in_stage(first.call)}, entered {case.before(first.call.entered_ns)},"
    if on_dla(first.worker) and not on_dla(hung.worker):
        who = f"worker {first.worker.name} on {first.worker.accelerator}"
        sentence = f"The DLA was first: {who}, {other} had not returned when it should; {mine}."
        return found(Cause.DLA_FIRST, sentence, facts(case), *_OF_DLA)
    sentence = f"Worker {first.worker.name} hung before this one: {other} had not returned when it should; {mine}."
    return found(
        Cause.NEIGHBOUR,
        sentence,
        facts(case),
        f"look at the incident of {first.worker.name}: this is its victim",
        "to spare the victim: a longer deadline here than there, or accelerators of their own",
    )


def dla_first(case: Case) -> Diagnosis | None:
    """This worker's DLA call, before all that stood still on the GPU."""
    hung = case.hung
    gpu = [stuck for stuck in case.coupled if not on_dla(stuck.worker)]
    if hung is None or not on_dla(hung.worker) or not gpu:
        return None
    if not freed(case) and unsettled(case):
        return None
    first = min(gpu, key=lambda s: (s.call.entered_ns, s.worker.name))
    names = listed([stuck.worker.name for stuck in gpu])
    lag = first.call.entered_ns - hung.call.entered_ns
    followed = (
        f"{names} on the GPU stood still too, the first call of them {span(lag)} {'later' if lag >= 0 else 'older'}"
    )
    sentence = (
        f"The DLA was first: {case.where} on {hung.worker.accelerator} does not return since "
        f"{case.before(hung.call.entered_ns)}; {followed}{_freed_words(case)}."
    )
    return found(Cause.DLA_FIRST, sentence, facts(case), *_OF_DLA)


_OF_DLA = (
    "give the DLA a context, or better a process, of its own, with explicit copies and synchronizes to the GPU's",
    "look for work that DLA and GPU share at that moment: `watchdogd incidents` tells what repeats",
    "look at the kernel log for host1x and nvdla lines; the DLA's driver tells of time-outs at INFO only",
)


def order(case: Case) -> str:
    """How a sentence about this worker ends: who else stood still, and who was first."""
    hung, coupled = case.hung, case.coupled
    if hung is None or case.own is None:
        return ""
    if case.unseen and not coupled:
        return f"; whether {listed(case.unseen)} stood still too is not known"
    if not coupled:
        return "; no worker coupled with it stood still" if case.has_coupled else ""
    names = listed([stuck.worker.name for stuck in coupled])
    if freed(case):
        return f"; {names} stood still with it{_freed_words(case)}"
    if not unsettled(case):
        return f"; it was the first, {names} followed"
    return f"; {names} stood still too, and who was first cannot be told"


def among_threads(case: Case) -> str:
    """For a sentence: how many threads of this worker stand still, and which entered first. An order, and no proof."""
    if case.hung is None or not case.beside:
        return ""
    first, second = sorted((case.hung, *case.beside), key=lambda s: (s.call.entered_ns, s.lane.tid))[:2]
    lag = span(second.call.entered_ns - first.call.entered_ns)
    many = f"{len(case.beside)} more of its threads stand" if len(case.beside) > 1 else "another of its threads stands"
    return f"; {many} still, and thread {first.lane.tid} entered first, {lag} before the next"


def _freed_words(case: Case) -> str:
    gone_on = freed(case)
    return f"; {listed([s.worker.name for s in gone_on])} went on once it was gone" if gone_on else ""


def facts(case: Case) -> list[str]:
    """Every call that stood still, with its usual time, and what the ranking said."""
    stuck = [s for s in (case.hung, *case.beside, *case.coupled) if s is not None]
    said = [_told(case, s) for s in sorted(stuck, key=lambda s: (s.call.entered_ns, s.worker.name, s.lane.tid))]
    said += [
        f"{s.worker.name} went on after the kill of {case.incident.worker}, in the same process" for s in freed(case)
    ]
    suspect = next(iter(case.incident.suspects), None)
    if suspect is not None and suspect.confidence is not None and case.coupled:
        said.append(f"at the verdict {suspect.worker} was ranked first, confidence {suspect.confidence:.2f}")
    if case.unseen:
        said.append(f"not read: {listed(case.unseen)}")
    return said


def _told(case: Case, stuck: Stuck) -> str:
    usual = "" if stuck.usual_ns is None else f", usually {span(stuck.usual_ns)}"
    on = f" on {stuck.worker.accelerator}" if stuck.worker.accelerator else ""
    thread = f", thread {stuck.lane.tid}" if stuck.lane.tid else ""
    entered = case.before(stuck.call.entered_ns)
    return f"{in_stage(stuck.call)} of {stuck.worker.name}{on}{thread}: entered {entered}, not returned{usual}"


def _message(case: Case, text: str, at_ns: int) -> str:
    return f"the kernel said {case.before(at_ns)}: {text}"

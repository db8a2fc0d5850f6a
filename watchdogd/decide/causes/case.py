"""What the causes ask of an incident's evidence: who was in which call, for how long, against what is usual.

Times are told from the verdict backwards. A call of another thread counts as stuck when it is far outside of what is
usual for it; whether it was stuck *before* this one, only entries and usual times that do not overlap can tell.

Invariant: pure; the order in which the evidence lists workers, lanes, threads and messages makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple, TypeVar

from watchdogd.decide.causes.words import in_stage, span
from watchdogd.incident import Call, Capture, Incident, Kernel, KernelLine, Lane, Stack, Thread, Worker
from watchdogd.model import MILLISECOND, Verdict

HANGS = {v.value for v in (Verdict.CALL, Verdict.STEP, Verdict.FIRST_STEP, Verdict.STARTUP, Verdict.STALL)}
TIMES_USUAL = 10  # a call that takes so many times its median is stuck, as far as one look can tell
USUAL_AT_MOST = 2  # times its median: by then a call "should have returned"
LEAST_STUCK_NS = 5 * MILLISECOND
BEFORE_NS = 1_000_000_000  # a fault may come shortly before the call that then hangs

_T = TypeVar("_T")


def _sorted(items: Iterable[_T]) -> list[_T]:
    return sorted(items, key=repr)


class Stuck(NamedTuple):
    """One thread in a call that does not return."""

    worker: Worker
    lane: Lane
    call: Call
    usual_ns: int | None  # the median of this operation in this worker

    @property
    def back_ns(self) -> int | None:
        """By when it should have returned."""
        return None if self.usual_ns is None else self.call.entered_ns + USUAL_AT_MOST * self.usual_ns


class Case:
    def __init__(self, incident: Incident) -> None:
        self.incident = incident
        self.verdict = incident.verdict
        captures = [capture for capture in incident.captures if capture.when == "verdict"]
        self.capture: Capture | None = min(captures, key=lambda c: (c.at_ns, repr(c)), default=None)
        self.at_ns = self.verdict.detected_ns if self.capture is None else self.capture.at_ns
        # As it was before anything was done to the worker: a core dump, after the commit, already ends what it hung in.
        committed = incident.times.committed_ns
        signalled = (capture for capture in incident.captures if capture.when == "signal")
        self.signalled = [capture for capture in signalled if committed is None or capture.at_ns < committed]
        gone = (capture for capture in incident.captures if capture.when in ("gone", "ready"))
        self.later = sorted(gone, key=lambda capture: (capture.at_ns, repr(capture)))
        self.closing = next((c for c in _sorted(incident.captures) if c.when == "closed"), None)
        workers = _sorted(() if self.capture is None else self.capture.workers)
        self.own = next((worker for worker in workers if worker.name == incident.worker), None)
        self.others = [worker for worker in workers if worker.name != incident.worker]

    @property
    def is_hang(self) -> bool:
        return self.verdict.verdict in HANGS

    @cached_property
    def since_ns(self) -> int:
        """When what is overdue began, or was armed."""
        begun = self.verdict.entered_ns if self.verdict.entered_ns is not None else self.verdict.detected_ns
        return max(begun, self.verdict.armed_ns or begun)

    @cached_property
    def hung(self) -> Stuck | None:
        """The call that does not return: the verdict's own, else the one that its step or start stands in."""
        if not self.is_hang:
            return None
        calls = (
            [
                Stuck(self.own, lane, call, _usual(self.own, call))
                for lane in _lanes(self.own)
                for call in lane.in_flight
                if call.operation != "step"
            ]
            if self.own
            else []
        )
        if self.verdict.operation is not None and self.verdict.entered_ns is not None:
            named = [c for c in calls if c.call.entered_ns == self.verdict.entered_ns]
            own = [c for c in named if c.lane.tid == self.verdict.tid] or named
            return own[0] if own else self._by_the_verdict_alone()
        inner = [_innermost(self.own, lane) for lane in _lanes(self.own)] if self.own else []
        stuck = [s for s in inner if s is not None and self.is_stuck(s) and 2 * self.age_ns(s) >= self._overdue_ns]
        return min(stuck, key=lambda s: s.call.entered_ns, default=None)

    @cached_property
    def is_over(self) -> bool:
        """Whether the verdict's call was no longer in flight when its lane was captured."""
        verdict = self.verdict
        if self.own is None or self.own.unread is not None or verdict.operation is None or not verdict.tid:
            return False
        lanes = [lane for lane in _lanes(self.own) if (lane.pid, lane.tid) == (verdict.pid, verdict.tid)]
        return bool(lanes) and all(call.entered_ns != verdict.entered_ns for lane in lanes for call in lane.in_flight)

    def _by_the_verdict_alone(self) -> Stuck:
        verdict = self.verdict
        call = Call(str(verdict.operation), verdict.entered_ns or 0, None, verdict.stage)
        own = self.own or Worker(self.incident.worker, "", self.incident.incarnation, self.incident.accelerator)
        return Stuck(own, Lane(-1, verdict.pid or 0, verdict.tid or 0, (call,)), call, _usual(own, call))

    @property
    def _overdue_ns(self) -> int:
        return max(0, self.at_ns - self.since_ns)

    def age_ns(self, stuck: Stuck) -> int:
        return max(0, self.at_ns - stuck.call.entered_ns)

    def is_stuck(self, stuck: Stuck) -> bool:
        """Far outside of what is usual; where that is not known, about as old as what is overdue."""
        if stuck.usual_ns is None:
            return 2 * self.age_ns(stuck) >= max(self._overdue_ns, LEAST_STUCK_NS)
        return self.age_ns(stuck) >= max(TIMES_USUAL * stuck.usual_ns, LEAST_STUCK_NS)

    @cached_property
    def beside(self) -> list[Stuck]:
        """This worker's other threads that are stuck, the oldest first."""
        if self.own is None:
            return []
        mine = None if self.hung is None else (self.hung.lane.pid, self.hung.lane.tid)
        return self._stuck(self.own, mine)

    @cached_property
    def coupled(self) -> list[Stuck]:
        """The workers that a hang of this one, or that this one's, can hold up: of each the call stuck longest."""
        own = self.own
        if own is None:
            return []
        oldest = [self._stuck(other, None)[:1] for other in self.others if _coupled(own, other)]
        return sorted((s for found in oldest for s in found), key=lambda s: (s.call.entered_ns, s.worker.name))

    @cached_property
    def has_coupled(self) -> bool:
        return self.own is not None and any(_coupled(self.own, other) for other in self.others)

    @cached_property
    def unseen(self) -> list[str]:
        """Workers that may have stood still too, for all that is known."""
        unread = [
            w.name for w in self.others if w.unread is not None and self.own is not None and _coupled(self.own, w)
        ]
        return sorted({*unread, *(() if self.capture is None else self.capture.left_out)})

    def _stuck(self, worker: Worker, but: tuple[int, int] | None) -> list[Stuck]:
        inner = [_innermost(worker, lane) for lane in _lanes(worker) if (lane.pid, lane.tid) != but]
        stuck = [s for s in inner if s is not None and self.is_stuck(s)]
        return sorted(stuck, key=lambda s: (s.call.entered_ns, s.lane.tid))

    @cached_property
    def calls_in_flight(self) -> int:
        """Of this worker."""
        return sum(any(c.operation != "step" for c in lane.in_flight) for lane in _lanes(self.own)) if self.own else 0

    # --- the threads ---

    @cached_property
    def threads(self) -> list[Thread]:
        return sorted(self.incident.threads, key=lambda t: (t.pid, t.tid, repr(t)))

    def thread(self, tid: int | None) -> Thread | None:
        return next((thread for thread in self.threads if thread.tid == tid), None) if tid else None

    @cached_property
    def hung_thread(self) -> Thread | None:
        return self.thread(self.hung.lane.tid if self.hung is not None else self.verdict.tid)

    def frames(self, tid: int | None, kind: str = "python") -> tuple[str, ...]:
        stacks: list[Stack] = [s for s in _sorted(self.incident.stacks) if s.tid == tid and s.kind == kind]
        return stacks[0].frames if stacks and tid else ()

    def source(self, tid: int | None) -> str | None:
        """Where its Python code stands: "function (file:line)"."""
        return next(iter(self.frames(tid)), None)

    # --- the device and its driver ---

    @cached_property
    def kernels(self) -> list[Kernel]:
        return _sorted(self.incident.kernels)

    @cached_property
    def dumped(self) -> bool:
        """Whether a GPU core dump was taken, which makes a hung call return."""
        return bool(self.kernels) or self._is_ok("gpu core dump")

    @cached_property
    def is_dump_read(self) -> bool:
        """Whether it is known what was on the GPU: a dump that nobody has read says nothing of that."""
        return bool(self.kernels) or self._is_ok("gpu kernels")

    def _is_ok(self, collector: str) -> bool:
        return any(o.outcome == "ok" and o.collector == collector for o in self.incident.collectors)

    @cached_property
    def messages(self) -> list[KernelLine]:
        """The kernel's from shortly before the hang until the verdict, but for what our own kill brought."""
        since = self.since_ns - BEFORE_NS
        lines = [k for k in self.incident.kernel if since <= k.at_ns <= self.at_ns and not k.expected]
        return sorted(lines, key=lambda line: (line.at_ns, repr(line)))

    @cached_property
    def load(self) -> tuple[float, float] | None:
        """Least and most of this worker's accelerator while it hung; None where nothing was told."""
        accelerator = self.incident.accelerator
        taken = [s for load in self.incident.loads if load.accelerator == accelerator for s in load.samples]
        during = [ratio for at_ns, ratio in taken if ratio is not None and self.since_ns < at_ns <= self.at_ns]
        ratios = [ratio for ratio in during if 0 <= ratio <= 1]
        return (min(ratios), max(ratios)) if ratios else None

    # --- words ---

    @cached_property
    def where(self) -> str:
        """``sync in stage plugin of worker a (thread 4711)``, since when."""
        hung, name = self.hung, self.incident.worker
        if hung is None:
            return f"worker {name}"
        return f"{in_stage(hung.call)} of worker {name}{self.thread_words(hung.lane.tid)}"

    @cached_property
    def what(self) -> str:
        """What is overdue: the call, or ``a step of worker a``."""
        kinds = {Verdict.STARTUP.value: "the start", Verdict.STALL.value: "the work", Verdict.CALL.value: "a call"}
        return self.where if self.hung is not None else f"{kinds.get(self.verdict.verdict, 'a step')} of {self.where}"

    def thread_words(self, tid: int | None) -> str:
        if not tid:
            return ""
        thread = self.thread(tid)
        named = thread is not None and thread.name and not thread.name.startswith("python")
        return f" (thread {tid}{f' {thread.name!r}' if thread is not None and named else ''})"

    def before(self, instant_ns: int) -> str:
        """``312 ms before the verdict``"""
        when = "before" if instant_ns <= self.verdict.detected_ns else "after"
        return f"{span(self.verdict.detected_ns - instant_ns)} {when} the verdict"


def _lanes(worker: Worker) -> list[Lane]:
    return sorted((lane for lane in worker.lanes if not lane.orphaned), key=lambda lane: (lane.lane, repr(lane)))


def _innermost(worker: Worker, lane: Lane) -> Stuck | None:
    calls = [call for call in lane.in_flight if call.operation != "step"]
    return Stuck(worker, lane, calls[-1], _usual(worker, calls[-1])) if calls else None


def _usual(worker: Worker, call: Call) -> int | None:
    return max((ns for operation, ns in worker.typical_ns if operation == call.operation and ns > 0), default=None)


def _coupled(one: Worker, other: Worker) -> bool:
    if one.accelerator is not None and one.accelerator == other.accelerator:
        return True
    return bool(
        {one.name, one.accelerator} & set(other.coupled_with) or {other.name, other.accelerator} & set(one.coupled_with)
    )

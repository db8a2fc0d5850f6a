"""Two calls of one process that wait for each other: the allocator against a free or a launch, a host function.

``cudaFree`` synchronizes implicitly, so an alloc and a free also stand still together behind a kernel that does not
end. They are a deadlock only while nothing tells of such a kernel.

Invariant: pure; both threads are named, and both have stood still for about the same time.
"""

from __future__ import annotations

from watchdogd.decide.causes import others
from watchdogd.decide.causes.case import Case, Stuck
from watchdogd.decide.causes.device import kernel_facts
from watchdogd.decide.causes.words import Cause, found, in_stage, span
from watchdogd.incident import Diagnosis

STAGE_OF_HOST_FUNCTIONS = "host function"  # as worker/cuda_host.py stamps them
BUSY, IDLE = 0.9, 0.02  # loads all through the call: something runs, nothing runs
_DEADLOCKS = ({"alloc", "free"}, {"launch", "free"})
_WAITS_FOR_WORK = {"sync", "event", "copy"}  # against these, an alloc or free may as well wait for the same work
_LOCKS = ("rwlock", "mutex", "lll_lock", "futex")


def partner(case: Case) -> Stuck | None:
    """The call of another thread of the same process that may wait for the one that hangs, and it for that."""
    hung = case.hung
    if hung is None:
        return None
    ours = hung.call.operation
    for stuck in case.beside:
        both = {ours, stuck.call.operation}
        against = bool(both & {"alloc", "free"}) and bool(both & _WAITS_FOR_WORK)
        met = 2 * case.age_ns(stuck) >= case.age_ns(hung) and 2 * case.age_ns(hung) >= case.age_ns(stuck)
        if stuck.lane.pid == hung.lane.pid and met and (both in _DEADLOCKS or against):
            return stuck
    return None


def allocator(case: Case) -> Diagnosis | None:
    hung, other = case.hung, partner(case)
    if hung is None or other is None or case.kernels or others.unsettled(case):
        return None
    others_wait = any(s.call.operation in _WAITS_FOR_WORK for s in case.beside if s is not other)
    against_work = others_wait or bool({hung.call.operation, other.call.operation} & _WAITS_FOR_WORK)
    if (against_work and not _nothing_runs(case, hung, other)) or _something_runs(case):
        return None
    first, second = sorted((hung, other), key=lambda s: (s.call.entered_ns, s.lane.tid))
    lag = span(second.call.entered_ns - first.call.entered_ns)
    sentence = (
        f"Two threads of worker {case.incident.worker} wait for each other: {_of(case, first)}, since "
        f"{case.before(first.call.entered_ns)}, and {_of(case, second)}, which came {lag} later{others.order(case)}."
    )
    known = "it is a known deadlock of cudaMallocManaged and cudaFree (ml-explore/mlx issue 2099)"
    return found(
        Cause.ALLOCATOR_DEADLOCK,
        sentence,
        [*others.facts(case), *_locks(case, hung, other), *kernel_facts(case), *_unseen(case)],
        "free on the thread that owns the memory (DeferredFree), or allocate and free on one thread (CudaThread)",
        "take buffers from a pool that is filled at the start (Pool), or use cudaMallocAsync and cudaFreeAsync",
        *([known] if {hung.call.operation, other.call.operation} == {"alloc", "free"} else []),
    )


def _nothing_runs(case: Case, *both: Stuck) -> bool:
    idle = case.load is not None and case.load[1] <= IDLE
    return case.is_dump_read or idle or all(_lock_frame(case, stuck) for stuck in both)


def _something_runs(case: Case) -> bool:
    """Nobody else works on this accelerator, and it was busy all through the call."""
    own = case.incident.accelerator
    alone = own is not None and all(worker.accelerator != own for worker in case.others)
    return alone and case.load is not None and case.load[0] >= BUSY


def _lock_frame(case: Case, stuck: Stuck) -> str | None:
    frames = case.frames(stuck.lane.tid, "native")
    return next((frame for frame in frames if any(word in frame for word in _LOCKS)), None)


def _locks(case: Case, *both: Stuck) -> list[str]:
    frames = ((stuck.lane.tid, _lock_frame(case, stuck)) for stuck in both)
    return [f"thread {tid} stands in {frame}" for tid, frame in frames if frame is not None]


def _unseen(case: Case) -> list[str]:
    seen = case.is_dump_read or case.load is not None
    return [] if seen else ["whether a kernel ran meanwhile is not known: no GPU core dump, and no load of this time"]


def _of(case: Case, stuck: Stuck) -> str:
    return f"{in_stage(stuck.call)}{case.thread_words(stuck.lane.tid)}"


def host_function(case: Case) -> Diagnosis | None:
    """A host function that has not returned; whatever is behind it in its stream waits."""
    hung = case.hung
    if hung is None:
        return None
    running = [
        stuck
        for stuck in (hung, *case.beside)
        if stuck.call.operation == "other" and stuck.call.stage == STAGE_OF_HOST_FUNCTIONS and case.is_stuck(stuck)
    ]
    if not running:
        return None
    callback = min(running, key=lambda s: (s.call.entered_ns, s.lane.tid))
    waiting = [stuck for stuck in (hung, *case.beside) if stuck not in running and stuck.lane.pid == callback.lane.pid]
    since = case.before(callback.call.entered_ns)
    name = f"A host function of worker {case.incident.worker}{case.thread_words(callback.lane.tid)}"
    behind = ""
    if waiting:
        other = min(waiting, key=lambda s: (s.call.entered_ns, s.lane.tid))
        behind = f", and {_of(case, other)}, entered {case.before(other.call.entered_ns)}, stands still with it"
    thread = case.thread(callback.lane.tid)
    said = others.facts(case)
    if thread is not None and thread.state is not None:
        asleep = f", at {thread.wchan}" if thread.wchan and thread.state != "R" else ""
        said.append(f"the host function's thread is in state {thread.state}{asleep}")
    source = case.source(callback.lane.tid)
    at = f" at {source}" if source else ""
    return found(
        Cause.HOST_FUNCTION,
        f"{name}{at} does not return since {since}{behind}{others.order(case)}.",
        said,
        "take no lock in a host function that is held anywhere around a CUDA call, and wait there for nobody",
        "make no CUDA call in one; hand the work to a thread (CudaThread), or use an event in its place",
    )

"""What the threads do by /proc and their stacks: a driver's wait in D state, a loop, a lock, or work that goes on.

Invariant: pure. One look at D state is no evidence (a thread that reads a file is in it too) unless it shows where;
and that no CUDA call is in flight can be said only of a worker whose calls are stamped.
"""

from __future__ import annotations

import re

from watchdogd.decide.causes import others
from watchdogd.decide.causes.case import HANGS, Case
from watchdogd.decide.causes.words import Cause, found, listed, span
from watchdogd.incident import Diagnosis, Thread, Worker
from watchdogd.model import KernelKind

_DRIVER = re.compile(
    r"nvidia|nvgpu|nvhost|nvmap|nvdla|\b_?nv\d|\bos_acquire|\brm_|uvm_|host1x|syncpt|gk20a|g[av]1\db|dma_fence|drm_"
)
_STORAGE = re.compile(
    r"folio_|wait_on_page|io_schedule|bit_wait_io|blk_|nfs|rpc_wait|ext4|xfs_|jbd2|btrfs|mmc_|nvme|fuse_"
)
HELPERS = "cuda"  # the driver's own threads are called so; they sleep in healthy processes too
LEAST_RUNNING = 0.5  # of the time between two looks
RECENT = 10  # a call that returned within this part of what is overdue


class DState:
    """One thread in D state, and what is known of where."""

    def __init__(self, case: Case, tid: int) -> None:
        self.tid = tid
        thread = case.thread(tid)
        told = _blocked(case, tid)
        seen = [
            thread is not None and thread.state == "D",
            told is not None,
            case.verdict.tid == tid and case.verdict.detail.startswith("thread state D"),
        ]
        self.looks = sum(seen)
        places = [] if thread is None or not seen[0] else [thread.wchan or "", *thread.kernel_stack]
        self.places = [place for place in (*places, told or "") if place and place != "?"]
        self.in_driver = next((place for place in self.places if _DRIVER.search(place)), None)
        self.in_storage = next((place for place in self.places if _STORAGE.search(place)), None)


def _blocked(case: Case, tid: int) -> str | None:
    """Where, if the record tells that this thread stood in D state look after look."""
    for event in sorted(case.incident.events, key=repr):
        if event.get("kind") == "blocked" and event.get("tid") == tid:
            return str(event.get("place") or "?")
        texts = event.get("blocked") if event.get("kind") == "verdict" else None
        for text in texts if isinstance(texts, list) else ():
            match = re.fullmatch(r"tid (\d{1,10}) of pid \d+ at (\S+)", str(text))
            if match and int(match[1]) == tid:
                return match[2]
    return None


def d_state(case: Case) -> DState | None:
    """Of the hung thread; where it is not known which that is, of the first that is in it."""
    tid = case.hung.lane.tid if case.hung is not None else case.verdict.tid
    tids = [tid] if tid else [thread.tid for thread in case.threads]
    states = [state for state in (DState(case, tid) for tid in tids) if state.looks]
    return min(states, key=lambda state: (state.in_driver is None, state.in_storage is None), default=None)


def uninterruptible(case: Case) -> Diagnosis | None:
    state = d_state(case)
    if state is None or (state.in_driver is None and (state.in_storage is None or state.looks < 2)):
        return None
    said = [
        f"thread {state.tid} is in D state, {state.looks} look{'s' * (state.looks > 1)}, at {place}"
        for place in state.places[:4]
    ]
    said += [
        f"the kernel said {case.before(line.at_ns)}: {line.text}"
        for line in case.messages
        if line.about in (KernelKind.TASK.value, KernelKind.RELEASE.value)
    ]
    thread, since = case.thread_words(state.tid), case.before(case.since_ns)
    doing = f"{case.where}" if case.hung is not None else f"worker {case.incident.worker}{thread}"
    if state.in_driver is not None:
        sentence = (
            f"The driver does not come back: {doing} stands in an uninterruptible wait at {state.in_driver}, "
            f"and what is overdue began {since}{others.order(case)}."
        )
        return found(
            Cause.DRIVER_WAIT,
            sentence,
            [*said, *others.facts(case)],
            "SIGKILL does not end such a wait: if the worker becomes `unkillable`, reset the device or reboot",
            "look at the kernel log for Xid, nvgpu or host1x lines, and save `dmesg` for the vendor",
        )
    sentence = (
        f"Storage does not answer: {doing} stands in an uninterruptible wait at {state.in_storage}, "
        f"and what is overdue began {since}."
    )
    return found(
        Cause.STORAGE_WAIT,
        sentence,
        said,
        "look at the disk or network file system that the worker reads: dmesg, iostat, its server",
    )


# --- no call stands still -------------------------------------------------------------------------------------------


def is_stamped(worker: Worker) -> bool:
    """Whether calls of this worker were ever seen: of one whose were not, nobody knows if it is in one."""
    return any(lane.calls or lane.ring or any(c.operation != "step" for c in lane.in_flight) for lane in worker.lanes)


def _outside_of_cuda(case: Case) -> bool:
    """Whether it is known that no CUDA call of this worker is in flight."""
    own = case.own
    if own is None or own.unread is not None or case.hung is not None:
        return False
    return is_stamped(own) and case.verdict.verdict in HANGS and case.calls_in_flight == 0


def _overdue(case: Case) -> str:
    kind = case.verdict.verdict
    words = {"step": "step", "first_step": "first step", "startup": "start", "stall": "work"}
    return f"the {words.get(kind, 'work')} that is overdue began {case.before(case.since_ns)}"


def cpu_loop(case: Case) -> Diagnosis | None:
    if not _outside_of_cuda(case):
        return None
    running = [thread for thread in case.threads if thread.state == "R" and _goes_on(case, thread)]
    if not running:
        return None
    thread = max(running, key=lambda t: (t.ran_ns or 0, case.source(t.tid) is not None, -t.tid))
    source = case.source(thread.tid)
    at = f" at {source}" if source else ""
    said = [told(t) for t in running]
    said += [
        f"Python code of thread {t.tid}: {' < '.join(case.frames(t.tid)[:4])}" for t in running if case.source(t.tid)
    ]
    name = f" {thread.name!r}" if thread.name and not thread.name.startswith("python") else ""
    sentence = (
        f"Worker {case.incident.worker} computes on the CPU and is in no CUDA call: thread {thread.tid}"
        f"{name} runs{at}; {_overdue(case)}."
    )
    return found(
        Cause.CPU_LOOP,
        sentence,
        [*said, "no CUDA call of this worker is in flight"],
        f"look at the loop{at}: what ends it, and with which input it did not",
        "py-spy record on a copy with the same input tells where its time goes",
    )


def _goes_on(case: Case, thread: Thread) -> bool:
    """Two looks, or a life that it mostly ran, or Python code that it is in and CPU time enough for it."""
    if thread.ran_ns is not None and thread.over_ns is not None:
        return thread.over_ns > 0 and thread.ran_ns >= thread.over_ns * LEAST_RUNNING
    overdue = case.at_ns - case.since_ns
    return case.source(thread.tid) is not None and (thread.cpu_ns is None or 2 * thread.cpu_ns >= overdue)


def told(thread: Thread) -> str:
    ran = ""
    if thread.ran_ns is not None and thread.over_ns is not None:
        ran = f", ran {span(thread.ran_ns)} of {span(thread.over_ns)}"
    used = "" if thread.cpu_ns is None else f", {span(thread.cpu_ns)} of CPU time since it began"
    asleep = f" at {thread.wchan}" if thread.wchan and thread.state != "R" else ""
    return f"thread {thread.tid} is in state {thread.state or '?'}{asleep}{ran}{used}"


def _sleeps_on_lock(thread: Thread) -> bool:
    call = (thread.syscall or "").split(" ")[0]
    return thread.state == "S" and ((thread.wchan or "").startswith("futex") or call == "futex")


def lock_wait(case: Case) -> Diagnosis | None:
    """All threads but the driver's own helpers sleep on a lock."""
    own = [thread for thread in case.threads if not thread.name.startswith(HELPERS)]
    if not own or not _outside_of_cuda(case) or not all(map(_sleeps_on_lock, own)):
        return None
    at = list(dict.fromkeys(filter(None, (case.source(thread.tid) for thread in own))))
    gil = [t.tid for t in own if any("take_gil" in frame for frame in case.frames(t.tid, "native"))]
    what = "Python's GIL" if gil and len(gil) == len(own) else "locks"
    where = f", {listed(at)}" if at else ""
    many = "its only thread sleeps" if len(own) == 1 else f"all {len(own)} threads sleep"
    sentence = (
        f"Worker {case.incident.worker} waits on the CPU, in no CUDA call: {many} on {what} (futex){where}; "
        f"{_overdue(case)}."
    )
    said = [told(thread) for thread in own[:8]] + [f"thread {tid} waits for the GIL" for tid in gil]
    said += [f"Python code of thread {t.tid}: {' < '.join(case.frames(t.tid)[:4])}" for t in own if case.source(t.tid)]
    return found(
        Cause.LOCK_WAIT,
        sentence,
        [*said, "no CUDA call of this worker is in flight"],
        "find who holds the lock: two locks taken in another order, a thread that died with one, an empty queue",
        "a wait with a deadline (`acquire(timeout=...)`, `get(timeout=...)`) makes the next one an exception",
    )


def still_working(case: Case) -> Diagnosis | None:
    """Calls went on returning until shortly before the verdict, all of the one thread that makes any."""
    if case.own is None or case.hung is not None:
        return None
    calling = [lane for lane in case.own.lanes if lane.ring and not lane.orphaned]
    if len(calling) != 1 or not case.is_hang:
        return None
    ends = [
        c.entered_ns + c.duration_ns
        for c in calling[0].ring
        if c.duration_ns is not None and c.entered_ns >= case.since_ns and c.entered_ns + c.duration_ns <= case.at_ns
    ]
    overdue = case.at_ns - case.since_ns
    if len(ends) < 3 or (case.at_ns - max(ends)) * RECENT > overdue:
        return None
    last = case.before(max(ends))
    sentence = (
        f"Worker {case.incident.worker} was not blocked: its calls went on returning, the last one {last}, though "
        f"{_overdue(case)}: either that takes longer than its deadline, or it goes round in a loop of calls."
    )
    return found(
        Cause.STILL_WORKING,
        sentence,
        [
            f"at least {len(ends)} calls of thread {calling[0].tid} returned since, the last one {last}",
            f"what is overdue is {span(overdue)} old",
        ],
        "compare the deadline with `watchdogd report --suggest-deadlines`; give startup and first_step their own",
        "if the deadline is long enough: look at what the loop waits for",
    )

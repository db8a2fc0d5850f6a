"""From evidence to a verdict: what in a heartbeat is overdue, and whether the worker had its chance.

Invariant: pure, and silent evidence is never a verdict. A word that is zero, from the future, from before the spawn
or of an unknown operation condemns nobody; a call counts as overdue only by one word that stood still.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from watchdogd import abi
from watchdogd.cuda_results import STICKY_ERRORS
from watchdogd.model import MILLISECOND, SECOND, Deadlines, Exit, Finding, ThreadSample, Verdict
from watchdogd.pulse import Pulse, word_offset

FUTURE_TOLERANCE_NS = SECOND  # lanes are read after ``now``: a little later than now is fresh
NEVER_NS = 1 << 62
IDLE_CHECK_NS = SECOND  # with no deadline armed, look this often all the same
STARTING_CHECK_NS = 50 * MILLISECOND  # how soon "ready" is noticed; its own stamp says when it was
RECHECK_NS = 2 * MILLISECOND
WAIT_UNSEEN_NS = MILLISECOND  # a runnable thread that may have waited longer than this may be starving right now
NOTEWORTHY_SHARE = 50  # starved for less than this part of the deadline is not starved
MOST_CREDIT_AT_ONCE_NS = 100 * MILLISECOND  # then look again: it may have caught up
MOST_DEADLINES = 10  # patience with a starved worker ends; what starves it that long is not cured by waiting
LEAST_PATIENCE_NS = 5 * SECOND  # but not sooner: real-time throttling alone can take a second


class Rules(NamedTuple):
    """A worker's deadlines, prepared for a fast look."""

    deadlines: Deadlines
    hard: tuple[int | None, ...]  # by operation code; _STEP, _FIRST_STEP and _ANY_STEP below
    soft: tuple[int | None, ...]
    shortest_ns: int  # no check can find anything new sooner than this after the last
    shortest_hard_ns: int


def prepare(deadlines: Deadlines, soft: float | None) -> Rules:
    step_ns, first_ns = deadlines.step_ns, deadlines.first_step_ns
    any_ns = None if step_ns is None else max(step_ns, first_ns or 0)
    lengths = [*deadlines.calls_ns, step_ns, first_ns, any_ns]
    softened = [None if length is None or soft is None else int(length * soft) for length in lengths]
    armed = [length for length in (*lengths, *softened) if length is not None]
    hard = [length for length in lengths if length is not None]
    shortest_ns, shortest_hard_ns = min([IDLE_CHECK_NS, *armed]), min(hard, default=NEVER_NS)
    return Rules(deadlines, tuple(lengths), tuple(softened), shortest_ns, shortest_hard_ns)


_STEP = len(abi.OPERATIONS)
_FIRST_STEP = _STEP + 1
_ANY_STEP = _STEP + 2  # it is not known whether it is a first one: the longer of the two, where both are set
_STEP_CODES = {abi.STEP_UNKNOWN: _ANY_STEP, abi.STEP_FIRST: _FIRST_STEP, abi.STEP_LATER: _STEP}


class Pending(NamedTuple):
    """Something in flight past its soft or hard level."""

    verdict: Verdict
    operation: str | None
    entered_ns: int
    since_ns: int  # from when its deadline counts: entered, or armed if that was later
    deadline_ns: int
    word: int
    offset: int
    lane: int | None

    @property
    def key(self) -> tuple[int, int]:
        return self.offset, self.word


class Look(NamedTuple):  # made for every worker at every tick: a third of a frozen dataclass's time
    next_check_ns: int
    overdue: tuple[Pending, ...] = ()  # past the hard level, longest entered first
    slow: tuple[Pending, ...] = ()  # past the soft level only
    due_ns: int | None = None  # no deadline of what is in flight passes sooner; None: there is none to pass
    error: str | None = None  # words that cannot be; they were left out


def is_ready(pulse: Pulse) -> bool:
    return pulse.header("state") & abi.CODE_MASK == abi.STATE["ready"]


def look_starting(pulse: Pulse, rules: Rules, spawned_ns: int, now_ns: int) -> Look:
    """Before ready, only the startup deadline holds: an engine build may synchronize for minutes."""
    soonest = now_ns + min(STARTING_CHECK_NS, rules.shortest_ns)
    startup = rules.deadlines.startup_ns
    if startup is None:
        return Look(soonest)
    deadline = spawned_ns + startup
    if now_ns < deadline:
        return Look(min(soonest, deadline), due_ns=deadline)
    offset = abi.H["state"] * abi.WORD
    item = Pending(Verdict.STARTUP, None, spawned_ns, spawned_ns, deadline, pulse.header("state"), offset, None)
    return Look(soonest, (item,))


def look(pulse: Pulse, rules: Rules, spawned_ns: int, armed_ns: int, now_ns: int) -> Look:
    """What of a ready worker is overdue, and when to look again.

    ``armed_ns`` is when its deadlines were armed (ready or resumed): nothing is older than that.
    """
    outer, inner, steps = pulse.in_flight()
    # Most lanes are in no nested call and no step: a tenth of the whole tick to know it before sorting.
    words = sorted(filter(None, outer + inner if any(inner) else outer))
    begun = sorted(filter(None, steps)) if any(steps) else []
    error = None
    floor, ceiling = spawned_ns & ~abi.CODE_MASK, now_ns + FUTURE_TOLERANCE_NS
    if words and (words[-1] > ceiling or words[0] < floor):
        error, words = _without_impossible("call", words, floor, ceiling)
    if begun and (begun[-1] > ceiling or begun[0] < floor):
        error, begun = _without_impossible("step", begun, floor, ceiling)
    next_check = now_ns + rules.shortest_ns
    overdue: list[Pending] = []
    slow: list[Pending] = []
    due = NEVER_NS
    for are_calls, entries in ((True, words), (False, begun)):
        for word in entries:
            since = max(word & ~abi.CODE_MASK, armed_ns)
            if since + rules.shortest_ns >= next_check:
                soonest = since + rules.shortest_hard_ns
                due = soonest if now_ns < soonest < due else due
                break  # it and all after it: entered too late to be due before the next check
            code = word & abi.CODE_MASK if are_calls else _STEP_CODES.get(word & abi.CODE_MASK, 0)
            if not 0 < code < (_STEP if are_calls else _ANY_STEP + 1):
                error = f"{'operation' if are_calls else 'step'} code {word & abi.CODE_MASK} is unknown"
                continue
            if code == _ANY_STEP and not pulse.lane(steps.index(word), "steps_done"):
                code = _FIRST_STEP  # nobody has done any in this lane
            hard, soft = rules.hard[code], rules.soft[code]
            if hard is None:
                continue
            notice_ns = since + (hard if soft is None else soft)
            due = since + hard if now_ns < since + hard < due else due
            if now_ns < notice_ns:
                next_check = min(next_check, notice_ns)
                continue
            item = _pending(word, code, since, since + hard, outer, inner, steps)
            if now_ns < item.deadline_ns:
                next_check = min(next_check, item.deadline_ns)
                slow.append(item)
            else:
                overdue.append(item)
    due_ns = due if due < NEVER_NS else None
    if not overdue and not slow:
        return Look(next_check, due_ns=due_ns, error=error)
    # A call says where it is stuck, a step only that it is: the call comes first.
    overdue.sort(key=lambda item: (item.verdict is not Verdict.CALL, item.deadline_ns))
    return Look(next_check, tuple(overdue), tuple(slow), due_ns, error)


def _pending(
    word: int, code: int, since_ns: int, deadline_ns: int, outer: list[int], inner: list[int], steps: list[int]
) -> Pending:
    entered = word & ~abi.CODE_MASK
    if code >= _STEP:
        lane = steps.index(word)
        verdict = Verdict.FIRST_STEP if code == _FIRST_STEP else Verdict.STEP
        return Pending(verdict, None, entered, since_ns, deadline_ns, word, word_offset(lane, "step"), lane)
    column, name = (outer, "outer") if word in outer else (inner, "inner")
    lane = column.index(word)
    offset = word_offset(lane, name)
    return Pending(Verdict.CALL, abi.OPERATIONS[code], entered, since_ns, deadline_ns, word, offset, lane)


def image_is_gone(pulse: Pulse, pid: int, image: int) -> bool:
    """Whether a process has called ``exec`` since it claimed its lanes: ``image`` is what it runs now, 0 = unknown."""
    claimed = [lane for lane, owner in enumerate(pulse.column("owner")) if owner == pid << 32]
    images = {pulse.lane(lane, "stage") for lane in claimed}
    return bool(images) and 0 not in images and image not in (0, *images)


def _without_impossible(kind: str, words: list[int], floor: int, ceiling: int) -> tuple[str, list[int]]:
    kept = [word for word in words if floor <= word <= ceiling]
    return f"{len(words) - len(kept)} {kind} words have impossible times", kept


# --- had it its chance? ---------------------------------------------------------------------------------------------

Threads = Mapping[int, ThreadSample]  # by tid, of the process that owns the overdue lane


class Patience(NamedTuple):
    """What is remembered of one slow call while its word stands still."""

    pending: Pending
    base_ns: int  # when ``base`` was taken: at the soft level, or at the first overdue look
    base: Threads | None
    stalls: int = 0  # waits that were granted because the machine had stood still
    stalled_ns: int = 0  # for so much of that
    overdue_ns: int | None = None  # first overdue look, and the threads then
    overdue_threads: Threads | None = None
    until_ns: int | None = None  # a wait that was granted, whatever wakes the supervisor before


class Wait(NamedTuple):
    """Not a verdict yet: look again then, because of that."""

    until_ns: int
    reason: str
    stalled_ns: int = 0  # what was granted for, by now


def judge(
    patience: Patience, threads: Threads | None, late_ns: int, late_margin_ns: int, now_ns: int
) -> Finding | Wait:
    """Whether an overdue word, read again and unchanged, is a verdict now.

    ``late_ns``: how long the machine stood still since the call began. What of that is new and more than the margin was
    no time of the worker's either: look again after as long, and again if it stood still meanwhile. ``threads``: the
    kernel's word on each thread of the process; time that one of them was runnable but not run is credited to the call,
    at the same rate for the part of the call before the first sample. A thread that may be waiting for a CPU right now
    gets its turn first. All that ends ``MOST_DEADLINES`` waits or deadlines after the call's own: neither a busy thread
    beside the hung one nor a machine that stutters all the time must hide it for ever.
    """
    pending = patience.pending
    allowance = pending.deadline_ns - pending.since_ns
    if patience.until_ns is not None and now_ns < patience.until_ns:
        return Wait(patience.until_ns, "a wait was granted")
    fresh_ns = late_ns - patience.stalled_ns
    if fresh_ns > late_margin_ns and patience.stalls < MOST_DEADLINES:
        wait_ns = min(fresh_ns, max(allowance, RECHECK_NS))
        return Wait(now_ns + wait_ns, f"the machine stalled for {fresh_ns / MILLISECOND:.0f} ms", late_ns)
    if threads is not None and now_ns < pending.deadline_ns + max(MOST_DEADLINES * allowance, LEAST_PATIENCE_NS):
        wait = _starved(patience, threads, now_ns)
        if wait is not None:
            return wait
    return Finding(
        verdict=pending.verdict,
        detected_ns=now_ns,
        operation=pending.operation,
        entered_ns=pending.entered_ns,
        deadline_ns=pending.deadline_ns,
        word=pending.word,
        offset=pending.offset,
    )


def _starved(patience: Patience, threads: Threads, now_ns: int) -> Wait | None:
    """A wait, if threads of the process did not get the CPU time that they could have used."""
    pending = patience.pending
    samples = ((patience.overdue_ns, patience.overdue_threads), (patience.base_ns, patience.base))
    known = [(then_ns, then) for then_ns, then in samples if then_ns is not None and then is not None]
    if not known or now_ns - known[0][0] < WAIT_UNSEEN_NS:  # nothing to compare with yet
        runnable = any(sample.state == "R" for sample in threads.values())
        return Wait(now_ns + RECHECK_NS, "runnable, first look") if runnable else None
    since_ns, since = known[0]
    if _may_be_starving(since, threads, now_ns - since_ns):
        return Wait(now_ns + RECHECK_NS, "runnable but not run")
    base_ns, base = known[-1]
    waited = max((s.waited_ns - base[tid].waited_ns for tid, s in threads.items() if tid in base), default=0)
    credit = int(waited * max(1.0, (now_ns - pending.since_ns) / (now_ns - base_ns)))
    if credit < (pending.deadline_ns - pending.since_ns) // NOTEWORTHY_SHARE:
        return None  # what any thread that wakes often waits on a healthy machine
    if now_ns < pending.deadline_ns + credit:
        return Wait(min(pending.deadline_ns + credit, now_ns + MOST_CREDIT_AT_ONCE_NS), "starved of CPU")
    return None


def _may_be_starving(before: Threads, after: Threads, elapsed_ns: int) -> bool:
    for tid, sample in after.items():
        if sample.state != "R" or not (sample.ran_ns or sample.waited_ns):  # all 0: a kernel without schedstat
            continue
        old = before.get(tid)
        ran = 0 if old is None else sample.ran_ns - old.ran_ns
        waited = 0 if old is None else sample.waited_ns - old.waited_ns
        if elapsed_ns - ran - waited > WAIT_UNSEEN_NS and ran < WAIT_UNSEEN_NS:
            return True
    return False


# --- other verdicts -------------------------------------------------------------------------------------------------


def sticky_error(pulse: Pulse, spawned_ns: int, now_ns: int) -> Finding | None:
    """A CUDA error after which the process can only be replaced, recorded by the worker in the header."""
    word = pulse.header("last_error")
    code = word & abi.ERROR_MASK
    since = word & ~abi.ERROR_MASK
    if code not in STICKY_ERRORS or not spawned_ns & ~abi.ERROR_MASK <= since <= now_ns + FUTURE_TOLERANCE_NS:
        return None
    return Finding(
        Verdict.STICKY_ERROR,
        detected_ns=now_ns,
        entered_ns=since,
        word=word,
        offset=abi.H["last_error"] * abi.WORD,
        detail=f"{STICKY_ERRORS[code]} ({code})",
    )


def ended(status: Exit, now_ns: int) -> Finding:
    """A worker that nobody asked to end: exited with status 0, or crashed."""
    verdict = Verdict.EXITED if status.code == 0 else Verdict.CRASHED
    return Finding(verdict, detected_ns=now_ns, detail=str(status))


UNINSTRUMENTED_AFTER_STEPS = 10


def uninstrumented(pulse: Pulse, rules: Rules) -> bool:
    """Steps go by, call deadlines are configured, and no call was ever stamped: nobody watches its CUDA calls."""
    if all(hard is None for hard in rules.hard[:_STEP]):
        return False
    if any(pulse.column("calls")) or any(pulse.column("outer")):
        return False
    return sum(pulse.column("steps_done")) >= UNINSTRUMENTED_AFTER_STEPS

"""``watchdogd._native`` in pure Python, for interpreters without the extension.

Invariant: everything that a reader judges is one ``words[i] = value`` on a ``memoryview`` cast to 8-byte words, which
CPython copies in one store. (``struct.pack_into`` is not: readers saw zero in one read out of ten.)

Where a signal handler may raise, a call guard's word is last to be set and first to be cleared.
"""

from __future__ import annotations

import os
import threading
from itertools import count
from time import monotonic_ns

from watchdogd import abi
from watchdogd.worker import _requests
from watchdogd.worker._lane import DEPTH as _DEPTH
from watchdogd.worker._lane import Lane, ThreadLane
from watchdogd.worker._memory import Heartbeat
from watchdogd.worker._scan import deviation, digest, extremes, uniform

__all__ = [
    "attach", "begin_step", "bisect", "call", "deviation", "digest", "end_step", "error", "extremes", "first_step",
    "lane", "output", "ready", "redelivered", "stage", "step", "uniform",
]  # fmt: skip

_STEPS = 1024
_CODE = abi.CODE_MASK
_TIME = ~abi.CODE_MASK
_INNER, _STEP, _STAGE, _CALLS = (abi.L[name] for name in ("inner", "step", "stage", "calls"))
_BEGUN, _DONE = abi.L["steps_begun"], abi.L["steps_done"]
_FIRST_OCTAVE, _LAST_OCTAVE = abi.HISTOGRAM_FIRST_OCTAVE, abi.HISTOGRAM_LAST_OCTAVE
_SUB_BITS = abi.HISTOGRAM_SUB_BITS
_BUCKET_BIAS = 2 - (_FIRST_OCTAVE + 1 << _SUB_BITS)  # within a histogram, whose word 0 is the total
_LAST_BUCKET = abi.BUCKETS
_RING_ENTRIES = abi.RING_ENTRIES
_RING = abi.RING_OFFSET // abi.WORD

_local = threading.local()

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class _Process:
    """What the threads of this process share."""

    __slots__ = ("attached", "has_done_a_step", "heartbeat", "in_flight", "lane", "lock", "stage_codes", "tokens")

    heartbeat: Heartbeat  # from attach() on

    def __init__(self) -> None:
        self.tokens = count(1)
        self.stage_codes: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """Also in a forked child: nothing of the parent's is ours, and another thread may have held the lock."""
        self.lock = threading.RLock()  # reentrant: a signal handler may run where it is held
        self.attached = False
        self.lane: Lane | None = None
        self.in_flight: dict[int, tuple[int, int, int | None]] = {}  # token -> begin time, word, entry; oldest first
        self.has_done_a_step = False

    def steps(self) -> Lane:
        if self.lane is None:
            self.lane = Lane(self.heartbeat, 0)
        return self.lane


_process = _Process()


def _after_fork() -> None:
    _process.reset()
    _local.__dict__.clear()


os.register_at_fork(after_in_child=_after_fork)


def _claim() -> ThreadLane:
    with _process.lock:
        lane = _local.lane = ThreadLane(_process.heartbeat)
        return lane


class _CallGuard:
    __slots__ = ("_code", "_total")

    def __init__(self, code: int) -> None:
        self._code = code
        self._total = code * abi.HISTOGRAM_WORDS

    def __enter__(self) -> None:
        try:
            lane: ThreadLane = _local.lane
        except AttributeError:
            lane = _claim()
        depth = lane.depth
        lane.depth = depth + 1
        if depth < _DEPTH:
            lane.started_ns[depth] = now_ns = monotonic_ns()
            lane.stamps[depth] = word = now_ns & _TIME | self._code
            if depth <= _INNER:
                lane.hot[depth] = word

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        try:
            lane: ThreadLane = _local.lane
        except AttributeError:  # entered before the fork
            return
        depth = lane.depth - 1
        if depth < 0:
            return
        hot = lane.hot
        if depth <= _INNER:
            hot[depth] = 0
        if depth < _DEPTH:
            stamp = lane.stamps[depth]
            duration_ns = monotonic_ns() - lane.started_ns[depth]
            cold, counts, calls = lane.cold, lane.counts, lane.calls
            total = self._total
            octave = duration_ns.bit_length() - 1  # abi.bucket_of() in place: the call would cost 80 ns
            if octave < _FIRST_OCTAVE:
                bucket = total + 1
            elif octave < _LAST_OCTAVE:
                bucket = total + (octave << _SUB_BITS) + (duration_ns >> octave - _SUB_BITS) + _BUCKET_BIAS
            else:
                bucket = total + _LAST_BUCKET
            cold[total] = counts[total] = counts[total] + duration_ns
            cold[bucket] = counts[bucket] = counts[bucket] + 1
            entry = _RING + calls % _RING_ENTRIES * 2
            cold[entry] = stamp
            cold[entry + 1] = duration_ns << 8 | lane.stage
            hot[_CALLS] = lane.calls = calls + 1  # last: says that the entry is there
        lane.depth = depth


class _StageGuard:
    __slots__ = ("_code", "_previous")

    def __init__(self, code: int) -> None:
        self._code = code
        self._previous = 0

    def __enter__(self) -> None:
        lane: ThreadLane = getattr(_local, "lane", None) or _claim()
        self._previous = lane.hot[_STAGE]
        lane.hot[_STAGE] = monotonic_ns() & _TIME | self._code
        lane.stage = self._code

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        lane: ThreadLane | None = getattr(_local, "lane", None)
        if lane is not None:
            lane.hot[_STAGE] = self._previous
            lane.stage = self._previous & _CODE


class _StepGuard:
    __slots__ = ("_request", "_token")

    def __init__(self, *, request: int | None = None) -> None:
        self._request = None if request is None else _requests.number(request)
        self._token = -1  # in flight nowhere

    def __enter__(self) -> None:
        self._token = begin_step(request=self._request)

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        end_step(self._token)


class _CallGuards(dict[str, _CallGuard]):
    def __missing__(self, operation: str) -> _CallGuard:
        raise ValueError(f"unknown operation {operation!r}: use one of {tuple(self)!r}")


call: Callable[[str], _CallGuard] = _CallGuards(
    (name, _CallGuard(abi.OPERATION[name])) for name in abi.OPERATIONS[1:]
).__getitem__
step = _StepGuard


def stage(name: str) -> _StageGuard:
    code = _process.stage_codes.get(name)
    if code is None:
        with _process.lock:
            code = _process.stage_codes[name] = _process.heartbeat.stage_code(name)
    return _StageGuard(code)


def begin_step(*, request: int | None = None) -> int:
    process = _process
    if request is not None:
        request = _requests.number(request)
    with process.lock:
        hot = process.steps().hot
        token = 0
        if len(process.in_flight) < _STEPS:
            token = next(process.tokens)
            now_ns = monotonic_ns()
            word = now_ns & _TIME | (abi.STEP_LATER if process.has_done_a_step else abi.STEP_FIRST)
            entry = None if request is None else _requests.begin(process.heartbeat, request, now_ns)
            if not process.in_flight:
                hot[_STEP] = word
            process.in_flight[token] = now_ns, word, entry
        elif request is not None:
            _requests.unkept(process.heartbeat)
        hot[_BEGUN] += 1
        return token


def end_step(token: int) -> None:
    process = _process
    with process.lock:
        ended = process.in_flight.pop(token, None)
        if ended is None and token != 0:
            return
        if ended is not None and ended[2] is not None:
            process.heartbeat.words[ended[2]] = 0  # first: what is done must not be given back
        lane = process.steps()
        process.has_done_a_step = True
        now_ns = monotonic_ns()
        process.heartbeat.words[abi.H["last_step_ns"]] = now_ns
        if ended is not None:
            lane.hot[_STEP] = next(iter(process.in_flight.values()), (0, 0, None))[1]
            duration_ns = now_ns - ended[0]
            lane.cold[0] += duration_ns
            lane.cold[1 + abi.bucket_of(duration_ns)] += 1
        lane.hot[_DONE] += 1


def first_step() -> None:
    process = _process
    with process.lock:
        process.has_done_a_step = False
        for token, (begun_ns, word, entry) in process.in_flight.items():
            process.in_flight[token] = begun_ns, word & _TIME | abi.STEP_FIRST, entry
        if process.in_flight:
            process.steps().hot[_STEP] = next(iter(process.in_flight.values()))[1]


def redelivered() -> int | None:
    with _process.lock:
        return _requests.redelivered(_process.heartbeat)


def attach(path: str | None) -> bool:
    process = _process
    with process.lock:
        if not hasattr(process, "heartbeat"):
            process.heartbeat = Heartbeat(path)
        if not process.attached:
            process.attached = True
            process.heartbeat.attach()
            process.steps()
        return process.heartbeat.supervised


def ready() -> None:
    if not _process.heartbeat.is_ready():
        _process.heartbeat.set_state("ready")


def error(curesult: int) -> None:
    code = curesult if 0 <= curesult <= abi.ERROR_MASK else abi.ERROR_MASK
    if code:
        _process.heartbeat.words[abi.H["last_error"]] = monotonic_ns() & ~abi.ERROR_MASK | code


def output(run: int, kind: int) -> int:
    """As ``watchdogd_output`` of ``watchdogd.h``; the new word of the run."""
    with _process.lock:
        return _process.heartbeat.looked_at(run, kind)


def in_step() -> bool:
    return _process.lane is not None and _process.lane.hot[_STEP] != 0 and _process.heartbeat.is_ready()


def bisect(done: bool) -> bool:
    return _process.heartbeat.bisect(done)


def lane() -> int | None:
    claimed: ThreadLane | None = getattr(_local, "lane", None)
    return None if claimed is None else claimed.number

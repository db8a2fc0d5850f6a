"""The calls a worker is in, for those who compare workers: who is busy, and who should have returned by now.

Invariant: a word whose owner was found gone is no call in flight, and neither is one that cannot be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from watchdogd import abi
from watchdogd.decide.liveness import FUTURE_TOLERANCE_NS
from watchdogd.decide.suspicion import Stuck, stuck
from watchdogd.histogram import Histogram
from watchdogd.model import Deadlines, Finding, WorkerSettings
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader
from watchdogd.pulse import Pulse, word_offset

MOST_BESIDE = 8  # calls told with a verdict


def activity(pulse: Pulse, orphaned: Collection[tuple[int, int]]) -> tuple[bool, int]:
    """Whether a call is in flight, and how many have completed: for the frozen-load rule."""
    return bool(_owned(pulse, "outer", orphaned)), sum(pulse.column("calls"))


def most_stuck(
    settings: WorkerSettings, reader: HeartbeatReader, pulse: Pulse, orphaned: Collection[tuple[int, int]],
    spawned_ns: int, now_ns: int,
) -> Stuck | None:  # fmt: skip
    """The call that most should have returned by now, against the worker's own history; None if it is in none."""
    steps = _owned(pulse, "step", orphaned)
    is_first = any(word & abi.CODE_MASK == abi.STEP_FIRST for word in steps)
    believed = [word for word in _owned(pulse, "outer", orphaned) if _believable(word, spawned_ns, now_ns)]
    calls = [(word, abi.OPERATIONS[word & abi.CODE_MASK]) for word in believed] or [(word, "step") for word in steps]
    if not calls:
        return None
    histories: Mapping[str, Histogram] = {}
    if not is_first:  # what is done for the first time may take longer than anything before
        with suppress(HeartbeatError):
            histories = reader.histograms(pulse)
    found = [
        stuck(
            settings,
            operation,
            word & ~abi.CODE_MASK,
            _allowance_ns(settings.deadlines, operation, word & abi.CODE_MASK),
            histories.get(operation, Histogram()),
            now_ns,
        )
        for word, operation in calls
    ]
    return min(found, key=lambda item: (not item.outside, item.expected_ns))


def _allowance_ns(deadlines: Deadlines, operation: str, code: int) -> int | None:
    if operation != "step":
        return deadlines.calls_ns[code]
    if code == abi.STEP_FIRST:
        return deadlines.first_step_ns
    if code == abi.STEP_UNKNOWN and deadlines.step_ns is not None:
        return max(deadlines.step_ns, deadlines.first_step_ns or 0)
    return deadlines.step_ns


def beside(
    reader: HeartbeatReader, pulse: Pulse, orphaned: Collection[tuple[int, int]], finding: Finding, spawned_ns: int,
    now_ns: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """The calls that a worker's other threads are in at a verdict, the oldest first, the innermost of each.

    Of two calls that wait for each other, the verdict names one; the other is here.
    """
    found: dict[int, int] = {}
    for column in ("outer", "inner"):  # the inner one, where there is one, says more
        for lane, word in enumerate(pulse.column(column)):
            own = finding.offset in (word_offset(lane, "outer"), word_offset(lane, "inner"))
            if word and not own and (word_offset(lane, column), word) not in orphaned:
                found[lane] = word
    calls = sorted((word, lane) for lane, word in found.items() if _believable(word, spawned_ns, now_ns))
    return [_told(reader, pulse, word, lane) for word, lane in calls[:MOST_BESIDE]]


def _told(reader: HeartbeatReader, pulse: Pulse, word: int, lane: int) -> dict[str, Any]:
    owner, stage = pulse.lane(lane, "owner"), pulse.lane(lane, "stage") & abi.CODE_MASK
    return {
        "operation": abi.OPERATIONS[word & abi.CODE_MASK],
        "stage": reader.stage_name(stage) if stage else None,
        "entered_ns": word & ~abi.CODE_MASK,
        "pid": owner >> 32,
        "tid": owner & 0xFFFF_FFFF,
    }


def _owned(pulse: Pulse, column: str, orphaned: Collection[tuple[int, int]]) -> list[int]:
    words = enumerate(pulse.column(column))
    return [word for lane, word in words if word and (word_offset(lane, column), word) not in orphaned]


def _believable(word: int, spawned_ns: int, now_ns: int) -> bool:
    known = 0 < word & abi.CODE_MASK < len(abi.OPERATIONS)
    return known and spawned_ns & ~abi.CODE_MASK <= word <= now_ns + FUTURE_TOLERANCE_NS

"""What the driver shim tells of work that was queued and completed, read from the driver region of a heartbeat.

Invariant: read with ``pread``, as the rest of a heartbeat; a file without the region says nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection

from watchdogd import abi, abi_driver
from watchdogd.decide.facts import Fact
from watchdogd.decide.progress import Call, Completions
from watchdogd.observe.heartbeat import HeartbeatReader
from watchdogd.pulse import Pulse, word_offset

_WORDS = len(abi_driver.LANE)
_COMPLETED, _QUEUED, _UNREADY = (abi_driver.LANE.index(name) for name in ("completed_ns", "queued_ns", "unready_ns"))


def read(reader: HeartbeatReader, pulse: Pulse, gone: Collection[Fact], spawned_ns: int) -> Completions | None:
    """``gone``: words of calls whose owner is. None: the file is too short, so it has no such region."""
    raw = reader.raw(abi_driver.LANES_OFFSET, pulse.lanes * abi_driver.LANE_STRIDE)
    if raw is None:
        return None
    words = memoryview(raw).cast("Q").tolist()
    completed, queued, unready = (max(words[index::_WORDS], default=0) for index in (_COMPLETED, _QUEUED, _UNREADY))
    count = sum(words[abi_driver.LANE.index("completed") :: _WORDS])
    return Completions(count, completed, queued, unready, tuple(sorted(_calls(pulse, gone, spawned_ns))))


def _calls(pulse: Pulse, gone: Collection[Fact], spawned_ns: int) -> list[Call]:
    floor = spawned_ns & ~abi.CODE_MASK
    return [
        Call(word & ~abi.CODE_MASK, abi.OPERATIONS[word & abi.CODE_MASK], lane, word)
        for lane, word in enumerate(pulse.column("outer"))
        if word >= floor
        and 0 < word & abi.CODE_MASK < len(abi.OPERATIONS)
        and (word_offset(lane, "outer"), word) not in gone
    ]

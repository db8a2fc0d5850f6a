"""What the driver shim tells of work that was queued and completed, read from the driver region of a heartbeat.

Invariant: read with ``pread``, as the rest of a heartbeat; a file without the region says nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection

from watchdogd import abi, abi_driver
from watchdogd.decide.facts import Fact
from watchdogd.decide.progress import Call, Completions, HostFunction
from watchdogd.observe.heartbeat import HeartbeatReader
from watchdogd.pulse import Pulse, word_offset

_WORDS = len(abi_driver.LANE)
_COMPLETED, _QUEUED, _UNREADY = (abi_driver.LANE.index(name) for name in ("completed_ns", "queued_ns", "unready_ns"))
_RUN, _RUN_NS = (abi_driver.HEADER.index(name) for name in ("host_functions_run", "host_function_ns"))
_ENTRY = {name: index for index, name in enumerate(abi_driver.HOST_FUNCTION)}


def read(reader: HeartbeatReader, pulse: Pulse, gone: Collection[Fact], spawned_ns: int) -> Completions | None:
    """``gone``: words of calls whose owner is. None: the file is too short, so it has no such region."""
    raw = reader.raw(abi_driver.OFFSET, abi_driver.HEADER_SIZE + pulse.lanes * abi_driver.LANE_STRIDE)
    table = reader.raw(abi_driver.HOST_FUNCTIONS_OFFSET, abi_driver.HOST_FUNCTIONS * abi_driver.HOST_FUNCTION_STRIDE)
    if raw is None or table is None:
        return None
    header = memoryview(raw)[: abi_driver.HEADER_SIZE].cast("Q").tolist()
    words = memoryview(raw)[abi_driver.HEADER_SIZE :].cast("Q").tolist()
    completed, queued, unready = (max(words[index::_WORDS], default=0) for index in (_COMPLETED, _QUEUED, _UNREADY))
    count = sum(words[abi_driver.LANE.index("completed") :: _WORDS])
    return Completions(
        count + header[_RUN],
        max(completed, header[_RUN_NS]),
        queued,
        unready,
        tuple(sorted(_calls(pulse, gone, spawned_ns))),
        _oldest_host_function(table, pulse, gone, spawned_ns),
    )


def _calls(pulse: Pulse, gone: Collection[Fact], spawned_ns: int) -> list[Call]:
    floor = spawned_ns & ~abi.CODE_MASK
    return [
        Call(word & ~abi.CODE_MASK, abi.OPERATIONS[word & abi.CODE_MASK], lane, word)
        for lane, word in enumerate(pulse.column("outer"))
        if word >= floor
        and 0 < word & abi.CODE_MASK < len(abi.OPERATIONS)
        and (word_offset(lane, "outer"), word) not in gone
    ]


def _oldest_host_function(table: bytes, pulse: Pulse, gone: Collection[Fact], spawned_ns: int) -> HostFunction | None:
    """Of a process that has a lane of its own, by which it can be looked up; each that uses the shim has one."""
    words = memoryview(table).cast("Q").tolist()
    lanes = {owner >> 32: lane for lane, owner in enumerate(pulse.column("owner")) if owner and not owner & 0xFFFF_FFFF}
    found: list[HostFunction] = []
    for at in range(0, len(words), len(_ENTRY)):
        queued_ns, lane = words[at + _ENTRY["queued_ns"]], lanes.get(words[at + _ENTRY["owner"]] >> 32)
        offset = abi_driver.HOST_FUNCTIONS_OFFSET + (at + _ENTRY["queued_ns"]) * abi.WORD
        if lane is not None and queued_ns and queued_ns >= spawned_ns and (offset, queued_ns) not in gone:
            found.append(HostFunction(queued_ns, words[at + _ENTRY["stream"]], lane, offset))
    return min(found, default=None)

"""Shared memory of every worker, as near to one instant as reading it allows: what an incident has of it.

First what each worker is in, of all workers one after the other; then, again of each, what it did before: its rings and
its histograms. As blobs whose names ``incidents.spool`` tells, in native byte order.

Invariant: nothing is waited for and nothing decoded; it ends at the instant it is given, and says whom it left out,
which is never the first one, however many others there are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from watchdogd import abi, abi_driver
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader
from watchdogd.pulse import Pulse

NEVER_NS = 1 << 62
_HISTOGRAMS_MASK = (1 << 8 * abi.RING_OFFSET) - 1  # counts of a worker that writes nonsense may overflow


class Taken(NamedTuple):
    at_ns: int
    took_ns: int
    blobs: dict[str, bytes]
    unread: dict[str, str]  # why nothing could be read, by worker
    left_out: tuple[str, ...]  # of these the time sufficed for nothing, or not for what they did before


def take(workers: Sequence[tuple[str, HeartbeatReader | None]], until_ns: int) -> Taken:
    """Of these workers, in this order of worth, until that instant (CLOCK_MONOTONIC)."""
    at_ns = time.monotonic_ns()
    present_ns = at_ns + (until_ns - at_ns) // 2  # the rest is for what the nearest did before
    blobs: dict[str, bytes] = {}
    unread: dict[str, str] = {}
    pulses: list[tuple[str, HeartbeatReader, Pulse]] = []
    left_out: list[str] = []
    for name, reader in workers:
        if reader is None:
            unread[name] = "no process"
            continue
        if pulses and time.monotonic_ns() >= present_ns:
            left_out.append(name)
            continue
        try:
            pulse = reader.read()
        except HeartbeatError as error:
            unread[name] = error.reason.value
            continue
        blobs[f"{name}/pulse"] = pulse.raw
        pulses.append((name, reader, pulse))
    for number, (name, reader, pulse) in enumerate(pulses):
        if not _before(name, reader, pulse, until_ns if number else NEVER_NS, blobs):
            left_out.append(name)
    return Taken(at_ns, time.monotonic_ns() - at_ns, blobs, unread, tuple(left_out))


def _before(name: str, reader: HeartbeatReader, pulse: Pulse, until_ns: int, blobs: dict[str, bytes]) -> bool:
    """What the worker did before; whether the time sufficed."""
    used = _stages(pulse.header("stages_used_cas"), pulse.header("stages_used_locked"))
    if used:
        stages = reader.raw(abi.STAGE_OFFSET, used * abi.STAGE_NAME_SIZE)
        if stages is not None:
            blobs[f"{name}/stages"] = stages
    if pulse.header("driver"):  # its shim was asked for more than stamps
        driver = reader.raw(abi_driver.OFFSET, abi_driver.SIZE)
        if driver is not None:
            blobs[f"{name}/driver"] = driver
    total = 0  # as in ``HeartbeatReader.histograms``
    for lane, (calls, steps) in enumerate(zip(pulse.column("calls"), pulse.column("steps_done"), strict=True)):
        if not calls and not steps:
            continue
        if time.monotonic_ns() >= until_ns:
            return False
        cold = reader.raw(abi.COLD_OFFSET + lane * abi.COLD_STRIDE, abi.COLD_STRIDE)
        if cold is None:  # it was cut short a moment ago
            continue
        if calls:
            size = abi.RING_ENTRIES * abi.RING_ENTRY_WORDS * abi.WORD
            blobs[f"{name}/ring.{lane}"] = cold[abi.RING_OFFSET : abi.RING_OFFSET + size]
        total += int.from_bytes(cold[: abi.RING_OFFSET], sys.byteorder)
    if total:
        blobs[f"{name}/sums"] = (total & _HISTOGRAMS_MASK).to_bytes(abi.RING_OFFSET, sys.byteorder)
    return True


def _stages(by_cas: int, locked: int) -> int:
    """How much of the table of stage names is in use at most; every fifth entry is claimed under the lock."""
    if not by_cas and not locked:
        return 0
    beyond = max(by_cas * abi.LOCKED_EVERY // (abi.LOCKED_EVERY - 1), locked * abi.LOCKED_EVERY) + 1
    return min(abi.STAGES, abi.FIRST_DYNAMIC_STAGE + beyond)

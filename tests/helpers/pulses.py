"""Pulses and worker settings as tests of the pure core need them: only what a test says differs from idle."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from watchdogd import abi
from watchdogd.model import MILLISECOND, SECOND, Deadlines, ThreadSample
from watchdogd.pulse import Pulse, word_offset

SPAWNED = 1_000 * SECOND  # an instant with low bits that are 0, as stamps lose them
SPAWNED &= ~abi.ERROR_MASK


def ms(amount: float) -> int:
    """Milliseconds after the spawn, as an instant."""
    return SPAWNED + round(amount * MILLISECOND)


def call(operation: str, entered_ns: int) -> int:
    return abi.stamp(entered_ns, abi.OPERATION[operation])


def pulse(*lanes: Mapping[str, int], state: str = "ready", **header: int) -> Pulse:
    """A reading of a heartbeat: one mapping of word names to words per lane; ``header`` words by name."""
    raw = bytearray(abi.HOT_OFFSET + len(lanes) * abi.HOT_STRIDE)
    words = {"spawned_ns": SPAWNED, "state": abi.stamp(SPAWNED, abi.STATE[state]), **header}
    for name, word in words.items():
        struct.pack_into("=Q", raw, abi.H[name] * abi.WORD, word)
    for number, lane in enumerate(lanes):
        for name, word in lane.items():
            struct.pack_into("=Q", raw, word_offset(number, name), word)
    return Pulse(bytes(raw), len(lanes))


def deadlines(**lengths: float) -> Deadlines:
    """``startup``, ``first_step``, ``step`` and operations, in ms; what is not named is never overdue."""
    calls = [lengths.get(name) for name in abi.OPERATIONS]
    named = {f"{name}_ns": _ns(lengths.get(name)) for name in ("startup", "first_step", "step")}
    return Deadlines(**named, calls_ns=tuple(map(_ns, calls)))


def _ns(length: float | None) -> int | None:
    return None if length is None else round(length * MILLISECOND)


def thread(state: str = "S", ran: float = 1, waited: float = 0) -> ThreadSample:
    """``ran`` and ``waited`` in ms since the thread began."""
    return ThreadSample(state, round(ran * MILLISECOND), round(waited * MILLISECOND))

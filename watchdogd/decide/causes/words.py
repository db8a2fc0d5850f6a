"""The causes, and how a diagnosis puts numbers into words.

Invariant: pure; any integer can be put into words, and the value of a cause never changes once it was published.
"""

from __future__ import annotations

from enum import Enum

from watchdogd.incident import Call, Diagnosis
from watchdogd.model import MILLISECOND, SECOND

MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86400 * SECOND
_MOST = 10**18  # ns; 30 years


class Cause(str, Enum):
    """The text is what ``incident.json`` says."""

    KERNEL_WITHOUT_END = "kernel_without_end"
    DLA_FIRST = "dla_first"
    NEIGHBOUR = "neighbour"  # starved by another worker's hang
    ALLOCATOR_DEADLOCK = "allocator_deadlock"
    HOST_FUNCTION = "host_function"  # one that does not return
    CPU_LOOP = "cpu_loop"
    LOCK_WAIT = "lock_wait"  # asleep on the CPU: a lock, Python's among them
    DRIVER_WAIT = "driver_wait"  # in D state
    STORAGE_WAIT = "storage_wait"  # the same, but for a disk or the network
    DEVICE_FAULT = "device_fault"  # that the driver tells of
    STICKY_ERROR = "sticky_error"
    LOST_CONTEXT = "lost_context"
    SILENT_OUTPUT = "silent_output"
    STALLED_MACHINE = "stalled_machine"
    LATE = "late"  # it returned by itself
    STILL_WORKING = "still_working"  # not blocked: a deadline too short, or a loop around calls that return
    STARTUP = "startup"
    STALL = "stall"
    CRASH = "crash"
    OUT_OF_MEMORY = "out_of_memory"
    EXITED = "exited"
    LEAK = "leak"
    UNKNOWN = "unknown"


def found(cause: Cause, sentence: str, facts: list[str], *next_steps: str) -> Diagnosis:
    return Diagnosis(cause.value, sentence, tuple(dict.fromkeys(facts)), next_steps)


def span(ns: int) -> str:
    """A length of time in the unit that people would use. Of a negative one its size."""
    ns = min(abs(ns), _MOST)
    if ns < MILLISECOND // 10:
        return f"{ns / 1000:.1f} us"
    if ns < 10 * MILLISECOND:
        return f"{ns / MILLISECOND:.2f} ms"
    if ns < SECOND:
        return f"{ns / MILLISECOND:.0f} ms"
    if ns < 2 * MINUTE:
        return f"{ns / SECOND:.1f} s"
    if ns < 2 * HOUR:
        return f"{ns / MINUTE:.0f} min"
    return f"{ns / HOUR:.1f} h" if ns < 2 * DAY else f"{ns / DAY:.1f} days"


def in_stage(call: Call) -> str:
    """``sync in stage plugin``"""
    return call.operation if call.stage is None else f"{call.operation} in stage {call.stage}"


def listed(names: list[str], most: int = 4) -> str:
    """``a, b and 3 more``; of none ``nobody``."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    if len(names) < 2:
        return "".join(names) or "nobody"
    return f"{', '.join(names[:-1])} and {names[-1]}"

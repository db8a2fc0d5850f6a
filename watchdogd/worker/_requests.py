"""Requests in flight, for the pure-Python fallback: the entries of the heartbeat that are claimed under its lock.

Invariant: an entry's state is written after its number and cleared before anything else, so that no reader takes a
number for what it is not. The caller holds the lock of its own process.
"""

from __future__ import annotations

from operator import index
from time import monotonic_ns

from watchdogd import abi
from watchdogd.worker._memory import Heartbeat

_CODE = abi.CODE_MASK
_FREE, _BEGUN, _GIVEN, _TAKEN, _AGAIN = (
    abi.REQUEST_STATE[name] for name in ("free", "begun", "given", "taken", "again")
)
_WORDS = abi.REQUEST_WORDS
_TABLE = abi.REQUEST_TABLE_OFFSET // abi.WORD
_ENTRIES = tuple(_TABLE + number * _WORDS for number in filter(abi.is_locked, range(abi.REQUESTS)))
_GIVEN_COUNT, _ASKED, _UNKEPT = (
    abi.REQUESTS_OFFSET // abi.WORD + abi.REQUESTS_HEADER.index(name) for name in ("given", "asked_ns", "unkept_locked")
)


def number(request: int) -> int:
    """As a ``uint64_t``. Raises TypeError and ValueError, as the native module does."""
    value = index(request)
    if not 0 <= value < 1 << 64:
        raise ValueError("request is a number from 0 to 2**64 - 1")
    return value


def begin(heartbeat: Heartbeat, request: int, now_ns: int) -> int | None:
    """The entry of a request that a step begins now; 0 in its first word ends it. None, and counted, without one."""
    words = heartbeat.words
    if heartbeat.lock():
        try:
            back = _find(heartbeat, _TAKEN, request) if words[_GIVEN_COUNT] else None
            entry = _find(heartbeat, _FREE) if back is None else back
            if entry is not None:
                words[entry + 1] = request
                words[entry] = abi.stamp(now_ns, _BEGUN if back is None else _AGAIN)
                return entry
        finally:
            heartbeat.unlock()
    unkept(heartbeat)
    return None


def unkept(heartbeat: Heartbeat) -> None:
    """Counts one that has no entry."""
    heartbeat.words[_UNKEPT] += 1


def redelivered(heartbeat: Heartbeat) -> int | None:
    """As ``watchdogd_redelivered`` of ``watchdogd.h``."""
    words = heartbeat.words
    words[_ASKED] = monotonic_ns()
    if words[_GIVEN_COUNT] and heartbeat.lock():
        try:
            given = [entry for entry in _ENTRIES if words[entry] & _CODE == _GIVEN]
            if given:
                oldest = min(given, key=words.__getitem__)
                words[oldest] = abi.stamp(words[oldest], _TAKEN)
                return words[oldest + 1]
        finally:
            heartbeat.unlock()
    return None


def _find(heartbeat: Heartbeat, state: int, request: int | None = None) -> int | None:
    words = heartbeat.words
    for entry in _ENTRIES:
        if words[entry] & _CODE == state and request in (None, words[entry + 1]):
            return entry
    return None

"""What an incarnation leaves when it is gone: the work it had in flight, read from its heartbeat for the last time.

Invariant: its file is all the memory there is, so that whoever starts the successor, this supervisor or the next one,
comes to the same end; what cannot be read is not given back.
"""

from __future__ import annotations

from watchdogd.act import birth
from watchdogd.act.runtime import Runtime
from watchdogd.decide import liveness
from watchdogd.decide.requests import Left, settle
from watchdogd.model import WorkerSettings
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader


def left_by(reader: HeartbeatReader, *, redeliver: bool) -> Left | None:
    """None if its heartbeat cannot be believed."""
    try:
        pulse, requests = reader.read(), reader.requests()
    except (HeartbeatError, OSError):
        return None
    return settle(requests, pulse.open_steps(), was_ready=liveness.is_ready(pulse), redeliver=redeliver)


def for_successor(runtime: Runtime, settings: WorkerSettings, incarnation: int) -> Left:
    """What was left to this incarnation: by the one before it, or, if that never began, by the one before that."""
    for earlier in (incarnation - 1, incarnation - 2) if settings.redeliver else ():
        left = _left_in(runtime.heartbeat(settings.name, earlier))
        if left is not None:
            return left
        if birth.read(runtime.birth(settings.name, earlier)) is not None:  # what it was given, it may have begun
            break
    return Left()


def _left_in(path: str) -> Left | None:
    try:
        reader = HeartbeatReader(path)
    except (HeartbeatError, OSError):
        return None
    try:
        return left_by(reader, redeliver=True)
    finally:
        reader.close()

"""The last events of the record, as the page shows them.

Invariant: reads at most ``TAIL_BYTES``, and only when the file has changed, however long the record is; what lies in
its place cannot make the reader wait.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from watchdogd.publish import events

TAIL_BYTES = 32 * 1024
MOST = 14


class Tail:
    def __init__(self) -> None:
        self._seen: tuple[object, ...] = ()
        self._events: list[dict[str, Any]] = []

    def read(self, state_dir: str) -> list[dict[str, Any]]:
        """Newest first; none where there is no record yet, or none that may be read. Raises OSError."""
        path = os.path.join(state_dir, events.FILE_NAME)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        try:
            found = os.fstat(descriptor)
            seen = (path, found.st_ino, found.st_size, found.st_mtime_ns)
            if stat.S_ISREG(found.st_mode) and seen != self._seen:
                start = max(0, found.st_size - TAIL_BYTES)
                self._events = _last(os.pread(descriptor, TAIL_BYTES, start), whole=start == 0)
                self._seen = seen
        finally:
            os.close(descriptor)
        return self._events


def _last(data: bytes, whole: bool) -> list[dict[str, Any]]:
    lines = data.split(b"\n")[:-1]  # a torn last line is being written
    decoded = map(events.decode, reversed(lines if whole else lines[1:]))
    found = (event for event in decoded if event is not None)
    return [event for event, _ in zip(found, range(MOST), strict=False)]


def tone(event: Mapping[str, Any]) -> str:
    """How much an event matters: ``bad``, ``odd`` or nothing."""
    kind, phase = event.get("kind"), event.get("phase")
    if kind == events.EventKind.VERDICT or phase in ("quarantined", "unkillable"):
        return "bad"
    return "odd" if kind in (events.EventKind.NEAR_MISS, events.EventKind.SIGNAL) else ""

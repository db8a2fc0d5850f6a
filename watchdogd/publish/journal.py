"""The supervisor's end of the event record: numbers events and hands them to the recorder without ever blocking.

Invariant: an event is in the recorder's pipe, or in the queue before it, when ``emit`` returns; so what was decided
is on record before it is done. A full queue drops the newest and counts them. What a storm would write beyond the
``Throttle`` is suppressed, counted, and said so in one line.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from watchdogd.model import SECOND
from watchdogd.publish.events import EventKind, encode
from watchdogd.publish.pipe import LinePipe
from watchdogd.publish.throttle import Throttle

MOST_QUEUED = 10_000
BURST = 20  # near misses and the like of one worker, per second; the next one let through counts the rest
TELL_SUPPRESSED_NS = 10 * SECOND  # between two lines that say what was suppressed


class Journal:
    def __init__(self, boot_id: int, first_seq: int, throttle: Throttle) -> None:
        self._boot_id = boot_id
        self._seq = first_seq
        self._throttle = throttle
        self._pipe = LinePipe()
        self.dropped = 0
        self.emitted = 0
        self.suppressed = 0  # by either bound, in all
        self.beside: Callable[[str, bytes], None] | None = None  # gets each event of an incident, recorded or not
        self._windows: dict[tuple[str, str | None], tuple[int, int, int]] = {}
        self._untold: Counter[str] = Counter()  # kinds of what the throttle suppressed
        self._told_ns: int | None = None

    def emit(
        self, kind: EventKind, now_ns: int, *, worker: str | None = None, incarnation: int | None = None,
        incident: str | None = None, weighty: bool = True, **fields: Any,
    ) -> None:  # fmt: skip
        """``weighty``: belongs to the story of an incident; see ``Throttle``."""
        line = self._encode(kind, now_ns, worker=worker, incarnation=incarnation, incident=incident, **fields)
        if incident is not None and self.beside is not None:
            self.beside(incident, line)
        if self._throttle.admits(worker, len(line), now_ns, weighty=weighty):
            self._hand_over(line)
        else:
            self.suppressed += 1
            self._untold[kind.value] += 1
            self.tell_suppressed(now_ns)

    def emit_limited(self, kind: EventKind, now_ns: int, *, worker: str | None, **fields: Any) -> None:
        """For what a sick worker may produce at any rate: at most ``BURST`` a second, the rest as ``suppressed``."""
        start, count, suppressed = self._windows.get((kind.value, worker), (now_ns, 0, 0))
        if now_ns - start >= SECOND:
            start, count = now_ns, 0
        if count >= BURST:
            self._windows[kind.value, worker] = (start, count, suppressed + 1)
            self.suppressed += 1
            return
        self._windows[kind.value, worker] = (start, count + 1, 0)
        if suppressed:
            fields["suppressed"] = suppressed
        self.emit(kind, now_ns, worker=worker, weighty=False, **fields)

    def tell_suppressed(self, now_ns: int) -> None:
        """Say what the throttle suppressed: at once when it begins, then again no sooner than in a while."""
        if self._untold and (self._told_ns is None or now_ns - self._told_ns >= TELL_SUPPRESSED_NS):
            self._told_ns = now_ns
            kinds, self._untold = self._untold, Counter()
            self._hand_over(self._encode(EventKind.SUPPRESSED, now_ns, count=kinds.total(), kinds=dict(kinds)))

    def _encode(
        self, kind: EventKind, now_ns: int, worker: str | None = None, incarnation: int | None = None,
        incident: str | None = None, **fields: Any,
    ) -> bytes:  # fmt: skip
        return encode(
            kind, boot_id=self._boot_id, seq=self._seq, wall_ns=time.time_ns(), monotonic_ns=now_ns, worker=worker,
            incarnation=incarnation, incident=incident, **fields,
        )  # fmt: skip

    def _hand_over(self, line: bytes) -> None:
        self._seq += 1
        self.emitted += 1
        if len(self._pipe) >= MOST_QUEUED:
            self.flush()
        if len(self._pipe) >= MOST_QUEUED:
            self.dropped += 1
            return
        self._pipe.put(line)

    @property
    def next_seq(self) -> int:
        return self._seq

    def attach(self, descriptor: int | None) -> None:
        """A (new) recorder's standard input; what a dead one had half of is sent again whole."""
        self._pipe.attach(descriptor)

    @property
    def backlog(self) -> bool:
        return len(self._pipe) > 0

    def flush(self) -> None:
        """Write as much as the pipe takes now."""
        self._pipe.flush()

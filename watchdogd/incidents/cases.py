"""What the keeper has of one incident that is not finished.

Invariant: bounded; each thing that is told of it makes a time at which it is to be written, and no thing is told twice.
"""

from __future__ import annotations

import time
from typing import Any

from watchdogd.incident import Outcome
from watchdogd.incidents.assemble import MOST_EVENTS
from watchdogd.incidents.collecting import Gathering
from watchdogd.incidents.collectors import Target
from watchdogd.incidents.writing import Known
from watchdogd.model import SECOND

SOON_NS = SECOND  # more of it will come by then
AFTERWARDS = "afterwards"  # the stage of collecting that needs no worker any more
LINGER_NS = SECOND  # from its close on: what is recorded of it a moment later belongs to it


class Case:
    def __init__(self, incident: str, *, due_ns: int | None = None, from_record: bool = False) -> None:
        self.id = incident
        self.due_ns = due_ns  # when it is to be written
        self.is_writing = False
        self.target: Target | None = None
        self.gathering: Gathering | None = None
        self.stages: set[str] = set()  # of collecting, that were begun
        self.is_gone = False  # its worker, or all that there was of it
        self.killed_ns: int | None = None
        self._from_record = from_record
        self._events: list[dict[str, Any]] = []
        self._outcomes: list[Outcome] = []
        self._payloads: list[bytes] = []
        self._outcome: str | None = None
        self._closed_ns: int | None = None
        self._has_ended = False  # nothing more will be told of it
        self._cut_short = False

    def add_event(self, event: dict[str, Any], now_ns: int) -> None:
        if len(self._events) < MOST_EVENTS:
            self._events.append(event)
        self.is_gone = self.is_gone or event.get("kind") == "gone"
        if event.get("kind") == "signal" and self.killed_ns is None:
            self.killed_ns = event.get("monotonic_ns")
        self._write_at(now_ns + SOON_NS)

    def add_capture(self, now_ns: int) -> None:
        self._write_at(now_ns + SOON_NS)

    def close(self, outcome: str, now_ns: int) -> None:
        if self._closed_ns is None:
            self.drop_untimely()
            self._outcome, self._closed_ns, self.is_gone = outcome, now_ns, True
            self._write_at(now_ns)

    def end(self, now_ns: int, *, cuts_short: bool) -> None:
        """Nothing more will be told of it."""
        self.drop_untimely()
        self._cut_short = cuts_short and self._closed_ns is None
        self._has_ended = True
        self._write_at(now_ns)

    def _write_at(self, then_ns: int) -> None:
        if self._closed_ns is not None and not self._has_ended:  # once more, whole
            self.due_ns = max(then_ns, self._closed_ns + LINGER_NS)
        else:
            self.due_ns = then_ns if self.due_ns is None else min(self.due_ns, then_ns)

    def drop_untimely(self) -> None:
        """What looks at a living worker. What reads what it has left takes the time that it was given."""
        if AFTERWARDS not in self.stages:
            self.drop_gathering()

    def drop_gathering(self) -> None:
        if self.gathering is not None:
            self.gathering.drop()
            self.take_gathered(time.monotonic_ns())

    def take_gathered(self, now_ns: int) -> list[Outcome]:
        """What came of a stage; it is over."""
        if self.gathering is None:
            return []
        outcomes = self.gathering.outcomes
        self._outcomes += outcomes
        self._payloads += self.gathering.payloads
        self.gathering = None
        self._write_at(now_ns)
        return outcomes

    def known(self, now_ns: int) -> Known:
        """For the job that writes it; what is collected still, it is written again with."""
        self.due_ns = None
        is_closed = self._closed_ns is not None and (self._has_ended or now_ns >= self._closed_ns + LINGER_NS)
        is_over = is_closed and self.gathering is None
        state = "closed" if is_over else "cut short" if self._cut_short else "collecting" if self.gathering else "open"
        return Known(
            self.id, state, self._outcome, self._closed_ns, tuple(self._events), tuple(self._outcomes),
            tuple(self._payloads), self._from_record,
        )  # fmt: skip

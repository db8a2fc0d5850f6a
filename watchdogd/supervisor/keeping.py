"""The supervisor's end of the keeper of incidents (``incidents/keeper.py``): lines to it and from it.

Invariant: nothing here waits for the keeper. One that is not there, or did not answer the last time, is asked for
nothing that a kill would wait for; what it is told of an incident it is told again until it says that it is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from watchdogd.model import SECOND
from watchdogd.publish.pipe import LinePipe

MOST_QUEUED = 2_000  # lines; beyond that events of incidents are left to the record
MOST_COLLECTING = 8  # workers at a time
LONGEST_LINE = 1 << 16
MOST_LINES = 2_000  # at a time: of more, each is shorter than any that a keeper says, and they would cost the tick
ASK_NS = 30 * SECOND  # of silence, then it is asked whether it is there
STANDS_STILL_NS = (
    60 * SECOND
)  # without an answer: it only listens and forks, so nothing but a standstill takes that long
FIRST_WORDS_NS = 600 * SECOND  # of one that has never answered: it may take long to load where the CPUs are taken
HARMLESS, DUMP = "harmless", "dump"  # stages of collecting


class Keeping:
    def __init__(
        self, boot_id: str, collected: Callable[[str, list[dict[str, Any]]], None],
        exported: Callable[[str, dict[str, Any]], None],
    ) -> None:  # fmt: skip
        """``collected``: told of each stage that a kill waits for, and what became of its collectors; ``exported``: of
        each end of the export_hook.
        """
        self._boot = boot_id
        self._collected = collected
        self._exported = exported
        self._pipe = LinePipe()
        self._rest = b""  # of a line that is not whole
        self._has_spoken = False  # it is warm
        self._is_deaf = False  # it has not answered in time
        self._heard_ns = 0
        self._answers = False  # it has, since it is there
        self._asked_ns: int | None = None  # when something was said first that it is to answer
        self._collecting: dict[str, str] = {}  # the stage that is waited for, by incident
        self._open: dict[str, str | None] = {}  # incidents that it is not done with, and their outcomes
        self.told: dict[str, Any] = {"kept": None, "bytes": None, "error": None, "last": None, "tools": None}
        self.dirty = True

    # --- its life ---

    def attach(self, descriptor: int | None) -> None:
        """A new keeper's standard input. It is told what there is, and reads the rest in the record."""
        self._pipe.clear()
        self._pipe.attach(descriptor)
        self._rest = b""
        self._has_spoken = self._is_deaf = False
        self._answers = False
        self.tell({"op": "known", "ids": list(self._open), "before_ns": time.monotonic_ns(), "boot_id": self._boot})
        for incident, outcome in self._open.items():
            if outcome is not None:
                self.tell({"op": "close", "id": incident, "outcome": outcome})
        self._ask(time.monotonic_ns())

    def _ask(self, now_ns: int) -> None:
        self._asked_ns = now_ns
        self.tell({"op": "here"})

    def lost(self) -> None:
        """It has ended: nobody waits for its answers."""
        self._pipe.attach(None)
        self._has_spoken = False
        waited_for, self._collecting = list(self._collecting), {}
        for incident in waited_for:
            self._collected(incident, [])

    def stands_still(self, now_ns: int) -> bool:
        """Whether it is there and does nothing any more. To be asked now and then, as it is asked itself."""
        if not self._pipe.is_attached:
            return False
        if self._asked_ns is None and now_ns - self._heard_ns > ASK_NS:
            self._ask(now_ns)
        longest_ns = STANDS_STILL_NS if self._answers else FIRST_WORDS_NS
        return self._asked_ns is not None and now_ns - self._asked_ns > longest_ns

    @property
    def is_ready(self) -> bool:
        """Whether evidence that a kill would wait for may be asked for."""
        there = self._pipe.is_attached and self._has_spoken and not self._is_deaf and not len(self._pipe)
        return there and len(self._collecting) < MOST_COLLECTING

    # --- to it ---

    def adopt(self, incident: str) -> None:
        """Opened by the supervisor before this one."""
        self._open[incident] = None

    def open(self, incident: str, target: Mapping[str, Any] | None) -> None:
        """``target``: of whom collectors may take evidence."""
        self._open[incident] = None
        self.tell({"op": "open", "id": incident, "target": target})

    def close(self, incident: str, outcome: str) -> None:
        self.forget(incident)
        if incident in self._open:
            self._open[incident] = outcome
            self.tell({"op": "close", "id": incident, "outcome": outcome})

    def knows(self, incident: str) -> bool:
        return incident in self._open

    @property
    def unfinished(self) -> int:
        return len(self._open)

    def collect(self, incident: str, stage: str, until_ns: int) -> None:
        self._collecting[incident] = stage
        self.tell({"op": "collect" if stage == HARMLESS else "dump", "id": incident, "until_ns": until_ns})

    def give_up(self, incident: str) -> None:
        """What was asked for has not come in time."""
        if self._collecting.pop(incident, None) is not None:
            self._is_deaf = True

    def forget(self, incident: str) -> None:
        """Nobody waits for it any more, in time or not."""
        self._collecting.pop(incident, None)

    def event(self, incident: str, line: bytes) -> None:
        """An event of the record."""
        if incident in self._open and len(self._pipe) < MOST_QUEUED:
            self._put(b'{"op":"event","id":%b,"line":%b}\n' % (json.dumps(incident).encode(), line.rstrip()))

    def tell(self, line: Mapping[str, Any]) -> None:
        if len(self._pipe) < 2 * MOST_QUEUED:
            self._put(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _put(self, line: bytes) -> None:
        if self._pipe.is_attached:  # else it is told when it is there
            self._pipe.put(line)

    def flush(self) -> None:
        """Write as much as the pipe takes now."""
        self._pipe.flush()

    # --- from it ---

    def feed(self, data: bytes) -> None:
        if data.count(b"\n") > MOST_LINES:
            self._rest = b""
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b""
        for line in lines:
            try:
                told = json.loads(line)
            except (ValueError, RecursionError):
                continue  # the torn line of one that died
            if isinstance(told, dict):
                self._take(told)

    def _take(self, told: dict[str, Any]) -> None:
        self._has_spoken, self._is_deaf = True, False
        self._heard_ns, self._asked_ns = time.monotonic_ns(), None
        if "here" in told:
            self._answers = True
            return
        incident = told.get("collected")
        if isinstance(incident, str):
            if self._collecting.get(incident) == told.get("stage"):
                del self._collecting[incident]
                outcomes = told.get("outcomes")
                self._collected(incident, outcomes if isinstance(outcomes, list) else [])
            return
        if "finished" in told:
            self._open.pop(str(told["finished"]), None)
            self.dirty = True
            return
        if "exported" in told:
            self._exported(str(told["exported"]), told)
        self.told |= {key: told[key] for key in self.told.keys() & told.keys()}
        self.dirty = True

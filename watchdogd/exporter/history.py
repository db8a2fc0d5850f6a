"""What a worker has done over all its incarnations that this process saw.

A new incarnation's heartbeat starts at 0, and the old one's file goes away while its last counts are still to be read:
it is kept open until then. Invariant: no total ever goes backwards, whatever a worker writes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from watchdogd import abi
from watchdogd.histogram import Histogram, add
from watchdogd.model import SECOND
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader
from watchdogd.pulse import Pulse
from watchdogd.view import status

NAMES = ("step", *abi.OPERATIONS[1:])


@dataclass(slots=True)
class Totals:
    histograms: dict[str, Histogram] = field(default_factory=lambda: dict.fromkeys(NAMES, Histogram()))
    steps: int = 0
    laneless: int = 0
    outputs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(abi.OUTPUTS, 0))
    work: tuple[int, int, int] = (0, 0, 0)  # queued, completed and misuses, as the driver shim counts them

    def plus(self, other: Totals) -> Totals:
        return Totals(
            {name: add(self.histograms[name], other.histograms[name]) for name in NAMES},
            self.steps + other.steps,
            self.laneless + other.laneless,
            {kind: count + other.outputs[kind] for kind, count in self.outputs.items()},
            (self.work[0] + other.work[0], self.work[1] + other.work[1], self.work[2] + other.work[2]),
        )

    def reached_by(self, other: Totals) -> bool:
        """Whether ``other`` can be a later reading of the same heartbeat."""
        counts = (self.histograms[name].count <= other.histograms[name].count for name in NAMES)
        outputs = (count <= other.outputs[kind] for kind, count in self.outputs.items())
        work = (count <= later for count, later in zip(self.work, other.work, strict=True))
        few = self.steps <= other.steps and self.laneless <= other.laneless
        return few and all(counts) and all(outputs) and all(work)


class WorkerHistory:
    def __init__(self) -> None:
        self.pulse: Pulse | None = None  # of the current incarnation, from the last look
        self.started_at: float | None = None  # Unix time; worked out once, so that a clock step does not move it
        self.last_step_at: float | None = None  # Unix time; where the worker does not say, when a step more was seen
        self._last_step_ns: int | None = None
        self._finished = Totals()
        self._current = Totals()
        self._reader: HeartbeatReader | None = None
        self._incarnation: tuple[str, int] | None = None
        self.steps: int | None = None  # done, over all incarnations, at the last look

    def look(self, body: Mapping[str, Any], now_ns: int, wall_seconds: float) -> None:
        """Follow the worker to its current incarnation, and see whether it stepped."""
        path, incarnation = body["heartbeat"], body["incarnation"]
        if path is not None and self._incarnation != (path, incarnation):
            self._succeed(path, incarnation)
        if body["pid"] is None or body["spawned_ns"] is None:
            self.started_at = None
        elif self.started_at is None:
            self.started_at = wall_seconds - (now_ns - body["spawned_ns"]) / SECOND
        self.pulse = self._read_pulse()
        if self.pulse is not None:
            steps = self._finished.steps + max(self._current.steps, sum(self.pulse.column("steps_done")))
            ended_ns = status.last_step_ns(self.pulse, now_ns)
            if ended_ns is None:
                if self.steps is not None and steps > self.steps:
                    self.last_step_at = wall_seconds
            elif ended_ns != self._last_step_ns:  # worked out once, so that a clock step does not move it
                self.last_step_at = wall_seconds - (now_ns - ended_ns) / SECOND
            self._last_step_ns = ended_ns
            self.steps = steps

    def totals(self) -> Totals:
        """Everything so far, this moment's counts included."""
        self._read_totals()
        return self._finished.plus(self._current)

    def _succeed(self, path: str, incarnation: int) -> None:
        try:
            reader = HeartbeatReader(path)
        except (HeartbeatError, OSError):
            return  # gone again, or not for us to read: the next look tries again
        if not _is_of(reader, incarnation):  # already the next one's, which the board will tell
            reader.close()
            return
        self.pulse = self._read_pulse()
        self._finished = self.totals()
        self._current = Totals()
        self.started_at = None
        if self._reader is not None:
            self._reader.close()
        self._reader = reader
        self._incarnation = (path, incarnation)

    def _read_pulse(self) -> Pulse | None:
        if self._reader is None:
            return None
        try:
            return self._reader.read()
        except (HeartbeatError, OSError):
            return None

    def _read_totals(self) -> None:
        if self._reader is None or self.pulse is None:
            return
        try:
            histograms, outputs = self._reader.histograms(self.pulse), self._reader.outputs()
            driver = self._reader.driver()
        except (HeartbeatError, OSError):
            return
        laneless = self.pulse.header("laneless_cas") + self.pulse.header("laneless_locked")
        work = (0, 0, 0) if driver is None else (driver.queued, driver.completed, driver.misuses)
        latest = Totals(histograms, sum(self.pulse.column("steps_done")), laneless, outputs, work)
        if self._current.reached_by(latest):
            self._current = latest


def _is_of(reader: HeartbeatReader, incarnation: int) -> bool:
    try:
        return reader.read().header("incarnation") == incarnation
    except (HeartbeatError, OSError):
        return False


class Histories(dict[str, WorkerHistory]):
    """By worker."""

    def look(self, bodies: list[Mapping[str, Any]], now_ns: int, wall_seconds: float) -> None:
        for body in bodies:
            if body["name"] not in self:
                self[body["name"]] = WorkerHistory()
            self[body["name"]].look(body, now_ns, wall_seconds)


def processes(worker_pid: int, pulse: Pulse | None) -> list[int]:
    """The worker's process and the descendants in its session that claimed a lane (its own children need no lane)."""
    pids = {worker_pid}
    for owner in set(pulse.column("owner")) if pulse else ():
        pid = owner >> 32
        try:
            if 0 < pid < 1 << 31 and os.getsid(pid) == worker_pid:
                pids.add(pid)
        except (ProcessLookupError, PermissionError):
            continue  # a lane whose process has ended, or a number that means nothing here
    return sorted(pids)

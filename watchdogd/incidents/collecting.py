"""The collectors of one incident, run by the keeper: in parallel, each a job with a deadline of its own.

Invariant: whatever a collector does, its outcome is known at its deadline, and that of all at the instant that the
supervisor gave; one that is not available, or has no time left, is not run, and has an outcome too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from watchdogd.incident import Outcome
from watchdogd.incidents.collectors import Collector, Target
from watchdogd.incidents.jobs import Ended, Job, Jobs
from watchdogd.model import MILLISECOND, SECOND

MARGIN_NS = 10 * MILLISECOND  # before the supervisor's own end of waiting: the answer is to be there by then


@dataclass
class Gathering:
    """One stage of one incident."""

    jobs: Jobs
    target: Target
    until_ns: int
    missing: Mapping[str, str | None]  # what is not to be had here, and what to do about it
    done: Callable[[], None]
    outcomes: list[Outcome] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    _running: dict[str, Job | None] = field(default_factory=dict)
    _waiting: list[Collector] = field(default_factory=list)

    def begin(self, collectors: Sequence[Collector]) -> None:
        os.makedirs(self.target.folder, 0o700, exist_ok=True)
        self._waiting = list(collectors)
        self._go_on()

    def drop(self) -> None:
        """Nobody waits for it any more; what is there by now is kept."""
        self._waiting.clear()
        running, self._running = self._running, {}
        for name, job in running.items():
            self.outcomes.append(Outcome(name, "not reached"))
            if job is not None:
                self.jobs.drop(job)

    def _go_on(self) -> None:
        """Start what need not wait, until nothing is left to start."""
        while True:
            pending = {collector.name for collector in self._waiting} | self._running.keys()
            due = next((each for each in self._waiting if not pending.intersection(each.after)), None)
            if due is None:
                break
            self._waiting.remove(due)
            self._start(due)
        if not self._running and not self._waiting:
            self.done()

    def _start(self, collector: Collector) -> None:
        remedy = self.missing.get(collector.name)
        now_ns = time.monotonic_ns()
        deadline_ns = min(now_ns + round(collector.seconds * SECOND), self.until_ns)
        if remedy is not None:
            self.outcomes.append(Outcome(collector.name, "missing tool", remedy))
        elif deadline_ns <= now_ns:
            self.outcomes.append(Outcome(collector.name, "not reached"))
        else:
            self._running[collector.name] = None  # told of at once where no process is to be had
            target = self.target._replace(until_ns=deadline_ns)
            job = self.jobs.start(lambda: _collect(collector, target), deadline_ns, lambda e: self._ended(collector, e))
            if collector.name in self._running:
                self._running[collector.name] = job

    def _ended(self, collector: Collector, ended: Ended) -> None:
        if collector.name not in self._running:
            return  # it was dropped
        del self._running[collector.name]
        outcome, detail, files = ended.outcome, ended.detail, ()
        if ended.result is not None:
            told = ended.result.told
            outcome, detail, files = str(told["outcome"]), str(told["detail"]), tuple(told["files"])
            self.payloads.append(ended.result.payload)
        self.outcomes.append(Outcome(collector.name, outcome, detail, ended.began_ns, ended.took_ns, files))
        self._go_on()


def _collect(collector: Collector, target: Target) -> tuple[dict[str, Any], object]:
    """In a job."""
    evidence = collector.collect(target)
    return {"outcome": evidence.outcome, "detail": evidence.detail, "files": evidence.files}, evidence


def for_record(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """For the record."""
    return [
        {
            "collector": each.collector,
            "outcome": each.outcome,
            **({"detail": each.detail[:200]} if each.detail else {}),
            **({} if each.took_ns is None else {"seconds": round(each.took_ns / SECOND, 6)}),
        }
        for each in outcomes
    ]

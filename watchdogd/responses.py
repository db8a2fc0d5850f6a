"""What a verdict leads to besides the kill: everything that the supervisor does by programs of the integrator.

Invariant: nothing here waits, and nothing here decides: whose kill waits is ``veto``'s word.
"""

from __future__ import annotations

from watchdogd.journal import Journal
from watchdogd.loop import Loop
from watchdogd.model import Finding, Settings
from watchdogd.orders import OpenIncident
from watchdogd.runs import Runs
from watchdogd.runtime import Runtime
from watchdogd.verdict_hook import VerdictHook
from watchdogd.watched import Watched


class Responses:
    def __init__(self, settings: Settings, runtime: Runtime, loop: Loop, journal: Journal) -> None:
        self.runs = Runs(loop)
        self._hook = VerdictHook(settings.hooks, self.runs, journal, runtime.directory)

    def hold(self, watched: Watched, finding: Finding, now_ns: int) -> str | None:
        """Why the kill of the worker waits now; None = nothing here holds it."""
        return self._hook.hold(watched, finding, now_ns)

    def opened(self, watched: Watched, opening: OpenIncident, now_ns: int) -> None:
        """It is on record and published; nothing has been done about it yet."""
        self._hook.tell(watched, opening, now_ns)

    def tick(self, now_ns: int) -> None:
        self.runs.check(now_ns)

    def next_ns(self) -> list[int]:
        return self.runs.next_ns()

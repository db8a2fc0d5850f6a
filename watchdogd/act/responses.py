"""What a verdict leads to besides the kill: everything that the supervisor does by programs of the integrator.

Invariant: nothing here waits, and nothing here decides: whose kill waits is ``veto``'s word, what calls for more than a
kill ``escalation``'s, when a worker is started ``policy``'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from watchdogd.act import escalating, launching
from watchdogd.act.acting import Happening, Order
from watchdogd.act.escalating import Escalator
from watchdogd.act.probing import Prober
from watchdogd.act.runs import Runs
from watchdogd.act.runtime import Runtime
from watchdogd.act.verdict_hook import VerdictHook
from watchdogd.act.watched import Watched
from watchdogd.decide.orders import OpenIncident, Probe
from watchdogd.model import Finding, Settings
from watchdogd.observe.loop import Loop
from watchdogd.publish.journal import Journal


class Responses:
    def __init__(
        self, settings: Settings, watched: Sequence[Watched], runtime: Runtime, loop: Loop, journal: Journal,
        boot_id: int, happenings: deque[Happening], identities: launching.Identities,
        fail: Callable[[str], None],
    ) -> None:  # fmt: skip
        """``fail``: end the supervisor with the status that says so."""
        self.runs = Runs(loop)
        rules = escalating.effective(settings.escalation, settings.supervisor.observe_only)
        self.escalator = Escalator(rules, watched, self.runs, journal, runtime, boot_id, fail)
        self._hook = VerdictHook(settings.hooks, self.runs, journal, runtime.directory)
        self._prober = Prober(self.runs, journal, happenings, identities)

    def hold(self, watched: Watched, finding: Finding, now_ns: int) -> str | None:
        """Why the kill of the worker waits now; None = nothing here holds it."""
        return self._hook.hold(watched, finding, now_ns)

    def perform(self, watched: Watched, order: Order, now_ns: int) -> None:
        """A verdict is on record and published by now; nothing has been done about it yet."""
        if isinstance(order, OpenIncident):
            self._hook.tell(watched, order, now_ns)
            self.escalator.opened(watched, order, now_ns)
        elif isinstance(order, Probe):
            self._prober.probe(watched, order, now_ns)

    def tick(self, stopping: bool, now_ns: int) -> None:
        self.escalator.ended = stopping
        self.runs.check(now_ns)
        self.escalator.tick(now_ns)

    def next_ns(self) -> list[int]:
        return [*self.runs.next_ns(), *self.escalator.next_ns()]

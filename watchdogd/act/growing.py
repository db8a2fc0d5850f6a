"""What is remembered of what one worker holds, look after look, in this incarnation.

Invariant: nothing here ends a worker; ``decide.growth`` judges, and who asks for the verdict does so.
"""

from __future__ import annotations

import time
from typing import Any

from watchdogd.decide import growth
from watchdogd.model import Finding, GrowthSettings, Usage

LOOKS_IN_BASELINE = 12  # at least, where the first hour is a short one


class Growing:
    def __init__(self, rule: GrowthSettings) -> None:
        self.rule = rule
        self.next_ns = 0
        self.is_told = False  # the verdict on a worker that is only observed, which may stand for a week
        self.waits = ""  # its end, and for whom
        self._courses: dict[str, growth.Course] = {}

    def forget(self) -> None:
        """The incarnation is gone: the next one has a first hour of its own."""
        self._courses, self.is_told, self.next_ns, self.waits = {}, False, 0, ""

    def asked(self, now_ns: int) -> None:
        """A look is under way."""
        self.next_ns = now_ns + min(growth.EVERY_NS, (self.rule.baseline_ns or 0) // LOOKS_IN_BASELINE)

    def take(self, usage: Usage, now_ns: int) -> tuple[str, ...]:
        """Returns the resources of which something is to be told."""
        self._courses, told = growth.follow(self._courses, usage, self.rule, now_ns)
        return told

    def lose(self) -> bool:
        """Nobody looks at it: what it holds is unknown, and its end waits for nobody. Whether that is new."""
        if not self.waits and all(course.now is None for course in self._courses.values()):
            return False
        self.waits = ""
        self._courses = growth.lost(self._courses)
        return True

    def leak(self, now_ns: int) -> Finding | None:
        return growth.leak(self._courses, self.rule, now_ns)

    def recall(self, told: Any) -> None:
        """Of a worker that lives on, from its object of the snapshot. Raises ValueError."""
        self._courses = growth.lost(growth.recall(told))  # who knows what became of it since

    def describe(self) -> dict[str, dict[str, Any]]:
        return growth.describe(self._courses, self.rule, time.monotonic_ns())

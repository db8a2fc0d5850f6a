"""What was told of one field case: from the supervisor's record and snapshot to the words of the list.

Invariant: only what was recorded counts, and of that only what is about the harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.histories.field_cases import GOES_ON, NOT_USABLE, QUARANTINED, RESTART, UNKILLABLE, Case, Report
from watchdogd.model import MILLISECOND

AT_ONCE_NS = 50 * MILLISECOND


@dataclass
class Seen:
    """What was told of one case."""

    case: Case
    detectors: dict[str, float] = field(default_factory=dict)  # in the order of their first word; seconds from the harm
    verdicts: list[str] = field(default_factory=list)
    ends: str = GOES_ON
    recovery_seconds: float | None = None

    @property
    def first(self) -> str | None:
        return next(iter(self.detectors), None)

    def add(self, event: dict[str, Any], began_ns: int | None) -> None:
        """``began_ns``: when the harm did, if it has."""
        detector = _detector(event)
        if detector is not None and began_ns is not None and not _is_another(event, began_ns):
            self.detectors.setdefault(detector, (event["monotonic_ns"] - began_ns) / 1e9)
        if event["kind"] == "verdict":
            self.verdicts.append(str(event["verdict"]))

    def is_right(self, report: Report) -> bool:
        """Told by what can see it, dealt with as it has to be; where nothing is to be told, nothing was."""
        if self.ends != self.case.ends or (self.ends == GOES_ON and self.verdicts):
            return False
        allowed = {*report.detectors, *self.case.also}
        return self.first in allowed if allowed else not self.detectors


def ends(body: dict[str, Any]) -> str:
    """A worker of the snapshot."""
    phase = body["phase"]
    if phase in (QUARANTINED, UNKILLABLE):
        return str(phase)
    if body["unusable"]:
        return NOT_USABLE
    if phase == "running":
        return GOES_ON if body["incarnation"] == 1 else RESTART
    return f"{phase} {body['incarnation']}"


def _is_another(event: dict[str, Any], began_ns: int) -> bool:
    """Not about the harm; nor is a call that was late later, when the machine was busy."""
    if event["kind"] == "near_miss":
        return bool(abs(event["entered_ns"] - began_ns) > AT_ONCE_NS)
    return bool(event["monotonic_ns"] < began_ns)


def _detector(event: dict[str, Any]) -> str | None:
    """In the words of the list."""
    if event["kind"] == "verdict":
        verdict, operation = event["verdict"], event.get("operation")
        if verdict == "call":
            return "sync" if operation in ("sync", "event") else "othercall"
        return {
            "step": "progress", "first_step": "progress", "startup": "startup", "sticky_error": "sticky",
            "silent_output": "output", "crashed": "exit", "exited": "exit",
        }.get(verdict)  # fmt: skip
    if event["kind"] == "kernel":
        return None if event["expected"] else "kmsg"
    return {"blocked": "dstate", "near_miss": "soft"}.get(event["kind"])

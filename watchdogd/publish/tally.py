"""What is counted of one worker over all its incarnations, as the snapshot tells it.

Invariant: pure, and every count only grows; a time to recovery is counted once, and only for what did recover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from watchdogd.decide.orders import HANGS, NOT_RECOVERED, CloseIncident, OpenIncident
from watchdogd.publish import snapshot


class Tally:
    def __init__(self) -> None:
        self._restarts: dict[str, int] = {}
        self._hangs = dict.fromkeys(snapshot.HANG_KEYS, 0)
        self._would_have_killed = 0
        self._near_misses = 0
        self._dropped = self._redelivered = 0
        self._recovery = [0] * (len(snapshot.RECOVERY_BOUNDS_NS) + 1)
        self._recovery_total_ns = 0
        self._stuck_since_ns: int | None = None  # entry of the call that the current recovery is from
        self._last_incident: dict[str, Any] | None = None

    def recall(self, told: Mapping[str, Any]) -> None:
        """Go on counting where ``describe`` ended. Raises ValueError, with nothing taken over."""
        try:
            known = told["hangs"]
            hangs = {key: int(known[key]) for key in snapshot.HANG_KEYS if key != "stall"}
            hangs["stall"] = int(known.get("stall", 0))  # a supervisor of before tells none
            restarts = {str(reason): int(count) for reason, count in told["restarts"].items()}
            recovery = [int(count) for count in told["recovery"]["counts"]]
            recovery_total_ns = int(told["recovery"]["total_ns"])
            would_have_killed, near_misses = int(told["would_have_killed"]), int(told["near_misses"])
            dropped, redelivered = int(told.get("steps_dropped", 0)), int(told.get("steps_redelivered", 0))
            stuck_since_ns = None if told["stuck_since_ns"] is None else int(told["stuck_since_ns"])
            last_incident = None if told["last_incident"] is None else dict(told["last_incident"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the counts of a worker: {error!r}") from None
        if len(recovery) != len(self._recovery):
            raise ValueError("not the counts of a worker: other bounds")
        self._hangs, self._restarts, self._recovery = hangs, restarts, recovery
        self._recovery_total_ns, self._stuck_since_ns = recovery_total_ns, stuck_since_ns
        self._dropped, self._redelivered = dropped, redelivered
        self._would_have_killed, self._near_misses, self._last_incident = would_have_killed, near_misses, last_incident

    def restart(self, reason: str) -> None:
        self._restarts[reason] = self._restarts.get(reason, 0) + 1

    def near_miss(self) -> None:
        self._near_misses += 1

    def dropped(self, steps: int) -> None:
        """So many that were in flight at an end are given back to nobody."""
        self._dropped += steps

    def redelivered(self, steps: int) -> None:
        """A successor starts with so many that its predecessor had in flight."""
        self._redelivered += steps

    def opened(self, opening: OpenIncident, time: str, also_in_flight: Sequence[str] = ()) -> None:
        """``time``: for people. ``also_in_flight``: the operations of the calls that it was in besides."""
        finding = opening.finding
        if finding.verdict in HANGS:
            self._hangs[finding.operation or finding.verdict.value] += 1
        if opening.would_kill:
            self._would_have_killed += 1
        else:
            self._stuck_since_ns = finding.entered_ns or finding.detected_ns
        self._last_incident = {
            "id": opening.incident, "verdict": finding.verdict.value, "operation": finding.operation, "time": time,
            **({"also_in_flight": list(also_in_flight)} if also_in_flight else {}),
            **({"stage": finding.stage} if finding.stage is not None or finding.bisected else {}),
            **({"bisected": True} if finding.bisected else {}),
        }  # fmt: skip

    def closed(self, closing: CloseIncident) -> None:
        if closing.outcome in NOT_RECOVERED:
            self._stuck_since_ns = None
        if self._last_incident is not None and self._last_incident["id"] == closing.incident:
            self._last_incident = {**self._last_incident, "outcome": closing.outcome}

    @property
    def last_id(self) -> str | None:
        """Of the last incident."""
        return None if self._last_incident is None else str(self._last_incident["id"])

    def recovered(self, ready_ns: int) -> int | None:
        """Count the time from the hung call's entry to the successor's ready; None if it was no recovery."""
        if self._stuck_since_ns is None:
            return None
        duration_ns = ready_ns - self._stuck_since_ns
        self._stuck_since_ns = None
        self._recovery[sum(duration_ns > bound for bound in snapshot.RECOVERY_BOUNDS_NS)] += 1
        self._recovery_total_ns += duration_ns
        return duration_ns

    def describe(self) -> dict[str, Any]:
        return {
            "restarts": self._restarts,
            "hangs": self._hangs,
            "would_have_killed": self._would_have_killed,
            "near_misses": self._near_misses,
            "steps_dropped": self._dropped,
            "steps_redelivered": self._redelivered,
            "recovery": {"counts": self._recovery, "total_ns": self._recovery_total_ns},
            "last_incident": self._last_incident,
            "stuck_since_ns": self._stuck_since_ns,
        }

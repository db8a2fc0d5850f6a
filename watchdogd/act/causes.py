"""What calls for an escalation: seen in the workers, one tick after the other.

Invariant: a cause begins once and is over once; what stands is not told again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from watchdogd.act.watched import Watched
from watchdogd.decide import budget
from watchdogd.decide.escalation_orders import Cause
from watchdogd.decide.orders import HANGS, OpenIncident
from watchdogd.model import EscalationSettings, Phase

MOST_REMEMBERED = 50  # hangs of an accelerator: the snapshot has room for so many
UNKILLABLE, QUARANTINED, BLOCKED, HANGS_KIND = "unkillable", "quarantined", "blocked", "hangs"
_REASONS = {
    UNKILLABLE: "{0}: SIGKILL did not take",
    QUARANTINED: "{0}, which is required, is in quarantine",
    BLOCKED: "{0}, which is required, cannot be started: {1} is not usable",
}
_WAYS_OUT = {QUARANTINED: "watchdogd reset {}", BLOCKED: "watchdogd start {}"}


class Causes:
    def __init__(self, settings: EscalationSettings) -> None:
        self._settings = settings
        self._standing: dict[tuple[str, str], Cause] = {}
        self._hangs: dict[str, tuple[int, ...]] = {}  # instants, by accelerator

    def hung(self, watched: Watched, opening: OpenIncident, now_ns: int) -> None:
        """Count a hang, if it is one, and no cause stands that is made of those before it."""
        accelerator, settings = watched.settings.accelerator, self._settings
        if accelerator is None or opening.would_kill or opening.finding.verdict not in HANGS or not settings.hangs:
            return
        if (HANGS_KIND, accelerator) in self._standing:
            return
        recent = (*budget.recent(self._hangs.get(accelerator, ()), now_ns, settings.window_ns), now_ns)
        if len(recent) >= settings.hangs:
            minutes = f"{settings.window_ns / 60e9:g} min"
            reason = f"{len(recent)} hangs on {accelerator} within {minutes}, the last of {watched.settings.name}"
            self._standing[HANGS_KIND, accelerator] = Cause(HANGS_KIND, accelerator, now_ns, reason, opening.incident)
        self._hangs[accelerator] = recent

    def now(self, watched: Iterable[Watched], now_ns: int) -> dict[tuple[str, str], Cause]:
        """All that stand."""
        window_ns = self._settings.window_ns
        standing = {
            key: cause
            for key, cause in self._standing.items()
            if key[0] == HANGS_KIND and now_ns - cause.since_ns < window_ns
        }
        for worker in watched:
            kind = _kind(worker)
            if kind is not None:
                key = kind, worker.settings.name
                known = self._standing.get(key)
                # Each probe begins a phase of its own.
                since_ns = worker.state.since_ns if kind != BLOCKED else known.since_ns if known else now_ns
                standing[key] = known if known and known.since_ns == since_ns else _of_worker(kind, worker, since_ns)
        self._standing = standing
        return dict(standing)

    def remember(self) -> dict[str, Any]:
        """What no worker's state tells the next supervisor."""
        hangs = [asdict(cause) for cause in self._standing.values() if cause.kind == HANGS_KIND]
        return {"hangs": hangs, "instants": {name: every[-MOST_REMEMBERED:] for name, every in self._hangs.items()}}

    def recall(self, told: Mapping[str, Any]) -> None:
        """Of the same boot. Raises ValueError: it is no such memory."""
        try:
            hangs = [
                Cause(HANGS_KIND, str(c["subject"]), int(c["since_ns"]), str(c["reason"]), c["incident"])
                for c in told["hangs"]
            ]
            instants = {str(name): tuple(map(int, instants)) for name, instants in told["instants"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(repr(error)) from None
        if self._settings.hangs:
            self._hangs, self._standing = instants, {(cause.kind, cause.subject): cause for cause in hangs}


def _kind(worker: Watched) -> str | None:
    phase, settings = worker.state.phase, worker.settings
    if phase is Phase.UNKILLABLE:
        return UNKILLABLE
    if not settings.required:
        return None
    if phase is Phase.QUARANTINED:
        return QUARANTINED
    return BLOCKED if worker.state.unusable > settings.restart.budget else None


def _of_worker(kind: str, worker: Watched, since_ns: int) -> Cause:
    name, incident = worker.settings.name, worker.state.incident or worker.tally.last_id
    reason, way_out = _REASONS[kind].format(name, worker.settings.accelerator), _WAYS_OUT.get(kind)
    return Cause(kind, name, since_ns, reason, incident, way_out.format(name) if way_out else None)

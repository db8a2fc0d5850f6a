"""What calls for an escalation: seen in the workers, one tick after the other.

Invariant: a cause begins once and is over once; what stands is not told again.
"""

from __future__ import annotations

from collections.abc import Iterable

from watchdogd.act.watched import Watched
from watchdogd.decide import budget
from watchdogd.decide.escalation_orders import Cause
from watchdogd.decide.orders import HANGS, OpenIncident
from watchdogd.model import EscalationSettings, Phase


class Causes:
    def __init__(self, settings: EscalationSettings) -> None:
        self._settings = settings
        self._standing: dict[tuple[str, str], Cause] = {}
        self._hangs: dict[str, tuple[int, ...]] = {}  # instants, by accelerator

    def hung(self, watched: Watched, opening: OpenIncident, now_ns: int) -> None:
        """Count a hang, if it is one. Those that were a cause are past the window when that is over."""
        accelerator, settings = watched.settings.accelerator, self._settings
        if accelerator is None or opening.would_kill or opening.finding.verdict not in HANGS or not settings.hangs:
            return
        recent = (*budget.recent(self._hangs.get(accelerator, ()), now_ns, settings.window_ns), now_ns)
        if len(recent) >= settings.hangs and ("hangs", accelerator) not in self._standing:
            minutes = f"{settings.window_ns / 60e9:g} min"
            reason = f"{len(recent)} hangs on {accelerator} within {minutes}, the last of {watched.settings.name}"
            self._standing["hangs", accelerator] = Cause("hangs", accelerator, now_ns, reason, opening.incident)
        self._hangs[accelerator] = recent

    def now(self, watched: Iterable[Watched], now_ns: int) -> dict[tuple[str, str], Cause]:
        """All that stand."""
        window_ns = self._settings.window_ns
        standing = {
            key: cause
            for key, cause in self._standing.items()
            if key[0] == "hangs" and now_ns - cause.since_ns < window_ns
        }
        for worker in watched:
            kind = _kind(worker)
            if kind is not None:
                key, since_ns = (kind, worker.settings.name), worker.state.since_ns
                known = self._standing.get(key)
                standing[key] = known if known and known.since_ns == since_ns else _of_worker(kind, worker)
        self._standing = standing
        return dict(standing)


def _kind(worker: Watched) -> str | None:
    if worker.state.phase is Phase.UNKILLABLE:
        return "unkillable"
    return "quarantined" if worker.state.phase is Phase.QUARANTINED and worker.settings.required else None


def _of_worker(kind: str, worker: Watched) -> Cause:
    name, incident = worker.settings.name, worker.state.incident or worker.tally.last_id
    what = f"{name}: SIGKILL did not take" if kind == "unkillable" else f"{name}, which is required, is in quarantine"
    return Cause(kind, name, worker.state.since_ns, what, incident)

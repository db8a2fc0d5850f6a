"""What no worker can decide alone: whose kill must wait, because another is the likelier culprit, the cap is
reached, or it is what is left of a redundancy group.

Invariant: a hold delays an action, never a verdict, and is bounded by ``hold_max`` from the verdict on.
"""

from __future__ import annotations

from typing import Any

from watchdogd.act.watched import Watched
from watchdogd.decide import budget, redundancy, suspicion
from watchdogd.decide.orders import HANGS, NO_FAILURE
from watchdogd.model import MILLISECOND, SECOND, Finding, Phase, SupervisorSettings, Verdict

LEAVES_NS = 2 * SECOND  # from a sticky error on: nobody waits for it meanwhile, since each call of it fails at once
DYING = (Phase.COLLECTING, Phase.KILLING, Phase.UNKILLABLE)
CULPRIT_MARGIN_NS = 100 * MILLISECOND  # a suspect's own verdict may come this much after its deadline


class Fleet:
    def __init__(self, watched: list[Watched], settings: SupervisorSettings) -> None:
        self._watched = watched
        self._settings = settings
        self._findings: dict[str, Finding] = {}
        self.kills: tuple[int, ...] = ()  # instants of those that were decided; of the last supervisor's, too
        self._condemned: dict[str, int] = {}  # when their kill was decided last, by name
        self._compared: tuple[str, int, list[suspicion.Stuck]] = ("", 0, [])

    def found(self, watched: Watched, finding: Finding) -> None:
        """Keep a new finding until all workers have been looked at."""
        self._findings[watched.settings.name] = finding

    def take(self, watched: Watched) -> Finding | None:
        return self._findings.pop(watched.settings.name, None)

    def standing(self) -> list[Watched]:
        """Workers with a new finding, or with one whose kill is held."""
        if not self._findings and all(w.held is None for w in self._watched):
            return []
        return [w for w in self._watched if w.settings.name in self._findings or w.held is not None]

    def condemned(self, victim: Watched, now_ns: int, *, in_order: bool = False) -> None:
        """Count a kill when it is decided: many may be in one tick. ``in_order``: it is asked to end, no kill."""
        self._condemned[victim.settings.name] = now_ns
        if in_order:
            return
        self.kills = (*budget.recent(self.kills, now_ns, self._settings.max_kills_window_ns), now_ns)

    def spared(self) -> None:
        """The kill decided last was not needed."""
        self.kills = self.kills[:-1]

    def hold(self, victim: Watched, finding: Finding, now_ns: int) -> str | None:
        """Why the victim's kill must wait now; None = it must not."""
        if finding.verdict is Verdict.LEAK:
            return None  # ``spares`` had its word, before there was a verdict that would hide a hang while it waits
        settings = self._settings
        recent = budget.recent(self.kills, now_ns, settings.max_kills_window_ns)
        if len(recent) >= settings.max_kills:
            seconds = settings.max_kills_window_ns / 1e9
            told = "what hits every worker is not cured by killing every worker"
            return f"{len(recent)} kills in {seconds:g} s (max_kills): {told}"
        if now_ns - finding.detected_ns >= settings.hold_max_ns or finding.verdict is Verdict.STARTUP:
            return None
        if finding.verdict is Verdict.STICKY_ERROR and victim.settings.instrument == "driver":
            # An unmodified program gets the error as well: its own end, its message and its status say more than ours.
            since_ns = finding.entered_ns or finding.detected_ns
            return "it may be about to end by itself" if now_ns - since_ns < LEAVES_NS else None
        culprit = self._likelier_culprit(victim, finding, now_ns) if finding.verdict in HANGS else None
        is_there_yet = finding.verdict in HANGS or finding.verdict is Verdict.SILENT_OUTPUT
        return culprit or (self._last_of_its_group(victim, now_ns) if is_there_yet else None)

    def spares(self, victim: Watched, now_ns: int) -> str:
        """Why a worker that works, and is to be ended in order, is left alone for now; empty: it need not be."""
        peer = redundancy.absent(victim.settings, ((w.settings, w.state) for w in self._watched), tuple(self._findings))
        if peer is not None:
            return f"it leaks, and is replaced once {peer} of its redundancy group serves"
        recent = budget.recent(self.kills, now_ns, self._settings.max_kills_window_ns)
        return "it leaks, and is replaced once max_kills has room" if len(recent) >= self._settings.max_kills else ""

    def _last_of_its_group(self, victim: Watched, now_ns: int) -> str | None:
        going = [name for name, at_ns in self._condemned.items() if at_ns == now_ns]
        peer = redundancy.returning(victim.settings, ((w.settings, w.state) for w in self._watched), going)
        return None if peer is None else f"{peer} of its redundancy group is not back yet"

    def _likelier_culprit(self, victim: Watched, finding: Finding, now_ns: int) -> str | None:
        entered = finding.entered_ns or 0
        counted_from = max(entered, victim.state.armed_ns or 0)  # a pause in between is no part of its time
        allowance = max(0, (finding.deadline_ns or 0) - counted_from)
        for other in self._coupled(victim):
            name = other.settings.name
            ended_for_a_hang = other.state.reason not in NO_FAILURE and other.state.incident is not None
            if other.state.phase in (Phase.COLLECTING, Phase.KILLING) and ended_for_a_hang:
                return f"{name} is being killed"
            # Its own time-out starts again when the culprit is gone: that is what the kill was for.
            if other.gone_ns is not None and entered < other.gone_ns and now_ns < other.gone_ns + allowance:
                return f"{name} has just been killed"
        stuck = self._stuck(victim, now_ns)
        earlier = _dla_in_an_earlier_call(stuck, victim.settings.name)
        if earlier is not None:
            return f"{earlier} was in a call before that, and may prove to be stuck in it"
        suspected = suspicion.rank(stuck)
        if suspected is None or suspected.suspect.worker == victim.settings.name:
            return None
        suspect = suspected.suspect
        if suspect.deadline_ns is None or not self._is_being_judged(suspect.worker, suspect.deadline_ns, now_ns):
            return None  # nothing will be done about it, or it should have been done by now
        return f"{suspect.worker} probably froze first (confidence {suspected.confidence:.2f})"

    def _is_being_judged(self, name: str, deadline_ns: int, now_ns: int) -> bool:
        """Its verdict is to come, maybe put off (it was starved of CPU, the machine stood), or its kill is held."""
        suspect = next(w for w in self._watched if w.settings.name == name)
        due_ns = max(deadline_ns, suspect.examination.waiting_ns or 0)
        is_found = name in self._findings or self._condemned.get(name) == now_ns
        return now_ns <= due_ns + CULPRIT_MARGIN_NS or suspect.held is not None or is_found

    def _coupled(self, victim: Watched) -> list[Watched]:
        return [w for w in self._watched if w is not victim and suspicion.coupled(w.settings, victim.settings)]

    def _stuck(self, victim: Watched, now_ns: int) -> list[suspicion.Stuck]:
        name, at_ns, found = self._compared
        if (name, at_ns) != (victim.settings.name, now_ns):  # asked for the hold, then for the record: read once
            alive = [w for w in self._coupled(victim) if w.state.phase is Phase.RUNNING]
            seen = [watched.stuck(now_ns) for watched in (victim, *alive)]
            found = [item for item in seen if item is not None]
            self._compared = (victim.settings.name, now_ns, found)
        return found

    def activity(self, accelerator: str) -> tuple[bool, int, bool]:
        """Of its workers: any call in flight, calls completed, and whether none of them is there any more."""
        seen = [w.activity() for w in self._watched if w.settings.accelerator == accelerator]
        return any(pending for pending, _ in seen), sum(completed for _, completed in seen), self.vacant(accelerator)

    def vacant(self, accelerator: str) -> bool:
        """It has had a worker, and none is there that could keep it busy: a DLA's engine has its share of the GPU."""
        its_own = [w for w in self._watched if w.settings.accelerator == accelerator]
        names = {accelerator, *(w.settings.name for w in its_own)}
        coupled = [w for w in self._watched if names & set(w.settings.coupled_with)]
        there = any(w.process is not None for w in (*its_own, *coupled))
        return not there and any(w.state.incarnation for w in its_own)

    def suspects(self, victim: Watched, now_ns: int) -> list[dict[str, Any]]:
        """The ranking, for the record. One that is being killed stands still with the others until it is gone."""
        dying = [w.stuck(now_ns) for w in self._coupled(victim) if w.state.phase in DYING]
        ranking = suspicion.rank([*self._stuck(victim, now_ns), *(item for item in dying if item is not None)])
        if ranking is None:
            return []
        return [
            {"worker": item.worker, "operation": item.operation, "entered_ns": item.entered_ns}
            | ({"confidence": round(ranking.confidence, 3)} if item is ranking.suspect else {})
            for item in (ranking.suspect, *ranking.runners_up)
        ]


def _dla_in_an_earlier_call(stuck: list[suspicion.Stuck], victim: str) -> str | None:
    """A DLA's usual call may last longer than the victim's whole deadline: it may return yet, or be late as well."""
    mine = next((item for item in stuck if item.worker == victim), None)
    if mine is None or mine.on_dla:
        return None
    dlas = (item for item in stuck if item.on_dla and not item.outside and item.deadline_ns is not None)
    return next((item.worker for item in dlas if item.entered_ns < mine.expected_ns), None)

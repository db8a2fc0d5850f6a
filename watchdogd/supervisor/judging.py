"""What deadlines need: each worker is looked at, judged, and what follows is done.

Invariant: nothing else is needed for a verdict and its kill, so that a supervisor which adopts workers can judge them
before it has its own children, its socket, or anything that takes long to import.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from watchdogd.act.acting import Actor, Happening, Order, PhaseChanged
from watchdogd.act.fleet import Fleet
from watchdogd.act.together import Together
from watchdogd.act.watched import Watched
from watchdogd.decide import liveness, policy
from watchdogd.decide.leeway import Leeway, Piece
from watchdogd.decide.orders import ALIVE, Occasion, OpenIncident, Spawn, Trigger
from watchdogd.model import Finding, IncidentId, Phase, SupervisorSettings, Verdict
from watchdogd.supervisor.incidents import Incidents
from watchdogd.supervisor.succession import Succession

if TYPE_CHECKING:
    from watchdogd.act.responses import Responses


_BACKOFF = Phase.BACKOFF  # found by this name in a tenth of the time
_JUDGED = (Phase.RUNNING, Phase.OBSERVED, Phase.COLLECTING)
_CONDEMNED = (Phase.COLLECTING, Phase.KILLING)


class Judging:
    def __init__(
        self, settings: SupervisorSettings, watched: list[Watched], fleet: Fleet, actor: Actor, together: Together,
        responses: Responses | None, succession: Succession, incidents: Incidents, happenings: deque[Happening],
        publish: Callable[[], int | None],
    ) -> None:  # fmt: skip
        """``responses``: None where no program of the integrator is configured."""
        self._settings = settings
        self._watched = watched
        self._fleet = fleet
        self._actor = actor
        self._together = together
        self._responses = responses
        self._succession = succession
        self._incidents = incidents
        self._happenings = happenings
        self._publish = publish
        self._opened = 0
        self._leeway = Leeway()
        self._has_forked = False  # in this round: a look comes between any two
        self._has_more = False

    def judge(self, late_ns: int, now_ns: int, *, stopping: bool) -> None:
        """``late_ns``: how long the machine may have stood still before this look, or how late it comes."""
        self._succession.look(now_ns)
        if self._responses is not None:
            self._responses.tick(stopping, now_ns)
        for watched in self._watched:
            self._observe(watched, late_ns, now_ns)
        for watched in self._fleet.standing():
            self._reconsider(watched, now_ns)
        self.settle(now_ns)
        if not stopping and self._together.advance(now_ns):
            self.settle(now_ns)

    def next_ns(self, now_ns: int) -> list[int]:
        """Instants at which it is to look again."""
        instants = [] if self._responses is None else self._responses.next_ns()
        if self._succession.until_ns is not None:
            instants.append(self._succession.until_ns)
        if self._has_more:
            instants.append(now_ns)
        if self._leeway.until_ns is not None:
            instants.append(self._leeway.until_ns)
        gives_way = self._has_more or self._leeway.until_ns is not None
        waiting = self._waiting_for_a_fork(now_ns) if gives_way else ()
        for watched in self._watched:
            if not waiting or watched not in waiting:
                instants += watched.due_ns(now_ns)
        return instants

    def may_begin(self, piece: Piece) -> bool:
        """Whether there is time for it; if not, there is when the look has been taken that is due."""
        return self._leeway.may_begin(piece, self._due_ns(), time.monotonic_ns())

    def _due_ns(self) -> int | None:
        dues = [due_ns for due_ns in map(_due_ns, self._watched) if due_ns is not None]
        return min(dues, default=None)

    def end_round(self) -> None:
        self._leeway.end_round(time.monotonic_ns())
        self._has_forked = False

    def _may_fork(self) -> bool:
        """Once in a round, where anybody could be late for it."""
        if self._has_forked and any(map(_is_judged, self._watched)):
            return False
        may_begin = self.may_begin(Piece.FORK)
        self._has_forked = self._has_forked or may_begin
        return may_begin

    def _has_room(self) -> bool:
        return not self._has_forked and self._leeway.has_room(Piece.FORK, self._due_ns(), time.monotonic_ns())

    # --- observe ---

    def _observe(self, watched: Watched, late_ns: int, now_ns: int) -> None:
        state = watched.state
        if state.deadline_ns is not None and now_ns >= state.deadline_ns and state.phase is not Phase.BACKOFF:
            self._happenings.append(Happening(watched, Trigger.TIMEOUT))
        clearing = watched.clearing
        if clearing.sweeper is not None and now_ns >= clearing.deadline_ns:
            self._actor.check_sweep(watched, now_ns)
        if state.phase is Phase.COLLECTING and not state.committed and watched.exit is None:
            if state.finding is not None:  # what is hung no longer need not wait for the end of the budget
                self._actor.spare(watched, state.finding)
            return
        if state.phase not in ALIVE or watched.exit is not None:
            return
        unreadable = watched.read()
        if unreadable is not None:
            self._actor.record_report_only(watched, Verdict.UNREADABLE, unreadable, now_ns)
        watched.declare_ready(now_ns)
        late_margin_ns = self._settings.late_margin_ns
        if watched.pulse is not None and state.ready_ns is None and liveness.is_ready(watched.pulse):
            # Its deadlines count from its own stamp on, so this wake-up may have been late for one of them.
            watched.examination.stalled(late_ns, late_margin_ns, now_ns)
            self._happenings.append(Happening(watched, Trigger.READY))
            return
        if state.phase is Phase.PAUSED:
            return
        for pending in watched.examine(now_ns):
            incident = watched.examination.reported.pop(pending.key, None)
            self._actor.record_near_miss(watched, pending, incident, now_ns)
            if state.finding is not None and (state.finding.offset, state.finding.word) == pending.key:
                self._happenings.append(Happening(watched, Trigger.RETURNED))
        self._look_for_recovery(watched, now_ns)
        if policy.may_be_judged(state):
            self._judge(watched, late_ns, now_ns)

    def _look_for_recovery(self, watched: Watched, now_ns: int) -> None:
        """From what its standing verdict is about."""
        if watched.is_good_again():
            self._actor.record_good_again(watched, now_ns)
        elif watched.gets_on_again(now_ns):
            self._actor.record_stall_over(watched, now_ns)
        elif not watched.is_rid_of_its_error():
            return
        self._happenings.append(Happening(watched, Trigger.RETURNED))

    def _judge(self, watched: Watched, late_ns: int, now_ns: int) -> None:
        finding = watched.verdict(late_ns, self._settings.late_margin_ns, now_ns)
        if finding is not None and finding.verdict is Verdict.STALL and watched.progressing.only_tells:
            self._actor.record_report_only(watched, finding.verdict, finding.detail, now_ns)
            watched.changed()
        elif finding is not None:
            self._fleet.found(watched, finding)

    def _reconsider(self, watched: Watched, now_ns: int) -> None:
        """A new finding becomes a verdict; the kill of a standing one that was held may be due."""
        finding = self._fleet.take(watched)
        if finding is not None:
            held = None if self._observe_only(watched) else self._hold(watched, finding, now_ns)
            self._happenings.append(Happening(watched, Trigger.VERDICT, finding, held))
        elif watched.held is not None and watched.state.finding is not None:
            held, watched.held = watched.held, self._hold(watched, watched.state.finding, now_ns)
            if watched.held != held:
                watched.changed()
            if watched.held is None:
                self._happenings.append(Happening(watched, Trigger.RELEASED))

    def _hold(self, watched: Watched, finding: Finding, now_ns: int) -> str | None:
        held = self._fleet.hold(watched, finding, now_ns)
        if held is None and self._responses is not None:
            held = self._responses.hold(watched, finding, now_ns)
        if held is None:
            self._fleet.condemned(watched, now_ns, in_order=finding.verdict is Verdict.LEAK)
        return held

    def _observe_only(self, watched: Watched) -> bool:
        return watched.settings.observe_only or self._settings.observe_only

    # --- decide ---

    def settle(self, now_ns: int) -> None:
        """All that has happened is dealt with; then, as far as there is time, what no kill waits for."""
        self._deal(now_ns)
        while (waiting := self._waiting_for_a_fork(now_ns)) and self._may_fork():
            first = min(waiting, key=lambda watched: watched.state.since_ns)
            if first.state.phase is Phase.BACKOFF:
                self._happenings.append(Happening(first, Trigger.TIMEOUT))
            else:
                self._actor.begin_sweep(first, now_ns)
            self._deal(now_ns)
        self._has_more = self._has_forked and bool(waiting)

    def _waiting_for_a_fork(self, now_ns: int) -> list[Watched]:
        # Hardly ever anybody, and there may be hundreds: not a call for each.
        near = [w for w in self._watched if w.state.phase is _BACKOFF or w.clearing.again_ns is not None]
        return [watched for watched in near if _waits_for_a_fork(watched, now_ns)]

    def _deal(self, now_ns: int) -> None:
        """Feed what happened to ``decide`` and carry out what it orders, until nothing is left to do."""
        while self._happenings:
            orders: list[tuple[Watched, Order]] = []
            while self._happenings:
                orders += self._decide(self._happenings.popleft(), now_ns)
            incidents = [(w, order) for w, order in orders if isinstance(order, OpenIncident)]
            for watched, incident in incidents:
                self._actor.count_incident(watched, incident)
            # The rest of the vehicle, and the next supervisor, may know before anything is done about it.
            published_ns = self._publish()
            self._incidents.opened(incidents)
            for watched, order in orders:
                self._actor.perform(watched, order, published_ns, now_ns)
                self._incidents.perform(watched, order)
                if self._responses is not None:
                    self._responses.perform(watched, order, now_ns)
        self._incidents.settled(lambda: self.may_begin(Piece.CAPTURE))

    def _decide(self, happening: Happening, now_ns: int) -> list[tuple[Watched, Order]]:
        watched, before = happening.watched, happening.watched.state
        if happening.trigger is Trigger.VERDICT:
            watched.held = happening.held
        occasion = Occasion(
            now_ns=now_ns,
            settings=watched.settings,
            kill_grace_ns=self._settings.kill_grace_ns,
            finding=happening.finding,
            held=happening.held is not None,
            observe_only=self._observe_only(watched),
            incident=self._incident_id(watched) if happening.finding is not None else None,
            ready_ns=watched.ready_ns() if happening.trigger is Trigger.READY else None,
            usable=happening.usable,
            collects=self._incidents.collects(watched),
            may_fork=happening.trigger is not Trigger.CLEARED or self._has_room(),
        )
        after, actions = policy.decide(before, happening.trigger, occasion)
        watched.state = after
        self._has_forked = self._has_forked or any(isinstance(action, Spawn) for action in actions)
        if after.finding is None:
            watched.held = None
        if after is not before:
            if before.phase in _CONDEMNED and happening.trigger in (Trigger.RETURNED, Trigger.PAUSE):
                self._fleet.spared()
            watched.count_budget(now_ns)
            watched.changed()
        if happening.trigger is Trigger.READY and after is not before:
            self._actor.record_ready(watched, before.incident, now_ns)
            self._together.ready(watched)
        if after.phase is before.phase:
            return [(watched, action) for action in actions]
        opened = [action for action in actions if isinstance(action, OpenIncident)]
        rest = [action for action in actions if not isinstance(action, OpenIncident)]
        return [(watched, order) for order in (*opened, PhaseChanged(before, after, happening.trigger), *rest)]

    def _incident_id(self, watched: Watched) -> IncidentId:
        self._opened += 1
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return IncidentId(f"{stamp}-{watched.settings.name}-{os.getpid()}.{self._opened}")


def _waits_for_a_fork(watched: Watched, now_ns: int) -> bool:
    """Its start or the sweep of what it left is due."""
    state, clearing = watched.state, watched.clearing
    if state.phase is Phase.BACKOFF:
        return state.deadline_ns is not None and now_ns >= state.deadline_ns
    return clearing.again_ns is not None and now_ns >= clearing.again_ns and clearing.sweeper is None


def _is_judged(watched: Watched) -> bool:
    return watched.exit is None and watched.state.phase in _JUDGED


def _due_ns(watched: Watched) -> int | None:
    """When it may have to be condemned, or killed, as far as is known."""
    state = watched.state
    if watched.exit is not None or state.phase is Phase.PAUSED:
        return None
    if state.phase is Phase.COLLECTING:
        return state.deadline_ns
    return watched.examination.due_ns if state.phase in ALIVE else None

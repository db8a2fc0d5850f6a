"""What to do about it: the (phase x trigger) table of one worker.

Invariant: pure, and no kill without an incident before it: every ``Signal`` that ends a worker because of a verdict
follows an ``OpenIncident`` for the same verdict. A kill carries the finding it rests on, to be read once more before
the signal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from watchdogd.decide import bisecting, budget, collecting
from watchdogd.decide.orders import (
    ALIVE,
    ASKED_FOR,
    KILL,
    NO_FAILURE,
    OPERATOR,
    REPORT_ONLY,
    TAKEN_ALONG,
    TERM,
    Action,
    Clear,
    CloseIncident,
    Leave,
    Occasion,
    OpenIncident,
    Probe,
    Refrain,
    Signal,
    Spawn,
    Trigger,
    WorkerState,
)
from watchdogd.model import SECOND, Phase, Verdict

PROBE_GRACE_NS = SECOND  # past its deadline, for whoever kills it then
Step = tuple[WorkerState, tuple[Action, ...]]
Handler = Callable[[WorkerState, Occasion], Step]


def decide(state: WorkerState, trigger: Trigger, occasion: Occasion) -> Step:
    """The worker's next state and the actions to take, in order."""
    if trigger is Trigger.TIMEOUT and (state.deadline_ns is None or occasion.now_ns < state.deadline_ns):
        return state, ()  # of a phase that was left in the same tick
    return _handler(state, trigger)(state, occasion)


def applies(state: WorkerState, trigger: Trigger) -> bool:
    """Whether the trigger means anything to the worker as it is (an operator is told if not)."""
    return _handler(state, trigger) is not _ignore


def may_be_judged(state: WorkerState) -> bool:
    """One verdict stands at a time. But where nothing ends it, perhaps for a week, and where it is on a worker that
    works and leaks, it must not hide those that come after it."""
    return state.finding is None or state.phase is Phase.OBSERVED or state.finding.verdict is Verdict.LEAK


def _handler(state: WorkerState, trigger: Trigger) -> Handler:
    """A stop is no way out of quarantine: what would start the worker then meets the row of the quarantine."""
    if state.quarantined and trigger in (Trigger.START, Trigger.RESTART):
        return TABLE[Phase.QUARANTINED, trigger]
    if state.committed and trigger is Trigger.PAUSE:  # its call was made to return: there is nothing left to look at
        return _ignore
    return TABLE[state.phase, trigger]


def _enter(state: WorkerState, phase: Phase, now_ns: int, deadline_ns: int | None = None) -> WorkerState:
    return replace(state, phase=phase, since_ns=now_ns, deadline_ns=deadline_ns)


# --- handlers -------------------------------------------------------------------------------------------------------


def _ignore(state: WorkerState, _occasion: Occasion) -> Step:
    return state, ()


def _spawn(state: WorkerState, occasion: Occasion) -> Step:
    state = replace(
        _enter(state, Phase.STARTING, occasion.now_ns),
        incarnation=state.incarnation + 1,
        wanted=True,
        spawned_ns=occasion.now_ns,
        ready_ns=None,
        armed_ns=None,
        finding=None,
        probing=False,
        unusable=0,
        bisecting=state.bisect is not None,
        by_itself=False,
        committed=False,
    )
    return state, (Spawn(state.incarnation, bisect=state.bisecting),)


def _ready(state: WorkerState, occasion: Occasion) -> Step:
    phase = Phase.OBSERVED if occasion.observe_only else Phase.RUNNING
    actions = () if state.incident is None else (CloseIncident(state.incident, "recovered"),)
    ready_ns = _ready_ns(state, occasion)
    state = _enter(state, phase, occasion.now_ns)
    return replace(state, ready_ns=ready_ns, armed_ns=ready_ns, finding=None, incident=None), actions


def _ready_while_paused(state: WorkerState, occasion: Occasion) -> Step:
    actions = () if state.incident is None else (CloseIncident(state.incident, "recovered"),)
    return replace(state, ready_ns=_ready_ns(state, occasion), incident=None), actions


def _ready_ns(state: WorkerState, occasion: Occasion) -> int:
    """The worker's own word for it; where that cannot be, or was said before a resume, when it was noticed."""
    earliest_ns = max(state.spawned_ns or 0, state.armed_ns or 0)
    believable = occasion.ready_ns is not None and earliest_ns <= occasion.ready_ns <= occasion.now_ns
    return occasion.ready_ns if believable and occasion.ready_ns is not None else occasion.now_ns


def _verdict(state: WorkerState, occasion: Occasion) -> Step:
    finding = occasion.finding
    if finding is None or finding.verdict in REPORT_ONLY or occasion.incident is None:
        return state, ()
    if not may_be_judged(state):
        return state, ()
    # A verdict while the incident of the last one is still open (the successor hung too) closes that first.
    outcome = "hung again" if state.finding is None else "overtaken"
    closing: tuple[Action, ...] = () if state.incident is None else (CloseIncident(state.incident, outcome),)
    state = replace(state, finding=finding, incident=occasion.incident)
    opened = OpenIncident(occasion.incident, finding, would_kill=occasion.observe_only)
    if occasion.observe_only or occasion.held:
        return state, (*closing, opened)
    state, end = _end_standing(state, occasion)
    return state, (*closing, opened, *end)


def _end_standing(state: WorkerState, occasion: Occasion) -> Step:
    if state.finding is None or occasion.observe_only:
        return state, ()
    if state.finding.verdict is Verdict.LEAK:  # it works: it may finish what it has begun
        asked, ask = _terminate(state, occasion, wanted=True)
        return replace(asked, reason=Verdict.LEAK.value), ask
    return collecting.begin(replace(state, reason=state.finding.verdict.value), occasion)


def _returned(state: WorkerState, occasion: Occasion) -> Step:
    """The word moved before anything destructive was done: a near miss. The worker goes on as before."""
    if state.finding is None or state.committed:  # it has ended meanwhile; or that is our own doing
        return state, ()
    actions: tuple[Action, ...] = ()
    if state.incident is not None:
        actions = (CloseIncident(state.incident, "returned"),)
    state = replace(state, finding=None, incident=None)
    if state.phase not in (Phase.COLLECTING, Phase.KILLING):
        return state, actions
    if not state.wanted or state.reason in ASKED_FOR:  # its end was asked for while its kill was under way
        state, ask = _terminate(state, occasion, wanted=state.wanted)
        return state, (*actions, *ask)
    return _enter(state, Phase.STARTING if state.ready_ns is None else Phase.RUNNING, occasion.now_ns), actions


def _ended_unasked(state: WorkerState, occasion: Occasion) -> Step:
    """Crashed or exited: an incident of its own, unless a verdict that waits to be acted on already has one."""
    actions: list[Action] = []
    finding, held = occasion.finding, state.finding is not None and not occasion.observe_only
    if finding is not None and not held and occasion.incident is not None:
        if state.incident is not None:
            actions.append(CloseIncident(state.incident, "ended again"))
        actions.append(OpenIncident(occasion.incident, finding))
        state = replace(state, finding=finding, incident=occasion.incident)
    reason = state.finding.verdict.value if state.finding is not None else state.reason
    state, clear = _ended_as_asked(state, occasion)
    return replace(state, reason=reason, by_itself=True), (*actions, *clear)


def _ended_as_asked(state: WorkerState, occasion: Occasion) -> Step:
    state, told = bisecting.learnt(state, occasion.settings.restart.bisect_after)
    # Its incident goes on; there is no word left that could move.
    state = replace(state, finding=None, ended_ns=occasion.now_ns)
    if state.phase is Phase.UNKILLABLE:
        return state, (*told, Clear())
    deadline = occasion.now_ns + occasion.kill_grace_ns
    return _enter(state, Phase.KILLING, occasion.now_ns, deadline), (*told, Clear())


def _ended_while_collecting(state: WorkerState, occasion: Occasion) -> Step:
    """With the verdict as the reason. Once its kill was committed, what ended it was our doing."""
    by_itself = not state.committed
    state, actions = _ended_as_asked(state if by_itself else replace(state, phase=Phase.KILLING), occasion)
    return replace(state, by_itself=by_itself), actions


def _cleared(state: WorkerState, occasion: Occasion) -> Step:
    """Gone, with all its descendants. What comes next is the budget's word, unless an operator has had his."""
    now, state = occasion.now_ns, replace(state, finding=None)
    if not state.wanted:
        actions: tuple[Action, ...] = ()
        if state.incident is not None:
            actions = (CloseIncident(state.incident, "stopped"),)
        stopped = _enter(state, Phase.STOPPED, now)
        return replace(stopped, finding=None, incident=None, spawned_ns=None, ready_ns=None), actions
    settings = occasion.settings.restart
    delay = budget.delay_ns(state.restarts, now, settings, state.name)
    if _is_others_to_start(state, occasion, spent=delay is None):
        stopped, closing = _cleared(replace(state, wanted=False), occasion)
        return stopped, (*closing, _leave(state))
    if state.reason not in ASKED_FOR:
        state = replace(state, spent=state.spent + 1)
    if state.reason in NO_FAILURE:
        return _spawn(state, occasion)
    if delay is None:
        actions = () if state.incident is None else (CloseIncident(state.incident, "quarantined"),)
        state = replace(_enter(state, Phase.QUARANTINED, now), quarantined=True, incident=None, finding=None)
        return replace(state, spawned_ns=None, ready_ns=None), actions
    restarts = (*budget.recent(state.restarts, now, settings.window_ns), now + delay)
    state = replace(state, restarts=restarts)
    if delay == 0 and occasion.may_fork:
        return _start_again(state, occasion)
    return replace(_enter(state, Phase.BACKOFF, now, now + delay), spawned_ns=None, ready_ns=None), ()


def _is_others_to_start(state: WorkerState, occasion: Occasion, *, spent: bool = False) -> bool:
    """``spent``: so is the restart budget."""
    if occasion.settings.on_verdict != "exit" or state.reason in ASKED_FOR or not state.wanted:
        return False
    return spent or state.by_itself or state.spent >= occasion.settings.restart.before_exit


def _leave(state: WorkerState) -> Leave:
    return Leave(None if state.by_itself else state.reason)


def _start_again(state: WorkerState, occasion: Occasion) -> Step:
    """After an end that nobody asked for, the accelerator is probed first where that is configured."""
    if not occasion.settings.probe or state.probing:  # the latter: no answer, so nothing is known
        return _spawn(state, occasion)
    deadline = occasion.now_ns + occasion.settings.probe_deadline_ns + PROBE_GRACE_NS
    waiting = _enter(state, Phase.BACKOFF, occasion.now_ns, deadline)
    return replace(waiting, probing=True, spawned_ns=None, ready_ns=None), (Probe(state.incarnation),)


def _probed(state: WorkerState, occasion: Occasion) -> Step:
    """Only an accelerator that is known not to be usable is not started into."""
    if not state.probing:  # an operator has had his word meanwhile
        return state, ()
    if occasion.usable is not False:
        return _spawn(state, occasion)
    unusable = state.unusable + 1
    delay = budget.again_ns(unusable, occasion.settings.restart, state.name)
    waiting = _enter(state, Phase.BACKOFF, occasion.now_ns, occasion.now_ns + delay)
    return replace(waiting, probing=False, unusable=unusable), ()


def _unkillable(state: WorkerState, occasion: Occasion) -> Step:
    """SIGKILL did not take. Its descendants may still be killed; its successor is not started."""
    unkillable = _enter(state, Phase.UNKILLABLE, occasion.now_ns)
    leave = (_leave(state),) if _is_others_to_start(state, occasion) else ()
    return unkillable, (Clear(), *leave)


def _terminate(state: WorkerState, occasion: Occasion, *, wanted: bool) -> Step:
    deadline = occasion.now_ns + occasion.settings.stop_timeout_ns
    state = replace(_enter(state, Phase.TERMINATING, occasion.now_ns, deadline), wanted=wanted, reason=OPERATOR)
    return state, (Signal(TERM),)


def _stop(state: WorkerState, occasion: Occasion) -> Step:
    return _terminate(state, occasion, wanted=False)


def _restart(state: WorkerState, occasion: Occasion) -> Step:
    return _terminate(state, occasion, wanted=True)


def _restart_with(state: WorkerState, occasion: Occasion) -> Step:
    origin, _ = state.follows or ("", 0)
    state = replace(state, follows=None)
    if occasion.observe_only:
        return state, (Refrain(f"restart with {origin}"),)
    state, ask = _terminate(state, occasion, wanted=True)
    return replace(state, reason=TAKEN_ALONG), ask


def _grace_over(state: WorkerState, occasion: Occasion) -> Step:
    deadline = occasion.now_ns + occasion.kill_grace_ns
    return _enter(state, Phase.KILLING, occasion.now_ns, deadline), (Signal(KILL),)


def _not_wanted(state: WorkerState, _occasion: Occasion) -> Step:
    return replace(state, wanted=False), ()


def _wanted(state: WorkerState, _occasion: Occasion) -> Step:
    return replace(state, wanted=True, reason=OPERATOR), ()


def _park(state: WorkerState, occasion: Occasion) -> Step:
    """Stop waiting to start."""
    actions = () if state.incident is None else (CloseIncident(state.incident, "stopped"),)
    parked = replace(_enter(state, Phase.STOPPED, occasion.now_ns), wanted=False, incident=None, finding=None)
    return replace(parked, probing=False, unusable=0), actions


def _pause(state: WorkerState, occasion: Occasion) -> Step:
    """A verdict that stands is dropped. The incident that a new incarnation is to recover from stays open."""
    paused = _enter(state, Phase.PAUSED, occasion.now_ns)
    if state.finding is None or state.incident is None:
        return paused, ()
    return replace(paused, finding=None, incident=None), (CloseIncident(state.incident, "paused"),)


def _resume(state: WorkerState, occasion: Occasion) -> Step:
    """Deadlines run again, from now: what was in flight while paused is not held against the worker."""
    now = occasion.now_ns
    if state.ready_ns is None:
        return replace(_enter(state, Phase.STARTING, now), armed_ns=now), ()
    phase = Phase.OBSERVED if occasion.observe_only else Phase.RUNNING
    return replace(_enter(state, phase, now), armed_ns=now), ()


def _forgive(state: WorkerState, _occasion: Occasion) -> Step:
    return replace(state, restarts=(), quarantined=False, spent=0), ()


def _leave_quarantine(state: WorkerState, occasion: Occasion) -> Step:
    return _spawn(replace(state, restarts=(), quarantined=False, spent=0, reason=OPERATOR), occasion)


def _bisect_on(state: WorkerState, _occasion: Occasion) -> Step:
    return replace(state, bisect=OPERATOR, untold=0), ()


def _bisect_off(state: WorkerState, _occasion: Occasion) -> Step:
    return replace(state, bisect=None, untold=0), ()


# --- the table ------------------------------------------------------------------------------------------------------

P, T = Phase, Trigger


def _table() -> dict[tuple[Phase, Trigger], Handler]:
    table: dict[tuple[Phase, Trigger], Handler] = {(phase, trigger): _ignore for phase in P for trigger in T}
    for phase in P:
        table[phase, T.RESET] = _forgive
        table[phase, T.BISECT_ON] = _bisect_on
        table[phase, T.BISECT_OFF] = _bisect_off
    for phase in ALIVE:
        table[phase, T.EXITED] = _ended_unasked
        table[phase, T.STOP] = _stop
        table[phase, T.RESTART] = _restart
        table[phase, T.PAUSE] = _pause
        table[phase, T.VERDICT] = _verdict
        table[phase, T.RELEASED] = _end_standing
        table[phase, T.RETURNED] = _returned
        table[phase, T.RESTART_WITH] = _restart_with
    for trigger in (T.PAUSE, T.VERDICT, T.RELEASED, T.RETURNED, T.RESTART_WITH):
        table[P.PAUSED, trigger] = _ignore  # deadlines are suspended, and somebody looks at it
    for phase in (P.TERMINATING, P.KILLING, P.UNKILLABLE):
        table[phase, T.EXITED] = _ended_as_asked
        table[phase, T.CLEARED] = _cleared
        table[phase, T.STOP] = _not_wanted
        table[phase, T.START] = table[phase, T.RESTART] = _wanted
    table[P.COLLECTING, T.STOP] = _not_wanted
    table[P.COLLECTING, T.START] = table[P.COLLECTING, T.RESTART] = _wanted
    table |= {
        (P.STOPPED, T.START): _spawn,
        (P.STOPPED, T.RESTART): _spawn,
        (P.STOPPED, T.STOP): _not_wanted,  # its start may wait for others
        (P.STARTING, T.READY): _ready,
        (P.PAUSED, T.READY): _ready_while_paused,
        (P.PAUSED, T.RESUME): _resume,
        (P.COLLECTING, T.COLLECTED): collecting.collected,
        (P.COLLECTING, T.COMMITTED): collecting.committed,
        (P.COLLECTING, T.TIMEOUT): collecting.kill,
        (P.COLLECTING, T.RETURNED): _returned,
        (P.COLLECTING, T.PAUSE): _pause,
        (P.COLLECTING, T.EXITED): _ended_while_collecting,
        (P.TERMINATING, T.TIMEOUT): _grace_over,
        (P.KILLING, T.TIMEOUT): _unkillable,
        (P.KILLING, T.RETURNED): _returned,
        (P.BACKOFF, T.TIMEOUT): _start_again,
        (P.BACKOFF, T.PROBED): _probed,
        (P.BACKOFF, T.START): _spawn,
        (P.BACKOFF, T.RESTART): _spawn,
        (P.BACKOFF, T.STOP): _park,
        (P.QUARANTINED, T.STOP): _park,
        (P.QUARANTINED, T.RESET): _leave_quarantine,
    }
    return table


TABLE = _table()

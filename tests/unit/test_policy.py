"""The (phase x trigger) table, whole; and what no sequence of triggers can make it do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.decide.orders import (
    ALIVE,
    ASKED_FOR,
    KILL,
    NO_FAILURE,
    REPORT_ONLY,
    TERM,
    Action,
    Clear,
    CloseIncident,
    Collect,
    Commit,
    Dump,
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
from watchdogd.decide.policy import TABLE, applies, decide
from watchdogd.model import MILLISECOND, SECOND, Finding, IncidentId, Phase, RestartSettings, Verdict, WorkerSettings

P, T, V = Phase, Trigger, Verdict
NOW = 5_000 * SECOND
SETTINGS = WorkerSettings("h", ("model_h",), restart=RestartSettings(budget=3), stop_timeout_ns=7 * SECOND)
GRACE = 2 * SECOND
HANG = Finding(V.CALL, NOW, "sync", NOW - SECOND, NOW, word=77, offset=256)
CRASH = Finding(V.CRASHED, NOW)
OLD, NEW = IncidentId("old"), IncidentId("new")
DEADLINED = {P.TERMINATING, P.COLLECTING, P.KILLING, P.BACKOFF}


def state_in(phase: Phase, **fields: object) -> WorkerState:
    """A worker as it is in a phase when nothing else is the matter with it."""
    alive = phase in ALIVE or phase in (P.TERMINATING, P.COLLECTING, P.KILLING, P.UNKILLABLE)
    base = WorkerState(
        "h", phase, NOW - SECOND, NOW if phase in DEADLINED else None, incarnation=4, wanted=phase is not P.STOPPED,
        spawned_ns=NOW - 9 * SECOND if alive else None,
        ready_ns=NOW - 8 * SECOND if alive and phase is not P.STARTING else None,
        armed_ns=NOW - 8 * SECOND,
        reason="call" if phase in (P.COLLECTING, P.KILLING, P.UNKILLABLE, P.BACKOFF) else "operator",
        finding=HANG if phase is P.COLLECTING else None, incident=OLD if phase is P.COLLECTING else None,
    )  # fmt: skip
    return replace(base, **fields)  # type: ignore[arg-type]  # any of its fields


def occasion(finding: Finding | None = None, **fields: object) -> Occasion:
    return Occasion(NOW, SETTINGS, GRACE, finding=finding, incident=NEW)._replace(**fields)  # type: ignore[arg-type]  # any of its fields


# --- the table ------------------------------------------------------------------------------------------------------

SPAWN, ASK, FORCE, CLEAR = Spawn(5), Signal(TERM), Signal(KILL), Clear()

# What happens, by phase and trigger; what is not here changes nothing but the history that RESET forgets.
EXPECTED: dict[tuple[Phase, Trigger], tuple[Phase, tuple[Action, ...]]] = {
    (P.STOPPED, T.START): (P.STARTING, (SPAWN,)),
    (P.STOPPED, T.RESTART): (P.STARTING, (SPAWN,)),
    (P.STARTING, T.READY): (P.RUNNING, ()),
    (P.PAUSED, T.READY): (P.PAUSED, ()),
    (P.PAUSED, T.RESUME): (P.RUNNING, ()),
    **{(phase, T.STOP): (P.TERMINATING, (ASK,)) for phase in ALIVE},
    **{(phase, T.RESTART): (P.TERMINATING, (ASK,)) for phase in ALIVE},
    **{(phase, T.RESTART_WITH): (P.TERMINATING, (ASK,)) for phase in ALIVE - {P.PAUSED}},
    **{(phase, T.PAUSE): (P.PAUSED, ()) for phase in ALIVE - {P.PAUSED}},
    **{(phase, T.EXITED): (P.KILLING, (OpenIncident(NEW, CRASH), CLEAR)) for phase in ALIVE},
    (P.COLLECTING, T.COLLECTED): (P.KILLING, (Signal(KILL, confirm=HANG),)),
    (P.COLLECTING, T.TIMEOUT): (P.KILLING, (Signal(KILL, confirm=HANG),)),
    (P.COLLECTING, T.COMMITTED): (P.COLLECTING, (Dump(OLD, NOW),)),
    (P.COLLECTING, T.RETURNED): (P.RUNNING, (CloseIncident(OLD, "returned"),)),
    (P.COLLECTING, T.PAUSE): (P.PAUSED, (CloseIncident(OLD, "paused"),)),
    (P.COLLECTING, T.EXITED): (P.KILLING, (CLEAR,)),
    (P.TERMINATING, T.TIMEOUT): (P.KILLING, (FORCE,)),
    (P.TERMINATING, T.EXITED): (P.KILLING, (CLEAR,)),
    (P.KILLING, T.EXITED): (P.KILLING, (CLEAR,)),
    (P.KILLING, T.TIMEOUT): (P.UNKILLABLE, (CLEAR,)),
    (P.UNKILLABLE, T.EXITED): (P.UNKILLABLE, (CLEAR,)),
    **{(phase, T.CLEARED): (P.STARTING, (SPAWN,)) for phase in (P.TERMINATING, P.KILLING, P.UNKILLABLE)},
    (P.BACKOFF, T.TIMEOUT): (P.STARTING, (SPAWN,)),
    (P.BACKOFF, T.START): (P.STARTING, (SPAWN,)),
    (P.BACKOFF, T.RESTART): (P.STARTING, (SPAWN,)),
    (P.BACKOFF, T.STOP): (P.STOPPED, ()),
    (P.QUARANTINED, T.STOP): (P.STOPPED, ()),
    (P.QUARANTINED, T.RESET): (P.STARTING, (SPAWN,)),
}
# They change what comes after, not the phase.
REMEMBERED = {
    (phase, t) for phase in (P.TERMINATING, P.COLLECTING, P.KILLING, P.UNKILLABLE) for t in (T.STOP, T.START, T.RESTART)
}
REMEMBERED |= {(phase, T.BISECT_ON) for phase in P}


def test_every_phase_and_trigger_has_an_entry() -> None:
    assert set(TABLE) == {(phase, trigger) for phase in P for trigger in T}


@pytest.mark.parametrize("phase", P)
@pytest.mark.parametrize("trigger", [trigger for trigger in T if trigger is not T.VERDICT])
def test_the_table(phase: Phase, trigger: Trigger) -> None:
    before = state_in(phase)
    after, actions = decide(before, trigger, occasion(CRASH if trigger is T.EXITED else None))
    assert (after.phase, actions) == EXPECTED.get((phase, trigger), (phase, ()))
    if (phase, trigger) not in {*EXPECTED, *REMEMBERED}:
        assert after == before
    assert applies(before, trigger) >= ((phase, trigger) in EXPECTED)


# What a finding of each verdict leads to in a phase that listens. EXITED and CRASHED come as T.EXITED.
ACTED_ON = {
    V.STARTUP,
    V.FIRST_STEP,
    V.STEP,
    V.CALL,
    V.STALL,
    V.STICKY_ERROR,
    V.SILENT_OUTPUT,
    V.LEAK,
    V.EXITED,
    V.CRASHED,
}
LISTENING = {P.STARTING, P.RUNNING, P.OBSERVED}


@pytest.mark.parametrize("phase", P)
@pytest.mark.parametrize("verdict", V)
def test_every_phase_and_verdict(phase: Phase, verdict: Verdict) -> None:
    before, finding = state_in(phase), Finding(verdict, NOW, word=77, offset=256)
    after, actions = decide(before, T.VERDICT, occasion(finding, observe_only=phase is P.OBSERVED))
    if verdict not in ACTED_ON or phase not in LISTENING:
        assert (after, actions) == (before, ())
    elif phase is P.OBSERVED:
        assert (after.phase, actions) == (phase, (OpenIncident(NEW, finding, would_kill=True),))
    elif verdict is V.LEAK:  # it works
        assert (after.phase, after.reason) == (P.TERMINATING, "leak")
        assert actions == (OpenIncident(NEW, finding), Signal(TERM))
    else:
        assert (after.phase, after.reason) == (P.KILLING, verdict.value)
        assert actions == (OpenIncident(NEW, finding), Signal(KILL, confirm=finding))


def test_all_verdicts_are_either_acted_on_or_reported_only() -> None:
    assert sorted([*ACTED_ON, *REPORT_ONLY]) == sorted(V)


# --- one by one -----------------------------------------------------------------------------------------------------


def test_a_hung_worker_is_killed_within_its_grace() -> None:
    after, _ = decide(state_in(P.RUNNING), T.VERDICT, occasion(HANG))
    assert (after.phase, after.deadline_ns, after.incident) == (P.KILLING, NOW + GRACE, NEW)


def test_a_worker_that_leaks_is_asked_to_end_and_replaced_without_a_charge_on_its_budget() -> None:
    spent = tuple(NOW - n for n in range(SETTINGS.restart.budget))
    leak = Finding(V.LEAK, NOW, detail="memory")
    asked, _ = decide(state_in(P.RUNNING, restarts=spent), T.VERDICT, occasion(leak))
    assert (asked.phase, asked.deadline_ns, asked.wanted) == (P.TERMINATING, NOW + SETTINGS.stop_timeout_ns, True)
    assert decide(asked, T.TIMEOUT, occasion()._replace(now_ns=NOW + SETTINGS.stop_timeout_ns))[1] == (Signal(KILL),)
    ended, _ = decide(asked, T.EXITED, occasion(CRASH))
    again, actions = decide(ended, T.CLEARED, occasion())
    assert (again.phase, actions, again.restarts, again.incident) == (P.STARTING, (SPAWN,), spent, NEW)
    hung, _ = decide(state_in(P.RUNNING, restarts=spent), T.VERDICT, occasion(HANG))
    ended, _ = decide(hung, T.EXITED, occasion())
    assert decide(ended, T.CLEARED, occasion())[0].phase is P.QUARANTINED


def test_a_held_kill_comes_when_nothing_holds_it_any_longer() -> None:
    held, actions = decide(state_in(P.RUNNING), T.VERDICT, occasion(HANG, held=True))
    assert (held.phase, held.finding, actions) == (P.RUNNING, HANG, (OpenIncident(NEW, HANG),))
    after, actions = decide(held, T.RELEASED, occasion())
    assert (after.phase, actions) == (P.KILLING, (Signal(KILL, confirm=HANG),))


def test_a_held_kill_does_not_come_when_the_call_has_returned() -> None:
    held = state_in(P.RUNNING, finding=HANG, incident=OLD)
    back, actions = decide(held, T.RETURNED, occasion())
    assert (back, actions) == (state_in(P.RUNNING), (CloseIncident(OLD, "returned"),))
    assert decide(back, T.RELEASED, occasion()) == (back, ())


def test_a_call_that_returns_before_the_signal_is_a_near_miss() -> None:
    killing = state_in(P.KILLING, finding=HANG, incident=OLD)
    back, actions = decide(killing, T.RETURNED, occasion())
    assert (back.phase, back.finding, back.deadline_ns) == (P.RUNNING, None, None)
    assert actions == (CloseIncident(OLD, "returned"),)


def test_a_worker_that_becomes_ready_before_the_signal_goes_on_starting() -> None:
    killing = state_in(P.KILLING, finding=Finding(V.STARTUP, NOW), incident=OLD, ready_ns=None)
    assert decide(killing, T.RETURNED, occasion())[0].phase is P.STARTING


@pytest.mark.parametrize("asked", [T.STOP, T.RESTART])
def test_an_end_asked_for_while_the_kill_was_under_way_comes_though_the_call_returned(asked: Trigger) -> None:
    killing, _ = decide(state_in(P.KILLING, finding=HANG, incident=OLD), asked, occasion())
    after, actions = decide(killing, T.RETURNED, occasion())
    assert (after.phase, after.wanted) == (P.TERMINATING, asked is T.RESTART)
    assert actions == (CloseIncident(OLD, "returned"), ASK)


def test_a_worker_that_has_ended_does_not_return() -> None:
    ended, _ = decide(state_in(P.KILLING, finding=HANG, incident=OLD), T.EXITED, occasion(CRASH))
    assert decide(ended, T.RETURNED, occasion()) == (ended, ())
    assert ended.incident == OLD


def test_a_crash_while_a_kill_is_held_belongs_to_the_incident_of_the_hang() -> None:
    held = state_in(P.RUNNING, finding=HANG, incident=OLD)
    after, actions = decide(held, T.EXITED, occasion(CRASH))
    assert (after.incident, after.reason, actions) == (OLD, "call", (CLEAR,))


def test_a_crash_after_a_hang_that_was_only_observed_has_its_own_incident() -> None:
    observed = state_in(P.OBSERVED, finding=HANG, incident=OLD)
    after, actions = decide(observed, T.EXITED, occasion(CRASH, observe_only=True))
    assert (after.incident, after.reason) == (NEW, "crashed")
    assert actions == (CloseIncident(OLD, "ended again"), OpenIncident(NEW, CRASH), CLEAR)


def test_a_successor_that_hangs_too_has_its_own_incident() -> None:
    _, actions = decide(state_in(P.STARTING, incident=OLD), T.VERDICT, occasion(HANG))
    assert actions[:2] == (CloseIncident(OLD, "hung again"), OpenIncident(NEW, HANG))


def test_ready_is_the_end_of_the_incident() -> None:
    after, actions = decide(state_in(P.STARTING, incident=OLD), T.READY, occasion())
    assert (after.phase, after.incident, after.armed_ns) == (P.RUNNING, None, NOW)
    assert actions == (CloseIncident(OLD, "recovered"),)


def test_deadlines_count_from_the_workers_own_ready_not_from_when_it_was_noticed() -> None:
    after, _ = decide(state_in(P.STARTING, armed_ns=None), T.READY, occasion(ready_ns=NOW - 40 * MILLISECOND))
    assert after.armed_ns == after.ready_ns == NOW - 40 * MILLISECOND
    assert after.since_ns == NOW


@pytest.mark.parametrize(
    ("stamp", "armed_ns"),
    [
        (None, None),
        (NOW + 1, None),  # from the future
        (NOW - 10 * SECOND, None),  # from before its spawn
        (NOW - 2, NOW - 1),  # from before a resume: what was in flight then is not held against it
    ],
)
def test_a_ready_that_cannot_be_believed_counts_from_when_it_was_noticed(
    stamp: int | None, armed_ns: int | None
) -> None:
    after, _ = decide(state_in(P.STARTING, armed_ns=armed_ns), T.READY, occasion(ready_ns=stamp))
    assert (after.ready_ns, after.armed_ns) == (NOW, NOW)


def test_a_verdict_that_is_only_observed_does_not_hide_the_next_one() -> None:
    other = Finding(V.CALL, NOW, "sync", NOW - SECOND, NOW, word=78, offset=320)
    before = state_in(P.OBSERVED, finding=HANG, incident=OLD)
    after, actions = decide(before, T.VERDICT, occasion(other, observe_only=True))
    assert (after.phase, after.finding, after.incident) == (P.OBSERVED, other, NEW)
    assert actions == (CloseIncident(OLD, "overtaken"), OpenIncident(NEW, other, would_kill=True))


def test_where_kills_are_real_one_verdict_stands_at_a_time() -> None:
    held = state_in(P.RUNNING, finding=HANG, incident=OLD)
    assert decide(held, T.VERDICT, occasion(Finding(V.CALL, NOW, word=78, offset=320))) == (held, ())


def test_a_leak_that_stands_hides_no_hang() -> None:
    held = state_in(P.RUNNING, finding=Finding(V.LEAK, NOW), incident=OLD)
    after, actions = decide(held, T.VERDICT, occasion(HANG))
    assert (after.phase, after.finding, after.incident, after.reason) == (P.KILLING, HANG, NEW, "call")
    assert actions == (CloseIncident(OLD, "overtaken"), OpenIncident(NEW, HANG), Signal(KILL, confirm=HANG))


def test_ready_while_paused_is_the_end_of_the_incident_too() -> None:
    paused, actions = decide(state_in(P.STARTING, incident=OLD), T.PAUSE, occasion())
    assert (paused.incident, actions) == (OLD, ())
    after, actions = decide(paused, T.READY, occasion())
    assert (after.phase, after.incident, actions) == (P.PAUSED, None, (CloseIncident(OLD, "recovered"),))


def test_pausing_drops_a_verdict_and_closes_its_incident() -> None:
    paused, actions = decide(state_in(P.RUNNING, finding=HANG, incident=OLD), T.PAUSE, occasion())
    assert (paused.finding, paused.incident, actions) == (None, None, (CloseIncident(OLD, "paused"),))


def test_after_a_pause_nothing_in_flight_is_older_than_the_resume() -> None:
    assert decide(state_in(P.PAUSED), T.RESUME, occasion())[0].armed_ns == NOW


def test_a_stopped_worker_is_not_started_when_it_is_gone() -> None:
    stopped, _ = decide(state_in(P.KILLING, incident=OLD), T.STOP, occasion())
    gone, actions = decide(stopped, T.CLEARED, occasion())
    assert (gone.phase, gone.incident, actions) == (P.STOPPED, None, (CloseIncident(OLD, "stopped"),))


def test_an_operators_restart_costs_no_budget() -> None:
    restarted, _ = decide(state_in(P.RUNNING, restarts=(NOW,) * 3), T.RESTART, occasion())
    after, actions = decide(restarted, T.CLEARED, occasion())
    assert (actions, after.restarts) == ((SPAWN,), (NOW,) * 3)


def test_a_spent_budget_is_quarantine_and_closes_the_incident() -> None:
    after, actions = decide(state_in(P.KILLING, restarts=(NOW - 1,) * 3, incident=OLD), T.CLEARED, occasion())
    assert (after.phase, after.incident, actions) == (P.QUARANTINED, None, (CloseIncident(OLD, "quarantined"),))
    back, actions = decide(after, T.RESET, occasion())
    assert (back.phase, back.restarts, actions) == (P.STARTING, (), (SPAWN,))


@pytest.mark.parametrize("asked", [T.START, T.RESTART])
def test_a_stop_is_no_way_out_of_quarantine(asked: Trigger) -> None:
    stopped, _ = decide(state_in(P.QUARANTINED, quarantined=True), T.STOP, occasion())
    assert (stopped.phase, applies(stopped, asked)) == (P.STOPPED, False)
    assert decide(stopped, asked, occasion()) == (stopped, ())


@pytest.mark.parametrize("asked", [T.START, T.RESTART])
def test_a_worker_stopped_in_quarantine_starts_again_after_a_reset(asked: Trigger) -> None:
    stopped, _ = decide(state_in(P.QUARANTINED, quarantined=True), T.STOP, occasion())
    reset, actions = decide(stopped, T.RESET, occasion())
    assert (reset.phase, actions, applies(reset, asked)) == (P.STOPPED, (), True)  # it was stopped, and stays so
    assert decide(reset, asked, occasion())[1] == (SPAWN,)


def test_what_was_reset_can_be_stopped_and_started_as_ever() -> None:
    quarantined, _ = decide(state_in(P.KILLING, restarts=(NOW - 1,) * 3), T.CLEARED, occasion())
    started, _ = decide(quarantined, T.RESET, occasion())
    assert (quarantined.quarantined, started.quarantined) == (True, False)


LEAVING = SETTINGS._replace(on_verdict="exit")


@pytest.mark.parametrize("verdict", sorted(ACTED_ON - {V.CRASHED, V.EXITED}))
def test_after_a_verdict_the_next_start_is_left_to_the_supervisors_owner(verdict: Verdict) -> None:
    gone, actions = decide(state_in(P.KILLING, reason=verdict.value), T.CLEARED, occasion(settings=LEAVING))
    assert (gone.phase, gone.wanted, actions) == (P.STOPPED, False, (Leave(verdict.value),))


@pytest.mark.parametrize("asked", sorted(ASKED_FOR))
def test_after_an_end_that_was_asked_for_it_is_not(asked: str) -> None:
    gone, actions = decide(state_in(P.KILLING, reason=asked), T.CLEARED, occasion(settings=LEAVING))
    assert (gone.phase, actions) == (P.STARTING, (SPAWN,))


def test_an_end_of_its_own_is_no_verdicts_doing_though_one_was_held() -> None:
    ended, _ = decide(state_in(P.RUNNING, finding=HANG, incident=OLD), T.EXITED, occasion(CRASH, settings=LEAVING))
    assert decide(ended, T.CLEARED, occasion(settings=LEAVING))[1] == (CloseIncident(OLD, "stopped"), Leave(None))


def test_where_sigkill_does_not_take_the_owner_is_not_kept_waiting() -> None:
    hung, _ = decide(state_in(P.RUNNING), T.VERDICT, occasion(HANG, settings=LEAVING))
    late = occasion(settings=LEAVING, now_ns=NOW + GRACE)
    assert decide(hung, T.TIMEOUT, late)[1] == (CLEAR, Leave("call"))
    assert decide(hung, T.TIMEOUT, late._replace(settings=SETTINGS))[1] == (CLEAR,)


def test_a_spent_budget_is_left_to_the_owner_too() -> None:
    patient = LEAVING._replace(restart=RestartSettings(budget=3, before_exit=9))
    for restarts, then in (((NOW - 1,) * 3, P.STOPPED), ((), P.STARTING)):
        gone, actions = decide(state_in(P.KILLING, restarts=restarts), T.CLEARED, occasion(settings=patient))
        assert (gone.phase, actions) == (then, (Leave("call"),) if then is P.STOPPED else (SPAWN,))


def test_a_worker_that_waits_to_be_started_again_has_no_process() -> None:
    after, actions = decide(state_in(P.KILLING, restarts=(NOW - 1,), incident=OLD), T.CLEARED, occasion())
    assert (after.phase, after.spawned_ns, after.ready_ns, actions) == (P.BACKOFF, None, None, ())
    assert after.deadline_ns is not None and NOW < after.deadline_ns <= NOW + 100 * MILLISECOND


def test_a_timeout_of_a_phase_that_was_left_in_the_same_tick_is_none() -> None:
    killing, _ = decide(state_in(P.TERMINATING), T.EXITED, occasion())
    assert decide(killing, T.TIMEOUT, occasion()) == (killing, ())


def test_after_a_pause_while_starting_the_startup_deadline_begins_again() -> None:
    paused, _ = decide(state_in(P.STARTING), T.PAUSE, occasion())
    after, _ = decide(paused, T.RESUME, occasion())
    assert (after.phase, after.armed_ns, after.spawned_ns) == (P.STARTING, NOW, NOW - 9 * SECOND)


def test_observe_only_holds_for_a_verdict_while_starting() -> None:
    startup = Finding(V.STARTUP, NOW)
    after, actions = decide(state_in(P.STARTING), T.VERDICT, occasion(startup, observe_only=True))
    assert (after.phase, actions) == (P.STARTING, (OpenIncident(NEW, startup, would_kill=True),))
    assert decide(after, T.RELEASED, occasion(observe_only=True)) == (after, ())
    assert decide(after, T.READY, occasion(observe_only=True))[0].phase is P.OBSERVED


# --- evidence before the kill -----------------------------------------------------------------------------------

FULL = SETTINGS._replace(evidence="full", evidence_budget_ns=400 * MILLISECOND)
DUMPING = FULL._replace(gpu_core_dump=True)
BUDGET_OVER = NOW + 400 * MILLISECOND


def collecting(settings: WorkerSettings = FULL) -> WorkerState:
    return decide(state_in(P.RUNNING), T.VERDICT, occasion(HANG, settings=settings, collects=True))[0]


def test_full_evidence_of_a_hang_is_taken_before_its_kill() -> None:
    after, actions = decide(state_in(P.RUNNING), T.VERDICT, occasion(HANG, settings=FULL, collects=True))
    assert (after.phase, after.deadline_ns, after.reason) == (P.COLLECTING, BUDGET_OVER, "call")
    assert actions == (OpenIncident(NEW, HANG), Collect(NEW, BUDGET_OVER))


@pytest.mark.parametrize(("settings", "collects"), [(FULL, False), (SETTINGS, True)], ids=["nobody", "memory"])
def test_without_anybody_to_take_it_or_any_to_be_taken_the_kill_comes_at_once(
    settings: WorkerSettings, collects: bool
) -> None:
    after, actions = decide(state_in(P.RUNNING), T.VERDICT, occasion(HANG, settings=settings, collects=collects))
    assert (after.phase, actions) == (P.KILLING, (OpenIncident(NEW, HANG), Signal(KILL, confirm=HANG)))


def test_a_held_kill_has_its_evidence_taken_when_nothing_holds_it_any_longer() -> None:
    held, _ = decide(state_in(P.RUNNING), T.VERDICT, occasion(HANG, held=True, settings=FULL, collects=True))
    after, actions = decide(held, T.RELEASED, occasion(settings=FULL, collects=True))
    assert (after.phase, actions) == (P.COLLECTING, (Collect(NEW, BUDGET_OVER),))


def test_of_what_is_only_observed_or_leaks_no_evidence_is_taken() -> None:
    told = occasion(HANG, settings=FULL, collects=True)
    observed, actions = decide(state_in(P.OBSERVED), T.VERDICT, told._replace(observe_only=True))
    assert (observed.phase, actions) == (P.OBSERVED, (OpenIncident(NEW, HANG, would_kill=True),))
    leaking, _ = decide(state_in(P.RUNNING), T.VERDICT, told._replace(finding=Finding(V.LEAK, NOW)))
    assert leaking.phase is P.TERMINATING


def test_the_kill_comes_with_the_evidence_or_when_the_budget_is_over() -> None:
    kill = (Signal(KILL, confirm=HANG),)
    early, late = occasion(settings=FULL), occasion(settings=FULL, now_ns=BUDGET_OVER)
    assert decide(collecting(), T.TIMEOUT, early) == (collecting(), ())
    for trigger, told in ((T.COLLECTED, early), (T.TIMEOUT, late)):
        after, actions = decide(collecting(), trigger, told)
        assert (after.phase, after.deadline_ns, actions) == (P.KILLING, told.now_ns + GRACE, kill)


def test_a_call_that_returns_while_evidence_is_taken_is_a_near_miss() -> None:
    back, actions = decide(collecting(), T.RETURNED, occasion(settings=FULL))
    assert (back.phase, back.finding, back.deadline_ns) == (P.RUNNING, None, None)
    assert actions == (CloseIncident(NEW, "returned"),)
    assert decide(back, T.COLLECTED, occasion(settings=FULL)) == (back, ())  # which comes all the same


def test_a_core_dump_comes_only_after_the_call_was_read_again() -> None:
    asked, actions = decide(collecting(DUMPING), T.COLLECTED, occasion(settings=DUMPING, collects=True))
    assert (asked.phase, asked.committed, actions) == (P.COLLECTING, False, (Commit(HANG),))
    back, _ = decide(asked, T.RETURNED, occasion(settings=DUMPING, collects=True))
    assert back.phase is P.RUNNING
    committed, actions = decide(asked, T.COMMITTED, occasion(settings=DUMPING, collects=True))
    assert (committed.committed, actions) == (True, (Dump(NEW, BUDGET_OVER),))


def test_what_comes_before_a_core_dump_leaves_it_its_time() -> None:
    _, actions = decide(state_in(P.RUNNING), T.VERDICT, occasion(HANG, settings=DUMPING, collects=True))
    assert actions[1] == Collect(NEW, NOW + 100 * MILLISECOND)


@pytest.mark.parametrize("trigger", [T.COLLECTED, T.TIMEOUT])
def test_once_committed_a_kill_asks_nobody_any_more(trigger: Trigger) -> None:
    committed = replace(collecting(DUMPING), committed=True)
    for meant in (T.RETURNED, T.PAUSE):
        assert decide(committed, meant, occasion(settings=DUMPING)) == (committed, ())
    assert not applies(committed, T.PAUSE)
    after, actions = decide(committed, trigger, occasion(settings=DUMPING, collects=True, now_ns=BUDGET_OVER))
    assert (after.phase, actions) == (P.KILLING, (Signal(KILL),))


def test_where_nobody_is_left_to_take_a_core_dump_the_kill_still_asks() -> None:
    after, actions = decide(collecting(DUMPING), T.COLLECTED, occasion(settings=DUMPING))
    assert (after.phase, actions) == (P.KILLING, (Signal(KILL, confirm=HANG),))


@pytest.mark.parametrize("asked", [T.STOP, T.RESTART])
def test_an_end_asked_for_while_evidence_is_taken_comes_though_the_call_returned(asked: Trigger) -> None:
    meanwhile, actions = decide(collecting(), asked, occasion(settings=FULL))
    assert (meanwhile.phase, actions) == (P.COLLECTING, ())
    after, actions = decide(meanwhile, T.RETURNED, occasion(settings=FULL))
    assert (after.phase, after.wanted, actions[-1]) == (P.TERMINATING, asked is T.RESTART, ASK)


@pytest.mark.parametrize("committed", [False, True])
def test_an_end_while_evidence_is_taken_belongs_to_the_hang(committed: bool) -> None:
    leaving = FULL._replace(on_verdict="exit")
    state = replace(collecting(leaving), committed=committed)
    ended, actions = decide(state, T.EXITED, occasion(CRASH, settings=leaving))
    assert (ended.phase, ended.incident, ended.reason, actions) == (P.KILLING, NEW, "call", (CLEAR,))
    _, actions = decide(ended, T.CLEARED, occasion(settings=leaving))
    assert actions == (CloseIncident(NEW, "stopped"), Leave("call" if committed else None))  # by itself, or by us


def test_the_next_life_is_committed_to_nothing() -> None:
    ended, _ = decide(replace(collecting(), committed=True), T.EXITED, occasion(CRASH))
    assert not decide(ended, T.CLEARED, occasion())[0].committed


# --- restarted in company ---------------------------------------------------------------------------------------


def test_a_worker_that_is_taken_along_costs_no_budget_and_is_not_waited_for() -> None:
    asked, actions = decide(state_in(P.RUNNING, restarts=(NOW, NOW)), T.RESTART_WITH, occasion())
    assert (asked.phase, asked.reason, actions) == (P.TERMINATING, "restart_with", (ASK,))
    ended, _ = decide(asked, T.EXITED, occasion(CRASH))
    after, actions = decide(ended, T.CLEARED, with_probe())
    assert (after.phase, after.restarts, actions) == (P.STARTING, (NOW, NOW), (SPAWN,))


def test_what_was_stopped_is_not_taken_along() -> None:
    assert decide(state_in(P.STOPPED), T.RESTART_WITH, occasion()) == (state_in(P.STOPPED), ())


@pytest.mark.parametrize("phase", [P.STARTING, P.RUNNING, P.OBSERVED])
def test_a_worker_that_is_only_observed_is_not_taken_along(phase: Phase) -> None:
    before = state_in(phase, follows=("first", 7))
    after, actions = decide(before, T.RESTART_WITH, occasion(observe_only=True))
    assert (after, actions) == (replace(before, follows=None), (Refrain("restart with first"),))


def test_a_start_that_waits_can_be_stopped() -> None:
    assert not decide(state_in(P.STOPPED, wanted=True), T.STOP, occasion())[0].wanted


def test_the_end_of_a_life_is_remembered_and_not_that_of_its_descendants() -> None:
    ended, _ = decide(state_in(P.RUNNING), T.EXITED, occasion(CRASH))
    after, _ = decide(ended, T.CLEARED, occasion(now_ns=NOW + SECOND))
    assert (after.ended_ns, after.spawned_ns) == (NOW, NOW + SECOND)


# --- the probe before a start ---------------------------------------------------------------------------------------

PROBED = SETTINGS._replace(probe=("probe",), probe_deadline_ns=4 * SECOND)


def with_probe(**fields: object) -> Occasion:
    return occasion(None, settings=PROBED, **fields)


def test_a_worker_that_was_killed_is_started_again_after_a_probe_only() -> None:
    after, actions = decide(state_in(P.KILLING), T.CLEARED, with_probe())
    assert (after.phase, after.probing, actions) == (P.BACKOFF, True, (Probe(4),))
    assert after.deadline_ns is not None and after.deadline_ns > NOW + 4 * SECOND


def test_a_worker_that_an_operator_restarts_is_not_probed_for() -> None:
    after, actions = decide(state_in(P.TERMINATING), T.CLEARED, with_probe())
    assert (after.phase, actions) == (P.STARTING, (SPAWN,))


def test_the_probe_comes_after_the_backoff() -> None:
    after, actions = decide(state_in(P.KILLING, restarts=(NOW,)), T.CLEARED, with_probe())
    assert (after.phase, after.probing, actions) == (P.BACKOFF, False, ())
    later = with_probe(now_ns=after.deadline_ns)
    assert decide(after, T.TIMEOUT, later)[1] == (Probe(4),)


@pytest.mark.parametrize("usable", [True, None])
def test_a_usable_or_unknown_accelerator_is_started_into(usable: bool | None) -> None:
    probing = state_in(P.BACKOFF, probing=True, unusable=2)
    after, actions = decide(probing, T.PROBED, with_probe(usable=usable))
    assert (after.phase, actions, after.probing, after.unusable) == (P.STARTING, (SPAWN,), False, 0)


def test_an_accelerator_that_is_not_usable_is_probed_again_less_and_less_often_and_costs_no_budget() -> None:
    state, now, waits = state_in(P.BACKOFF, probing=True, restarts=(NOW,)), NOW, []
    for _ in range(12):
        state, actions = decide(state, T.PROBED, with_probe(now_ns=now, usable=False))
        assert (state.phase, state.probing, actions, state.restarts) == (P.BACKOFF, False, (), (NOW,))
        assert state.deadline_ns is not None
        waits.append(state.deadline_ns - now)
        now = state.deadline_ns
        state, actions = decide(state, T.TIMEOUT, with_probe(now_ns=now))
        assert (state.probing, actions) == (True, (Probe(4),))
    assert waits[0] < waits[3] < waits[-1] <= SETTINGS.restart.backoff_max_ns


def test_a_probe_of_which_nothing_is_ever_heard_blocks_nothing() -> None:
    after, actions = decide(state_in(P.BACKOFF, probing=True), T.TIMEOUT, with_probe())
    assert (after.phase, actions) == (P.STARTING, (SPAWN,))


@pytest.mark.parametrize("asked", [T.START, T.RESTART])
def test_an_operator_starts_it_whatever_the_probe_will_say(asked: Trigger) -> None:
    started, actions = decide(state_in(P.BACKOFF, probing=True, unusable=3), asked, with_probe())
    assert (started.phase, actions, started.unusable) == (P.STARTING, (SPAWN,), 0)
    assert decide(started, T.PROBED, with_probe(usable=False)) == (started, ())


def test_the_answer_to_a_probe_starts_nothing_that_was_stopped_meanwhile() -> None:
    parked, _ = decide(state_in(P.BACKOFF, probing=True, unusable=3), T.STOP, with_probe())
    assert (parked.phase, parked.probing, parked.unusable) == (P.STOPPED, False, 0)
    assert decide(parked, T.PROBED, with_probe(usable=True)) == (parked, ())


def test_the_answer_to_a_probe_means_nothing_to_a_backoff_that_waits() -> None:
    waiting = state_in(P.BACKOFF)
    assert decide(waiting, T.PROBED, with_probe(usable=True)) == (waiting, ())


# --- no sequence of triggers ----------------------------------------------------------------------------------------


@dataclass
class Story:
    """Feeds triggers to ``decide`` and keeps what must stay true."""

    observe_only: bool = False
    settings: WorkerSettings = SETTINGS
    state: WorkerState = field(default_factory=lambda: WorkerState("h"))
    now_ns: int = NOW
    opened: dict[IncidentId, Finding] = field(default_factory=dict)
    standing: set[IncidentId] = field(default_factory=set)
    stop_asked: bool = False

    def feed(self, trigger: Trigger, verdict: Verdict = V.CALL, held: bool = False, later_ns: int = 0) -> None:
        self.now_ns += later_ns
        finding = None
        if trigger in (T.VERDICT, T.EXITED):
            verdict = verdict if trigger is T.VERDICT else V.CRASHED
            finding = Finding(verdict, self.now_ns, word=self.now_ns, offset=256)
        incident = IncidentId(f"{len(self.opened)}")
        told = Occasion(self.now_ns, self.settings, GRACE, finding, held, self.observe_only, incident, usable=not held)
        told = told._replace(collects=not held)
        before = self.state
        self.state, actions = decide(before, trigger, told)
        if trigger is T.STOP:
            self.stop_asked = True
        elif trigger in (T.START, T.RESTART) or (trigger is T.RESET and before.phase is P.QUARANTINED):
            self.stop_asked = False
        for action in actions:
            self._check(action, before, trigger)
            if isinstance(action, Spawn) and self.settings.probe and trigger in (T.CLEARED, T.TIMEOUT, T.PROBED):
                assert before.reason in NO_FAILURE or before.probing  # never into an accelerator that nobody asked
                assert trigger is not T.PROBED or not held
        spawned = sum(isinstance(action, Spawn) for action in actions)
        assert self.state.incarnation == before.incarnation + spawned
        assert self.standing == ({self.state.incident} if self.state.incident is not None else set())
        assert (self.state.deadline_ns is not None) == (self.state.phase in DEADLINED)
        if self.state.phase in (P.STOPPED, P.QUARANTINED, P.BACKOFF):
            assert (self.state.finding, self.state.spawned_ns, self.state.ready_ns) == (None, None, None)
        assert self.state.phase is P.BACKOFF or not (self.state.probing or self.state.unusable)

    def _check(self, action: Action, before: WorkerState, trigger: Trigger) -> None:
        if isinstance(action, OpenIncident):
            assert action.finding.verdict not in REPORT_ONLY
            self.opened[action.incident] = action.finding
            self.standing.add(action.incident)
        elif isinstance(action, CloseIncident):
            self.standing.remove(action.incident)
        elif isinstance(action, Spawn):
            assert not self.stop_asked
            assert not before.quarantined or trigger is T.RESET
            assert self.state.wanted
            assert before.phase not in ALIVE  # never two at once
        elif isinstance(action, Signal) and action.confirm is not None:
            assert not self.observe_only
            assert action.confirm in self.opened.values()
        elif isinstance(action, Signal) and action.kind == KILL:
            assert before.phase is P.TERMINATING or before.committed  # it was asked first, or its word was read again
        elif isinstance(action, (Collect, Dump)):
            assert action.incident in self.standing
            assert not self.observe_only and not before.committed
            assert isinstance(action, Collect) or trigger is T.COMMITTED


# Single triggers, and the runs of them that make up a life, so that sequences reach every phase.
runs = st.sampled_from(
    [
        *((trigger,) for trigger in T),
        (T.START, T.READY),
        (T.EXITED, T.CLEARED),
        (T.CLEARED, T.READY),
        (T.EXITED, T.CLEARED, T.PROBED),
        (T.START, T.READY, T.VERDICT),
        (T.COLLECTED, T.COMMITTED),
    ]
)
later = st.sampled_from([0, MILLISECOND, 100 * MILLISECOND, 3 * SECOND, 70 * SECOND])
steps = st.tuples(runs, st.sampled_from(V), st.booleans(), later)
Steps = list[tuple[tuple[Trigger, ...], Verdict, bool, int]]


def told(sequence: Steps, observe_only: bool, probe: bool = False, full: bool = False) -> Story:
    story = Story(observe_only, PROBED if probe else DUMPING if full else SETTINGS)
    for triggers, verdict, held, later_ns in sequence:
        for trigger in triggers:
            story.feed(trigger, verdict, held, later_ns)
    return story


@settings(max_examples=80, deadline=None)
@given(st.lists(steps, max_size=30), st.booleans(), st.booleans(), st.booleans())
def test_no_sequence_of_triggers_breaks_what_must_stay_true(
    sequence: Steps, observe_only: bool, probe: bool, full: bool
) -> None:
    """No kill without its incident, no verdict acted on in observe-only, no start after a stop, no lost incident."""
    told(sequence, observe_only, probe, full)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=30), st.booleans(), st.booleans())
def test_every_state_can_be_left(sequence: Steps, observe_only: bool, full: bool) -> None:
    """Stopped by an operator, ended by its signal, cleared away: from wherever it is, it comes to rest, and starts."""
    story = told(sequence, observe_only, full=full)
    for trigger in (T.STOP, T.TIMEOUT, T.EXITED, T.CLEARED):
        story.feed(trigger, later_ns=10 * SECOND)
    at_rest = story.state.phase
    story.feed(T.RESET)  # it may have been stopped in quarantine
    story.feed(T.START)
    assert (at_rest, story.state.phase, story.standing) == (P.STOPPED, P.STARTING, set())

"""What the next supervisor makes of the last one's memory."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.decide.memory import RESTART_NS, recall, recall_kills, remember, resume, unremembered, unwatched_ns
from watchdogd.decide.orders import AUTOMATIC, Trigger, WorkerState
from watchdogd.model import Finding, IncidentId, Phase, Verdict

NOW = 1_000
FINDING = Finding(Verdict.CALL, detected_ns=90, operation="sync", entered_ns=10, deadline_ns=80, word=1, offset=256)
STATE = WorkerState(
    "a", Phase.RUNNING, since_ns=5, incarnation=3, wanted=True, spawned_ns=4, ready_ns=5, armed_ns=5,
    incident=IncidentId("i"), reason="call", restarts=(1, 2),
)  # fmt: skip
HELD = replace(STATE, finding=FINDING)
KILLING = replace(HELD, phase=Phase.KILLING, deadline_ns=95)
BLOCKED = replace(STATE, phase=Phase.BACKOFF, unusable=2, ended_ns=3)
BISECTED = replace(KILLING, finding=replace(FINDING, bisected=True), bisect="operator", bisecting=True, untold=2)
COLLECTING = replace(KILLING, phase=Phase.COLLECTING)
COMMITTED = replace(COLLECTING, committed=True)
LEAVING = replace(KILLING, by_itself=True, spent=2)
WHOLE = [STATE, HELD, KILLING, BLOCKED, WorkerState("b"), replace(STATE, quarantined=True, follows=("b", 7)), BISECTED]
WHOLE += [LEAVING, COLLECTING, COMMITTED]
HAS_PROCESS = [phase for phase in Phase if phase not in (Phase.STOPPED, Phase.BACKOFF, Phase.QUARANTINED)]


def told(state: WorkerState) -> dict[str, Any]:
    """Its object of the snapshot, as JSON gives it back."""
    body = {
        "name": state.name, "phase": state.phase.value, "phase_since_ns": state.since_ns,
        "incarnation": state.incarnation, "spawned_ns": state.spawned_ns, "ready_ns": state.ready_ns,
        "unusable": state.unusable,
        "bisect": {"next": state.bisect, "now": state.bisecting},
        "remembered": remember(state),
    }  # fmt: skip
    restored: dict[str, Any] = json.loads(json.dumps(body))
    return restored


def resumed(state: WorkerState, *, begun: bool = True, alive: bool = True, keeps: bool = True) -> Any:
    return resume(state, has_begun=begun, is_alive=alive, keeps=keeps, now_ns=NOW)


@pytest.mark.parametrize("state", WHOLE)
def test_a_worker_is_remembered_whole(state: WorkerState) -> None:
    assert recall(told(state)) == state


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(told(HELD))), json_values)
def test_memory_that_is_not_whole_is_none_and_never_an_accident(key: str, value: object) -> None:
    with contextlib.suppress(ValueError):
        recall({**told(HELD), key: value})


@given(st.sampled_from(sorted(remember(HELD))), json_values)
def test_nor_is_what_only_we_remember(key: str, value: object) -> None:
    body = told(HELD)
    body["remembered"][key] = value
    with contextlib.suppress(ValueError):
        recall(body)


def test_a_number_that_is_a_boolean_is_no_number() -> None:
    with pytest.raises(ValueError, match="True"):
        recall({**told(STATE), "incarnation": True})


def test_a_start_that_waited_for_an_answer_does_not_wait_for_ever() -> None:
    state, trigger = resumed(replace(STATE, phase=Phase.BACKOFF), alive=False)
    assert (state.phase, trigger) == (Phase.STOPPED, Trigger.START)


# --- what is made of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING, Phase.OBSERVED, Phase.PAUSED, Phase.UNKILLABLE])
def test_what_lives_goes_on_as_it_was(phase: Phase) -> None:
    state = replace(STATE, phase=phase)
    assert resumed(state) == (state, None)


@pytest.mark.parametrize("phase", HAS_PROCESS)
def test_what_ended_meanwhile_has_exited(phase: Phase) -> None:
    state = replace(STATE, phase=phase)
    assert resumed(state, alive=False) == (state, Trigger.EXITED)


@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.BACKOFF, Phase.QUARANTINED])
def test_what_had_no_process_has_none_and_nothing_has_happened_to_it(phase: Phase) -> None:
    state = replace(STATE, phase=phase, deadline_ns=7, wanted=phase is not Phase.STOPPED)
    assert resumed(state, alive=False) == (state, None)


def test_a_start_that_waited_for_others_is_made_good() -> None:
    waiting = WorkerState("a", wanted=True)
    assert resumed(waiting, begun=False, alive=False) == (waiting, Trigger.START)


@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.BACKOFF, Phase.QUARANTINED])
def test_a_process_that_by_our_memory_was_gone_is_ended(phase: Phase) -> None:
    state, trigger = resumed(replace(STATE, phase=phase))
    assert (state.phase, state.deadline_ns, trigger) == (Phase.TERMINATING, NOW, None)


@pytest.mark.parametrize("phase", HAS_PROCESS)
def test_a_start_that_was_ordered_and_not_begun_is_made_good(phase: Phase) -> None:
    state, trigger = resumed(replace(STATE, phase=phase), begun=False, alive=False)
    assert (state.phase, state.deadline_ns, trigger) == (Phase.STOPPED, None, Trigger.START)
    assert state.restarts == STATE.restarts  # counted when it was ordered


def test_a_kill_that_was_decided_is_carried_out_if_the_word_still_stands() -> None:
    state, trigger = resumed(KILLING)
    assert (state.phase, state.finding, state.incident, trigger) == (
        Phase.RUNNING, FINDING, "i", Trigger.RELEASED,
    )  # fmt: skip


def test_a_kill_before_which_evidence_was_taken_still_comes_only_if_the_word_stands() -> None:
    state, trigger = resumed(COLLECTING)
    assert (state.phase, state.finding, trigger) == (Phase.RUNNING, FINDING, Trigger.RELEASED)


def test_a_kill_that_was_committed_comes_whatever_the_word_says() -> None:
    for phase in (Phase.COLLECTING, Phase.KILLING):
        state, trigger = resumed(replace(COMMITTED, phase=phase))
        assert (state.phase, state.deadline_ns, state.reason, trigger) == (Phase.TERMINATING, NOW, "call", None)


def test_a_kill_decided_at_startup_is_that_of_a_starting_worker() -> None:
    assert resumed(replace(KILLING, ready_ns=None))[0].phase is Phase.STARTING


def test_what_was_told_to_end_keeps_its_time_for_it() -> None:
    state = replace(STATE, phase=Phase.TERMINATING, deadline_ns=NOW + 50, wanted=False)
    assert resumed(state) == (state, None)


def test_what_did_not_end_in_its_time_is_killed_now() -> None:
    state = replace(STATE, phase=Phase.KILLING, deadline_ns=NOW - 50)
    assert resumed(state) == (replace(state, phase=Phase.TERMINATING, deadline_ns=NOW), None)


@pytest.mark.parametrize("alive", [True, False])
def test_what_ends_with_its_supervisor_is_started_again_for_that_reason(alive: bool) -> None:
    state, trigger = resumed(HELD, alive=alive, keeps=False)
    assert (state.phase, state.reason, state.finding) == (Phase.TERMINATING, "supervisor", None)
    assert trigger is (None if alive else Trigger.EXITED)


def test_what_ends_with_its_supervisor_and_was_told_to_end_is_not_started_again() -> None:
    state, _ = resumed(replace(STATE, phase=Phase.TERMINATING, wanted=False), alive=False, keeps=False)
    assert not state.wanted


def test_what_an_older_version_did_not_remember_is_not_there() -> None:
    body = told(replace(BLOCKED, follows=("b", 7), bisect="operator", bisecting=True, untold=2))
    del body["unusable"], body["remembered"]["follows"], body["remembered"]["ended_ns"]
    del body["bisect"], body["remembered"]["untold"], body["remembered"]["by_itself"], body["remembered"]["spent"]
    assert recall(body) == replace(BLOCKED, unusable=0, ended_ns=None)


def test_a_worker_that_nobody_remembers_is_as_it_says_and_its_deadlines_count_from_now() -> None:
    state = unremembered("a", 3, spawned_ns=4, ready_ns=5, now_ns=NOW)
    assert (state.phase, state.incarnation, state.wanted, state.armed_ns) == (Phase.RUNNING, 3, True, NOW)
    starting = unremembered("a", 3, spawned_ns=NOW + 9, ready_ns=None, now_ns=NOW)
    assert (starting.phase, starting.spawned_ns, starting.ready_ns) == (Phase.STARTING, NOW, None)
    assert resumed(state) == (state, None)


@pytest.mark.parametrize(("bisecting", "by"), [(True, AUTOMATIC), (False, None)])
def test_one_that_is_bisected_for_nobody_known_is_so_until_its_next_hang(bisecting: bool, by: str | None) -> None:
    state = unremembered("a", 3, spawned_ns=4, ready_ns=5, now_ns=NOW, bisecting=bisecting)
    assert (state.bisecting, state.bisect) == (bisecting, by)


def test_kills_are_remembered_and_what_is_no_such_memory_is_none() -> None:
    assert recall_kills({"kills": [4, 5]}) == (4, 5)
    assert recall_kills({}) == ()  # of a version that did not tell
    for spoilt in (7, [True], ["x"], None):
        with pytest.raises(ValueError):
            recall_kills({"kills": spoilt})


# --- the time without a supervisor ----------------------------------------------------------------------------------


def test_what_a_restart_costs_is_no_stall() -> None:
    assert unwatched_ns(NOW, NOW + RESTART_NS) == 0
    assert unwatched_ns(NOW, NOW - 5) == 0  # killed before it was to look again


def test_longer_than_that_the_machine_may_have_stood_still() -> None:
    assert unwatched_ns(NOW, NOW + RESTART_NS + 1) == RESTART_NS + 1

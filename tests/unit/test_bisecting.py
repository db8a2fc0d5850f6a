"""When hangs turn a bisect on and off, and what a verdict then says, by ``policy.decide`` as the supervisor asks it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from watchdogd import abi
from watchdogd.decide.bisecting import described
from watchdogd.decide.orders import AUTOMATIC, OPERATOR, Bisect, Clear, Occasion, Spawn, Trigger, WorkerState
from watchdogd.decide.policy import decide
from watchdogd.model import Finding, IncidentId, Phase, RestartSettings, Verdict, WorkerSettings

NOW = 1_000_000_000
ASKED, DONE = abi.BISECT["asked"], abi.BISECT["done"]
SYNC = Finding(Verdict.CALL, NOW, "sync", stage="sync", detail="thread state S")
ANSWER = replace(SYNC, stage="plugin", bisected=True)
KILLING = WorkerState("h", Phase.KILLING, incarnation=4, wanted=True, finding=SYNC, incident=IncidentId("i"))


def occasion(after: int = 0) -> Occasion:
    return Occasion(NOW, WorkerSettings("h", ("h",), restart=RestartSettings(bisect_after=after)), NOW)


def killed(state: WorkerState, after: int) -> tuple[WorkerState, Bisect | None]:
    """Its process has ended: what is remembered of it then, and what is on record."""
    ended, (*told, last) = decide(state, Trigger.EXITED, occasion(after))
    assert isinstance(last, Clear)
    found = [order for order in told if isinstance(order, Bisect)]
    assert len(found) == len(told) <= 1
    return ended, found[0] if found else None


def spawned(state: WorkerState) -> Spawn:
    _, orders = decide(replace(state, phase=Phase.STOPPED, quarantined=False), Trigger.START, occasion())
    (spawn,) = orders
    assert isinstance(spawn, Spawn)
    return spawn


def named(value: object) -> str:
    return f"{value.verdict.value} {value.operation} in {value.stage}" if isinstance(value, Finding) else str(value)


# --- by itself ---


def test_so_many_hangs_that_do_not_tell_turn_it_on_for_the_next_start() -> None:
    state = KILLING
    for count in (1, 2):
        state, order = killed(replace(KILLING, untold=state.untold), 3)
        assert (state.untold, state.bisect, order) == (count, None, None)
        assert not spawned(state).bisect
    state, order = killed(replace(KILLING, untold=state.untold), 3)
    assert (state.bisect, state.untold) == (AUTOMATIC, 0)
    assert order == Bisect("on", "3 hangs whose stage does not tell where")
    assert spawned(state).bisect


def test_it_is_never_turned_on_where_it_is_not_configured() -> None:
    state, order = killed(KILLING, 0)
    assert (state.untold, state.bisect, order) == (0, None, None)


@pytest.mark.parametrize(
    "finding",
    [
        *(replace(SYNC, operation=operation, stage="plugin") for operation in ("sync", "event", "free", "copy")),
        *(replace(SYNC, operation="other", stage=stage) for stage in (None, "sync")),
        replace(SYNC, verdict=Verdict.STEP, operation=None, stage=None),
        replace(SYNC, verdict=Verdict.FIRST_STEP, operation=None, stage=None),
    ],
    ids=named,
)
def test_a_wait_for_what_was_queued_before_does_not_tell(finding: Finding) -> None:
    assert killed(replace(KILLING, finding=finding), 1)[0].bisect == AUTOMATIC


@pytest.mark.parametrize(
    "finding",
    [
        *(replace(SYNC, operation=operation, stage="enqueue") for operation in ("launch", "alloc", "other")),
        replace(SYNC, verdict=Verdict.STARTUP, operation=None, stage=None),
        replace(SYNC, verdict=Verdict.STICKY_ERROR, operation=None),
        replace(SYNC, verdict=Verdict.SILENT_OUTPUT, operation=None),
    ],
    ids=named,
)
def test_what_tells_or_is_no_hang_of_queued_work_does_not_count(finding: Finding) -> None:
    assert killed(replace(KILLING, finding=finding), 1)[0].bisect is None


def test_a_verdict_that_ended_nobody_does_not_count() -> None:
    """It returned before the signal; or its kill was held, and it exited by itself."""
    back, _ = decide(KILLING, Trigger.RETURNED, occasion(1))
    assert (back.untold, back.bisect) == (0, None)
    held, _ = decide(replace(KILLING, phase=Phase.RUNNING), Trigger.EXITED, occasion(1))
    assert (held.untold, held.bisect) == (0, None)


def test_one_that_dies_late_counts_too() -> None:
    late, _ = decide(replace(KILLING, phase=Phase.UNKILLABLE), Trigger.EXITED, occasion(1))
    assert late.bisect == AUTOMATIC


@pytest.mark.parametrize(
    ("finding", "answer"),
    [
        (ANSWER, "it hung in stage plugin"),
        (replace(ANSWER, stage=None), "it hung outside of its stages"),
        (SYNC, "it hung, and nothing in it synchronized after its stages"),
        (replace(SYNC, verdict=Verdict.STARTUP), "it hung, and nothing in it synchronized after its stages"),
    ],
    ids=named,
)
def test_the_next_hang_turns_it_off_whatever_it_tells(finding: Finding, answer: str) -> None:
    state, order = killed(replace(KILLING, finding=finding, bisect=AUTOMATIC, bisecting=True), 1)
    assert (state.bisect, order) == (None, Bisect("off", answer))
    assert not spawned(state).bisect


def test_a_crash_is_no_answer_and_leaves_it_on() -> None:
    running = replace(KILLING, phase=Phase.RUNNING, finding=None, bisect=AUTOMATIC, bisecting=True)
    crash = Finding(Verdict.CRASHED, NOW)
    state, _ = decide(running, Trigger.EXITED, occasion(1)._replace(finding=crash, incident=IncidentId("n")))
    assert state.bisect == AUTOMATIC


# --- by a person ---


def test_turned_on_by_a_person_it_stays_through_hangs_until_it_is_turned_off() -> None:
    on, orders = decide(replace(KILLING, phase=Phase.RUNNING, finding=None), Trigger.BISECT_ON, occasion())
    assert (on.phase, on.bisect, on.bisecting, orders) == (Phase.RUNNING, OPERATOR, False, ())
    assert spawned(on).bisect
    state, order = killed(replace(KILLING, finding=ANSWER, bisect=OPERATOR, bisecting=True), 1)
    assert (state.bisect, order) == (OPERATOR, None)
    off, _ = decide(state, Trigger.BISECT_OFF, occasion())
    assert off.bisect is None
    assert not spawned(off).bisect


def test_a_hang_before_its_next_start_does_not_make_a_persons_bisect_one_that_ends_by_itself() -> None:
    state, order = killed(replace(KILLING, bisect=OPERATOR), 1)
    assert (state.bisect, order) == (OPERATOR, None)


def test_what_was_counted_is_forgotten_when_a_person_turns_it_off() -> None:
    assert decide(replace(KILLING, untold=2), Trigger.BISECT_OFF, occasion(3))[0].untold == 0


# --- the verdict ---


def test_the_verdict_says_where_the_stage_comes_from() -> None:
    found = described(replace(SYNC, stage="plugin"), DONE, ())
    assert (found.stage, found.bisected) == ("plugin", True)
    assert found.detail == "thread state S; synchronized after each stage"


def test_a_worker_that_does_not_synchronize_is_not_said_to() -> None:
    found = described(SYNC, ASKED, ())
    assert (found.stage, found.bisected) == ("sync", False)
    assert found.detail == "thread state S; asked to synchronize after each stage, and did not"


def test_without_a_bisect_nothing_is_said() -> None:
    assert described(SYNC, 0, ()) is SYNC


@pytest.mark.parametrize(("word", "stage"), [(DONE, "plugin"), (ASKED, None), (0, None)])
def test_a_step_that_hangs_has_the_stage_of_its_oldest_call_that_has_one_when_that_tells(
    word: int, stage: str | None
) -> None:
    step = replace(SYNC, verdict=Verdict.STEP, operation=None, stage=None)
    calls: list[dict[str, str | None]] = [{"stage": None}, {"stage": "plugin"}, {"stage": "enqueue"}]
    assert described(step, word, calls).stage == stage
    assert described(step, word, ()).stage is None

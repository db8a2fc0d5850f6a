"""The (stage x trigger) table of the escalation, whole; and what no sequence of triggers can make it do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.decide.escalation import BACKOFF_MAX_NS, BACKOFF_NS, NOTE_NS, TABLE, decide
from watchdogd.decide.escalation_memory import QUIET_BOOTS, Memory
from watchdogd.decide.escalation_orders import (
    Act,
    Ask,
    Await,
    Cause,
    Note,
    Occasion,
    Order,
    Record,
    Stage,
    State,
    Trigger,
)
from watchdogd.model import SECOND, EscalationSettings

S, T = Stage, Trigger
NOW = 50_000 * SECOND
MINUTE, HOUR = 60 * SECOND, 3600 * SECOND
REBOOT = EscalationSettings("reboot", ("ask",), consent_timeout_ns=30 * SECOND)
WITH_FILE = replace(REBOOT, consent_file="/run/stands")
STUCK = Cause("unkillable", "h", NOW - SECOND, "h: SIGKILL did not take")
SPENT = Cause("quarantined", "d", NOW - SECOND, "d is in quarantine")
SEEN = Memory().notice((("unkillable h", STUCK.since_ns),), "b7", NOW)
NOTED = SEEN.act("reboot", "", STUCK.reason, "at noon", "b7", NOW)
ACTED = replace(NOTED, outcome="done")


def occasion(rules: EscalationSettings = REBOOT, now_ns: int = NOW, boot: str = "b7", **fields: object) -> Occasion:
    return replace(Occasion(now_ns, rules, boot, "at noon", attempt=3, reason="it said so"), **fields)  # type: ignore[arg-type]  # any of its fields


def state_in(stage: Stage, **fields: object) -> State:
    causes = () if stage is S.IDLE else (STUCK,)
    deadline = None if stage in (S.IDLE, S.DONE) else NOW
    noted = NOTED if stage in (S.NOTING, S.ACTING) else None
    return replace(State(stage, NOW - SECOND, deadline, causes, attempt=3, noted=noted), **fields)  # type: ignore[arg-type]  # any of its fields


def steps(orders: tuple[Order, ...]) -> list[str]:
    return [order.step if isinstance(order, Record) else type(order).__name__ for order in orders]


# --- the table ------------------------------------------------------------------------------------------------------

# What happens, by stage and trigger; what is not here changes nothing.
EXPECTED: dict[tuple[Stage, Trigger], tuple[Stage, list[str]]] = {
    (S.IDLE, T.CAUSE): (S.ASKING, ["cause", "ask", "Ask"]),
    (S.DONE, T.CAUSE): (S.ASKING, ["cause", "ask", "Ask"]),
    **{(stage, T.CAUSE): (stage, ["cause"]) for stage in set(S) - {S.IDLE, S.DONE}},
    **{(stage, T.OVER): (S.IDLE, ["withdrawn"]) for stage in (S.WAITING, S.ASKING, S.AWAITING, S.BACKOFF)},
    **{(stage, T.OVER): (stage, []) for stage in (S.NOTING, S.ACTING)},
    (S.DONE, T.OVER): (S.IDLE, []),
    (S.WAITING, T.TIMEOUT): (S.ASKING, ["ask", "Ask"]),
    (S.BACKOFF, T.TIMEOUT): (S.ASKING, ["ask", "Ask"]),
    (S.ASKING, T.YES): (S.NOTING, ["consent", "action", "Note"]),
    (S.AWAITING, T.YES): (S.NOTING, ["consent", "action", "Note"]),
    **{(stage, no): (S.BACKOFF, ["no consent"]) for stage in (S.ASKING, S.AWAITING) for no in (T.NO, T.TIMEOUT)},
    (S.NOTING, T.YES): (S.ACTING, ["Act"]),
    **{(stage, no): (S.BACKOFF, ["failed", "Note"]) for stage in (S.NOTING, S.ACTING) for no in (T.NO, T.TIMEOUT)},
    (S.ACTING, T.YES): (S.DONE, ["done", "Note"]),
}  # fmt: skip


def test_every_stage_and_trigger_has_an_entry() -> None:
    assert set(TABLE) == {(stage, trigger) for stage in S for trigger in T}


@pytest.mark.parametrize("stage", S)
@pytest.mark.parametrize("trigger", T)
def test_the_table(stage: Stage, trigger: Trigger) -> None:
    before = state_in(stage)
    cause = {T.CAUSE: SPENT, T.OVER: STUCK}.get(trigger)
    after, orders = decide(before, trigger, occasion(cause=cause))
    assert (after.stage, steps(orders)) == EXPECTED.get((stage, trigger), (stage, []))
    if (stage, trigger) not in EXPECTED:
        assert after == before


# --- one by one -----------------------------------------------------------------------------------------------------


def test_a_reboot_comes_after_the_consent_the_record_and_the_note() -> None:
    state, orders = decide(State(), T.CAUSE, occasion(cause=STUCK))
    assert orders[-1] == Ask(1, NOW + 30 * SECOND)
    state, orders = decide(state, T.YES, occasion(attempt=1))
    assert steps(orders) == ["consent", "action", "Note"]
    note = orders[-1]
    assert isinstance(note, Note)
    assert (note.memory.action, note.memory.outcome, note.memory.reason) == ("reboot", "", STUCK.reason)
    assert state.memory == Memory()  # it is not done yet
    state, orders = decide(state, T.YES, occasion(attempt=1))
    assert orders == (Act(1, state.deadline_ns or 0, "reboot", STUCK.reason),)
    state, orders = decide(state, T.YES, occasion(attempt=1))
    assert state.memory == replace(note.memory, outcome="done")
    assert orders[-1] == Note(-1, NOW + NOTE_NS, state.memory)


def test_the_file_is_awaited_after_the_program_has_consented_and_within_the_same_time() -> None:
    state, _ = decide(State(), T.CAUSE, occasion(WITH_FILE, cause=STUCK))
    state, orders = decide(state, T.YES, occasion(WITH_FILE, NOW + 9 * SECOND, attempt=1))
    assert (state.stage, steps(orders), orders[-1]) == (S.AWAITING, ["await", "Await"], Await(1, NOW + 30 * SECOND))


def test_the_file_alone_may_be_the_consent() -> None:
    state, orders = decide(State(), T.CAUSE, occasion(replace(WITH_FILE, ask=()), cause=STUCK))
    assert (state.stage, steps(orders)) == (S.AWAITING, ["cause", "await", "Await"])


def test_a_program_that_does_not_consent_is_not_overruled_by_the_file() -> None:
    state, _ = decide(State(), T.CAUSE, occasion(WITH_FILE, cause=STUCK))
    assert decide(state, T.NO, occasion(WITH_FILE, attempt=1))[0].stage is S.BACKOFF


def test_without_consent_it_is_asked_again_less_and_less_often_and_never_forced() -> None:
    state, now, waits = state_in(S.ASKING), NOW, []
    for _ in range(9):
        state, orders = decide(state, T.NO, occasion(now_ns=now, attempt=state.attempt))
        assert steps(orders) == ["no consent"]
        assert state.deadline_ns is not None
        waits.append(state.deadline_ns - now)
        assert decide(state, T.TIMEOUT, occasion(now_ns=state.deadline_ns - 1)) == (state, ())
        now = state.deadline_ns
        state, orders = decide(state, T.TIMEOUT, occasion(now_ns=now))
        assert steps(orders) == ["ask", "Ask"]
    assert waits[:3] == [BACKOFF_NS, 2 * BACKOFF_NS, 4 * BACKOFF_NS]
    assert waits[-1] == BACKOFF_MAX_NS


@pytest.mark.parametrize("stage", [S.ASKING, S.AWAITING, S.NOTING, S.ACTING])
@pytest.mark.parametrize("answer", [T.YES, T.NO])
def test_the_answer_to_an_earlier_question_means_nothing(stage: Stage, answer: Trigger) -> None:
    assert decide(state_in(stage), answer, occasion(attempt=2)) == (state_in(stage), ())


def test_a_cause_that_is_over_withdraws_the_question_unless_another_stands() -> None:
    asking = state_in(S.ASKING, causes=(STUCK, SPENT))
    left, orders = decide(asking, T.OVER, occasion(cause=STUCK))
    assert (left.stage, left.causes, orders) == (S.ASKING, (SPENT,), ())
    assert decide(left, T.OVER, occasion(cause=SPENT))[0].stage is S.IDLE


def test_from_the_note_on_it_is_committed() -> None:
    noting, _ = decide(state_in(S.NOTING), T.OVER, occasion(cause=STUCK))
    acting, orders = decide(noting, T.YES, occasion())
    assert (noting.causes, acting.stage) == ((), S.ACTING)
    assert orders == (Act(3, acting.deadline_ns or 0, "reboot", STUCK.reason),)


@pytest.mark.parametrize("stage", [S.NOTING, S.ACTING])
def test_what_has_failed_is_not_tried_again_for_a_cause_that_is_over_meanwhile(stage: Stage) -> None:
    state, _ = decide(state_in(stage), T.OVER, occasion(cause=STUCK))
    state, orders = decide(state, T.NO, occasion())
    assert (state.stage, state.deadline_ns, steps(orders)) == (S.IDLE, None, ["failed", "withdrawn", "Note"])


def test_what_has_failed_is_tried_again_for_the_cause_that_is_left() -> None:
    state, _ = decide(state_in(S.ACTING, causes=(STUCK, SPENT)), T.OVER, occasion(cause=STUCK))
    state, orders = decide(state, T.NO, occasion())
    assert (state.stage, state.causes, steps(orders)) == (S.BACKOFF, (SPENT,), ["failed", "Note"])


def test_what_is_done_for_a_cause_that_is_over_meanwhile_is_over_too() -> None:
    state, _ = decide(state_in(S.ACTING), T.OVER, occasion(cause=STUCK))
    state, orders = decide(state, T.YES, occasion())
    assert (state.stage, state.memory.outcome, steps(orders)) == (S.IDLE, "done", ["done", "Note"])


def test_what_cannot_be_noted_is_not_done() -> None:
    state, orders = decide(state_in(S.NOTING), T.NO, occasion(reason="No space left on device"))
    record = orders[0]
    assert isinstance(record, Record)
    assert "cannot be noted: No space left on device" in record.reason
    assert (state.stage, state.memory.acted_boot_id) == (S.BACKOFF, "")


def test_what_has_failed_is_noted_as_that_and_may_be_tried_again_by_the_next_supervisor() -> None:
    _, orders = decide(state_in(S.ACTING), T.NO, occasion())
    note = orders[-1]
    assert isinstance(note, Note)
    assert (note.attempt, note.memory.action, note.memory.outcome, note.memory.seen) == (-1, "reboot", "failed", ())
    assert begin(note.memory, STUCK, NOW + SECOND)[0].stage is S.ASKING


def test_a_failure_does_not_make_what_was_done_before_forgotten() -> None:
    acting = state_in(S.ACTING, memory=ACTED, noted=ACTED.act("reboot", "", "d", "later", "b7", NOW + HOUR))
    state, _ = decide(acting, T.NO, occasion(now_ns=NOW + HOUR))
    assert (state.memory.acted_ns, state.memory.seen) == (NOW, SEEN.seen)


def test_a_refusal_while_it_acts_does_not_undo_the_note() -> None:
    spent = Memory().notice((("quarantined d", SPENT.since_ns),), "b7", NOW)
    state, orders = decide(state_in(S.ACTING, memory=spent), T.CAUSE, occasion(cause=SPENT))
    note = orders[-1]
    assert isinstance(note, Note)
    assert (steps(orders), note.memory.action) == (["refused", "Note"], "reboot")
    assert state.stage is S.ACTING


def test_a_consent_is_not_acted_on_much_later() -> None:
    assert decide(state_in(S.ASKING), T.YES, occasion())[0].deadline_ns == NOW + NOTE_NS


def test_with_no_action_the_vehicle_is_asked_and_it_ends_there() -> None:
    rules = replace(REBOOT, action="none")
    state, orders = decide(state_in(S.ASKING), T.YES, occasion(rules))
    assert (state.stage, steps(orders)) == (S.DONE, ["consent", "action", "Note"])


def test_a_dry_run_asks_nobody_does_nothing_and_says_what_it_would_do() -> None:
    rules = replace(WITH_FILE, dry_run=True)
    state, orders = decide(State(), T.CAUSE, occasion(rules, cause=STUCK))
    assert (state.stage, steps(orders)) == (S.DONE, ["cause", "ask", "action"])
    assert "dry run, would be: reboot" in [order.reason for order in orders if isinstance(order, Record)]


# --- not twice ------------------------------------------------------------------------------------------------------


def begin(memory: Memory, cause: Cause, now_ns: int, boot: str = "b7") -> tuple[State, list[str]]:
    state, orders = decide(State(memory=memory), T.CAUSE, occasion(now_ns=now_ns, boot=boot, cause=cause))
    return state, steps(orders)


def test_the_same_cause_is_never_escalated_twice() -> None:
    state, found = begin(ACTED, STUCK, NOW + 99 * HOUR)
    assert (state.stage, found) == (S.IDLE, ["refused", "Note"])


def test_a_cause_that_comes_again_soon_is_refused_for_good() -> None:
    again = replace(STUCK, since_ns=NOW + 59 * MINUTE)
    state, found = begin(ACTED, again, again.since_ns)
    assert (state.stage, found) == (S.IDLE, ["refused", "Note"])
    assert state.memory.seen[0].at_ns == again.since_ns  # min_interval counts from now


def test_a_cause_that_comes_again_after_a_quiet_interval_is_a_new_one() -> None:
    again = replace(STUCK, since_ns=NOW + 60 * MINUTE)
    assert begin(ACTED, again, again.since_ns)[0].stage is S.ASKING


def test_another_cause_waits_for_the_interval() -> None:
    state, found = begin(ACTED, SPENT, NOW + 40 * MINUTE)
    assert (state.stage, state.deadline_ns, found) == (S.WAITING, NOW + 60 * MINUTE, ["cause", "waits"])
    assert begin(ACTED, SPENT, NOW + 60 * MINUTE)[0].stage is S.ASKING


def test_after_a_reboot_the_same_cause_is_refused_within_the_interval_of_that_boot() -> None:
    """Whatever the wall clock says: only the monotonic clock of this boot counts."""
    again = replace(STUCK, since_ns=5 * MINUTE)
    state, found = begin(ACTED.begin_boot("b8"), again, 5 * MINUTE, "b8")
    assert (state.stage, found) == (S.IDLE, ["refused", "Note"])
    assert begin(ACTED.begin_boot("b8"), again, 61 * MINUTE, "b8")[0].stage is S.ASKING


def test_after_a_reboot_another_cause_waits_for_the_interval_of_that_boot() -> None:
    state, _ = begin(ACTED.begin_boot("b8"), SPENT, 5 * MINUTE, "b8")
    assert (state.stage, state.deadline_ns) == (S.WAITING, 60 * MINUTE)


def test_a_fault_that_comes_back_after_each_reboot_reboots_once() -> None:
    memory, acted = Memory(), 0
    for boot in range(20):
        now = 5 * MINUTE
        state = State(memory=memory.begin_boot(f"b{boot}"))
        state, _ = decide(state, T.CAUSE, occasion(now_ns=now, boot=f"b{boot}", cause=replace(STUCK, since_ns=now)))
        for _ in range(2):
            state, orders = decide(state, T.YES, occasion(now_ns=now, boot=f"b{boot}", attempt=state.attempt))
            acted += sum(isinstance(order, Act) for order in orders)
        memory = state.noted or state.memory
    assert acted == 1


# --- no sequence of triggers ----------------------------------------------------------------------------------------


@dataclass
class Story:
    """Feeds triggers to ``decide`` and keeps what must stay true; what is on disk survives a restart or a reboot."""

    rules: EscalationSettings
    state: State = field(default_factory=State)
    disk: Memory = field(default_factory=Memory)
    now_ns: int = NOW
    boot: int = 0
    consented: int = -1  # attempt
    noted: int = -1
    recorded: int = -1
    acting: tuple[Cause, ...] = ()
    acted: list[tuple[int, int]] = field(default_factory=list)  # boot, instant
    causes: dict[Cause, int] = field(default_factory=dict)  # actions taken for it
    newest: dict[tuple[str, str], int] = field(default_factory=dict)  # since when the last one of its kind stood

    def feed(self, trigger: Trigger, cause: Cause, later_ns: int, stale: bool) -> None:
        self.now_ns += later_ns
        if cause.since_ns < self.newest.get((cause.kind, cause.subject), 0):
            return  # one that was over does not come back: the next of its kind stands since later
        self.newest[cause.kind, cause.subject] = cause.since_ns
        attempt = self.state.attempt - stale
        told = occasion(self.rules, self.now_ns, f"b{self.boot}", cause=cause, attempt=attempt)
        before = self.state
        if trigger is T.YES and not stale:
            if before.stage is S.AWAITING or (before.stage is S.ASKING and not self.rules.consent_file):
                self.consented = attempt
            if before.stage is S.NOTING:
                self.noted = attempt
        self.state, orders = decide(before, trigger, told)
        if before.stage is S.ACTING and steps(orders)[:1] == ["failed"]:  # not taken
            self.acted.pop()
            for each in self.acting:
                self.causes[each] = 0
        for order in orders:
            self._check(order)
        assert (self.state.deadline_ns is None) == (self.state.stage in (S.IDLE, S.DONE))
        assert self.state.causes or self.state.stage in (S.IDLE, S.NOTING, S.ACTING)
        assert (self.state.noted is not None) == (self.state.stage in (S.NOTING, S.ACTING))

    def _check(self, order: Order) -> None:
        attempt = self.state.attempt
        if isinstance(order, Record) and order.step == "action":
            self.recorded = attempt
        if isinstance(order, Note):
            self.disk = order.memory
        if not isinstance(order, Record) and self.rules.dry_run:
            raise AssertionError(order)
        if not isinstance(order, Act):
            return
        assert (self.consented, self.noted, self.recorded) == (attempt, attempt, attempt)
        for boot, at_ns in self.acted:
            recent = self.now_ns - (at_ns if boot == self.boot else 0) < self.rules.min_interval_ns
            assert not recent or self.boot - boot >= QUIET_BOOTS
        self.acted.append((self.boot, self.now_ns))
        self.acting = self.state.causes
        for cause in self.state.causes:
            self.causes[cause] = self.causes.get(cause, 0) + 1
            assert self.causes[cause] == 1, cause

    def reboot(self) -> None:
        self.boot += 1
        self.now_ns = 0
        self.causes.clear()
        self.restart()

    def restart(self) -> None:
        self.state = State(memory=self.disk.begin_boot(f"b{self.boot}"))
        self.consented = self.noted = self.recorded = -1


later = st.sampled_from([0, SECOND, 31 * SECOND, 10 * MINUTE, 61 * MINUTE])
causes = st.builds(
    Cause, st.sampled_from(["unkillable", "hangs"]), st.sampled_from("ab"), st.integers(1, 2), st.just("r")
)
told = st.tuples(st.sampled_from(T), causes, later, st.booleans())
happy = st.tuples(causes).map(lambda each: [(t, each[0], SECOND, False) for t in (T.CAUSE, T.YES, T.YES, T.YES)])
moves = st.one_of(told.map(lambda each: [each]), happy, st.sampled_from(["restart", "reboot"]))


@settings(max_examples=150, deadline=None)
@given(st.lists(moves, max_size=25), st.sampled_from([REBOOT, WITH_FILE, replace(WITH_FILE, dry_run=True)]))
def test_no_sequence_of_triggers_breaks_what_must_stay_true(
    sequence: list[str | list[tuple[Trigger, Cause, int, bool]]], rules: EscalationSettings
) -> None:
    """No action without consent, record and note, none too soon, none twice for one cause; over restarts, too."""
    story = Story(rules)
    for move in sequence:
        if move == "restart":
            story.restart()
        elif move == "reboot":
            story.reboot()
        elif not isinstance(move, str):
            for trigger, cause, later_ns, stale in move:
                story.feed(trigger, cause, later_ns, stale)

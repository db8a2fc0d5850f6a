"""What is overdue, when to look again, and whether the worker had its chance."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.pulses import SPAWNED, call, deadlines, ms, pulse, thread
from watchdogd import abi
from watchdogd.decide import liveness
from watchdogd.decide.liveness import Look, Patience, Pending, Wait, image_is_gone, judge, look, look_starting, prepare
from watchdogd.model import MILLISECOND, SECOND, Exit, Finding, Verdict
from watchdogd.pulse import Pulse

MARGIN = 20 * MILLISECOND


def looked(reading: Pulse, now: float, *, soft: float | None = 0.5, armed: float = 0, **lengths: float) -> Look:
    return look(reading, prepare(deadlines(**lengths), soft), SPAWNED, ms(armed), ms(now))


def named(items: tuple[Pending, ...]) -> list[tuple[str, str | None]]:
    return [(item.verdict.value, item.operation) for item in items]


# --- calls ----------------------------------------------------------------------------------------------------------


def test_a_call_past_its_deadline_is_overdue() -> None:
    found = looked(pulse({}, {"outer": call("sync", ms(10))}), 61, sync=50)
    assert named(found.overdue) == [("call", "sync")]
    assert found.overdue[0].lane == 1
    assert found.overdue[0].deadline_ns == abi.stamp(ms(10), 0) + 50 * MILLISECOND


def test_a_call_before_its_deadline_is_not() -> None:
    found = looked(pulse({"outer": call("sync", ms(10))}), 59, sync=50)
    assert (found.overdue, named(found.slow)) == ((), [("call", "sync")])


def test_a_call_before_its_soft_level_is_not_even_slow() -> None:
    found = looked(pulse({"outer": call("sync", ms(10))}), 30, sync=50)
    assert (found.overdue, found.slow) == ((), ())
    assert ms(34.9) < found.next_check_ns <= ms(35)


def test_a_slow_call_is_looked_at_again_at_its_deadline() -> None:
    found = looked(pulse({"outer": call("sync", ms(10))}), 90, sync=100)
    assert ms(109.9) < found.next_check_ns <= ms(110)


def test_without_a_soft_level_no_call_is_slow() -> None:
    found = looked(pulse({"outer": call("sync", ms(10))}), 59, soft=None, sync=50)
    assert (found.overdue, found.slow) == ((), ())
    assert ms(59.9) < found.next_check_ns <= ms(60)


def test_the_next_deadline_is_the_first_of_what_is_in_flight_and_has_not_passed() -> None:
    past, slow, fresh = (call("sync", ms(at)) for at in (10, 20, 50))
    lanes = [{"outer": past}, {"outer": fresh}, {"outer": slow}]
    for soft in (0.5, None):
        found = looked(pulse(*lanes), 61, soft=soft, sync=50)
        assert found.due_ns == abi.stamp(ms(20), 0) + 50 * MILLISECOND
    assert looked(pulse({"outer": past}), 61, sync=50).due_ns is None
    assert looked(pulse({}), 61, sync=50).due_ns is None


ENTRIES = st.lists(st.tuples(st.sampled_from(["sync", "copy", "free"]), st.integers(0, 200)), max_size=6)


@given(entries=ENTRIES, now=st.integers(0, 250), soft=st.sampled_from([None, 0.1, 0.5, 0.9]))
def test_no_deadline_of_what_is_in_flight_passes_before_the_next_one_that_is_told(
    entries: list[tuple[str, int]], now: int, soft: float | None
) -> None:
    lengths = {"sync": 100, "copy": 10}
    found = looked(pulse(*({"outer": call(name, ms(at))} for name, at in entries)), now, soft=soft, **lengths)
    deadlines = [abi.stamp(ms(at), 0) + lengths[name] * MILLISECOND for name, at in entries if name in lengths]
    to_pass = [at_ns for at_ns in deadlines if at_ns > ms(now)]
    assert not to_pass or (found.due_ns is not None and found.due_ns <= min(to_pass))


def test_an_operation_without_a_deadline_is_never_overdue() -> None:
    found = looked(pulse({"outer": call("free", ms(10))}), 10**6, sync=50)
    assert (found.overdue, found.slow, found.error) == ((), (), None)


def test_every_hung_lane_is_found_and_not_only_the_first() -> None:
    lanes = [{"outer": call("sync", ms(9 - lane))} for lane in range(5)]
    found = looked(pulse(*lanes), 200, sync=50)
    assert [item.lane for item in found.overdue] == [4, 3, 2, 1, 0]  # the longest overdue first


def test_two_lanes_with_the_same_word_are_both_overdue() -> None:
    lane = {"outer": call("sync", ms(10))}
    assert len(looked(pulse(lane, lane), 200, sync=50).overdue) == 2


def test_an_overdue_outer_call_is_not_hidden_by_a_fresh_inner_one() -> None:
    reading = pulse({"outer": call("other", ms(10)), "inner": call("sync", ms(199))})
    assert named(looked(reading, 200, other=100, sync=50).overdue) == [("call", "other")]


def test_an_inner_call_does_not_borrow_the_time_of_its_outer_one() -> None:
    reading = pulse({"outer": call("other", ms(10)), "inner": call("sync", ms(180))})
    assert looked(reading, 200, other=1000, sync=50).overdue == ()


def test_an_overdue_inner_call_is_found_under_a_patient_outer_one() -> None:
    reading = pulse({"outer": call("other", ms(10)), "inner": call("sync", ms(100))})
    assert named(looked(reading, 200, other=1000, sync=50).overdue) == [("call", "sync")]


def test_a_call_comes_before_the_step_that_it_is_in() -> None:
    reading = pulse({"step": abi.stamp(ms(1), abi.STEP_LATER)}, {"outer": call("sync", ms(80))})
    assert named(looked(reading, 900, step=100, sync=50).overdue) == [("call", "sync"), ("step", None)]


# --- words that condemn nobody --------------------------------------------------------------------------------------


def test_a_zero_word_is_not_a_call() -> None:
    assert looked(pulse({"outer": 0, "inner": 0, "step": 0}), 10**6, sync=1, step=1).overdue == ()


def test_a_time_a_little_later_than_now_is_fresh() -> None:
    found = looked(pulse({"outer": call("sync", ms(100.9))}), 100, sync=50)
    assert (found.overdue, found.slow, found.error) == ((), (), None)


@pytest.mark.parametrize("word", ["outer", "inner", "step"])
@pytest.mark.parametrize("entered", [ms(100) + SECOND + 1000, SPAWNED - 1000], ids=["future", "before the spawn"])
def test_an_impossible_time_is_an_error_and_no_verdict(word: str, entered: int) -> None:
    reading = pulse({word: abi.stamp(entered, abi.OPERATION["sync"] if word != "step" else 0)})
    found = looked(reading, 100, sync=50, step=50)
    assert (found.overdue, found.slow) == ((), ())
    assert found.error is not None and "impossible" in found.error


def test_an_impossible_word_does_not_hide_a_hung_one() -> None:
    reading = pulse({"outer": abi.stamp(ms(-10), 1)}, {"outer": call("sync", ms(10))})
    assert named(looked(reading, 100, sync=50).overdue) == [("call", "sync")]


# Codes just past the last operation are the table's own rows for steps.
@pytest.mark.parametrize("code", [0, 8, 9, 10, 255])
def test_an_unknown_operation_is_an_error_and_no_verdict(code: int) -> None:
    reading = pulse({"outer": abi.stamp(ms(10), code)})
    found = looked(reading, 900, sync=50, step=50, first_step=50)
    assert (found.overdue, found.slow) == ((), ())
    assert found.error == f"operation code {code} is unknown"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=8, max_size=8), max_size=4), st.integers(0, 2**63))
def test_no_garbage_makes_a_look_fail(lanes: list[list[int]], now_ns: int) -> None:
    reading = pulse(*(dict(zip(abi.LANE, lane, strict=True)) for lane in lanes))
    rules = prepare(deadlines(sync=50, step=100, first_step=500), 0.5)
    for item in look(reading, rules, SPAWNED, SPAWNED, now_ns).overdue:
        assert SPAWNED <= item.entered_ns <= item.deadline_ns <= now_ns


# --- steps ----------------------------------------------------------------------------------------------------------


def step(begun_ns: int, code: int = abi.STEP_LATER) -> int:
    return abi.stamp(begun_ns, code)


def test_a_first_step_has_its_own_deadline() -> None:
    reading = pulse({"step": step(ms(10), abi.STEP_FIRST)})
    assert looked(reading, 900, step=100, first_step=1000).overdue == ()
    assert named(looked(reading, 1011, step=100, first_step=1000).overdue) == [("first_step", None)]


def test_a_later_step_has_the_step_deadline() -> None:
    reading = pulse({"step": step(ms(10)), "steps_done": 1})
    assert named(looked(reading, 111, step=100, first_step=1000).overdue) == [("step", None)]


def test_the_first_step_of_a_process_is_one_though_its_lane_has_seen_steps_of_another() -> None:
    reading = pulse({"step": step(ms(10), abi.STEP_FIRST), "steps_done": 7})
    assert looked(reading, 900, step=100, first_step=1000).overdue == ()


# --- a step of a library of version 1, which does not say whether it is a first one


def unsaid(steps_done: int) -> Pulse:
    return pulse({"step": step(ms(10), abi.STEP_UNKNOWN), "steps_done": steps_done})


def test_where_no_step_was_ever_done_it_is_a_first_one() -> None:
    assert looked(unsaid(0), 900, step=100, first_step=1000).overdue == ()
    assert looked(unsaid(0), 10**6, step=100).overdue == ()
    assert named(looked(unsaid(0), 1011, step=100, first_step=1000).overdue) == [("first_step", None)]
    assert named(looked(unsaid(0), 1011, first_step=1000).overdue) == [("first_step", None)]


def test_a_step_that_may_be_a_first_one_is_judged_by_the_longer_deadline() -> None:
    assert looked(unsaid(7), 1009, step=100, first_step=1000).overdue == ()
    assert named(looked(unsaid(7), 1011, step=100, first_step=1000).overdue) == [("step", None)]


def test_a_step_that_may_be_a_first_one_is_judged_by_the_only_deadline_of_steps() -> None:
    assert looked(unsaid(7), 109, step=100).overdue == ()
    assert named(looked(unsaid(7), 111, step=100).overdue) == [("step", None)]


def test_a_step_that_may_be_a_later_one_is_not_judged_where_those_may_last_for_ever() -> None:
    assert looked(unsaid(7), 10**6, first_step=1000).overdue == ()


@pytest.mark.parametrize("code", [3, 8, 255])
def test_an_unknown_kind_of_step_is_an_error_and_no_verdict(code: int) -> None:
    found = looked(pulse({"step": step(ms(10), code)}), 900, step=50, first_step=50, sync=50)
    assert (found.overdue, found.slow, found.error) == ((), (), f"step code {code} is unknown")


# --- whose words ----------------------------------------------------------------------------------------------------


def process_lane(pid: int, image: int) -> dict[str, int]:
    return {"owner": pid << 32, "stage": image}


def test_after_an_exec_the_image_that_claimed_the_lanes_is_gone() -> None:
    assert image_is_gone(pulse(process_lane(7, 0x1000), process_lane(8, 0x2000)), 7, 0x3000)


@pytest.mark.parametrize(
    ("lanes", "image"),
    [
        ([(7, 0x1000)], 0x1000),
        ([(7, 0x1000), (7, 0x3000)], 0x3000),  # the new image has attached, too
        ([(7, 0x1000)], 0),
        ([(7, 0)], 0x3000),
        ([(8, 0x1000)], 0x3000),
        ([], 0x3000),
    ],
    ids=["the same", "both", "hidden from us", "unknown to itself", "another process's", "it claimed none"],
)
def test_an_image_that_may_be_there_is_not_called_gone(lanes: list[tuple[int, int]], image: int) -> None:
    assert not image_is_gone(pulse(*(process_lane(*lane) for lane in lanes)), 7, image)


def test_a_worker_between_steps_is_not_overdue() -> None:
    assert looked(pulse({"steps_done": 7, "steps_begun": 7}), 10**6, step=100, sync=50).overdue == ()


# --- startup --------------------------------------------------------------------------------------------------------


def starting(reading: Pulse, now: float, **lengths: float) -> Look:
    return look_starting(reading, prepare(deadlines(**lengths), 0.5), SPAWNED, ms(now))


def test_a_worker_that_is_not_ready_in_time_is_overdue() -> None:
    assert named(starting(pulse(state="created"), 5000, startup=5000).overdue) == [("startup", None)]


def test_a_worker_that_is_still_in_time_is_not() -> None:
    found = starting(pulse(state="attached"), 4999, startup=5000)
    assert (found.overdue, found.next_check_ns) == ((), ms(5000))


def test_call_deadlines_are_not_armed_before_ready() -> None:
    building = pulse({"outer": call("sync", ms(10)), "step": abi.stamp(ms(10), abi.STEP_LATER)}, state="attached")
    assert starting(building, 4999, startup=5000, sync=50, step=50).overdue == ()


def test_without_a_startup_deadline_a_worker_may_start_for_ever() -> None:
    assert starting(pulse(state="created"), 10**9, sync=50).overdue == ()


def test_what_was_entered_before_ready_is_judged_from_ready_on() -> None:
    reading = pulse({"outer": call("sync", ms(10))})
    assert looked(reading, 1040, armed=1000, sync=50).overdue == ()
    assert named(looked(reading, 1050, armed=1000, sync=50).overdue) == [("call", "sync")]


# --- when to look again ---------------------------------------------------------------------------------------------

lengths_ms = st.one_of(st.none(), st.integers(1, 3000))


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.fixed_dictionaries(dict.fromkeys(("sync", "alloc", "step", "first_step"), lengths_ms)),
    soft=st.sampled_from([None, 0.1, 0.5, 0.9]),
    entered=st.lists(st.tuples(st.sampled_from(["sync", "alloc", "step"]), st.integers(0, 4000)), max_size=4),
    later=st.lists(st.tuples(st.sampled_from(["sync", "alloc", "step"]), st.integers(0, 10**6)), max_size=3),
    armed=st.integers(0, 2000),
    said=st.sampled_from([abi.STEP_UNKNOWN, abi.STEP_FIRST, abi.STEP_LATER]),
)
def test_the_next_check_is_never_later_than_anything_could_be_due(
    lengths: dict[str, int | None], soft: float | None, entered: list[tuple[str, int]], later: list[tuple[str, int]],
    armed: int, said: int,
) -> None:  # fmt: skip
    """Nothing that is in flight, or that starts right after the check, is past a level before the next check."""
    rules = prepare(deadlines(**{name: value for name, value in lengths.items() if value is not None}), soft)
    now_ns = ms(4000)

    def lanes(calls: list[tuple[str, int]]) -> list[dict[str, int]]:
        return [{"step": abi.stamp(at, said)} if kind == "step" else {"outer": call(kind, at)} for kind, at in calls]

    before = lanes([(kind, ms(at)) for kind, at in entered])
    first = look(pulse(*before), rules, SPAWNED, ms(armed), now_ns)
    assert first.next_check_ns > now_ns
    # A stamp is up to 255 ns early, so a call stamped right after the check may seem to have begun just before it.
    just_before_ns = first.next_check_ns - 256
    after = before + lanes([(kind, now_ns + 256 + at) for kind, at in later])
    second = look(pulse(*after), rules, SPAWNED, ms(armed), just_before_ns)
    known = {item.key for item in (*first.overdue, *first.slow)}
    assert [item for item in (*second.overdue, *second.slow) if item.key not in known] == []
    due_by = {item.key for item in second.overdue} - {item.key for item in first.overdue}
    assert due_by == set()


# --- had it its chance? ---------------------------------------------------------------------------------------------

HUNG = Pending(Verdict.CALL, "sync", ms(0), ms(0), ms(100), call("sync", ms(0)), 256, 0)


def judged(patience: Patience, threads: liveness.Threads | None, now: float, late: float = 0) -> Finding | Wait:
    return judge(patience, threads, round(late * MILLISECOND), MARGIN, ms(now))


def waits_until(result: Finding | Wait) -> int:
    assert isinstance(result, Wait), result
    return result.until_ns


def test_a_sleeping_worker_is_condemned_at_once() -> None:
    found = judged(Patience(HUNG, ms(50), {7: thread("S")}), {7: thread("S")}, 100)
    assert isinstance(found, Finding)
    assert (found.verdict, found.operation, found.word) == (Verdict.CALL, "sync", HUNG.word)
    assert (found.entered_ns, found.deadline_ns, found.detected_ns) == (ms(0), ms(100), ms(100))


def test_a_worker_in_uninterruptible_sleep_is_condemned_at_once() -> None:
    assert isinstance(judged(Patience(HUNG, ms(50), {7: thread("S")}), {7: thread("D")}, 100), Finding)


def test_a_spinning_worker_is_condemned_at_once() -> None:
    before, after = {7: thread("R", ran=10)}, {7: thread("R", ran=60)}
    assert isinstance(judged(Patience(HUNG, ms(50), before), after, 100), Finding)


def test_a_worker_whose_threads_cannot_be_seen_is_condemned_by_its_word() -> None:
    assert isinstance(judged(Patience(HUNG, ms(50), None), None, 100), Finding)


def test_a_runnable_worker_that_does_not_run_is_not_condemned() -> None:
    starved = {7: thread("R", ran=10)}
    assert waits_until(judged(Patience(HUNG, ms(50), starved), starved, 100)) == ms(102)


def test_a_starved_helper_thread_excuses_the_thread_that_waits_for_it() -> None:
    before = {7: thread("S", ran=10), 8: thread("R", ran=20)}
    assert isinstance(judged(Patience(HUNG, ms(50), before), before, 100), Wait)


def test_time_that_a_helper_thread_waited_is_credited_though_the_others_slept() -> None:
    before = {7: thread("S"), 8: thread("S")}
    after = {7: thread("S"), 8: thread("S", waited=25)}
    assert waits_until(judged(Patience(HUNG, ms(50), before), after, 100)) == ms(150)


def test_a_thread_that_is_about_to_run_and_has_run_before_excuses_nothing() -> None:
    before, after = {7: thread("S"), 8: thread("S", ran=20)}, {7: thread("S"), 8: thread("R", ran=25)}
    assert isinstance(judged(Patience(HUNG, ms(50), before), after, 100), Finding)


def test_time_spent_waiting_for_a_cpu_is_credited() -> None:
    before, after = {7: thread("S", ran=10, waited=3)}, {7: thread("S", ran=11, waited=28)}
    # Half of the time seen was spent waiting; so, it is assumed, was half of the time before: 50 ms in all.
    assert waits_until(judged(Patience(HUNG, ms(50), before), after, 100)) == ms(150)


def test_credit_is_used_up() -> None:
    before, after = {7: thread("S", ran=10, waited=3)}, {7: thread("S", ran=11, waited=28)}
    assert isinstance(judged(Patience(HUNG, ms(50), before), after, 140), Finding)


def test_a_runnable_worker_never_seen_before_is_looked_at_twice() -> None:
    spinning = {7: thread("R", ran=10)}
    assert waits_until(judged(Patience(HUNG, ms(100), None), spinning, 100)) == ms(102)
    assert waits_until(judged(Patience(HUNG, ms(100), spinning), spinning, 100)) == ms(102)


def test_a_spinning_worker_never_seen_before_is_condemned_at_the_second_look() -> None:
    patience = Patience(HUNG, ms(100), None, overdue_ns=ms(100), overdue_threads={7: thread("R", ran=10)})
    assert isinstance(judged(patience, {7: thread("R", ran=12)}, 102), Finding)


def test_a_starved_worker_never_seen_before_is_not_condemned_at_the_second_look() -> None:
    patience = Patience(HUNG, ms(100), None, overdue_ns=ms(100), overdue_threads={7: thread("R", ran=10)})
    assert isinstance(judged(patience, {7: thread("R", ran=10)}, 102), Wait)


def test_a_kernel_that_counts_no_run_times_does_not_hide_a_hang() -> None:
    spinning = {7: thread("R", ran=0, waited=0)}
    assert isinstance(judged(Patience(HUNG, ms(50), spinning), spinning, 100), Finding)


@pytest.mark.parametrize(
    "threads",
    [{7: thread("S"), 8: thread("R")}, {7: thread("S", waited=10**6)}],
    ids=["a thread that never runs", "endless credit"],
)
def test_patience_with_a_starved_worker_ends(threads: liveness.Threads) -> None:
    patience = Patience(HUNG, ms(50), {7: thread("S"), 8: thread("R")})
    assert isinstance(judged(patience, threads, 5099), Wait)
    assert isinstance(judged(patience, threads, 5100), Finding)


# Entered an hour before it was armed, by a resume: what counts is the time since.
RESUMED = Pending(Verdict.CALL, "sync", ms(-3_600_000), ms(0), ms(100), call("sync", ms(-3_600_000)), 256, 0)


def test_what_starved_it_after_a_pause_is_not_scaled_up_by_the_pause() -> None:
    before, after = {7: thread("S", ran=10, waited=3)}, {7: thread("S", ran=11, waited=28)}
    assert waits_until(judged(Patience(RESUMED, ms(50), before), after, 100)) == ms(150)


def test_patience_after_a_pause_ends_as_without_one() -> None:
    starving: liveness.Threads = {7: thread("S"), 8: thread("R")}
    assert isinstance(judged(Patience(RESUMED, ms(50), starving), starving, 5100), Finding)


def test_a_late_watcher_waits_as_long_as_it_was_late() -> None:
    asleep = {7: thread("S")}
    assert waits_until(judged(Patience(HUNG, ms(50), asleep), asleep, 130, late=30)) == ms(160)


def test_a_late_watcher_waits_for_one_deadline_at_most() -> None:
    asleep = {7: thread("S")}
    assert waits_until(judged(Patience(HUNG, ms(50), asleep), asleep, 10**6, late=10**6)) == ms(10**6 + 100)


def test_a_watcher_late_by_less_than_the_margin_does_not_wait() -> None:
    asleep = {7: thread("S")}
    assert isinstance(judged(Patience(HUNG, ms(50), asleep), asleep, 119, late=19), Finding)


def test_a_stall_counts_once_and_another_one_after_it_again() -> None:
    asleep = {7: thread("S")}
    patience = Patience(HUNG, ms(50), asleep, 1, 30 * MILLISECOND, ms(130), asleep, until_ns=ms(160))
    assert isinstance(judged(patience, asleep, 190, late=30), Finding)
    assert waits_until(judged(patience, asleep, 190, late=75)) == ms(190 + 45)


def test_a_machine_that_stutters_all_the_time_does_not_hide_a_hang_for_ever() -> None:
    asleep = {7: thread("S")}
    patience = Patience(HUNG, ms(50), asleep, 9, 400 * MILLISECOND, ms(130), asleep)
    assert isinstance(judged(patience, asleep, 900, late=450), Wait)
    assert isinstance(judged(patience._replace(stalls=10), asleep, 900, late=450), Finding)


def test_a_wait_that_was_granted_holds_whatever_wakes_the_supervisor() -> None:
    asleep = {7: thread("S")}
    patience = Patience(HUNG, ms(50), asleep, 1, 30 * MILLISECOND, ms(130), asleep, until_ns=ms(160))
    assert waits_until(judged(patience, asleep, 131, late=70)) == ms(160)
    assert isinstance(judged(patience, asleep, 160, late=30), Finding)


# --- other verdicts -------------------------------------------------------------------------------------------------


def error_word(code: int, at_ns: int) -> int:
    return at_ns & ~abi.ERROR_MASK | code


@pytest.mark.parametrize("code", [700, 719, 226])
def test_a_sticky_error_is_a_verdict(code: int) -> None:
    word = error_word(code, ms(10))
    found = liveness.sticky_error(pulse(last_error=word), SPAWNED, ms(11))
    assert found is not None
    assert (found.verdict, found.word, found.offset) == (Verdict.STICKY_ERROR, word, abi.H["last_error"] * abi.WORD)


@pytest.mark.parametrize("code", [0, 1, 2, 600], ids=["none", "invalid value", "out of memory", "not ready"])
def test_an_error_that_passes_is_not(code: int) -> None:
    assert liveness.sticky_error(pulse(last_error=error_word(code, ms(10))), SPAWNED, ms(11)) is None


@pytest.mark.parametrize("at_ns", [SPAWNED - SECOND, ms(11) + 2 * SECOND], ids=["before the spawn", "future"])
def test_a_sticky_error_of_an_impossible_time_is_not(at_ns: int) -> None:
    assert liveness.sticky_error(pulse(last_error=error_word(700, at_ns)), SPAWNED, ms(11)) is None


def test_a_worker_that_ends_with_status_0_has_exited() -> None:
    assert liveness.ended(Exit(code=0), 5) == Finding(Verdict.EXITED, 5, detail="exited with status 0")


@pytest.mark.parametrize("status", [Exit(code=1), Exit(signal=11), Exit()])
def test_a_worker_that_ends_otherwise_has_crashed(status: Exit) -> None:
    assert liveness.ended(status, 5).verdict is Verdict.CRASHED


def test_steps_without_a_stamped_call_are_uninstrumented() -> None:
    assert liveness.uninstrumented(pulse({"steps_done": 6}, {"steps_done": 4}), prepare(deadlines(sync=50), 0.5))


@pytest.mark.parametrize(
    ("lanes", "lengths"),
    [
        ([{"steps_done": 9}], {"sync": 50}),
        ([{"steps_done": 99}, {"calls": 1}], {"sync": 50}),
        ([{"steps_done": 99}, {"outer": call("sync", ms(1))}], {"sync": 50}),
        ([{"steps_done": 99}], {"step": 50}),
    ],
    ids=["few steps yet", "a call was stamped", "in its first call", "no call deadline"],
)
def test_what_is_instrumented_or_not_to_be_is_not(lanes: list[dict[str, int]], lengths: dict[str, float]) -> None:
    assert not liveness.uninstrumented(pulse(*lanes), prepare(deadlines(**lengths), 0.5))

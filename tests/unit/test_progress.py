"""When a worker whose code says nothing stalls, and when it is idle, or nobody knows."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from watchdogd.abi_driver import LONGEST_TICK_NS
from watchdogd.decide import progress
from watchdogd.decide.progress import Call, Completions, Course, HostFunction, Sample
from watchdogd.model import SECOND, ProgressSource

T = 10 * SECOND
READY = 0


def s(seconds: float) -> int:
    return round(seconds * SECOND)


def seen(completed: float = 0, queued: float = 0, unready: float = 0, *calls: float) -> Completions:
    made = tuple(Call(s(entered), "sync", lane, 0) for lane, entered in enumerate(sorted(calls)))
    return Completions(1, s(completed), s(queued), s(unready), made)


def host(queued: float, completed: float = 0, queue: float = 0, unready: float = 0, *calls: float) -> Completions:
    facts = seen(completed, queue, unready, *calls)
    return facts._replace(host_function=HostFunction(s(queued), 0x7F00, 0, 0))


def is_stalled(course: Course, at: float, armed: float = READY, deadline_ns: int = T) -> bool:
    return progress.overdue_since(course, s(armed), deadline_ns, s(at)) is not None


def driver(looks: Iterable[tuple[float, Completions]]) -> tuple[Course, float | None]:
    """Returns also when it was first found to stall."""
    course, first = Course(), None
    for at, facts in looks:
        course = progress.of_driver(course, facts, T, s(at))
        if first is None and is_stalled(course, at):
            first = at
    return course, first


# --- the driver shim ------------------------------------------------------------------------------------------------


def test_a_call_in_flight_for_all_of_the_deadline_is_a_stall() -> None:
    assert driver((at, seen(4, 0, 0, 5)) for at in range(5, 20))[1] == 15


def test_a_call_in_flight_is_none_while_others_complete() -> None:
    assert driver((at, seen(at, 0, 0, 5)) for at in range(5, 60))[1] is None


def test_a_call_in_flight_before_a_completion_counts_from_that_on() -> None:
    assert driver((at, seen(8, 0, 0, 5)) for at in range(9, 30))[1] == 18


def test_a_program_that_asks_for_ever_and_completes_nothing_stalls() -> None:
    assert driver((at, seen(4, 5, at)) for at in range(5, 30))[1] == 15


def test_a_program_that_asks_and_completes_does_not() -> None:
    assert driver((at, seen(at - at % 9, at - at % 9 + 1, at)) for at in range(5, 90))[1] is None


def test_a_program_that_queues_for_ever_and_completes_nothing_stalls() -> None:
    assert driver((at, seen(4, at)) for at in range(5, 30))[1] == 15


def test_a_program_that_queued_something_and_waits_is_idle_for_ever() -> None:
    assert driver((at, seen(4, 5)) for at in range(5, 500))[1] is None


def test_when_work_was_queued_is_known_to_a_late_tick_and_no_stall_counts_from_before() -> None:
    queued = s(5)
    course = progress.of_driver(Course(), Completions(1, s(4), queued, 0), T, s(6))
    assert course.since_ns == queued + 2 * LONGEST_TICK_NS


def test_a_program_whose_last_query_found_work_undone_and_waits_is_idle_for_ever() -> None:
    assert driver((at, seen(4, 5, 6)) for at in range(5, 500))[1] is None


def test_evidence_short_of_the_deadline_does_not_grow_by_waiting() -> None:
    assert driver((at, seen(4, 5, min(at, 14))) for at in range(5, 60))[1] is None


@pytest.mark.parametrize("pause", [3, 9, 11, 3600])
def test_a_request_after_a_trailing_launch_has_most_of_the_deadline_however_long_it_was_idle(pause: float) -> None:
    begins = 5 + pause  # it was idle from 5 on; its next request queues, and waits for 7 s
    idle = [(5.0, seen(4, 5)), (begins - 0.1, seen(4, 5))]
    request = [(begins + after, seen(4, begins, 0, begins)) for after in (0, 1, 2, 3, 4, 5, 6, 7)]
    done = [(begins + 8, seen(begins + 7.5, begins))]
    assert driver([*idle, *request, *done])[1] is None


def test_a_program_with_nothing_pending_is_idle() -> None:
    assert driver((at, seen(5, 4, 3)) for at in range(6, 100))[1] is None


def test_a_program_that_has_never_completed_anything_stalls_too() -> None:
    assert driver((at, seen(0, at)) for at in range(5, 30))[1] == 15


def test_evidence_that_is_not_seen_for_a_while_is_not_of_the_same_work() -> None:
    """The supervisor was restarted, or the machine stood."""
    assert driver((at, seen(4, at)) for at in (5, 6, 7, 15.5, 16, 17))[1] is None


def test_a_call_says_itself_since_when_it_is_in_flight() -> None:
    assert driver([(60, seen(4, 0, 0, 5))])[1] == 60  # the first look of a supervisor that has just come


def test_nothing_is_older_than_a_resume() -> None:
    course, _ = driver([(60, seen(4, 0, 0, 5))])
    assert not is_stalled(course, 60, armed=51)
    assert is_stalled(course, 60, armed=50)


def test_words_of_the_future_are_nothing() -> None:
    assert driver((at, seen(4, 900, 900, 900)) for at in range(5, 60))[1] is None
    assert driver((at, seen(900, at)) for at in range(5, 60))[1] == 15


def test_words_of_the_future_neither_make_nor_hide_a_stall() -> None:
    assert driver((at, seen(4, 900, at)) for at in range(5, 14))[1] is None
    assert driver((at, seen(4, 0, at, 900)) for at in range(5, 30))[1] == 15


def test_what_was_found_is_no_verdict_once_it_is_old() -> None:
    course, _ = driver([(60, seen(4, 0, 0, 5))])
    assert is_stalled(course, 62.5) and not is_stalled(course, 62.6)


def test_a_completion_ends_it_at_once() -> None:
    course, first = driver((at, seen(4, at)) for at in range(5, 17))
    assert first == 15
    assert not is_stalled(progress.of_driver(course, seen(17, 16), T, s(17)), 17)


def test_it_is_looked_at_often_enough_for_its_evidence_to_hold_together() -> None:
    at, looks = s(5), 0
    course = Course()
    while at < s(30) and not is_stalled(course, at / SECOND):
        course = progress.of_driver(course, Completions(1, s(4), at, 0), T, at)
        at, looks = progress.next_look_ns(course, READY, T, at), looks + 1
    assert at <= s(17) and looks < 20


def test_a_call_is_looked_at_when_its_time_is_over() -> None:
    course = progress.of_driver(Course(), seen(4, 0, 0, 5.5), T, s(15))
    assert progress.next_look_ns(course, READY, T, s(15)) == s(15.5)


def test_a_host_function_that_does_not_run_is_a_stall_though_nobody_calls_or_asks() -> None:
    course, first = driver((at, host(5, 4, 5)) for at in range(5, 30))
    assert first == 15
    assert course.pending == "a host function queued 24.0 s ago in stream 0x7f00 has not run"


def test_a_host_function_is_none_while_others_complete() -> None:
    """A deep queue, slow and moving: what was queued first runs first."""
    assert driver((at, host(5, at - at % 9, 5)) for at in range(5, 90))[1] is None


def test_host_functions_one_after_another_are_not_one() -> None:
    assert driver((at, host(at - 0.1, 4)) for at in range(5, 90))[1] is None


def test_a_host_function_of_the_future_is_nothing() -> None:
    assert driver((at, host(900, 4)) for at in range(5, 60))[1] is None
    assert driver((at, host(900, 4, 5, at)) for at in range(5, 60))[1] == 15


def test_what_has_been_pending_for_longer_is_named() -> None:
    assert "host function" in driver([(20, host(5, 4, 0, 0, 6))])[0].pending
    assert "sync call" in driver([(20, host(6, 4, 0, 0, 5))])[0].pending


def test_calls_one_after_another_are_not_one() -> None:
    """A program that waits for idle streams for ever: no wait is stuck, and none completes anything."""
    assert driver((at, seen(4, 0, 0, at - 0.1)) for at in range(5, 90))[1] is None


def test_idle_waits_do_not_hide_a_program_that_asks_for_ever() -> None:
    assert driver((at, seen(4, 5, at, at - 0.1)) for at in range(5, 30))[1] == 15


# --- a program's own metrics ----------------------------------------------------------------------------------------

RUNS, IDLE = 2.0, 0.0


def metrics(
    samples: Iterable[tuple[float, float | None, float | None] | tuple[float, str]],
) -> tuple[Course, float | None]:
    course, first = Course(), None
    for at, *told in samples:
        sample = Sample(0, False, str(told[0])) if len(told) == 1 else Sample(0, True, "", *told)
        course = progress.of_metrics(course, sample, T, s(at))
        if first is None and is_stalled(course, at):
            first = at
    return course, first


def test_a_counter_that_stands_with_work_pending_is_a_stall() -> None:
    assert metrics((at, 7, RUNS) for at in range(5, 30))[1] == 15


def test_a_counter_that_moves_is_none() -> None:
    assert metrics((at, at // 9, RUNS) for at in range(5, 90))[1] is None


def test_a_counter_that_stands_with_nothing_pending_is_idle() -> None:
    assert metrics((at, 7, IDLE) for at in range(5, 90))[1] is None


def test_one_sample_with_nothing_pending_begins_the_time_anew() -> None:
    assert metrics((at, 7, IDLE if at == 14 else RUNS) for at in range(5, 60))[1] == 25


@pytest.mark.parametrize("bad", [(None, RUNS), (7, None), (math.nan, RUNS), (math.inf, RUNS), (7, math.nan), (7, -1)])
def test_what_is_missing_or_no_number_is_unknown_and_never_a_stall(bad: tuple[float | None, float | None]) -> None:
    course, first = metrics((at, *bad) for at in range(5, 90))
    assert first is None and course.unknown
    course, first = metrics([*((at, 7.0, RUNS) for at in range(5, 15)), *((at, *bad) for at in range(15, 90))])
    assert first is None and course.unknown


def test_an_endpoint_that_does_not_answer_is_unknown_and_never_a_stall() -> None:
    course, first = metrics([*((at, 7.0, RUNS) for at in range(5, 15)), *((at, "refused") for at in range(15, 90))])
    assert (first, course.unknown) == (None, "refused")


def test_what_was_found_is_no_verdict_while_the_last_sample_tells_nothing() -> None:
    course, first = metrics((at, 7, RUNS) for at in range(5, 16))
    assert first == 15 and is_stalled(course, 15.5)
    assert not is_stalled(progress.of_metrics(course, Sample(0, False, "refused"), T, s(15.5)), 15.5)


def test_a_sample_that_is_missed_hides_no_stall() -> None:
    assert metrics((at, "late") if at % 3 == 0 else (at, 7, RUNS) for at in range(5, 30))[1] == 16  # 15 tells nothing


def test_samples_too_far_apart_are_no_evidence_of_what_was_between_them() -> None:
    assert metrics((at, 7, RUNS) for at in range(5, 90, 3))[1] is None


def test_a_counter_that_went_back_is_of_another_process() -> None:
    course, _ = metrics((at, 7, RUNS) for at in range(5, 15))
    course = progress.of_metrics(course, Sample(0, True, "", 3, RUNS), T, s(15))
    assert course.unknown == "its counter went back" and not is_stalled(course, 15)
    for at in range(16, 26):
        course = progress.of_metrics(course, Sample(0, True, "", 3, RUNS), T, s(at))
        assert not is_stalled(course, at) and not course.unknown
    assert is_stalled(progress.of_metrics(course, Sample(0, True, "", 3, RUNS), T, s(26)), 26)


def test_when_it_moved_last_is_known_once_it_did() -> None:
    assert metrics([(5, 7, RUNS), (6, 7, RUNS)])[0].moved_ns is None
    assert metrics([(5, 7, RUNS), (6, 8, RUNS), (7, 8, RUNS)])[0].moved_ns == s(6)


# --- a probe --------------------------------------------------------------------------------------------------------


def probe(answers: Iterable[tuple[float, bool]]) -> tuple[Course, float | None]:
    course, first = Course(), None
    for at, ok in answers:
        course = progress.of_probe(course, Sample(0, ok, "" if ok else "refused"), T, s(at))
        if first is None and is_stalled(course, at):
            first = at
    return course, first


def test_a_probe_that_fails_for_all_of_the_deadline_is_found() -> None:
    assert probe((at, at < 5) for at in range(1, 30))[1] == 15


def test_a_probe_that_answers_now_and_then_is_not() -> None:
    assert probe((at, at % 9 == 0) for at in range(1, 90))[1] is None


def test_a_probe_of_which_nothing_is_heard_any_more_has_not_failed() -> None:
    assert probe([(1, True), (2, False), (30, False)])[1] is None


# --- for the record -------------------------------------------------------------------------------------------------


def test_the_record_says_what_is_pending_since_when_and_what_moved_last() -> None:
    sync = ProgressSource("sync")
    told = progress.text(driver([(16, seen(4, 0, 0, 5))])[0], sync, None, s(16))
    assert told == "a sync call in flight for 11.0 s, pending for 11.0 s at least; nothing completed for 12.0 s"
    told = progress.text(driver((at, seen(0, 5, at)) for at in range(5, 17))[0], sync, None, s(16))
    assert told == "a query found work undone 0.0 s ago, pending for 11.0 s at least; nothing completed ever"
    told = progress.text(driver((at, seen(0, at)) for at in range(5, 17))[0], sync, None, s(17))
    assert told == "work queued 0.0 s ago, pending for 12.0 s at least; nothing completed ever"
    vllm = ProgressSource("metrics", ("http://h/m",))
    told = progress.text(metrics((at, 7, RUNS) for at in range(5, 17))[0], vllm, "tokens", s(16))
    assert told == "tokens stands at 7 for 11.0 s at least, with 2 pending"
    health = ProgressSource("http", ("http://h/health",))
    told = progress.text(probe((at, at < 5) for at in range(1, 17))[0], health, None, s(16))
    assert told == "http http://h/health: refused; last answered 12.0 s ago"
    assert progress.text(probe([(5, False)])[0], health, None, s(6)) == "http http://h/health: refused; never answered"

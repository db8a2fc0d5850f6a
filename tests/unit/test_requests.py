"""What becomes of the work that was in flight at an end."""

from __future__ import annotations

import pytest

from watchdogd import abi
from watchdogd.decide.requests import MOST_OPEN, MOST_TOLD, Entry, Left, Requests, settle


def entry(state: str, request: int, age: int = 0, place: int | None = None) -> Entry:
    """``age``: how long before the others it began, in microseconds."""
    word = abi.stamp(10**12 - age * 1000, abi.REQUEST_STATE[state])
    return Entry(word, request, request % abi.REQUESTS if place is None else place)


def left(
    *entries: Entry, steps: int | None = None, redeliver: bool = True, ready: bool = True, asked: bool = True
) -> Left:
    flying = sum(each.state in (abi.REQUEST_STATE["begun"], abi.REQUEST_STATE["again"]) for each in entries)
    requests = Requests(entries, asked)
    return settle(requests, flying if steps is None else steps, was_ready=ready, redeliver=redeliver)


def given(found: Left) -> list[int]:
    assert {each.state for each in found.given} <= {abi.REQUEST_STATE["given"]}
    return [each.request for each in sorted(found.given)]


def test_what_was_begun_is_given_back_in_its_place_and_told_oldest_first() -> None:
    found = left(entry("begun", 17, age=3), entry("begun", 18, age=9))
    assert (found.in_flight, found.requests, found.back, found.dropped) == (2, (18, 17), 2, 0)
    assert given(found) == [18, 17]
    assert {each.place for each in found.given} == {17, 18}


def test_where_nothing_is_redelivered_all_of_it_is_dropped() -> None:
    found = left(entry("begun", 17), entry("given", 18), steps=3, redeliver=False)
    assert (found.in_flight, given(found), found.back, found.dropped) == (3, [], 0, 4)


def test_steps_without_a_number_are_dropped() -> None:
    found = left(entry("begun", 17), steps=3)
    assert (found.in_flight, found.back, found.dropped) == (3, 1, 2)


def test_a_request_whose_step_was_not_counted_yet_is_in_flight() -> None:
    """The entry comes first, the count after it."""
    assert left(entry("begun", 17), steps=0).in_flight == 1


def test_more_steps_than_there_can_be_are_not_counted() -> None:
    assert left(steps=MOST_OPEN) == Left()
    assert left(entry("begun", 17), steps=MOST_OPEN).in_flight == 1
    assert left(steps=MOST_OPEN - 1).dropped == MOST_OPEN - 1


def test_a_number_that_was_being_written_is_no_request() -> None:
    found = left(entry("claimed", 17), entry("free", 18))
    assert (found.in_flight, given(found), found.dropped) == (0, [], 0)


def test_a_state_that_nobody_writes_is_no_request() -> None:
    assert left(Entry(abi.stamp(10**12, 99), 17, 0)) == Left()


@pytest.mark.parametrize("state", ["again", "taken"])
def test_what_was_given_back_once_is_dropped_at_the_next_end(state: str) -> None:
    found = left(entry(state, 17), entry("begun", 18))
    assert (given(found), found.dropped) == ([18], 1)
    assert found.in_flight == (2 if state == "again" else 1)


@pytest.mark.parametrize("state", ["again", "taken"])
def test_and_also_if_it_was_begun_once_more_beside(state: str) -> None:
    assert given(left(entry(state, 17), entry("begun", 17, place=3))) == []


def test_a_number_that_was_begun_twice_is_given_back_once() -> None:
    found = left(entry("begun", 17, place=3), entry("begun", 17, place=8))
    assert (given(found), found.in_flight, found.dropped) == ([17], 2, 1)


@pytest.mark.parametrize(("ready", "asked", "kept"), [(False, False, 1), (True, True, 1), (True, False, 0)])
def test_what_waits_to_be_asked_for_waits_on_unless_there_was_time_to_ask(ready: bool, asked: bool, kept: int) -> None:
    found = left(entry("given", 17), ready=ready, asked=asked)
    assert (len(found.given), found.dropped) == (kept, 1 - kept)
    assert (found.in_flight, found.back) == (0, 0)


def test_a_number_that_still_waits_is_not_given_back_twice() -> None:
    found = left(entry("given", 17, place=3), entry("begun", 17, place=8))
    assert (given(found), found.back, found.dropped) == ([17], 0, 1)


def test_all_that_was_in_flight_is_given_back_or_dropped() -> None:
    found = left(entry("begun", 1), entry("again", 2), entry("begun", 3), steps=7)
    assert found.in_flight == found.back + found.dropped == 7


def test_the_record_names_a_bounded_number_of_them() -> None:
    found = left(*(entry("begun", number, place=number) for number in range(MOST_TOLD + 5)))
    assert found.told() == {
        "in_flight": MOST_TOLD + 5, "requests": list(range(MOST_TOLD)), "to_redeliver": MOST_TOLD + 5, "dropped": 0,
    }  # fmt: skip


def test_the_record_says_how_many_found_no_entry_if_any_did() -> None:
    assert "unkept" not in Left().told()
    assert settle(Requests(unkept=3), 0, was_ready=True, redeliver=True).told()["unkept"] == 3

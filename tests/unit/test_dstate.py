"""D state: two looks that find the same wait are evidence; one is not, nor are two that found two waits."""

from __future__ import annotations

from watchdogd.decide.dstate import Standing, follow
from watchdogd.model import SECOND

NOW = 700 * SECOND
THREAD, OTHER = (71, 72), (71, 73)


def stuck(found: dict[tuple[int, int], Standing]) -> list[tuple[int, int]]:
    return [thread for thread, standing in found.items() if standing.is_stuck]


def test_two_looks_at_the_same_wait_are_evidence_since_the_first() -> None:
    first = follow({}, {THREAD: 40, OTHER: 50}, NOW)
    assert stuck(first) == []
    second = follow(first, {THREAD: 40}, NOW + SECOND)
    assert second == {THREAD: Standing(NOW, 2, 40)}
    assert stuck(second) == [THREAD]


def test_a_thread_that_ran_in_between_waits_anew() -> None:
    second = follow(follow({}, {THREAD: 40}, NOW), {THREAD: 41}, NOW + SECOND)
    assert second == {THREAD: Standing(NOW + SECOND, 1, 41)}


def test_a_thread_that_waits_no_longer_is_forgotten() -> None:
    long = follow(follow({}, {THREAD: 40}, NOW), {THREAD: 40}, NOW)
    assert follow(long, {}, NOW) == {}
    assert stuck(follow(follow(long, {}, NOW), {THREAD: 40}, NOW)) == []

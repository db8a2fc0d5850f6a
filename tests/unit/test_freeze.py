"""Frozen load: both polarities, and everything that looks like it and is not."""

from __future__ import annotations

from watchdogd.decide.freeze import LoadPoint, is_frozen, next_point
from watchdogd.model import MILLISECOND, SECOND

FROZEN_AFTER = 3 * SECOND
STALE_AFTER = 1500 * MILLISECOND
INTERVAL = 500 * MILLISECOND

Sample = tuple[float | None, bool, int]  # load, pending, completed


def frozen(*samples: Sample, silent_ns: int = 0, gap_at: int | None = None) -> bool:
    """Whether these samples, one an interval, and then silence, are a freeze; ``gap_at``: a long pause before it."""
    now_ns, point = 77 * SECOND, None
    for number, (load, pending, completed) in enumerate(samples):
        now_ns += INTERVAL if number != gap_at else 2 * SECOND
        point = next_point(point, load, pending, completed, STALE_AFTER, now_ns)
    assert isinstance(point, LoadPoint)
    return is_frozen(point, FROZEN_AFTER, STALE_AFTER, now_ns + silent_ns)


def test_a_constant_load_with_work_pending_is_frozen() -> None:
    assert frozen(*[(0.99, True, 41)] * 7)


def test_a_load_constant_at_zero_with_work_pending_is_frozen() -> None:
    assert frozen(*[(0.0, True, 41)] * 7)


def test_a_load_that_was_constant_for_less_is_not() -> None:
    assert not frozen(*[(0.99, True, 41)] * 6)


def test_a_load_that_moves_is_not() -> None:
    assert not frozen(*[(0.99, True, 41)] * 4, (0.98, True, 41), *[(0.99, True, 41)] * 4)


def test_an_idle_accelerator_is_not() -> None:
    assert not frozen(*[(0.0, False, 41)] * 20)


def test_an_accelerator_that_was_idle_until_now_is_not() -> None:
    assert not frozen(*[(0.0, False, 41)] * 20, (0.0, True, 41))


def test_a_freeze_begins_with_the_first_sample_that_saw_work_pending() -> None:
    assert not frozen((0.99, False, 41), *[(0.99, True, 41)] * 6)
    assert frozen((0.99, False, 41), *[(0.99, True, 41)] * 7)


def test_an_accelerator_that_was_busy_until_now_is_not() -> None:
    assert not frozen(*[(0.99, True, 41)] * 20, (0.99, False, 41))


def test_calls_that_complete_under_a_constant_load_are_not() -> None:
    assert not frozen(*[(0.99, True, 41 + number) for number in range(20)])


def test_a_source_that_prints_no_load_is_not() -> None:
    assert not frozen(*[(None, True, 41)] * 20)


def test_a_silent_source_is_not() -> None:
    samples: list[Sample] = [(0.99, True, 41)] * 7
    assert frozen(*samples, silent_ns=STALE_AFTER)
    assert not frozen(*samples, silent_ns=STALE_AFTER + 1)


def test_a_source_that_was_silent_in_between_may_have_missed_a_change() -> None:
    samples: list[Sample] = [(0.99, True, 41)] * 7
    assert not frozen(*samples, gap_at=4)

"""Restart budget and backoff: arithmetic on instants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.decide import budget
from watchdogd.model import MILLISECOND, SECOND, RestartSettings

SETTINGS = RestartSettings(100 * MILLISECOND, 10 * SECOND, budget=9, window_ns=60 * SECOND)
NOW = 1_000 * SECOND


def delay(count: int, settings: RestartSettings = SETTINGS, seed: str = "model_h") -> int | None:
    """The wait before the next restart after ``count`` of them a second ago."""
    return budget.delay_ns((NOW - SECOND,) * count, NOW, settings, seed)


def test_the_first_restart_is_immediate() -> None:
    assert delay(0) == 0


def test_a_restart_that_has_left_the_window_counts_no_more() -> None:
    assert budget.delay_ns((NOW - 60 * SECOND,), NOW, SETTINGS, "model_h") == 0
    assert budget.delay_ns((NOW - 60 * SECOND + 1,), NOW, SETTINGS, "model_h") != 0


@pytest.mark.parametrize(("count", "most"), [(1, 100), (2, 200), (3, 400), (4, 800), (8, 10_000)])
def test_each_further_restart_waits_twice_as_long_up_to_the_cap(count: int, most: int) -> None:
    wait = delay(count)
    assert wait is not None
    assert most * MILLISECOND * (1 - budget.JITTER) <= wait <= most * MILLISECOND


def test_a_spent_budget_is_no_delay_but_none() -> None:
    assert delay(9) is None


def test_a_spent_budget_retries_slowly_where_told_to() -> None:
    wait = delay(9, RestartSettings(budget=9, when_spent="retry-slowly"))
    assert wait is not None
    assert 10 * SECOND * (1 - budget.JITTER) <= wait <= 10 * SECOND


@given(
    st.integers(1, 10**9), st.integers(1, 10**12), st.integers(1, 200), st.sampled_from(["quarantine", "retry-slowly"]),
    st.integers(0, 250), st.text(max_size=8),
)  # fmt: skip
def test_a_delay_is_never_longer_than_the_cap_and_only_the_first_is_none(
    backoff: int, cap: int, allowed: int, when_spent: str, count: int, seed: str
) -> None:
    wait = delay(count, RestartSettings(backoff, cap, allowed, 60 * SECOND, when_spent), seed)
    if count >= allowed and when_spent == "quarantine":
        assert wait is None
    elif count == 0:
        assert wait == 0
    else:
        assert wait is not None and 1 <= wait <= cap


def test_workers_that_ended_together_do_not_start_together() -> None:
    waits = {delay(3, seed=f"model_{letter}") for letter in "abcdefgh"}
    assert len(waits) == 8


def test_the_same_history_gives_the_same_delay() -> None:
    assert delay(3) == delay(3)


def test_what_is_left_is_never_below_zero() -> None:
    assert [budget.left((NOW,) * count, NOW, SETTINGS) for count in (0, 4, 9, 12)] == [9, 5, 0, 0]

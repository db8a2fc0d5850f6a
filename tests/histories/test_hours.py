"""The policy over many worker-hours of virtual time: nobody healthy is killed, nothing is missed, and why."""

from __future__ import annotations

import pytest

from tests.bench import hours
from tests.bench.hours_draw import HARMS, RATES
from tests.bench.hours_report import upper_bound
from watchdogd.model import SECOND

HOURS = 10_000


def test_nobody_healthy_is_killed_and_no_harm_is_missed_or_found_late_for_no_reason() -> None:
    tally = hours.play(HOURS, seed=2)
    assert set(tally.played) == set(RATES)
    assert (tally.false.total(), tally.missed.total(), tally.late.total()) == (0, 0, 0)
    assert len(tally.delays_ns) == sum(tally.played[kind] for kind in HARMS) > 0


def test_a_supervisor_that_does_not_know_of_its_own_stalls_kills_healthy_workers() -> None:
    assert hours.play(HOURS, seed=2, late_margin_ns=3600 * SECOND).false["stall"] > 0


def test_stalls_that_all_meet_calls_past_half_of_their_deadline_kill_hardly_anybody() -> None:
    tally = hours.play(HOURS, seed=2, outlier_met=1.0)
    assert tally.played["stall"] > 4000
    assert tally.false.total() <= 1  # about 100, if only a look that was due told of a stall


def test_a_supervisor_that_does_not_see_starvation_kills_healthy_workers() -> None:
    assert hours.play(HOURS, seed=2, sees_threads=False).false["starvation"] > 0


@pytest.mark.parametrize(("events", "mean"), [(0, 2.996), (1, 4.744), (5, 10.513)])
def test_the_bound_is_that_of_the_poisson_distribution(events: int, mean: float) -> None:
    assert upper_bound(events) == pytest.approx(mean, abs=0.001)

"""Who froze first: ranking, its limits, and that no two workers wait for each other."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd import abi
from watchdogd.decide.suspicion import ENOUGH_HISTORY, Stuck, coupled, rank, stuck
from watchdogd.histogram import Histogram
from watchdogd.model import MILLISECOND, SECOND, WorkerSettings

NOW = 900 * SECOND
NONE = Histogram()


def history(*durations_ms: float) -> Histogram:
    counts = [0] * abi.BUCKETS
    for duration in durations_ms:
        counts[abi.bucket_of(round(duration * MILLISECOND))] += 1
    return Histogram(round(sum(durations_ms) * MILLISECOND), counts)


def hung(
    worker: str, entered_ms_ago: float, allowance_ms: float | None = None, known: Histogram = NONE,
    soft: float | None = 0.5, accelerator: str = "gpu0",
) -> Stuck:  # fmt: skip
    allowance = None if allowance_ms is None else round(allowance_ms * MILLISECOND)
    settings = WorkerSettings(worker, ("true",), accelerator=accelerator, soft=soft)
    return stuck(settings, "sync", NOW - round(entered_ms_ago * MILLISECOND), allowance, known, NOW)


# --- outside its own distribution? ----------------------------------------------------------------------------------


def test_a_call_longer_than_its_worker_ever_took_is_outside() -> None:
    assert hung("h", 30, known=history(*[9.0] * 40)).outside


def test_a_call_as_long_as_usual_is_not() -> None:
    assert not hung("h", 9, known=history(*[9.0] * 40)).outside


def test_without_a_history_the_soft_level_stands_in_for_it() -> None:
    few = history(*[9.0] * (ENOUGH_HISTORY - 1))
    assert [hung("h", age, 200, few).outside for age in (30, 99, 100)] == [False, False, True]


def test_without_history_and_deadline_nothing_is_outside() -> None:
    assert not hung("h", 10**6).outside


def test_without_a_soft_level_the_deadline_stands_in_for_it() -> None:
    assert [hung("h", age, 200, soft=None).outside for age in (199, 200)] == [False, True]


def test_a_call_is_expected_after_its_own_median() -> None:
    known = history(*[4.0] * 30, *[20.0] * 10)
    expected = hung("h", 30, 200, known).expected_ns - (NOW - 30 * MILLISECOND)
    assert 4 * MILLISECOND <= expected <= 5 * MILLISECOND  # a bucket ends up to a quarter above the true median


def test_its_verdict_is_due_at_its_deadline() -> None:
    assert hung("h", 30, 200).deadline_ns == NOW + 170 * MILLISECOND
    assert hung("h", 30).deadline_ns is None


# --- the ranking ----------------------------------------------------------------------------------------------------


def test_the_first_that_should_have_returned_is_the_suspect() -> None:
    found = rank([hung("gpu", 60, known=history(*[40.0] * 40)), hung("dla", 50, known=history(*[9.0] * 40))])
    assert found is not None
    assert (found.suspect.worker, [other.worker for other in found.runners_up]) == ("dla", ["gpu"])


def test_a_dla_comes_first_even_in_a_longer_call() -> None:
    found = rank(
        [hung("gpu", 50, known=history(*[9.0] * 40)), hung("h", 60, known=history(*[40.0] * 40), accelerator="dla0")]
    )
    assert found is not None
    assert (found.suspect.worker, found.confidence) == ("h", 0.5)


def test_a_dla_inside_its_distribution_does_not() -> None:
    found = rank(
        [hung("gpu", 50, known=history(*[9.0] * 40)), hung("h", 30, known=history(*[40.0] * 40), accelerator="dla0")]
    )
    assert found is not None and found.suspect.worker == "gpu"


def test_who_is_inside_his_distribution_is_no_suspect() -> None:
    assert rank([hung("gpu", 20, known=history(*[40.0] * 40))]) is None
    assert rank([]) is None


def test_one_alone_is_certain_and_a_tie_is_a_coin_toss() -> None:
    one, other = hung("a", 60, 50), hung("b", 60, 50)
    alone, tied = rank([one]), rank([other, one])
    assert alone is not None and alone.confidence == 1.0
    assert tied is not None and (tied.suspect.worker, tied.confidence) == ("a", 0.5)


hangs = st.builds(
    hung,
    st.sampled_from("abcdef"),
    st.integers(0, 400),
    st.one_of(st.none(), st.integers(1, 300)),
    st.sampled_from([NONE, history(*[9.0] * 40), history(*[40.0] * 40)]),
    st.just(0.5),
    st.sampled_from(["gpu0", "dla0"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(hangs, min_size=1, max_size=6, unique_by=lambda item: item.worker))
def test_confidence_is_between_a_coin_toss_and_certainty(candidates: list[Stuck]) -> None:
    found = rank(candidates)
    assert (found is None) == (not any(item.outside for item in candidates))
    if found is not None:
        assert 0.5 <= found.confidence <= 1.0
        assert (found.confidence == 1.0) == (not found.runners_up)


@settings(max_examples=60, deadline=None)
@given(hangs, hangs, st.lists(hangs, max_size=3))
def test_of_two_stuck_workers_at_most_one_waits_for_the_other(one: Stuck, other: Stuck, more: list[Stuck]) -> None:
    """Each is ranked among those coupled to itself, which need not be the same for both."""
    if one.worker == other.worker:
        return
    mine, theirs = rank([one, other, *more]), rank([other, one])
    waits = mine is not None and mine.suspect is other
    waits_too = theirs is not None and theirs.suspect is one
    assert not (waits and waits_too)


# --- the field story, in random phases ------------------------------------------------------------------------------


def shares_named_right(dla_ms: float, gpu_ms: float, spread_ms: float, phases: int = 600) -> tuple[float, float]:
    """In which share of random phases entry order, and expected return, name the worker that froze first.

    That a DLA is put first is left out here. Both workers are always in a call. The first one freezes at an instant
    that is uniform within its call, the other ``spread_ms`` later, within its own. Durations vary by 10 % either
    way.
    """
    chance = random.Random(20)
    known = {"dla": history(*[dla_ms] * 60), "gpu": history(*[gpu_ms] * 60)}
    by_entry = by_expectation = 0
    for _ in range(phases):
        frozen_ago = {"dla": 200.0, "gpu": 200.0 - spread_ms}
        usual = {"dla": dla_ms, "gpu": gpu_ms}
        in_call = {name: chance.uniform(0, usual[name] * chance.uniform(0.9, 1.1)) for name in usual}
        both = [hung(name, frozen_ago[name] + in_call[name], known=known[name]) for name in usual]
        found = rank(both)
        assert found is not None
        by_expectation += found.suspect.worker == "dla"
        by_entry += min(both, key=lambda item: item.entered_ns).worker == "dla"
    return by_entry / phases, by_expectation / phases


def test_expected_return_names_the_first_mover_where_entry_order_does_not() -> None:
    """A DLA in 8 ms calls, a GPU worker that waits up to 33 ms for its frame, the freeze spreading 5 ms later.

    That the one which froze first has the shorter calls, or the spread is longer than them, is what this depends on.
    """
    by_entry, by_expectation = shares_named_right(dla_ms=8, gpu_ms=33, spread_ms=5)
    print(f"named right by entry order {by_entry:.0%}, by expected return {by_expectation:.0%}")
    assert by_entry <= 0.4
    assert by_expectation >= 0.9


def test_both_orders_are_right_when_the_freeze_spreads_slower_than_calls_last() -> None:
    by_entry, by_expectation = shares_named_right(dla_ms=3, gpu_ms=4, spread_ms=6)
    assert min(by_entry, by_expectation) == 1.0


def test_expected_return_is_worse_when_the_first_mover_has_the_longer_calls() -> None:
    """The known limit: two instants a few ms apart cannot be told apart inside a call that is longer than that."""
    by_entry, by_expectation = shares_named_right(dla_ms=40, gpu_ms=10, spread_ms=5)
    print(f"named right by entry order {by_entry:.0%}, by expected return {by_expectation:.0%}")
    assert by_entry > by_expectation


# --- who can freeze whom --------------------------------------------------------------------------------------------


def worker(name: str, accelerator: str | None, *coupled_with: str) -> WorkerSettings:
    return WorkerSettings(name, ("true",), accelerator=accelerator, coupled_with=coupled_with)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (worker("a", "gpu0"), worker("b", "gpu0"), True),
        (worker("a", "gpu0"), worker("b", "dla0"), False),
        (worker("a", "gpu0"), worker("b", "dla0", "gpu0"), True),
        (worker("a", "gpu0"), worker("b", "dla0", "a"), True),
        (worker("a", "gpu0"), worker("b", "dla0", "gpu1", "c"), False),
        (worker("a", None), worker("b", None), False),
        (worker("a", None), worker("b", None, "a"), True),
    ],
)
def test_coupling_holds_both_ways(one: WorkerSettings, other: WorkerSettings, expected: bool) -> None:
    assert coupled(one, other) is expected
    assert coupled(other, one) is expected

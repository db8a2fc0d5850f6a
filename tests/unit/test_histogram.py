"""Histograms in the heartbeat's buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from watchdogd import abi
from watchdogd.histogram import EDGES_NS, Histogram, add

durations = st.lists(st.integers(min_value=0, max_value=1 << 40), min_size=1, max_size=50)


def counted(values: list[int]) -> Histogram:
    counts = [0] * abi.BUCKETS
    for value in values:
        counts[abi.bucket_of(value)] += 1
    return Histogram(sum(values), counts)


def test_a_quantile_of_nothing_is_none() -> None:
    assert Histogram().quantile_ns(0.5) is None


def test_a_quantile_of_one_value_is_its_bucket() -> None:
    assert counted([5_000_000]).quantile_ns(0.99) == 5_242_880


@given(durations, st.floats(min_value=0, max_value=1))
def test_a_quantile_is_at_most_a_quarter_above_the_true_one(values: list[int], fraction: float) -> None:
    ranked = sorted(values)
    rank = fraction * len(ranked)
    true = next(value for index, value in enumerate(ranked, 1) if index >= rank)
    quantile = counted(values).quantile_ns(fraction)
    assert quantile is not None
    if true < 1 << abi.HISTOGRAM_LAST_OCTAVE:
        assert true <= quantile <= max(true * 1.25 + 1, 1024)
    else:
        assert quantile == 1 << abi.HISTOGRAM_LAST_OCTAVE


@given(durations)
def test_counts_below_a_bucket_edge_are_exact(values: list[int]) -> None:
    below = [sum(value < edge for value in values) for edge in EDGES_NS]
    assert counted(values).cumulative(EDGES_NS) == below


def test_a_bound_inside_a_bucket_leaves_that_bucket_out() -> None:
    histogram = counted([1100])  # in [1024, 1280)
    assert histogram.cumulative([1023, 1024, 1279, 1280]) == [0, 0, 0, 1]


@given(durations, durations)
def test_adding_is_counting_together(first: list[int], second: list[int]) -> None:
    both = add(counted(first), counted(second))
    together = counted(first + second)
    assert (both.total_ns, list(both.counts), both.count) == (together.total_ns, together.counts, together.count)

"""What a record amounts to: hangs and their cost, deadlines against the calls that were seen, and other deadlines."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd import abi
from watchdogd.decide import reporting
from watchdogd.decide.reporting import Calls, Ended, NearMiss, Snapshot
from watchdogd.histogram import Histogram
from watchdogd.model import MILLISECOND, SECOND

MS = MILLISECOND
HOUR = 3600 * SECOND


def histogram(**counts: int) -> Histogram:
    """``ms41=3``: three calls of 41 ms."""
    buckets = [0] * abi.BUCKETS
    total = 0
    for name, count in counts.items():
        took_ns = int(name.removeprefix("ms")) * MS
        buckets[abi.bucket_of(took_ns)] += count
        total += took_ns * count
    return Histogram(total, buckets)


def snapshot(
    at: int, counts: Histogram, *, spawned: int = 1, worker: str = "a", deadline_ms: int | None = 200
) -> Snapshot:
    deadlines = {} if deadline_ms is None else {"sync": deadline_ms * MS}
    return Snapshot(at, at - 5, ("boot", worker, spawned), deadlines, {"sync": counts})


def row(counts: Histogram, deadline_ms: int | None = 200, operation: str = "sync", lives: int = 1) -> Calls:
    return Calls("a", operation, counts, None if deadline_ms is None else deadline_ms * MS, lives)


def ended(number: int, verdict: str = "call", recovery_ms: int | None = None, **more: object) -> Ended:
    recovery_ns = None if recovery_ms is None else recovery_ms * MS
    return Ended(f"i{number}", "a", number * HOUR, verdict, recovery_ns=recovery_ns, **more)  # type: ignore[arg-type]  # any of its fields


# --- hangs ----------------------------------------------------------------------------------------------------------


def test_hangs_and_other_ends_are_counted_apart_with_what_they_cost() -> None:
    record = [ended(1, recovery_ms=900), ended(2, "crashed", recovery_ms=100), ended(3, "step", recovery_ms=2_000)]
    (one,) = reporting.of_workers(record, [NearMiss("a", 1, "sync")])
    assert (one.hangs, one.other, one.near_misses) == (2, 1, 1)
    assert (one.median_recovery_ns, one.worst_recovery_ns, one.lost_ns) == (900 * MS, 2_000 * MS, 3_000 * MS)


def test_a_recovery_that_nobody_saw_is_not_one_of_no_time() -> None:
    (one,) = reporting.of_workers([ended(1, recovery_ms=900), ended(2)], [])
    assert (one.recovered, one.not_recovered, one.median_recovery_ns) == (1, 1, 900 * MS)


def test_a_verdict_after_which_nothing_was_killed_is_nothing_to_recover_from() -> None:
    (one,) = reporting.of_workers([ended(1, killed=False, outcome="returned")], [])
    assert (one.hangs, one.recovered, one.not_recovered) == (1, 0, 0)


def test_a_worker_that_nothing_happened_to_is_in_the_report() -> None:
    assert [one.worker for one in reporting.of_workers([], [], ["b"])] == ["b"]


def test_the_same_signature_is_one_row_with_the_newest_incident() -> None:
    record = [ended(1, signature="s", words="sync in plugin", recovery_ms=10), ended(5, signature="t", words="other"),
              ended(4, signature="s", words="sync in plugin", recovery_ms=20)]  # fmt: skip
    first, second = reporting.of_signatures(record)
    assert (first.count, first.words, first.last_id, first.lost_ns) == (2, "sync in plugin", "i4", 30 * MS)
    assert (second.count, second.words) == (1, "other")


def test_incidents_without_a_signature_are_told_apart_by_verdict_and_operation() -> None:
    record = [ended(1, operation="sync"), ended(2, operation="sync"), ended(3, operation="alloc")]
    assert [(one.count, one.words) for one in reporting.of_signatures(record)] == [(2, "call sync"), (1, "call alloc")]


# --- calls ----------------------------------------------------------------------------------------------------------


def count(snapshots: list[Snapshot], since: int = 0) -> int:
    return sum(row.histogram.count for row in reporting.calls(snapshots, since))


def test_of_one_life_the_last_snapshot_counts_and_not_the_sum_of_them() -> None:
    assert count([snapshot(at, histogram(ms10=at)) for at in (10, 20, 30)]) == 30


def test_what_was_done_before_is_taken_off() -> None:
    assert count([snapshot(at, histogram(ms10=at)) for at in (10, 20, 30)], since=25) == 10


def test_lives_add_up_also_those_that_ended_in_between() -> None:
    lives = [snapshot(10, histogram(ms10=5), spawned=1), snapshot(20, histogram(ms10=7), spawned=2)]
    (one,) = reporting.calls(lives, 0)
    assert (one.histogram.count, one.lives) == (12, 2)


def test_a_life_that_was_over_by_then_does_not_count() -> None:
    lives = [snapshot(10, histogram(ms10=5)), snapshot(20, histogram(ms10=7), spawned=2)]
    (one,) = reporting.calls(lives, 15)
    assert (one.histogram.count, one.lives) == (7, 1)


def test_a_line_that_was_written_twice_changes_nothing() -> None:
    once = [snapshot(10, histogram(ms10=5)), snapshot(20, histogram(ms10=9))]
    assert count([*once, *once], since=15) == count(once, since=15) == 4


def test_counts_that_went_backwards_are_nothing_and_not_negative() -> None:
    assert count([snapshot(10, histogram(ms10=50)), snapshot(20, histogram(ms10=5))], since=15) == 0


def test_the_deadline_is_the_one_in_force_at_last() -> None:
    lives = [
        snapshot(20, histogram(ms10=1), spawned=2, deadline_ms=300),
        snapshot(10, histogram(ms10=1), deadline_ms=200),
    ]
    assert [one.deadline_ns for one in reporting.calls(lives, 0)] == [300 * MS]


def test_calls_are_on_record_since_the_first_life_began_and_not_since_its_first_line() -> None:
    assert reporting.since_ns([snapshot(20, histogram()), snapshot(10, histogram())]) == 5
    assert reporting.since_ns([]) is None


# --- proposals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "proposed_ms"),
    [
        ({"ms41": 20_000}, 200),  # 4 x 42, the edge of its bucket
        ({"ms41": 20_000, "ms600": 3}, 1500),  # 2 x 671
        ({"ms41": 20_000, "ms600": 30}, 3000),  # 4 x 671: they are p99.9
        ({"ms2": 20_000}, 50),  # never below
    ],
)
def test_the_proposal_follows_from_p999_and_the_longest(counts: dict[str, int], proposed_ms: int) -> None:
    assert reporting.suggest(row(histogram(**counts))).deadline_ns == proposed_ms * MS


def test_a_step_is_never_proposed_shorter_than_a_call_of_its_worker() -> None:
    sync = row(histogram(ms41=20_000, ms600=3))  # 1500 ms are proposed
    step, few = (row(histogram(ms41=count), 500, operation="step") for count in (20_000, 5))
    for one in (step, few):
        assert [each.deadline_ns for each in reporting.suggest_all([one, sync])] == [1500 * MS, 1500 * MS]
    assert reporting.suggest_all([few])[0].deadline_ns is None


def test_a_step_is_left_alone_where_no_call_of_its_own_worker_is_longer_or_it_has_no_deadline() -> None:
    other = replace(row(histogram(ms41=20_000, ms600=3)), worker="other")
    own = row(histogram(ms2=20_000))
    step = row(histogram(ms41=20_000), 500, operation="step")
    assert [one.deadline_ns for one in reporting.suggest_all([step, own, other])] == [200 * MS, 50 * MS, 1500 * MS]
    unset = row(histogram(ms41=5), None, operation="step")
    assert reporting.suggest_all([unset, own])[0].deadline_ns is None


def test_too_few_calls_are_no_proposal_and_enough_are_one() -> None:
    few = reporting.suggest(row(histogram(ms41=9_999)))
    assert (few.deadline_ns, few.reason) == (None, "too few calls: 9,999 of 10,000")
    assert reporting.suggest(row(histogram(ms41=10_000))).deadline_ns is not None


def test_a_call_longer_than_can_be_measured_is_no_proposal() -> None:
    one = reporting.suggest(row(histogram(ms41=20_000, ms200000=1)))
    assert one.deadline_ns is None and "longer than can be measured" in one.reason


def test_the_first_step_of_each_life_is_not_measured_by_and_any_other_is() -> None:
    warm = histogram(ms41=20_000, ms5000=3)
    assert reporting.suggest(row(warm, operation="step", lives=3)).deadline_ns == 200 * MS
    assert reporting.suggest(row(warm, operation="step", lives=2)).deadline_ns == 12 * SECOND + 3 * SECOND
    assert reporting.suggest(row(warm, operation="sync", lives=3)).deadline_ns == 15 * SECOND


@given(st.integers(1, 10**15))
def test_a_round_number_is_never_below_and_never_far_above(ns: int) -> None:
    rounded = reporting.rounded_up(ns)
    assert ns <= rounded <= max(10, 1.51 * ns)
    assert len(str(rounded).rstrip("0")) <= 2 and reporting.rounded_up(rounded) == rounded


@given(st.dictionaries(st.integers(0, abi.BUCKETS - 2), st.integers(1, 10**6), min_size=1))
def test_no_call_that_returned_is_beyond_a_proposal(buckets: dict[int, int]) -> None:
    counts = [buckets.get(index, 0) for index in range(abi.BUCKETS)]
    one = reporting.suggest(row(Histogram(0, counts)))
    if one.deadline_ns is not None:
        assert reporting.beyond(Histogram(0, counts), one.deadline_ns) == 0


# --- against deadlines ----------------------------------------------------------------------------------------------


def test_calls_are_shared_out_by_how_much_of_their_deadline_they_took() -> None:
    shared = reporting.shares(row(histogram(ms10=100, ms40=50, ms150=5, ms900=2)))
    assert shared == (100, 0, 50, 0, 5, 2)


def test_without_a_deadline_there_are_no_shares_of_it() -> None:
    assert reporting.shares(row(histogram(ms10=1), None)) is None


def test_a_shorter_deadline_would_have_ended_calls_that_returned_and_a_longer_one_spared_them() -> None:
    rows = [row(histogram(ms10=100, ms150=5, ms900=2))]
    shorter = reporting.what_if(rows, {("a", "sync"): 100 * MS}, [])
    assert (shorter.more, shorter.fewer) == (5, 0)
    longer = reporting.what_if(rows, {("a", "sync"): SECOND}, [])
    assert (longer.more, longer.fewer) == (0, 2)
    assert reporting.what_if(rows, {}, []) == reporting.WhatIf(0, 0, 0)


def test_a_deadline_where_there_was_none_ends_what_was_beyond_it() -> None:
    assert reporting.what_if([row(histogram(ms10=1, ms150=5), None)], {("a", "sync"): 100 * MS}, []).more == 5


def test_hangs_on_record_would_have_been_found_so_much_earlier() -> None:
    record = [ended(1, operation="sync"), ended(2, operation="sync"), ended(3, operation="alloc"), ended(4, "crashed")]
    assert reporting.what_if([row(histogram(ms10=1))], {("a", "sync"): 150 * MS}, record).earlier_ns == 100 * MS


def test_near_misses_are_shared_out_and_unknown_ones_are_told_apart() -> None:
    near = [NearMiss("a", 1, "sync", elapsed, 100) for elapsed in (55, 60, 61, 100, 130)] + [
        NearMiss("a", 1, "progress")
    ]
    assert reporting.of_deadline(near) == (2, 1, 0, 0, 1, 1, 1)

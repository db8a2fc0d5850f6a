"""When a worker holds more than it did in its first hour, and what is never told of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.decide import growth
from watchdogd.decide.growth import RESOURCES, SUSTAINED, Course
from watchdogd.model import SECOND, GrowthSettings, Usage, Verdict

MIB = 1 << 20
RULE = GrowthSettings(leak=True)  # 1 h, x1.5, 256 MiB, 64 descriptors, 32 threads
EVERY = 10 * SECOND
HOUR = 360  # looks
Told = list[tuple[int, str]]  # (look, resource)


class Worker:
    """One that is looked at every 10 s."""

    def __init__(self, rule: GrowthSettings = RULE) -> None:
        self.rule = rule
        self.looks = 0
        self.courses: dict[str, Course] = {}
        self.told: Told = []

    @property
    def now_ns(self) -> int:
        return 7 + self.looks * EVERY

    def look(self, usage: Usage) -> None:
        self.courses, told = growth.follow(self.courses, usage, self.rule, self.now_ns)
        self.told += [(self.looks, resource) for resource in told]
        self.looks += 1

    def uses(self, resource: str, figures: Iterable[int | None]) -> Worker:
        for figure in figures:
            self.look(Usage()._replace(**{resource: figure}))
        return self

    @property
    def leaks(self) -> bool:
        return growth.leak(self.courses, self.rule, self.now_ns) is not None


def first_hour(value: int) -> list[int]:
    return [value] * HOUR


FLOORS = [("memory", 256 * MIB), ("device_memory", 256 * MIB), ("descriptors", 64), ("threads", 32)]


@pytest.mark.parametrize(("resource", "floor"), FLOORS)
def test_it_is_told_of_beyond_the_factor_and_the_floor_and_not_at_them(resource: str, floor: int) -> None:
    for most, limit in ((floor // 2, floor // 2 + floor), (floor * 10, floor * 15)):
        at = Worker().uses(resource, [*first_hour(most), *[limit] * 100])
        assert at.told == [] and not growth.stands(at.courses[resource], resource, RULE)
        past = Worker().uses(resource, [*first_hour(most), *[limit + 1] * 100])
        assert past.told == [(HOUR + SUSTAINED - 1, resource)]
        assert growth.stands(past.courses[resource], resource, RULE)


def test_one_bad_look_and_a_sawtooth_are_not_told_of_and_a_lasting_one_is() -> None:
    tooth = [900, *[100] * 3, *[900] * (SUSTAINED - 1), 100]
    assert Worker().uses("threads", [*first_hour(100), *tooth * 50]).told == []
    assert Worker().uses("threads", [*first_hour(100), *tooth * 50, *[900] * SUSTAINED]).told != []


def test_the_most_of_the_first_hour_counts_and_not_what_it_began_with() -> None:
    loading = [*[10] * 300, 800, *[10] * (HOUR - 301)]
    assert Worker().uses("descriptors", [*loading, *[1200] * 100]).told == []
    assert Worker().uses("descriptors", [*first_hour(10), *[1200] * 100]).told != []


def test_in_the_first_hour_nothing_is_told_however_much_it_grows() -> None:
    assert Worker().uses("threads", range(0, HOUR * 100, 100)).told == []


def test_an_hour_in_which_nobody_looked_is_no_measure() -> None:
    worker = Worker().uses("threads", [1])
    worker.looks += 2 * HOUR  # no supervisor
    assert worker.uses("threads", [*[200] * 20]).told == []
    assert worker.courses["threads"].most == 200


def test_a_first_hour_goes_on_of_which_less_than_half_was_seen() -> None:
    worker = Worker().uses("threads", [5] * 60)
    worker.looks += HOUR  # paused
    worker.uses("threads", [500] * 119)
    assert not growth.is_measured(worker.courses["threads"], RULE, worker.now_ns)
    worker.uses("threads", [500] * 100)
    assert growth.is_measured(worker.courses["threads"], RULE, worker.now_ns) and worker.told == []


def test_what_grows_steadily_is_told_of_and_a_leak_after_as_long_again() -> None:
    worker = Worker()
    steady = (1000 * MIB + max(0, look - HOUR) * MIB for look in range(4 * HOUR))
    first = second = None
    for look, figure in enumerate(steady):
        worker.uses("memory", [figure])
        first = first or (look if worker.told else None)
        second = second or (look if worker.leaks else None)
    assert first is not None and second is not None
    grown = first - HOUR
    assert 500 < grown < 500 + 2 * SUSTAINED and 2 * grown - 4 * SUSTAINED < second - HOUR < 2 * grown + 2 * SUSTAINED


def test_a_step_up_is_told_of_once_and_is_no_leak() -> None:
    worker = Worker().uses("memory", [*first_hour(1000 * MIB), *[5000 * MIB] * 5 * HOUR])
    assert len(worker.told) == 1 and not worker.leaks


def test_what_it_has_grown_to_is_the_least_that_it_held_meanwhile() -> None:
    worker = Worker().uses("threads", [*first_hour(10), 900, 100, *[900] * (SUSTAINED - 2)])
    assert worker.courses["threads"].warned == 100
    assert worker.uses("threads", [190] * 20).told == worker.told[:1]
    assert len(worker.uses("threads", [191] * 20).told) == 2


def test_a_limit_that_was_raised_since_holds_for_the_second_time_too() -> None:
    worker = Worker().uses("threads", [*first_hour(10), *[100] * 20])
    worker.rule = RULE._replace(threads=500)
    assert len(worker.uses("threads", [510] * 20).told) == 1
    assert len(worker.uses("threads", [511] * 20).told) == 2


def test_what_is_back_is_no_leak_and_shown_no_longer_and_told_of_again_only_twice_as_high() -> None:
    worker = Worker().uses("threads", [*first_hour(10), *[100] * 20, *[1000] * 20])
    assert len(worker.told) == 2 and worker.leaks
    worker.uses("threads", [10])
    assert not worker.leaks and not growth.stands(worker.courses["threads"], "threads", RULE)
    worker.uses("threads", [*[1000] * 50, *[1990] * 50])
    assert len(worker.told) == 2
    assert len(worker.uses("threads", [1991] * 50).told) == 3


def test_what_is_unknown_neither_ends_a_run_nor_adds_to_it() -> None:
    worker = Worker().uses("threads", [*first_hour(10), *[100] * (SUSTAINED - 1), *[None] * 50])
    assert worker.told == [] and worker.courses["threads"].now is None
    assert worker.uses("threads", [100]).told != []
    worker.uses("threads", [None])
    assert not growth.stands(worker.courses["threads"], "threads", RULE)


def test_a_figure_that_comes_later_has_a_first_hour_of_its_own() -> None:
    worker = Worker().uses("device_memory", [*[None] * 2 * HOUR, *range(0, HOUR * MIB * 9, 9 * MIB)])
    assert worker.told == []
    assert worker.uses("device_memory", [HOUR * MIB * 15] * SUSTAINED).told != []


def test_a_leak_is_a_verdict_only_where_that_is_configured_and_says_what_grew() -> None:
    figures = [*first_hour(10), *[100] * 20, *[1000] * 20]
    off = Worker(RULE._replace(leak=False)).uses("descriptors", figures)
    assert len(off.told) == 2 and not off.leaks
    on = Worker().uses("descriptors", figures)
    finding = growth.leak(on.courses, RULE, on.now_ns)
    assert finding is not None and (finding.verdict, finding.word) == (Verdict.LEAK, None)
    assert finding.detail == "descriptors 1000, at most 10 in its first 1h"


def test_a_reload_that_switches_it_off_or_raises_the_limit_acquits() -> None:
    worker = Worker().uses("threads", [*first_hour(10), *[100] * 20, *[1000] * 20])
    for rule in (RULE._replace(baseline_ns=None), RULE._replace(threads=2000)):
        assert growth.leak(worker.courses, rule, worker.now_ns) is None
    assert growth.describe(worker.courses, RULE._replace(baseline_ns=None), worker.now_ns) == {}


FIGURES = st.lists(st.integers(0, 10_000), min_size=1, max_size=200)


@given(st.integers(0, 10_000), FIGURES)
def test_a_plateau_is_told_of_at_most_once_whatever_was_before(level: int, figures: Sequence[int]) -> None:
    worker = Worker(GrowthSettings(baseline_ns=20 * EVERY, leak=True)).uses("descriptors", figures)
    before = len(worker.told)
    worker.uses("descriptors", [level] * 200)
    assert len(worker.told) <= before + 1


@given(st.lists(st.integers(0, 10_000), min_size=40, max_size=200))
def test_what_only_shrinks_is_never_told_of(figures: Sequence[int]) -> None:
    assert Worker(GrowthSettings(baseline_ns=20 * EVERY)).uses("threads", sorted(figures, reverse=True)).told == []


@given(FIGURES)
def test_between_two_times_the_growth_has_doubled(figures: Sequence[int]) -> None:
    worker, warned = Worker(GrowthSettings(baseline_ns=SUSTAINED * EVERY)), []
    for figure in figures:
        for _ in range(SUSTAINED):
            before = len(worker.told)
            worker.uses("threads", [figure])
            if len(worker.told) > before:
                warned.append(worker.courses["threads"].warned or 0)
    most = worker.courses["threads"].most
    assert all(later - most > 2 * (earlier - most) for earlier, later in pairwise(warned))


@given(st.lists(st.integers(1, 500), min_size=300, max_size=300))
def test_what_only_grows_and_far_enough_is_told_of(steps: Sequence[int]) -> None:
    figures = [sum(steps[:look]) for look in range(len(steps))]
    worker = Worker(GrowthSettings(baseline_ns=20 * EVERY)).uses("threads", figures)
    course = worker.courses["threads"]
    far = figures[-SUSTAINED] > max(course.most * 1.5, course.most + 32)
    assert bool(worker.told) >= far


@given(FIGURES, FIGURES)
def test_the_next_supervisor_goes_on_as_if_it_were_the_same(before: Sequence[int], after: Sequence[int]) -> None:
    rule = GrowthSettings(baseline_ns=30 * EVERY)
    one = Worker(rule).uses("memory", [figure * MIB for figure in before])
    other = Worker(rule)
    other.looks = one.looks
    other.courses = growth.recall(growth.describe(one.courses, rule, one.now_ns))
    told = len(one.told)
    for worker in (one, other):
        worker.uses("memory", [figure * MIB for figure in after])
    assert (one.courses, one.told[told:]) == (other.courses, other.told)


@pytest.mark.parametrize(
    "damage",
    [None, [], {"memory": None}, {"memory": {}}, {"memory": {**Course(1, 2, 3)._asdict(), "most": None}},
     {"memory": {**Course(1, 2, 3)._asdict(), "looks": True}}],
)  # fmt: skip
def test_a_memory_that_is_not_whole_is_none(damage: object) -> None:
    with pytest.raises(ValueError, match="not the memory"):
        growth.recall(damage)


def test_a_resource_that_only_another_version_knows_is_left_out() -> None:
    assert growth.recall({"sockets": {}}) == {} and "sockets" not in RESOURCES

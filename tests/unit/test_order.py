"""Who waits for whom, and who goes along."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.pulses import deadlines
from watchdogd.decide.order import company, cycle, is_taken_along, is_up
from watchdogd.decide.orders import TAKEN_ALONG, WorkerState
from watchdogd.model import SECOND, Phase, WorkerSettings

NOW = 80 * SECOND
SETTINGS = WorkerSettings("b", ("b",), deadlines=deadlines(startup=5_000))


def test_those_who_wait_for_each_other_are_named_in_order() -> None:
    assert cycle({"x": ("a",), "a": ("b",), "b": ("c",), "c": ("a",)}) == ("a", "b", "c", "a")


def test_a_diamond_is_no_cycle() -> None:
    assert cycle({"a": ("b", "c"), "b": ("d",), "c": ("d", "unknown"), "d": ()}) is None


names = st.sampled_from("abcde")


@given(st.dictionaries(names, st.lists(names, max_size=3).map(tuple)))
def test_a_cycle_is_one_and_without_one_there_is_an_order(links: dict[str, tuple[str, ...]]) -> None:
    found = cycle(links)
    if found is None:
        placed: set[str] = set()
        for _ in links:
            placed |= {name for name, others in links.items() if {*others} & {*links} <= placed}
        assert placed == {*links}
    else:
        assert found[0] == found[-1] and len(found) > 1
        assert all(later in links[sooner] for sooner, later in pairwise(found))


def test_those_who_go_along_take_theirs_along_each_once() -> None:
    links = {"a": ("c", "b"), "c": ("d", "a"), "b": ("d",), "d": ("b",)}
    assert company("a", links) == ("c", "b", "d")
    assert company("d", links) == ("b",)
    assert company("alone", links) == ()


@pytest.mark.parametrize("phase", Phase)
def test_only_one_that_may_still_become_ready_is_waited_for(phase: Phase) -> None:
    not_coming = phase in (Phase.STOPPED, Phase.QUARANTINED)
    assert is_up(WorkerState("b", phase), SETTINGS, None, NOW) == not_coming


def test_one_that_is_ready_is_up() -> None:
    assert is_up(WorkerState("b", Phase.RUNNING, ready_ns=7), SETTINGS, NOW, NOW)


def test_nobody_waits_longer_than_its_startup_deadline() -> None:
    starting = WorkerState("b", Phase.STARTING)
    assert not is_up(starting, SETTINGS, NOW, NOW + 5 * SECOND - 1)
    assert is_up(starting, SETTINGS, NOW, NOW + 5 * SECOND)


def test_without_a_startup_deadline_it_is_waited_for() -> None:
    patient = SETTINGS._replace(deadlines=SETTINGS.deadlines._replace(startup_ns=None))
    assert not is_up(WorkerState("b", Phase.STARTING), patient, 0, 10**18)


def along(phase: Phase, **fields: object) -> WorkerState:
    return replace(WorkerState("b", phase, reason=TAKEN_ALONG, spawned_ns=NOW), **fields)  # type: ignore[arg-type]  # any of its fields


@pytest.mark.parametrize("phase", Phase)
def test_others_wait_while_one_is_taken_along(phase: Phase) -> None:
    under_way = phase in (Phase.TERMINATING, Phase.KILLING, Phase.STARTING)
    assert is_taken_along(along(phase), SETTINGS, NOW) == under_way
    assert not is_taken_along(along(phase, reason="call"), SETTINGS, NOW)


def test_others_wait_no_longer_than_its_startup_deadline() -> None:
    assert is_taken_along(along(Phase.STARTING), SETTINGS, NOW + 5 * SECOND - 1)
    assert not is_taken_along(along(Phase.STARTING), SETTINGS, NOW + 5 * SECOND)

"""What calls for an escalation begins once, and is over once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from watchdogd.act.causes import Causes
from watchdogd.act.watched import Watched
from watchdogd.decide.orders import OpenIncident
from watchdogd.model import SECOND, EscalationSettings, Finding, IncidentId, Phase, Verdict, WorkerSettings

NOW = 900 * SECOND
SETTINGS = EscalationSettings("reboot", hangs=3, window_ns=60 * SECOND)


def worker(name: str = "h", phase: Phase = Phase.RUNNING, accelerator: str | None = "gpu0", **keys: bool) -> Watched:
    made = Watched(WorkerSettings(name, (name,), accelerator=accelerator, **keys))  # type: ignore[arg-type]  # any of its fields
    made.state = replace(made.state, phase=phase, since_ns=NOW - SECOND)
    return made


def opening(verdict: Verdict = Verdict.CALL, would_kill: bool = False) -> OpenIncident:
    return OpenIncident(IncidentId("i7"), Finding(verdict, NOW), would_kill)


def names(causes: Causes, *workers: Watched, at_ns: int = NOW) -> list[str]:
    return [cause.name for cause in causes.now(workers, at_ns).values()]


@pytest.mark.parametrize("phase", Phase)
def test_only_an_unkillable_worker_or_one_in_quarantine_calls_for_it(phase: Phase) -> None:
    expected = {Phase.UNKILLABLE: ["unkillable h"], Phase.QUARANTINED: ["quarantined h"]}
    assert names(Causes(SETTINGS), worker(phase=phase)) == expected.get(phase, [])


@pytest.mark.parametrize(
    ("phase", "way_out"), [(Phase.UNKILLABLE, None), (Phase.QUARANTINED, "watchdogd reset h")], ids=str
)
def test_what_a_person_can_end_says_how(phase: Phase, way_out: str | None) -> None:
    assert [cause.way_out for cause in Causes(SETTINGS).now([worker(phase=phase)], NOW).values()] == [way_out]


def test_the_quarantine_of_a_worker_that_is_not_required_does_not() -> None:
    causes = Causes(SETTINGS)
    assert names(causes, worker(phase=Phase.QUARANTINED, required=False)) == []
    assert names(causes, worker(phase=Phase.UNKILLABLE, required=False)) == ["unkillable h"]


def test_more_probes_in_a_row_than_restarts_in_the_budget_that_find_no_usable_accelerator_call_for_it() -> None:
    causes, waiting = Causes(SETTINGS), worker(phase=Phase.BACKOFF)
    budget = waiting.settings.restart.budget
    found = []
    for probes in (budget, budget + 1, budget + 2):
        waiting.state = replace(waiting.state, unusable=probes, since_ns=NOW + probes)
        found.append(list(causes.now([waiting], NOW + probes).values()))
    assert found[0] == []
    assert [cause.reason for cause in found[1]] == ["h, which is required, cannot be started: gpu0 is not usable"]
    assert found[2] == found[1]  # not a new one with each probe
    waiting.state = replace(waiting.state, unusable=0)
    assert names(causes, waiting) == []


def test_a_worker_that_is_not_required_may_be_blocked() -> None:
    waiting = worker(phase=Phase.BACKOFF, required=False)
    waiting.state = replace(waiting.state, unusable=99)
    assert names(Causes(SETTINGS), waiting) == []


def test_what_stands_is_the_same_cause_and_what_comes_back_is_another() -> None:
    causes, stuck = Causes(SETTINGS), worker(phase=Phase.UNKILLABLE)
    (first,) = causes.now([stuck], NOW).values()
    assert list(causes.now([stuck], NOW + 9 * SECOND).values()) == [first]
    assert causes.now([worker()], NOW) == {}
    stuck.state = replace(stuck.state, since_ns=NOW)
    (second,) = causes.now([stuck], NOW).values()
    assert second != first


def test_so_many_hangs_on_one_accelerator_call_for_it_and_count_from_anew() -> None:
    causes, a, b = Causes(SETTINGS), worker("a"), worker("b")
    causes.hung(a, opening(), NOW)
    causes.hung(b, opening(), NOW + SECOND)
    assert names(causes, a, b) == []
    causes.hung(a, opening(), NOW + 2 * SECOND)
    (cause,) = causes.now([a, b], NOW + 2 * SECOND).values()
    assert (cause.name, cause.reason) == ("hangs gpu0", "3 hangs on gpu0 within 1 min, the last of a")
    causes.hung(a, opening(), NOW + 3 * SECOND)
    assert list(causes.now([a, b], NOW + 3 * SECOND).values()) == [cause]
    assert names(causes, a, b, at_ns=NOW + 62 * SECOND) == []  # over
    causes.hung(a, opening(), NOW + 62 * SECOND)
    assert names(causes, a, b, at_ns=NOW + 62 * SECOND) == []  # what was a cause already is no part of another
    causes.hung(a, opening(), NOW + 62 * SECOND)
    assert names(causes, a, b, at_ns=NOW + 62 * SECOND) == []  # nor is what came while it stood
    causes.hung(a, opening(), NOW + 62 * SECOND)
    assert names(causes, a, b, at_ns=NOW + 62 * SECOND) == ["hangs gpu0"]


def test_the_next_supervisor_goes_on_counting_and_knows_what_stands() -> None:
    before, a, b = Causes(SETTINGS), worker("a"), worker("b", accelerator="dla0")
    for number in range(3):
        before.hung(a, opening(), NOW + number)
    before.hung(b, opening(), NOW)
    after = Causes(SETTINGS)
    after.recall(json.loads(json.dumps(before.remember())))
    assert after.now([a, b], NOW + 9) == before.now([a, b], NOW + 9) != {}
    for causes in (before, after):
        causes.hung(b, opening(), NOW + 9)
        causes.hung(b, opening(), NOW + 9)
    assert after.now([a, b], NOW + 9) == before.now([a, b], NOW + 9)
    assert names(after, a, b, at_ns=NOW + 9) == ["hangs gpu0", "hangs dla0"]


def test_what_is_remembered_is_bounded() -> None:
    causes, a = Causes(replace(SETTINGS, hangs=1 << 20)), worker("a")
    for number in range(1000):
        causes.hung(a, opening(), NOW + number)
    assert causes.remember()["instants"]["gpu0"] == tuple(range(NOW + 950, NOW + 1000))


@pytest.mark.parametrize("told", [{}, {"hangs": [{}], "instants": {}}, {"hangs": [], "instants": {"gpu0": [None]}}])
def test_what_is_no_memory_is_not_taken_for_one(told: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Causes(SETTINGS).recall(told)


def test_hangs_on_different_accelerators_or_too_far_apart_do_not() -> None:
    causes, a, b = Causes(SETTINGS), worker("a"), worker("b", accelerator="dla0")
    for number, each in enumerate((a, b, a, b)):
        causes.hung(each, opening(), NOW + number)
    assert names(causes, a, b) == []
    causes.hung(a, opening(), NOW + 61 * SECOND)
    assert names(causes, a, b, at_ns=NOW + 61 * SECOND) == []


def test_neither_a_crash_nor_what_is_only_observed_nor_a_worker_without_accelerator_counts() -> None:
    causes, a, lost = Causes(SETTINGS), worker("a"), worker("lost", accelerator=None)
    for number in range(9):
        causes.hung(a, opening(Verdict.CRASHED), NOW + number)
        causes.hung(a, opening(would_kill=True), NOW + number)
        causes.hung(lost, opening(), NOW + number)
    assert names(causes, a, lost) == []


def test_without_a_number_no_hangs_call_for_it() -> None:
    causes, a = Causes(replace(SETTINGS, hangs=0)), worker("a")
    for number in range(9):
        causes.hung(a, opening(), NOW + number)
    assert names(causes, a) == []

"""The field's reports, played: each is told of by what can see it, and nobody is harmed for nothing."""

from __future__ import annotations

import pytest

from tests.helpers.running import ROOT
from tests.histories.field_cases import CASES, HARDWARE_ONLY, PROFILES, reports
from watchdogd import duration
from watchdogd.model import SECOND

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

from tests.histories import field, field_table
from tests.histories.field_told import Seen

REPORTS = reports()
FALSE_POSITIVE = 39


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Seen]:
    seen = field.guarded(field_table.played(), tmp_path_factory.mktemp("guarded"))
    return {each.case.n: each for each in seen}


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> set[int]:
    return field.alone(field_table.played(), tmp_path_factory.mktemp("alone"))


def test_every_report_is_a_case_or_said_to_be_for_a_hardware_watchdog_only() -> None:
    numbers = [case.n for case in CASES]
    assert len(numbers) == len(set(numbers))
    assert {*numbers, *HARDWARE_ONLY} == set(REPORTS)
    assert all(REPORTS[n].detectors == {"hw"} for n in HARDWARE_ONLY)


def test_no_settings_are_one_case_s_own() -> None:
    for profile in PROFILES:
        assert len([case for case in CASES if case.profile == profile]) > 10


@pytest.mark.parametrize("n", [case.n for case in CASES])
def test_a_report_is_told_of_by_what_can_see_it_and_dealt_with(n: int, found: dict[int, Seen]) -> None:
    if n not in found:
        pytest.skip("needs root and a cgroup v1 freezer")
    assert found[n].is_right(REPORTS[n]), found[n]


def test_what_a_deadline_tells_of_it_tells_when_that_has_passed_and_not_much_later(found: dict[int, Seen]) -> None:
    late = {}
    for n, seen in found.items():
        keys = {"sync": "sync", "othercall": "alloc", "progress": "step"}
        if seen.first in keys and not seen.case.keeps_a_core_busy:  # those are given time for starving each other
            deadline = duration.parse(PROFILES[seen.case.profile]["deadlines"][keys[seen.first]]) / SECOND
            if not 0.9 * deadline < seen.detectors[seen.first] < 2 * deadline + 1:
                late[n] = seen.detectors
    assert late == {}


def test_a_long_step_in_chunks_is_no_hang_and_not_even_late(found: dict[int, Seen], simple: set[int]) -> None:
    assert found[FALSE_POSITIVE].detectors == {}
    assert FALSE_POSITIVE not in simple


def test_the_page_says_what_was_seen(found: dict[int, Seen], simple: set[int]) -> None:
    if len(found) < len(CASES):
        pytest.skip("needs root and a cgroup v1 freezer")
    told, *_ = (ROOT / "docs/FIELD.md").read_text().partition(field_table.REST)
    assert field_table.timeless(told) == field_table.timeless(field_table.page([*found.values()], simple))

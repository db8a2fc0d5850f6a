"""Whose kill waits for the hook: only where it may veto, and never longer than its time."""

from __future__ import annotations

import pytest

from watchdogd.decide.veto import hold
from watchdogd.model import MILLISECOND, SECOND, HooksSettings

NOW = 70 * SECOND
SETTINGS = HooksSettings(("hook",), 200 * MILLISECOND, veto=True, veto_max_ns=3 * SECOND)


def test_a_kill_waits_for_the_answer() -> None:
    assert hold(SETTINGS, NOW, None, NOW) == "the on_verdict hook is asked"
    assert hold(SETTINGS, NOW, None, NOW + 200 * MILLISECOND - 1) is not None


def test_a_kill_does_not_wait_for_an_answer_that_does_not_come_in_time() -> None:
    assert hold(SETTINGS, NOW, None, NOW + 200 * MILLISECOND) is None


def test_a_kill_waits_while_it_is_vetoed() -> None:
    assert hold(SETTINGS, NOW, True, NOW + 3 * SECOND - 1) == "vetoed by the on_verdict hook"


def test_a_veto_holds_no_longer_than_its_longest_time() -> None:
    assert hold(SETTINGS, NOW, True, NOW + 3 * SECOND) is None


def test_a_kill_does_not_wait_once_the_hook_has_not_vetoed_it() -> None:
    assert hold(SETTINGS, NOW, False, NOW + 1) is None


@pytest.mark.parametrize("vetoed", [None, True, False])
@pytest.mark.parametrize("without", [SETTINGS._replace(veto=False), SETTINGS._replace(on_verdict=())])
def test_no_kill_waits_where_nobody_may_veto_it(without: HooksSettings, vetoed: bool | None) -> None:
    assert hold(without, NOW, vetoed, NOW) is None

"""What `exec` says on standard error, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.publish import brief

S = 10**9
HANG: dict[str, Any] = {
    "kind": "verdict", "verdict": "call", "operation": "sync", "stage": None, "pid": 7, "tid": 8,
    "time": "2026-11-21T10:00:05Z", "entered_ns": 10 * S, "armed_ns": None, "deadline_ns": 12 * S,
    "detected_ns": 12 * S + S // 1000,
    "detail": "thread state S",
}  # fmt: skip


def test_a_verdict_says_what_who_since_when_and_the_deadline() -> None:
    told = brief.line(HANG) or ""
    assert told.startswith("watchdogd: verdict call sync: pid 7 thread 8 since ")
    assert told.endswith(":02.999 (2.001 s); deadline 2.000 s; thread state S")


def test_a_stall_says_for_how_long_and_no_deadline_that_nobody_has_set() -> None:
    told = brief.line({**HANG, "verdict": "stall", "operation": None}) or ""
    assert "(2.001 s); thread state S" in told and "deadline" not in told


def test_a_verdict_with_an_incident_is_not_called_only_told() -> None:
    assert "only told" not in (brief.line({**HANG, "entered_ns": None, "incident": "i"}) or "")


def test_a_deadline_counts_from_when_the_worker_was_armed() -> None:
    assert "deadline 0.500 s" in (brief.line({**HANG, "armed_ns": 11 * S + S // 2}) or "")


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "verdict", "verdict": "crashed", "detail": "exited with status 1"},
        {"kind": "verdict", "verdict": "crashed", "detail": "killed by signal 9"},
        {"kind": "phase", "phase": "starting", "incarnation": 1},
        {"kind": "gone", "descendants_killed": 0},
        {"kind": "supervisor", "change": "started"},
        {"kind": "source", "source": "exporter", "up": True},
        {"kind": "ready"},
        {},
    ],
)
def test_what_the_exit_status_says_anyway_and_what_is_as_it_should_be_is_not_said(event: dict[str, Any]) -> None:
    assert brief.line(event) is None


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"kind": "verdict", "verdict": "crashed", "detail": "x: no; exited with status 126"}, "watchdogd: x: no"),
        ({"kind": "verdict", "verdict": "uninstrumented", "detail": "no call seen"}, "uninstrumented: no call seen"),
        ({"kind": "verdict", "verdict": "stall", "detail": "no answer"}, "only told, nobody is ended for it"),
        ({**HANG, "would_have_killed": True}, "only observed, not ended"),
        ({**HANG, "held": "a reason"}, "its end waits: a reason"),
        ({"kind": "phase", "phase": "starting", "incarnation": 2}, "started again, incarnation 2"),
        ({"kind": "phase", "phase": "unkillable"}, "SIGKILL did not end it"),
        ({"kind": "gone", "descendants_killed": 2}, "have been ended: 2"),
        ({"kind": "supervisor", "change": "problem", "reason": "bad"}, "bad"),
        ({"kind": "source", "source": "exporter", "up": False, "reason": "taken"}, "exporter: taken"),
    ],
)  # fmt: skip
def test_what_a_person_must_know_is_said(event: dict[str, Any], told: str) -> None:
    assert told in (brief.line(event) or "")


anything = st.none() | st.integers() | st.text() | st.booleans() | st.lists(st.integers(), max_size=2)


@given(st.sampled_from(["verdict", "phase", "gone", "supervisor", "source"]), st.dictionaries(st.sampled_from(
    [*HANG, "phase", "incarnation", "change", "reason", "up", "descendants_killed", "held"]), anything))  # fmt: skip
def test_no_event_makes_it_raise_or_say_two_lines(kind: str, fields: dict[str, Any]) -> None:
    told = brief.line({**fields, "kind": kind})
    assert told is None or told.isprintable()

"""Durations: exact both ways, and nothing that is not one passes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd import duration


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("250us", 250_000),
        ("200ms", 200_000_000),
        ("1.5s", 1_500_000_000),
        ("2m", 120_000_000_000),
        ("1h", 3_600_000_000_000),
        ("0.1s", 100_000_000),
        ("0.001us", 1),
        ("0s", 0),
        ("8784h", duration.LONGEST_NS),
    ],
)
def test_a_duration_is_read_exactly(text: str, ns: int) -> None:
    assert duration.parse(text) == ns


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-1s", "negative"),
        ("2", "not a duration"),
        ("", "not a duration"),
        ("s", "not a duration"),
        ("2 s", "not a duration"),
        ("2S", "not a duration"),
        ("2d", "not a duration"),
        (".5s", "not a duration"),
        ("1.s", "not a duration"),
        ("1e3s", "not a duration"),
        ("1s\n", "not a duration"),
        ("٣s", "not a duration"),  # a digit to Python's \d and int(), not to a reader
        ("0.0001us", "finer than a nanosecond"),
        ("8785h", "longer than a year"),
        ("9" * 5000 + "s", "not a duration"),
    ],
)
def test_what_is_not_a_duration_is_refused_and_told_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        duration.parse(text)


@pytest.mark.parametrize("text", ["250us", "200ms", "1500ms", "2m", "90s", "1h", "0s", "1.001us"])
def test_a_duration_is_shown_in_the_largest_unit_that_holds_it_whole(text: str) -> None:
    assert duration.show(duration.parse(text)) == text


@settings(deadline=None)  # a test machine may stall
@given(st.integers(0, duration.LONGEST_NS))
def test_what_is_shown_reads_as_the_same_duration(ns: int) -> None:
    assert duration.parse(duration.show(ns)) == ns


@settings(deadline=None)  # a test machine may stall
@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert 0 <= duration.parse(text) <= duration.LONGEST_NS

"""When a run of bad outputs is a verdict, and what may make of it what it says."""

from __future__ import annotations

import pytest

from tests.helpers.pulses import SPAWNED, ms, pulse
from watchdogd import abi, bad_outputs
from watchdogd.decide import facts, outputs
from watchdogd.model import OutputSettings, Verdict

RULE = OutputSettings(bad_in_a_row=5)


def word(length: int, kind: str = "zero", begun_ms: float = 100) -> int:
    return abi.run_of_bad(ms(begun_ms), length, kind)


@pytest.mark.parametrize("kind", abi.OUTPUTS[1:])
def test_a_run_as_long_as_the_rule_is_a_verdict(kind: str) -> None:
    found = outputs.silent(pulse(bad_outputs=word(5, kind)), RULE, ms(300))
    assert found is not None
    assert (found.verdict, found.word, found.offset) == (Verdict.SILENT_OUTPUT, word(5, kind), abi.H["bad_outputs"] * 8)
    assert found.entered_ns == ms(100) & ~abi.ERROR_MASK
    assert found.detail.startswith("5 bad outputs in a row, the last one ")


@pytest.mark.parametrize(
    "said",
    [
        word(4),
        0,
        word(255) & ~abi.CODE_MASK,  # of no kind
        word(255) & ~abi.CODE_MASK | len(abi.OUTPUTS),  # of one that is not known yet
        abi.run_of_bad(SPAWNED - abi.ERROR_MASK - 1, 200, "nan"),  # before its process
        word(200, begun_ms=1400),  # more than a second ahead
    ],
)
def test_any_other_word_is_none(said: int) -> None:
    assert outputs.silent(pulse(bad_outputs=said), RULE, ms(300)) is None


def test_a_run_that_stood_there_before_is_a_verdict_when_it_grows() -> None:
    left = word(7)
    assert outputs.silent(pulse(bad_outputs=left), RULE, ms(300), left) is None
    assert outputs.silent(pulse(bad_outputs=word(8)), RULE, ms(300), left) is not None
    assert outputs.silent(pulse(bad_outputs=word(7, begun_ms=200)), RULE, ms(300), left) is not None


def test_a_run_too_long_to_show_that_it_grows_is_a_verdict_at_once() -> None:
    longest = word(abi.MOST_IN_A_ROW)
    assert outputs.silent(pulse(bad_outputs=longest), RULE, ms(300), longest) is not None


def test_without_a_rule_there_is_no_verdict() -> None:
    assert outputs.silent(pulse(bad_outputs=word(255)), OutputSettings(), ms(300)) is None


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (1, "1 bad output, the last one all zero"),
        (7, "7 bad outputs in a row, the last one all zero"),
        (300, "255 or more bad outputs in a row, the last one all zero"),
    ],
)
def test_a_run_in_words(length: int, text: str) -> None:
    assert str(bad_outputs.under_way(pulse(bad_outputs=word(length)), ms(300))) == text


def test_a_run_that_goes_on_is_the_same_fact_and_another_one_is_not() -> None:
    found = outputs.silent(pulse(bad_outputs=word(5)), RULE, ms(300))
    assert found is not None
    assert facts.stands(found, word(9, "nan")) and facts.fact(found) == (bad_outputs.OFFSET, word(0, "good"))
    for other in (0, word(5, begun_ms=101), None):
        assert not facts.stands(found, other)

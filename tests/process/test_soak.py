"""The soak, short: one fault of most kinds on the six models, each found, told as what it is, and recovered from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.soak import __main__ as program
from tests.bench.soak import conductor
from tests.bench.soak.kinds import BY_NAME
from tests.bench.soak.report import page

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

# All but those that last for seconds by themselves, and one of those that differ by a word.
PLAYED = (
    ("device frozen by the DLA",),
    ("process frozen",),
    ("hang in free",),
    ("alloc against free",),
    ("waits for a lock",),
    ("first step hangs",),
    ("sticky error",),
    ("context fails",),
    ("context lost",),
    ("error that is not sticky",),
    ("outputs all zero",),
    ("outputs stale",),
    ("SIGSEGV",),
    ("SIGKILL by a stranger",),
    ("slow, below the deadline",),
    ("restart by an operator",),
    ("kernel tells of a fault",),
    ("SIGKILL of the supervisor",),
    ("hang in copy", "exit(1)"),
)
SECONDS = 200.0  # at most


def test_each_kind_of_fault_is_found_and_recovered_from_and_nothing_else_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "QUIET_SECONDS", 3.0)
    monkeypatch.setattr(conductor, "LONGEST_PAUSE_SECONDS", 0.2)
    cards = [tuple(BY_NAME[name] for name in names) for names in PLAYED]
    judgement, run = program.soak(tmp_path / "soak", SECONDS, 1, cards)
    told = page(judgement, run)
    assert judgement.is_clean, told
    assert run.ended == "", told
    assert len(judgement.judged) == sum(map(len, PLAYED))
    lost, due = run.quiet
    assert lost < due / 2, "the models do their frames"

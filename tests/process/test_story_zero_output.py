"""`make demo STORY=zero-output` tells what it saw, and fails where the guard is missing."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.demo import __main__ as demo
from tests.demo import zero_output
from tests.demo.story import ROOT

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")


def test_zeros_come_with_no_order_and_with_each_guard_they_do_not_or_are_noticed() -> None:
    line = [sys.executable, "-m", "tests.demo", "--story", "zero-output"]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = ran.stdout
    found = re.search(r"(\d+) of 200 outputs all zero, at random; every call succeeded", told)
    assert found is not None and 0 < int(found[1]) < 200
    assert 'order="insert": 0 of 200 all zero, each one right' in told
    assert re.search(r"OrderError in frame 1: Buffer .* was written in CUstream .* is used in CUstream", told)
    assert "verdict silent_output" in told
    assert "50 of 50 good" in told


def test_without_the_rule_the_story_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(zero_output, "RULE", {})
    monkeypatch.setattr(zero_output, "FRAMES", 50)
    monkeypatch.setattr(zero_output, "VERDICT_SECONDS", 2.0)
    monkeypatch.setattr(sys, "argv", ["demo", "--story", "zero-output"])
    assert demo.main() == 1
    told = capsys.readouterr()
    assert "FAILED: a verdict was not observed within 2 s" in told.err
    assert "All of this was observed" not in told.out

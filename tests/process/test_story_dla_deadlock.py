"""`make demo STORY=dla-deadlock` tells what it saw, and fails where a part of it did not happen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.demo import dla_guarded, dla_unguarded, vehicle
from tests.demo.story import ROOT, NotObserved
from tests.simulator.control import SimulatedDevice

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")


def test_the_deadlock_comes_as_reported_and_by_neither_cure() -> None:
    line = [sys.executable, "-m", "tests.demo", "--story", "dla-deadlock"]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = ran.stdout
    assert "all six threads stand in Stream.synchronize" in told
    assert re.search(r"frames/s before, 0 after; GPU load .* before, 100 % in each of", told)
    assert "the same fault came in none of" in told
    assert told.count("killed: H alone, the suspect") == 2
    rows = {line.split("  ")[0]: line for line in told.splitlines()}
    assert "never" in rows["one context, unguarded"]
    assert "nobody" in rows["contexts apart, the same fault"]
    assert "all six" in rows["contexts apart, H's context"]
    assert re.search(r"ms +H +0 +\d+ +\d+ ms$", rows["a process each, H's process"])
    assert re.search(r"A to E \+5 ms .* ms +H +[1-9]", rows["a process each, the device"])


@pytest.mark.parametrize(
    ("change", "seconds", "missed"),
    [({"heal_ms": 1000}, 10.0, "the load did not stand still"), ({"at": "dla1"}, 2.0, "H beside work of A to E")],
    ids=["a freeze that heals", "a freeze that nothing sets off"],
)
def test_what_does_not_happen_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], seconds: float, missed: str
) -> None:
    monkeypatch.setattr(dla_unguarded, "FREEZE_SECONDS", seconds)
    monkeypatch.setattr(dla_unguarded, "FREEZE", {**dla_unguarded.FREEZE, **change})
    vehicle.write_plans(tmp_path)
    with SimulatedDevice(tmp_path / "device") as device, pytest.raises(NotObserved, match=missed):
        dla_unguarded.unguarded(tmp_path, device, print)


def test_without_the_cure_the_story_of_the_cure_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dla_guarded, "CONTEXTS", "shared")
    vehicle.write_plans(tmp_path)
    with SimulatedDevice(tmp_path / "device") as device, pytest.raises(NotObserved, match="H froze beside the others"):
        dla_guarded.apart(tmp_path, device, print)

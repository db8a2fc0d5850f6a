"""The allocator's deadlocks on the simulated driver, under a real supervisor: both sides are named; guarded, none is.

Unguarded, two threads of one worker wait for each other in the driver, or in it and in a mutex around the allocator.
The workers are those of ``make demo STORY=allocator``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.demo import allocator
from tests.demo.allocator_cases import CASES, COUNTED, deadlock, guarded, meet, supervised, unguarded
from tests.demo.counters import Counters
from tests.demo.story import ROOT, NotObserved
from tests.helpers.running import Supervised, wait_until, worker
from tests.simulator.control import SimulatedDevice
from watchdogd.view import status, status_table

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")


def shown(supervisor: Supervised) -> str:
    return status_table.table(status.collect(str(supervisor.runtime), time.monotonic_ns(), None), 200, False)


@pytest.mark.parametrize("name", CASES)
def test_a_deadlock_is_told_with_the_operations_of_both_sides(tmp_path: Path, name: str) -> None:
    with SimulatedDevice(tmp_path / "device") as device:
        body = supervised(unguarded(name, tmp_path), device, name)
        with Supervised({"a": body}) as supervisor:
            supervisor.wait_phase("a", "running", 1)
            meet(name, device, tmp_path)
            verdict = supervisor.wait_event("verdict", "a")
            assert verdict["verdict"] == "call"
            (other,) = verdict["also_in_flight"]
            assert {verdict["operation"], other["operation"]} == CASES[name].sides
            assert verdict["tid"] != other["tid"]
            incident = supervisor.wait_phase("a", "running", 2)["last_incident"]
            assert incident["also_in_flight"] == [other["operation"]]
            assert f"call {verdict['operation']} (with {other['operation']} in flight)" in shown(supervisor)
            if CASES[name].calls is None:
                assert "host function" in (verdict["stage"], other["stage"])


def test_a_hang_beside_which_nothing_is_in_flight_names_nothing() -> None:
    hung = 'worker.ready()\nwith worker.call("other"), worker.call("free"): hang()'
    with Supervised({"a": worker(hung, deadlines={"free": "100ms"})}) as supervisor:
        verdict = supervisor.wait_event("verdict", "a")
        assert (verdict["operation"], verdict["also_in_flight"]) == ("free", [])
        assert "also_in_flight" not in supervisor.worker("a")["last_incident"]


def test_with_the_guards_none_of_them_happens(tmp_path: Path) -> None:
    with SimulatedDevice(tmp_path / "device") as device:
        body = supervised(guarded(tmp_path), device, "a", step="2s")
        with Supervised({"a": body}) as supervisor:
            supervisor.wait_phase("a", "running", 1)
            faults = [fault for name in CASES if (fault := deadlock(name, device, "a"))]
            counters = Counters(tmp_path / "guarded.counters", COUNTED)
            wait_until(lambda: counters["callbacks"] > 100, what=supervisor.log)
            assert [fault.fired for fault in faults] == [0, 0]
            assert supervisor.events("verdict", "a") == []


# The story as a whole.


def test_the_story_is_told_from_the_command_line() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.demo", "--story", "allocator"], cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, "")
    for case in CASES.values():
        assert f"  {case.words}: " in told.stdout
    assert told.stdout.count("operations, then none for 1.5 s, no error, no exit") == len(CASES)
    assert told.stdout.count("other (host function) in thread") == 1
    assert told.stdout.count(", SIGKILL, gone after ") == len(CASES)
    assert "2 faults in force, 0 fired, 0 verdicts" in told.stdout
    assert "a CUDA call in a callback: HostFunctionError: cuMemAlloc: no CUDA call is allowed" in told.stdout
    assert told.stdout.endswith("All of this was observed.\n")


def test_the_story_fails_where_our_allocator_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "STILL_SECONDS", 0.5)
    said: list[str] = []

    def unguarded_all_the_same(directory: Path) -> list[str]:
        managed = unguarded("managed", directory)
        return [str(directory / "guarded.counters") if word.endswith(".counters") else word for word in managed]

    with pytest.raises(NotObserved, match=r"deadlocks do happen: \[1, 0\] fired"):
        allocator.play(tmp_path, said.append, unguarded_all_the_same)
    assert sum(", SIGKILL, gone after " in line for line in said) == len(CASES)


def test_the_story_fails_where_nothing_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "meet", lambda *_: None)
    monkeypatch.setattr(allocator, "PATIENCE_SECONDS", 2.5)
    with pytest.raises(NotObserved, match=r"no operation of any for 1.5 s was not observed"):
        allocator.play(tmp_path, print)


def test_the_story_fails_where_nobody_looks_at_deadlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "supervised", lambda *given: {**supervised(*given), "deadlines": {}})
    monkeypatch.setattr(allocator, "STILL_SECONDS", 0.5)
    monkeypatch.setattr(allocator, "PATIENCE_SECONDS", 2.5)
    with pytest.raises(NotObserved, match="managed alloc against free: verdict of incarnation 1 was not observed"):
        allocator.play(tmp_path, print)

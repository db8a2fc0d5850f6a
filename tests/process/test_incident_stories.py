"""The four stories from the field, on the simulated driver: the next morning, the first three lines tell the cause.

The parts of ``make demo STORY=...`` that have a supervisor are run as they are there; then the program is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.demo import allocator, dla_guarded, lost_context, vehicle, zero_output, zero_worker
from tests.helpers.running import Supervised
from tests.process.test_cli import run
from tests.simulator.control import SimulatedDevice

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

SAME_MOMENT = r"nobody stood still in a call|not known; in a call at the verdict: {0} \(.*\)"
CALL = r"in stage sync of worker {0} \(thread \d+ '{1}'\)"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as made:
        yield made


def with_all_evidence(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    class WithAllEvidence(Supervised):
        def __init__(self, workers: dict[str, dict[str, Any]], **more: Any) -> None:
            super().__init__({name: {**keys, "evidence": "full"} for name, keys in workers.items()}, **more)

    monkeypatch.setattr(module, "Supervised", WithAllEvidence)


def first_lines(directory: Path, incident: str = "last") -> tuple[str, str, str]:
    """What hung, the cause, who was first; what each line begins with is left out."""
    whole = {"COLUMNS": "0"}  # no line is wrapped
    shown = run("incidents", "show", incident, "-c", directory / "watchdogd.toml", env=whole).stdout.splitlines()
    assert [line[:10].strip() for line in shown[:3]] == ["what", "cause", "first"]
    what, cause, first = (line[10:] for line in shown[:3])
    return what, cause, first


def kept(directory: Path) -> list[dict[str, Any]]:
    """The oldest first."""
    told = run("incidents", "--json", "-c", directory / "watchdogd.toml").stdout.splitlines()
    return [json.loads(line) for line in told]


def full(incident: dict[str, Any]) -> bool:
    return any(one["collector"] == "proc" and one["outcome"] == "ok" for one in incident.get("collectors", ()))


@pytest.mark.parametrize("level", ["memory", "full"])
def test_a_freeze_of_the_dla_is_laid_to_it_in_each_of_its_incidents(
    tmp_path: Path, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    if level == "full":
        with_all_evidence(monkeypatch, dla_guarded)
    vehicle.write_plans(tmp_path)
    dla_guarded.processes(tmp_path, device, print)
    alone, *together = kept(tmp_path / "supervisor")
    assert full(alone) is (level == "full")

    what, cause, first = first_lines(tmp_path / "supervisor", alone["id"])
    assert what.startswith("model_h#1 hung: call sync on dla0, pid ")
    assert re.search(CALL.format("model_h", "model_h"), cause)
    assert "its task on dla0 or a kernel of its own on the GPU does not end" in cause
    assert cause.endswith("no worker coupled with it stood still.") and first.startswith("model_h (sync ")

    # Whichever of the models had its verdict last.
    assert "dla_first: The DLA was first: " in first_lines(tmp_path / "supervisor")[1]
    assert "model_h" in {incident["worker"] for incident in together}
    for incident in together:
        what, cause, first = first_lines(tmp_path / "supervisor", incident["id"])
        if incident["worker"] == "model_h":
            assert re.search(
                f"The DLA was first: sync {CALL.format('model_h', 'model_h')} on dla0 does not return", cause
            )
            assert re.search(
                r"; model_\w, .* on the GPU stood still too, the first call of them .* went on once it", cause
            )
        else:
            assert "The DLA was first: worker model_h on dla0, its sync in stage sync entered " in cause
            assert re.search(rf"was killed, and .* later sync {CALL.format(*[incident['worker']] * 2)} returned", cause)
        assert first.startswith("model_h (sync ")


def test_a_freeze_in_one_of_a_process_s_contexts_is_laid_to_the_thread_of_that_model(
    tmp_path: Path, device: SimulatedDevice
) -> None:
    vehicle.write_plans(tmp_path)
    dla_guarded.apart(tmp_path, device, print)
    what, cause, first = first_lines(tmp_path / "supervisor")
    assert what.startswith("vehicle#1 hung: call sync on gpu0, pid ")
    assert re.search(CALL.format("vehicle", "model_h"), cause)
    assert cause.endswith("; 5 other threads of the process go on.")
    assert first.startswith("vehicle (sync ")


@pytest.mark.parametrize("level", ["memory", "full"])
def test_a_deadlock_of_an_allocator_is_told_with_both_of_its_threads(
    tmp_path: Path, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    if level == "full":
        with_all_evidence(monkeypatch, allocator)
    found = allocator.are_found(tmp_path, device, print)
    told = {name: first_lines(tmp_path, one.incident) for name, one in found.items()}
    assert all(what.startswith(f"{name}#1 hung: call ") for name, (what, _, _) in told.items())
    assert all(first.startswith(f"{name} (") for name, (_, _, first) in told.items())
    thread, both = r"\(thread \d+\)", "allocator_deadlock: Two threads of worker {0} wait for each other: "
    for name, sides in (("managed", ("alloc", "free")), ("launch", ("launch", "free"))):
        assert told[name][1].startswith(both.format(name))
        assert all(re.search(rf"\b{side} {thread}", told[name][1]) for side in sides)
    host = rf"host_function: A host function of worker mutex {thread}.* does not return since .*, and free {thread}"
    assert re.match(host, told["mutex"][1])
    assert first_lines(tmp_path)[1].startswith(("allocator_deadlock: ", "host_function: "))


def test_an_output_that_is_all_zero_with_no_error_is_told_as_such(tmp_path: Path, device: SimulatedDevice) -> None:
    plan = tmp_path / "detector.plan"
    plan.write_bytes(zero_worker.content())
    zero_output._judged(tmp_path, plan, device)
    what, cause, first = first_lines(tmp_path / "supervisor")
    assert re.match(
        r"detector#1 was judged: silent_output on gpu0, .*; \d+ bad outputs in a row, the last one all", what
    )
    said = r"silent_output: Worker detector gave bad outputs with no error: \d+ in a row, kind zero, .*its calls return"
    assert re.match(said, cause)
    assert re.fullmatch(SAME_MOMENT.format("detector"), first)


def test_an_error_of_a_context_that_ends_a_worker_is_told_with_what_it_met(
    tmp_path: Path, device: SimulatedDevice
) -> None:
    lost_context.are_told(tmp_path, device, print)
    incidents = {incident["worker"]: incident["id"] for incident in kept(tmp_path / "supervisor")}
    assert set(incidents) == {"no-context", "destroyed"}
    told = {name: first_lines(tmp_path / "supervisor", incident) for name, incident in incidents.items()}
    for name, (what, cause, first) in told.items():
        assert what.startswith(f"{name}#1 ended: crashed on gpu0") and what.endswith("; exited with status 1")
        assert cause.startswith(f"lost_context: Worker {name} met a CUDA context that was not ")
        (other,) = incidents.keys() - {name}
        assert re.fullmatch(SAME_MOMENT.format(other), first), first  # whose calls take a millisecond
    none = r"a call found none \(thread \d+ of pid \d+: context 0x0 in place of 0x[1-9a-f]\w+\), then it exited"
    assert re.search(none, told["no-context"][1])
    assert "its last CUDA error was CUDA_ERROR_CONTEXT_IS_DESTROYED (709), then it exited" in told["destroyed"][1]

"""The three deadlocks of the story ``allocator``, and what its workers count. For the story and for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tests.demo.story import ROOT, command
from tests.simulator.control import Fault, SimulatedDevice

COUNTED = ("allocations", "launches", "frees", "callbacks", "given_back", "backlog")
BACKLOG = 64  # buffers that may wait to be freed
DEADLINE_MS = 200
WINDOW_MS = 1  # by which each call is longer, so that two may meet
DEADLINES = dict.fromkeys(("alloc", "free", "launch", "other"), f"{DEADLINE_MS}ms")


class Case(NamedTuple):
    words: str
    calls: str | None  # of the simulated driver, that wait for each other; None: the driver and a mutex do
    sides: frozenset[str]  # as a heartbeat names them


CASES = {
    "managed": Case("managed alloc against free", "alloc_managed,free", frozenset({"alloc", "free"})),
    "launch": Case("launch against free", "launch,free", frozenset({"launch", "free"})),
    "mutex": Case("free under a mutex", None, frozenset({"free", "other"})),
}


def unguarded(name: str, directory: Path) -> list[str]:
    """The command of a worker that such a deadlock can befall."""
    return command("tests.demo.allocator_unguarded", name, directory / f"{name}.counters", directory / f"{name}.go")


def guarded(directory: Path) -> list[str]:
    """The command of the worker with our allocator."""
    return command("tests.demo.allocator_guarded", directory / "guarded.counters", directory / "guarded.words")


def supervised(line: list[str], device: SimulatedDevice, label: str, **deadlines: str) -> dict[str, Any]:
    """The configuration of such a worker."""
    environment = device.environment(label)
    limits = {**DEADLINES, **deadlines}
    return {"command": line, "working_directory": str(ROOT), "environment": environment, "deadlines": limits}


def deadlock(name: str, device: SimulatedDevice, label: str, times: int = 0) -> Fault | None:
    """From now on two such calls of that worker wait for each other for ever if they meet. None: no fault is needed."""
    calls = CASES[name].calls
    if calls is None:
        return None
    return device.fault("deadlock", label=label, calls=calls, window_ms=WINDOW_MS, times=times)


def meet(name: str, device: SimulatedDevice, directory: Path) -> Fault | None:
    """From now on the two sides meet, once."""
    fault = deadlock(name, device, name, times=1)
    if fault is None:
        directory.joinpath(f"{name}.go").touch()
    return fault

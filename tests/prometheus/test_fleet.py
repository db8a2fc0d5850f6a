"""The figures of docs/FLEET.md, against what /metrics really has."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from tests.helpers.fake_runtime import ACCELERATOR, KERNEL, SOURCE, FakeRuntime
from tests.helpers.running import ROOT
from watchdogd import abi
from watchdogd.exporter.collector import Exposition

PAGE = (ROOT / "docs" / "FLEET.md").read_text(encoding="utf-8")


def figures() -> dict[str, int]:
    table = PAGE.split("compares -->\n", 1)[1].split("<!-- end", 1)[0]
    return {of: int(number) for of, number in re.findall(r"^\| (.+) \| (\d+) \|$", table, re.MULTILINE)}


GETS_ON: dict[str, object] = {"unknown": "", "failing": False}


@pytest.fixture
def series(tmp_path: Path) -> Callable[..., list[str]]:
    """The names of all series of a vehicle that has so much."""
    made = count()

    def series(
        workers: int = 0,
        sources: int = 0,
        accelerators: int = 0,
        deadlines: int = 0,
        flying: int = 0,
        kernel: bool = False,
        shim: dict[str, object] | None = None,
        progress: dict[str, object] | None = None,
    ) -> list[str]:
        directory = tmp_path / str(next(made))
        directory.mkdir()
        runtime = FakeRuntime(directory)
        now_ns = time.monotonic_ns()
        limits = {"startup": 60.0, **dict.fromkeys(abi.OPERATIONS[1 : deadlines + 1], 0.1)}
        beats = [
            runtime.incarnation(f"model_{number}", 1, deadlines=limits, shim=shim, progress=progress)
            for number in range(workers)
        ]
        runtime.sources = [{**SOURCE, "name": f"source_{number}", "sample_ns": now_ns} for number in range(sources)]
        runtime.accelerators = [
            {**ACCELERATOR, "name": f"gpu{number}", "source": "source_0", "device": None}
            for number in range(accelerators)
        ]
        runtime.kernel = KERNEL if kernel else None
        runtime.publish()
        exposition = Exposition(str(directory))
        for steps in (1, 2):  # the time of a step is known once one was seen to be done
            for beat in beats:
                beat.lane(0, steps_done=steps)
                for operation in abi.OPERATIONS[1 : flying + 1]:
                    beat.enter(abi.OPERATION[operation], operation, now_ns)
            exposition.look()
        lines = exposition.page().body.decode().splitlines()
        return [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]

    return series


def test_the_figures_of_the_fleet_page_are_those_of_the_metrics(series: Callable[..., list[str]]) -> None:
    none, worker, source = len(series()), series(workers=1), len(series(sources=1))
    assert figures() == {
        "a vehicle, before workers and accelerators": none,
        "a kernel log, beside its 4 as a source": len(series(kernel=True)) - none,
        "each load source": source - none,
        "each accelerator with a load": len(series(sources=1, accelerators=1)) - source,
        "each worker, with no deadline but `startup`": len(worker) - none,
        "of these, call durations (7 operations)": sum("call_duration_seconds" in name for name in worker),
        "each further deadline of a worker": (len(series(workers=1, deadlines=5)) - len(worker)) // 5,
        "a source of progress of a worker": len(series(workers=1, progress=GETS_ON)) - len(worker),
        "a driver shim in front of a worker": len(series(workers=1, shim={"why": ""})) - len(worker),
        "each operation in flight at the scrape": (len(series(workers=1, flying=3)) - len(worker)) // 3,
    }


def test_workers_add_up_and_nothing_else_grows_with_them(series: Callable[..., list[str]]) -> None:
    none, one, six = (len(series(workers=workers)) for workers in (0, 1, 6))
    assert six - none == 6 * (one - none)


def test_the_vehicle_of_the_page_has_as_many_series_as_it_says(series: Callable[..., list[str]]) -> None:
    names = series(workers=6, sources=1, accelerators=3, deadlines=5)
    assert f"about {round(len(names), -2):,} series" in PAGE
    assert len(set(names)) == len(names)
    left = [name for name in names if "call_duration_seconds" not in name]
    assert 0.4 < len(left) / len(names) < 0.5

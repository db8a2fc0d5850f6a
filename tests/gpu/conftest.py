"""The machine that a GPU test runs on: the real one (marked ``gpu``), or the simulated driver, to keep the tests true.

Invariant: what was simulated is never among the results.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from tests.gpu.results import Results
from tests.helpers.worker_process import ROOT
from tests.simulator.control import SimulatedDevice

LIMIT_SECONDS = 150
RESULTS = "WATCHDOGD_GPU_RESULTS"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", metavar="FILE", help=f"JSON of what the GPU tests measured (or ${RESULTS})")


@dataclass(frozen=True)
class Machine:
    """Where the programs run, and how long a story takes there."""

    environment: dict[str, str]
    real: bool
    deadline: str
    frames: int  # measured before and after the hang
    rounds: int


@pytest.fixture(scope="session")
def nvml_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    source = ROOT / "tests/fixtures/nvml/stand_in.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True, timeout=60)
    return folder


@pytest.fixture(params=[pytest.param("real", marks=pytest.mark.gpu), "simulated"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    if request.param == "real":
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            pytest.skip(f"no CUDA driver here: {error}")
        yield Machine({}, True, "2s", frames=300, rounds=20_000)
        return
    nvml = request.getfixturevalue("nvml_stand_in")
    with SimulatedDevice(tmp_path / "device") as device:
        environment = device.environment("gpu")
        environment["LD_LIBRARY_PATH"] += f":{nvml}"
        environment["NVML_STAND_IN"] = "0 0 37 Simulated"
        yield Machine(environment, False, "300ms", frames=30, rounds=500)


@pytest.fixture(scope="session")
def real_results(request: pytest.FixtureRequest) -> Iterator[Results]:
    results = Results()
    yield results
    results.write(request.config.getoption("--results", None) or os.environ.get(RESULTS))


@pytest.fixture
def results(machine: Machine, request: pytest.FixtureRequest) -> Results:
    """Where a test adds what it measured."""
    if not machine.real:
        return Results()
    real: Results = request.getfixturevalue("real_results")
    return real


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """No test may take a borrowed machine for long: it fails then, and what it started is ended as ever."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {LIMIT_SECONDS} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(LIMIT_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)

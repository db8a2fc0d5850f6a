"""`watchdogd exec` of programs that know nothing of us: cuda-python on the simulated driver, with the shim in front."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.executed import run
from tests.simulator.control import SimulatedDevice
from watchdogd import exits

PROGRAM = """
import sys
from cuda.bindings import driver
def ok(result):
    if int(result[0]): raise SystemExit(str(result[0]))
    return result[1] if len(result) == 2 else None
ok(driver.cuInit(0))
ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(ok(driver.cuDeviceGet(0))))))
stream, module = ok(driver.cuStreamCreate(0)), ok(driver.cuModuleLoadData(b""))
for name in sys.argv[1:]:
    ok(driver.cuLaunchKernel(ok(driver.cuModuleGetFunction(module, name.encode())), 1, 1, 1, 1, 1, 1, 0, stream, 0, 0))
    ok(driver.cuStreamSynchronize(stream))
print("done", flush=True)
sys.exit(11)
"""


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as device:
        yield device


def program(*kernels: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *kernels]


def test_an_unmodified_program_that_hangs_in_a_synchronize_ends_with_124(device: SimulatedDevice) -> None:
    ran = run(["--sync", "500ms"], program("sim_sleep_us_500", "sim_spin"), environment=device.environment("a"))
    assert (ran.status, ran.out) == (exits.VERDICT, ""), ran.said
    assert "verdict call sync" in ran.said and "deadline 0.500 s" in ran.said


def test_one_whose_first_synchronize_hangs_is_found_too(device: SimulatedDevice) -> None:
    ran = run(["--sync", "500ms"], program("sim_spin"), environment=device.environment("a"))
    assert ran.status == exits.VERDICT, ran.said
    late = run(["--sync", "500ms", "--startup", "2s"], program("sim_spin"), environment=device.environment("a"))
    assert (late.status, "verdict startup" in late.said) == (exits.VERDICT, True)


def test_an_unmodified_program_that_works_ends_with_its_own_status(device: SimulatedDevice) -> None:
    ran = run(["--sync", "5s"], program(*["sim_sleep_us_500"] * 20), environment=device.environment("a"))
    assert (ran.status, ran.out, ran.said) == (11, "done\n", "")


def test_a_program_without_cuda_is_no_fault_however_long_it_runs(device: SimulatedDevice) -> None:
    ran = run(["--sync", "100ms"], ["sh", "-c", "sleep 1; exit 12"], environment=device.environment("a"))
    assert (ran.status, ran.said) == (12, "")

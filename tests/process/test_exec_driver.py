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


def test_it_starts_in_a_directory_that_has_been_removed_as_any_program_does(
    device: SimulatedDevice, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    removed = ["sh", "-c", f'cd {tmp_path}/gone && rmdir ../gone && exec "$@"', "sh"]
    asked = ["sh", "-c", "echo $LD_LIBRARY_PATH; exit 13"]
    ran = run(["--sync", "5s"], asked, environment=device.environment("a"), before=removed)
    assert (ran.status, "/shim/" in ran.out) == (13, True), ran.said


def test_an_unmodified_program_that_works_ends_with_its_own_status(device: SimulatedDevice) -> None:
    ran = run(["--sync", "5s"], program(*["sim_sleep_us_500"] * 20), environment=device.environment("a"))
    assert (ran.status, ran.out, ran.said) == (11, "done\n", "")


def test_a_program_without_cuda_is_no_fault_however_long_it_runs(device: SimulatedDevice) -> None:
    ran = run(["--sync", "100ms"], ["sh", "-c", "sleep 1; exit 12"], environment=device.environment("a"))
    assert (ran.status, ran.said) == (12, "")


BREAKS = {"SIMCUDA_FAULT": "error code=719"}


def breaks(then: str) -> list[str]:
    """Its synchronize tells of a sticky error."""
    return [
        sys.executable,
        "-c",
        f"import os, time\ntry:\n  exec({PROGRAM!r})\nexcept SystemExit:\n  {then}",
        "sim_spin",
    ]


def test_a_sticky_error_leaves_a_program_the_time_for_its_own_end_and_message(device: SimulatedDevice) -> None:
    then = "time.sleep(1); print('my own words', flush=True); os._exit(41)"
    ran = run(["--sync", "5s"], breaks(then), environment={**device.environment("a"), **BREAKS})
    assert (ran.status, ran.out) == (41, "my own words\n"), ran.said
    assert "verdict sticky_error: " in ran.said and "CUDA_ERROR_LAUNCH_FAILED (719)" in ran.said
    assert [event["signal"] for event in ran.events if event["kind"] == "signal"] == []


def test_one_that_lives_on_with_a_sticky_error_ends_with_124(device: SimulatedDevice) -> None:
    ran = run(["--sync", "5s"], breaks("time.sleep(60)"), environment={**device.environment("a"), **BREAKS})
    assert ran.status == exits.VERDICT
    [verdict] = [event for event in ran.events if event["kind"] == "verdict"]
    [kill] = [event for event in ran.events if event["kind"] == "signal"]
    assert 1.9e9 < kill["monotonic_ns"] - verdict["entered_ns"] < 4e9


def after_a_child(then: str, pause: float) -> list[str]:
    """Its child has had a sticky error and ended of it."""
    child = f"subprocess.run({breaks('os._exit(1)')!r}, env={{**os.environ, **{BREAKS!r}}})"
    return [sys.executable, "-c", f"import os, subprocess, sys, time\n{child}\ntime.sleep({pause})\n{then}"]


def test_a_sticky_error_of_a_child_that_has_ended_of_it_ends_nobody_else(device: SimulatedDevice) -> None:
    works = f"sys.argv[1:] = ['sim_sleep_us_500'] * 3\nexec({PROGRAM!r})"
    ran = run(["--sync", "5s"], after_a_child(works, 2.5), environment=device.environment("a"))
    assert (ran.status, ran.out) == (11, "done\n"), ran.said


@pytest.mark.parametrize("pause", [0, 2.5])
def test_a_program_that_starts_itself_anew_after_a_sticky_error_is_well(device: SimulatedDevice, pause: float) -> None:
    anew = f"import os, sys, time\ntime.sleep({pause})\ndel os.environ['SIMCUDA_FAULT']\nexec({PROGRAM!r}.replace("
    anew += "'print(', 'time.sleep(2.5); print('))"
    arguments = [sys.executable, "-c", anew, "sim_sleep_us_500"]
    then = breaks(f"os.execv({sys.executable!r}, {arguments!r})")
    ran = run(["--sync", "5s"], then, environment={**device.environment("a"), **BREAKS})
    assert (ran.status, ran.out) == (11, "done\n"), ran.said


def test_a_sticky_error_of_its_own_after_that_of_a_child_is_seen(device: SimulatedDevice) -> None:
    breaks_too = f"os.environ.update({BREAKS!r})\nos.execvp({sys.executable!r}, {breaks('time.sleep(60)')!r})"
    ran = run(["--sync", "5s"], after_a_child(breaks_too, 0), environment=device.environment("a"))
    assert (ran.status, "verdict sticky_error" in ran.said) == (exits.VERDICT, True), ran.said
